"""What an audit checked and what it found, for programs and for people."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from node.audit.inputs import Note
from node.audit.replay import Fault, fault_json

LISTED = 1000
"""Faults and gaps that are listed; all are counted, but a member can make as many as it likes."""


@dataclass(frozen=True, slots=True)
class Gap:
    """Rounds of a member, first and last, of which it recorded no mix."""

    member: int
    first: int
    last: int


@dataclass
class Coverage:
    """How much of what a member recorded could be checked, and what it left out."""

    member: int
    steps: int = 0
    replayed: int = 0
    without_cid: int = 0  # recorded without a snapshot
    due_without_cid: int = 0  # of them, those of rounds in which the session wants one
    not_found: int = 0  # recorded with a snapshot that no source gives
    epsilon: float | None = None  # what it last recorded that it has spent of the session's privacy budget


@dataclass
class AuditReport:
    """What was checked and what was found."""

    session: str
    sealed: bool = False
    members: int = 0
    records: int = 0
    steps_total: int = 0
    steps_replayed: int = 0
    steps_without_snapshot: int = 0
    faults: list[Fault] = field(default_factory=list)  # the first ones, by round and member
    fault_count: int = 0
    notes: list[Note] = field(default_factory=list)  # the first ones
    note_count: int = 0
    gaps: list[Gap] = field(default_factory=list)  # the first ones, by round and member
    gap_rounds: int = 0
    coverage: dict[int, Coverage] = field(default_factory=dict)  # by member
    budget: tuple[float, float] | None = None  # (epsilon, delta) that the session lets each member spend
    bytes_read: int = 0  # of snapshots
    seconds: float = 0.0

    def blame(self, fault: Fault) -> None:
        """Adds a fault: one of a kind by member and round, however many steps or files show it."""
        key = fault.member, fault.round, fault.kind
        if any(key == (known.member, known.round, known.kind) for known in self.faults):
            return
        self.fault_count += 1
        if len(self.faults) < LISTED:
            self.faults.append(fault)

    def add(self, found: Fault | Note | None) -> None:
        """Adds a fault, or a note: one of a kind by member and round."""
        if isinstance(found, Fault):
            self.blame(found)
        elif found is not None:
            key = found.member, found.round, found.kind
            if any(key == (known.member, known.round, known.kind) for known in self.notes):
                return
            self.note_count += 1
            if len(self.notes) < LISTED:
                self.notes.append(found)

    def of(self, member: int) -> Coverage:
        """What was covered of a member."""
        return self.coverage.setdefault(member, Coverage(member))

    def miss(self, gap: Gap) -> None:
        """Adds a gap."""
        self.gap_rounds += gap.last - gap.first + 1
        if len(self.gaps) < LISTED:
            self.gaps.append(gap)

    @property
    def clean(self) -> bool:
        """Whether something was checked and no evidence of wrongdoing was found: then the exit status is 0."""
        return self.checked and not self.fault_count

    @property
    def status(self) -> int:
        """The exit status: 0 no fault found, 1 evidence of wrongdoing, 2 it could not be checked."""
        return 1 if self.fault_count else 0 if self.checked else 2

    @property
    def checked(self) -> bool:
        """Whether any mixing step could be replayed."""
        return self.steps_replayed > 0

    def json(self) -> Mapping[str, Any]:
        """The report for programs."""
        return {
            "clean": self.clean,
            "steps_replayed": self.steps_replayed,
            "steps_total": self.steps_total,
            "steps_without_snapshot": self.steps_without_snapshot,
            "first_fault": fault_json(self.faults[0] if self.faults else None),
            "fault_count": self.fault_count,
            "faults": [fault_json(fault) for fault in self.faults],
            "note_count": self.note_count,
            "notes": [asdict(note) for note in self.notes],
            "coverage": [asdict(self.coverage[member]) for member in sorted(self.coverage)],
            "gap_rounds": self.gap_rounds,
            "gaps": [{"member": gap.member, "from": gap.first, "to": gap.last} for gap in self.gaps],
            "privacy": self._privacy(),
            "session": self.session,
            "members": self.members,
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "steps_per_s": round(self.steps_replayed / self.seconds, 1) if self.seconds else None,
            "mb_per_s": round(self.bytes_read / 1e6 / self.seconds, 1) if self.seconds else None,
        }

    @property
    def spent(self) -> Mapping[int, float]:
        """The epsilon that each member last recorded as spent; without those that recorded none."""
        said = ((member, self.coverage[member].epsilon) for member in sorted(self.coverage))
        return {member: epsilon for member, epsilon in said if epsilon is not None}

    def _privacy(self) -> Mapping[str, Any] | None:
        if self.budget is None:
            return None
        epsilon, delta = self.budget
        return {"epsilon": epsilon, "delta": delta, "spent": {str(member): said for member, said in self.spent.items()}}

    def text(self) -> RenderableType:
        """The report for people."""
        lines = [
            f"session {self.session}: {self.members} members, {self.records} records, hash chains "
            f"{'broken' if any(fault.kind == 'hash chain' for fault in self.faults) else 'right'}",
            f"{self.steps_replayed} of {self.steps_total} mixing steps replayed bit for bit "
            f"({self.steps_without_snapshot} lack a snapshot of an input)",
        ]
        if self.gaps:
            first = self.gaps[0]
            lines.append(f"{self.gap_rounds} rounds without a recorded mix, first member {first.member}, {first.first}")
        if self.budget is not None:
            epsilon, delta = self.budget
            spent = ", ".join(f"{said:g} by member {member}" for member, said in self.spent.items()) or "none"
            lines.append(f"privacy: epsilon {epsilon:g} at delta {delta:g} for each member; recorded as spent: {spent}")
        for each in (self.coverage[member] for member in sorted(self.coverage)):
            if each.due_without_cid or each.not_found:
                left = f"left out {each.due_without_cid} due snapshots, {each.not_found} others were not found"
                lines.append(f"member {each.member}: {each.replayed} of {each.steps} steps replayed; {left}")
        for note in self.notes[:10]:
            lines.append(f"note: member {note.member}, round {note.round}, {note.kind}: {note.text}")
        for fault in self.faults[:10]:
            lines.append(
                f"FAULT member {fault.member}, round {fault.round}, {fault.kind}: "
                f"expected {fault.expected}, found {fault.found}"
            )
        return Group(*(Text(printable(line)) for line in (*lines, self._verdict())))

    def _verdict(self) -> str:
        if self.fault_count:
            return f"{self.fault_count} faults"
        if not self.checked:
            return "could not be checked: no mixing step has its snapshots (say where they are with --ipfs)"
        left = self.steps_total - self.steps_replayed
        return f"no fault found; {left} steps could not be replayed" if left else "clean"


def printable(text: str) -> str:
    """The text without what would steer a terminal: much of it was written by those who are judged."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in text)

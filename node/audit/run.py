"""A whole session audited: hash chains, identities, cohorts, rows, and every mixing step that has its snapshots.

Memory is bounded by one mixing step; of the whole run only the snapshots' CIDs are kept.
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import trio
from rich.console import Group, RenderableType

from ledger import BrokenChain, History
from ledger import Step as LedgerStep
from node.agreement import OpenSession, open_session
from node.audit.replay import Fault, Rules, Step, check_row, fault_json, replay
from node.audit.snapshots import SnapshotShelf, open_shelf, spec_of_payload
from node.learning.codecs import codec
from node.learning.parameters import ParameterSpec
from node.messages import Input, Mix
from node.storage import directory_cid

MIXED, UPDATE = "mixed.safetensors", "update"
LARGEST_ROUND = 2**31


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """What to audit, and where snapshots may be found."""

    session_path: Path
    rpc: str | None = None
    ipfs: tuple[str, ...] = ()
    first: int = 1
    last: int | None = None


@dataclass
class AuditReport:
    """What was checked and what was found."""

    session: str
    members: int = 0
    records: int = 0
    steps_total: int = 0
    steps_replayed: int = 0
    gaps: list[tuple[int, int]] = field(default_factory=list)  # (member, round) without a record of the mix
    faults: list[Fault] = field(default_factory=list)
    bytes_replayed: int = 0
    seconds: float = 0.0

    @property
    def clean(self) -> bool:
        """Whether no evidence of wrongdoing was found."""
        return not self.faults

    def json(self) -> Mapping[str, Any]:
        """The report for programs."""
        return {
            "clean": self.clean,
            "steps_replayed": self.steps_replayed,
            "steps_total": self.steps_total,
            "steps_without_snapshot": self.steps_total - self.steps_replayed - self._failed(),
            "first_fault": fault_json(self.faults[0] if self.faults else None),
            "faults": [fault_json(fault) for fault in self.faults[:100]],
            "gaps": [{"member": member, "round": round} for member, round in self.gaps[:1000]],
            "session": self.session,
            "members": self.members,
            "records": self.records,
            "seconds": round(self.seconds, 3),
            "steps_per_s": round(self.steps_replayed / self.seconds, 1) if self.seconds else None,
            "mb_per_s": round(self.bytes_replayed / 1e6 / self.seconds, 1) if self.seconds else None,
        }

    @property
    def checked(self) -> bool:
        """Whether any mixing step could be replayed."""
        return self.steps_replayed > 0

    def _verdict(self) -> str:
        if not self.clean:
            return f"{len(self.faults)} faults"
        if not self.checked:
            return "could not be checked: no mixing step has its snapshots (say where they are with --ipfs)"
        left = self.steps_total - self.steps_replayed
        return f"no fault found; {left} steps could not be replayed" if left else "clean"

    def _failed(self) -> int:
        return len({(fault.member, fault.round) for fault in self.faults if fault.kind == "mixed parameters"})

    def text(self) -> RenderableType:
        """The report for people."""
        lines = [
            f"session {self.session}: {self.members} members, {self.records} records, hash chains checked",
            f"{self.steps_replayed} of {self.steps_total} mixing steps replayed bit for bit "
            f"({self.steps_total - self.steps_replayed} have no snapshot of all their inputs)",
        ]
        if self.gaps:
            lines.append(f"{len(self.gaps)} rounds without a recorded mix, the first: member, round {self.gaps[0]}")
        for fault in self.faults[:10]:
            lines.append(
                f"FAULT member {fault.member}, round {fault.round}, {fault.kind}: "
                f"expected {fault.expected}, found {fault.found}"
            )
        lines.append(self._verdict())
        return Group(*lines)


async def audit_session(settings: AuditSettings, tell: Callable[[str], None]) -> AuditReport:
    """Audits a session. Raises NodeError or LedgerError where it cannot be checked."""
    opened = await trio.to_thread.run_sync(open_session, settings.session_path, settings.rpc)
    return await audit_opened(opened, settings, tell)


async def audit_opened(opened: OpenSession, settings: AuditSettings, tell: Callable[[str], None]) -> AuditReport:
    """The audit of a session that was checked against the ledger already."""
    started = time.perf_counter()
    report = AuditReport(f"{opened.session_id:016x}")
    limit = opened.session.limits.payload_bytes
    with History(opened.ledger, opened.session_id) as history:
        async with open_shelf(settings.ipfs, settings.session_path.resolve().parent, limit) as shelf:
            try:
                await _Audit(opened, history, shelf, report, tell).run(settings)
            except BrokenChain as error:
                member = -1 if error.member is None else error.member
                report.faults.insert(
                    0, Fault(member, error.round or 0, "hash chain", "the slot on the ledger", str(error))
                )
    report.seconds = time.perf_counter() - started
    return report


class _Audit:
    """One audit in progress."""

    def __init__(
        self,
        opened: OpenSession,
        history: History,
        shelf: SnapshotShelf,
        report: AuditReport,
        tell: Callable[[str], None],
    ) -> None:
        session = opened.session
        self.opened, self.history, self.shelf, self.report, self.tell = opened, history, shelf, report, tell
        self.rules = Rules(opened.session_id, session.cohort, session.limits.staleness)
        self.codec = codec(session.codec)
        self.spec: ParameterSpec | None = None
        self.cids: dict[tuple[int, int], str] = {}

    async def run(self, settings: AuditSettings) -> None:
        """Identities, then rows, then replays."""
        self.report.records = self.history.verify()
        members = self.history.member_entries()
        self.report.members = len(members)
        for member in members:
            if not member.bound:
                found = "a signature that the key did not make"
                self.report.faults.append(
                    Fault(member.index, 0, "identity", "the libp2p key's signature of the account", found)
                )
        self._survey()
        last = settings.last or LARGEST_ROUND
        for step in map(node_step, self._mixed_steps()):
            if settings.first <= step.round <= last:
                await self._check(step)

    def _survey(self) -> None:
        """First pass: where the snapshots are, which rounds are missing, which records are malformed."""
        before: dict[int, int] = {}
        for step in self.history.steps():
            missing = range(before.get(step.member, step.round - 1) + 1, step.round)
            self.report.gaps.extend((step.member, round) for round in missing)
            before[step.member] = step.round
            if step.fault is not None:
                fault = Fault(step.member, step.round, "record", "a well-formed record", step.fault)
                self.report.faults.append(fault)
            if step.mix is None:
                self.report.gaps.append((step.member, step.round))
            elif step.mix.snapshot:
                self.cids[step.member, step.round] = directory_cid(step.mix.snapshot)

    def _mixed_steps(self) -> Iterator[LedgerStep]:
        return (step for step in self.history.steps() if step.mix is not None)

    async def _check(self, step: Step) -> None:
        self.report.steps_total += 1
        self.tell(f"auditing round {step.round}, member {step.member}")
        fault = check_row(step, self.rules, self.history.update_hash)
        fault = fault or await self._check_snapshot(step)
        if fault is None and self.spec is not None:
            payloads = await self._payloads(step)
            outcome = await trio.to_thread.run_sync(
                replay, step, self.spec, self.codec, self.history.update_hash, lambda m, r: payloads.get((m, r))
            )
            if isinstance(outcome, Fault):
                fault = outcome
            elif outcome:
                self.report.steps_replayed += 1
                self.report.bytes_replayed += sum(len(content) for content in payloads.values())
        if fault is not None:
            self.report.faults.append(fault)

    async def _check_snapshot(self, step: Step) -> Fault | None:
        """Whether the snapshot holds the mixed parameters that the record names; learns the model's shapes from it."""
        cid = self.cids.get((step.member, step.round))
        mixed = await self.shelf.read(cid, MIXED) if cid else None
        if mixed is None:
            return None
        digest = hashlib.sha256(mixed).digest()
        if digest != step.mix.mixed_hash:
            expected = f"SHA-256 {step.mix.mixed_hash.hex()}"
            return Fault(step.member, step.round, "snapshot", expected, f"SHA-256 {digest.hex()} in {cid}")
        if self.spec is None:
            spec = spec_of_payload(mixed)
            if spec and hashlib.sha256(spec.header).hexdigest() == self.opened.session.model_sha256:
                self.spec = spec
        return None

    async def _payloads(self, step: Step) -> dict[tuple[int, int], bytes]:
        found = {}
        for entry in step.mix.inputs:
            key = (entry.member, step.round - entry.lag)
            cid = self.cids.get(key)
            if entry.weight and cid is not None:
                content = await self.shelf.read(cid, UPDATE)
                if content is not None:
                    found[key] = content
        return found


def node_step(recorded: LedgerStep) -> Step:
    """A recorded mix in the node's words."""
    mix = recorded.mix
    assert mix is not None
    inputs = tuple(Input(entry.member, entry.weight, entry.lag) for entry in mix.inputs)
    snapshot = directory_cid(mix.snapshot) if mix.snapshot else None
    words = Mix(recorded.round, mix.members, inputs, mix.mixed_hash, snapshot, mix.epsilon)
    return Step(recorded.member, recorded.update_hash, words)

"""What a row names held against the ledger: were these updates recorded, did these members exist. Knows no snapshot.

What an honest member can't have done is a fault; what it can, through a crash or a slow chain, is a note.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from node.audit.replay import Fault, Step
from node.messages import ABSENT, Input

UNDONE = 64
"""Blocks that a reorganisation may have moved a joining by, past the record of who had seen it: two epochs of Ethereum,
after which a block is final."""


@dataclass(frozen=True, slots=True)
class Note:
    """What proves nothing against a member, and an auditor should know."""

    member: int
    round: int
    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class Ledger:
    """What the ledger says that a row can be held against."""

    joined: Sequence[int]  # blocks, by member: ascending
    rounds: int  # of the session
    committed: Callable[[int, int], int | None]  # (member, round) -> the block of its record of the round
    passed: Callable[[int, int], bool]  # (member, round) -> whether it recorded a later round, so that this can't come

    def members(self, block: int) -> int:
        """Members that had joined by a block."""
        return bisect_right(self.joined, block)


def check_members(step: Step, mixed_block: int, before: int | None, ledger: Ledger) -> Fault | Note | None:
    """Whether the number of members that the drawer says it knew can be.

    Args:
        step: the step.
        mixed_block: of the record with the row.
        before: block of the member's record before the round's; None if there is none that is known.
        ledger: when members joined.

    """
    said, most = step.mix.members, ledger.members(mixed_block + UNDONE)
    if not step.member < said <= most:
        return Fault(step.member, step.round, "cohort", f"{step.member + 1} to {most} members known", str(said))
    joined = ledger.members(ledger.joined[step.member] if before is None else before)
    if said < joined:
        text = f"says that it knew {said} members; {joined} had joined by its record before"
        return Note(step.member, step.round, "cohort", text)
    return None


def check_recorded(step: Step, mixed_block: int, ledger: Ledger) -> Iterator[Fault | Note]:
    """What is wrong with updates of others that a row names, by whoever's doing it is."""
    for entry in step.mix.inputs:
        if entry.lag != ABSENT and entry.member != step.member:
            found = _check(step, entry, mixed_block, ledger)
            if found is not None:
                yield found


def _check(step: Step, entry: Input, mixed_block: int, ledger: Ledger) -> Fault | Note | None:
    member, round, used = entry.member, step.round - entry.lag, f"member {step.member} mixed it in round {step.round}"
    if member >= ledger.members(mixed_block + UNDONE) or not 1 <= round <= ledger.rounds:
        what = f"updates of rounds 1 to {ledger.rounds}, of members that had joined"
        return Fault(step.member, step.round, "input", what, f"member {member}, round {round}")
    block = ledger.committed(member, round)
    if block is None and ledger.passed(member, round):
        found = f"none, and it recorded later rounds, so that none can come; {used}"
        return Fault(member, round, "missing record", f"a record of member {member} for round {round}", found)
    if block is None:
        return Note(member, round, "pending", f"has not recorded its update yet; {used}")
    if block > mixed_block:
        return Note(member, round, "late record", f"recorded in block {block}; {used} and said so in {mixed_block}")
    return None

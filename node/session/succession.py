"""Who coordinates, read from the ledger alone (docs/protocol.md, section 9): the same for everybody who reads the same.

Knows no chain: records come as values, in the ledger's order. A member takes over by recording the last model again, as
its own update of the next round, after the coordinator was silent for as long as the session says.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Recorded:
    """A record, as far as it matters here."""

    member: int
    round: int
    digest: bytes  # of the update; zeros in a closing record
    closing: bool
    at: int  # seconds since 1970, by the block


@dataclass(frozen=True, slots=True)
class Term:
    """A member's time as coordinator: from which round on, and the newest model that it recorded."""

    member: int
    first: int = 1
    newest: int = 0  # round
    digest: bytes = b""
    at: int = 0  # when its newest record came
    closed: bool = False  # it ended the session in an orderly way: nobody is to take over

    @property
    def can_be_succeeded(self) -> bool:
        """Whether there is a model to go on from, in a session that was not ended."""
        return self.newest > 0 and not self.closed

    @property
    def is_elected(self) -> bool:
        """Whether it took over from another."""
        return self.first > 1


def terms(named: int, records: Iterable[Recorded], election_s: float) -> list[Term]:
    """The coordinators one after another, the session's own first; without elections (0) there is no other."""
    found = [Term(named)]
    for record in records:
        term = found[-1]
        if record.member == term.member:
            if record.closing:
                found[-1] = replace(term, at=record.at, closed=True)
            elif record.round > term.newest:
                found[-1] = replace(term, newest=record.round, digest=record.digest, at=record.at, closed=False)
        elif is_takeover(term, record, election_s):
            found.append(Term(record.member, record.round, record.round, record.digest, record.at))
    return found


def is_takeover(term: Term, record: Recorded, election_s: float) -> bool:
    """Whether a record of another member makes it the coordinator after this one."""
    if not election_s or record.closing or not term.can_be_succeeded:
        return False
    continues = record.round == term.newest + 1 and record.digest == term.digest
    return continues and record.at >= term.at + election_s


def term_of(known: Sequence[Term], round: int) -> Term:
    """The term that a round belongs to."""
    return next(term for term in reversed(known) if term.first <= round or term is known[0])


def place_after(term: Term, own: int, active: Sequence[int]) -> int:
    """How many others come before a member in the ledger's order, counted from the coordinator that is gone."""
    others = [member for member in active if member != term.member]
    in_order = [m for m in others if m > term.member] + [m for m in others if m < term.member]
    return in_order.index(own)


class Succession(Protocol):
    """The ledger's word on who coordinates."""

    @property
    def current(self) -> Term:
        """As it was last read."""

    async def refresh(self) -> bool:
        """Reads the ledger again; False where it did not answer."""

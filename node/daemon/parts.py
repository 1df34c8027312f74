"""What a node does in its session, by topology, behind one small protocol: begin, go through the rounds, linger."""

from dataclasses import dataclass
from typing import Protocol

import trio

from node.daemon.admission import is_named_coordinator
from node.daemon.coordinated_parts import CoordinatorPart, WorkerPart
from node.daemon.gossip_part import GossipPart
from node.daemon.journal import Journal
from node.daemon.outside import Ears, Outside
from node.daemon.prepare import Prepared
from node.daemon.succession import LedgerSuccession
from node.errors import PeerError
from node.session.coordinator import STOPPED
from node.session.notes import read_orders


class Part(Protocol):
    """A member's life in a session."""

    stopping: trio.Event

    @property
    def finished(self) -> int:
        """The last round that is over."""

    @property
    def ended(self) -> str:
        """Why there is no further round, if it is not the last that is over."""

    async def begin(self) -> None:
        """Everything before the first round. NetworkError if the others do not come."""

    async def run(self) -> int:
        """The rounds that are left; the last finished one."""

    async def linger(self) -> None:
        """Returns when nobody needs this node any more."""


def take_part(outside: Outside, ears: Ears) -> Part:
    """The life that the session file gives this account."""
    coordinated = outside.prepared.opened.session.coordinated
    if coordinated is None:
        return GossipPart(outside, ears)
    takeover = outside.takeover
    if coordinates(outside.prepared, None if takeover is None else takeover.succession):
        return CoordinatorPart(outside, ears, coordinated)
    return WorkerPart(outside, ears, coordinated)


def coordinates(prepared: Prepared, succession: LedgerSuccession | None) -> bool:
    """Whether this account coordinates now: the one that the session names, or who was elected since."""
    if succession is None:
        return is_named_coordinator(prepared.opened, str(prepared.account.address))
    return succession.current.member == prepared.directory.own_index


@dataclass(frozen=True, slots=True)
class Registration:
    """What a member of a coordinated session registered for, and how many workers did; `maximum` is their limit."""

    role: str
    workers: int
    maximum: int
    update: str
    rule: str
    gone: int = 0  # of the workers: those that left, were removed or have no rights; their places stay taken

    def __str__(self) -> str:
        """For people."""
        gone = f" ({self.gone} of them gone, whose places stay taken)" if self.gone else ""
        return (
            f"{self.role}; {self.workers} workers so far{gone}, at most {self.maximum}; "
            f"update {self.update}, rule {self.rule}"
        )


def registration(prepared: Prepared, succession: LedgerSuccession | None) -> Registration | None:
    """What the session answers to this account now; None in a gossip session, where all are equal."""
    session, directory = prepared.opened.session, prepared.directory
    if session.coordinated is None:
        return None
    role = "coordinator" if coordinates(prepared, succession) else "worker"
    named = session.coordinated.coordinator.lower()
    workers = [seat for seat in directory.seats if seat.account.lower() != named]
    gone = sum(not seat.active for seat in workers)
    rule = session.coordinated.aggregation.rule
    return Registration(role, len(workers), session.coordinated.maximum, session.update, rule, gone)


def forget_stop(journal: Journal) -> None:
    """A coordinator that was stopped and starts again takes back that the session is over, before anybody asks."""
    for said in journal.announcements(0):
        try:
            stopped = bool(said.note) and read_orders(said.note).end == STOPPED
        except PeerError:  # a worker's note, of the time before it was elected
            continue
        if stopped:
            journal.forget_announcement(said.round)

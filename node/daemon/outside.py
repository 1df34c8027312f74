"""The real parts that a member's life is made of, who hears of it, and what every kind of life does first."""

from collections.abc import Callable
from dataclasses import dataclass

import trio

from node.daemon.journal import Journal
from node.daemon.ports import IpfsSnapshots, LedgerRecords, NetworkPeers
from node.daemon.prepare import Prepared
from node.daemon.settings import StartSettings
from node.daemon.succession import Takeover
from node.errors import NetworkError
from node.session.board import Board
from node.session.gossip import Present, RoundReport, wait_for_quorum
from node.storage import Snapshots

DEADLINE_FLOOR_S = 0.5  # beyond the spread of the round trips


@dataclass(frozen=True, slots=True)
class Outside:
    """The real parts that a member's life is made of."""

    settings: StartSettings
    prepared: Prepared
    peers: NetworkPeers
    records: LedgerRecords
    journal: Journal
    ipfs: IpfsSnapshots
    snapshots: Snapshots
    board: Board
    resumed: bool = False  # the home was empty, and goes on from ledger and snapshots
    takeover: Takeover | None = None  # in sessions that elect the next coordinator


@dataclass(frozen=True, slots=True)
class Ears:
    """Who is told what happens."""

    observe: Callable[[str, RoundReport | int], None]
    tell: Callable[[str], None]


async def gather_quorum(outside: Outside, present: Present, quorum: int, ears: Ears) -> None:
    """Waits until so many members are here, this one counted. NetworkError if they do not come."""

    def say(count: int) -> None:
        ears.observe(f"waiting for members ({count} of {quorum})", 0)
        ears.tell(f"{count} of {quorum} members are here" + (", waiting for the others" if count < quorum else ""))

    with trio.move_on_after(outside.settings.quorum_s) as patience:
        await wait_for_quorum(present, quorum, say)
    if patience.cancelled_caught:
        raise NetworkError(
            f"fewer than {quorum} members came within {outside.settings.quorum_s:g} s: "
            "start the others, check --peers, or wait longer with --quorum-timeout"
        )


def own_rounds(outside: Outside) -> int:
    """The last round that this account recorded; synchronous. Raises LedgerError."""
    opened = outside.prepared.opened
    return opened.ledger.head(opened.session_id, str(outside.prepared.account.address)).next_round - 1

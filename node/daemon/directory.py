"""The session's member list behind the session's port: from the ledger, the last one for times without a chain."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import trio
from eth_account.signers.local import LocalAccount

from ledger import Ledger, LedgerError, MemberEntry
from ledger.members import doubled_keys
from node.network.addresses import parse_peer_address
from node.network.identity import peer_id_of

log = logging.getLogger(__name__)
REFRESH_S = 1.0
MAX_PUBLISHED = 4  # addresses; each costs gas


@dataclass(frozen=True, slots=True)
class Seat:
    """One member, as the rounds need it: left members keep their index and lose their peer id's rights."""

    peer_id: str
    account: str
    active: bool
    addresses: tuple[str, ...]


@dataclass
class LedgerDirectory:
    """Implements `node.session.ports.Directory`; `refresh` asks the chain, everything else answers at once."""

    own_index: int
    seats: tuple[Seat, ...]
    _index: dict[str, int] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._index = {seat.peer_id: index for index, seat in enumerate(self.seats) if seat.active}

    def count(self) -> int:
        """Members that ever joined."""
        return len(self.seats)

    def peer_of(self, index: int) -> str | None:
        """The peer id of an active member."""
        if not 0 <= index < len(self.seats) or not self.seats[index].active:
            return None
        return self.seats[index].peer_id

    def index_of(self, peer_id: str) -> int | None:
        """The index of an active member."""
        return self._index.get(peer_id)

    def peers(self) -> frozenset[str]:
        """The peer ids of all active members."""
        return frozenset(self._index)

    def index_of_account(self, account: str) -> int | None:
        """The index of an active member by its Ethereum account."""
        wanted = account.lower()
        return next((i for i, seat in enumerate(self.seats) if seat.active and seat.account.lower() == wanted), None)

    def replace(self, seats: tuple[Seat, ...]) -> bool:
        """Takes in a newer list; whether anything changed."""
        if seats == self.seats:
            return False
        self.seats = seats
        self.__post_init__()
        return True


def seats_of(members: list[MemberEntry]) -> tuple[Seat, ...]:
    """The ledger's members by index. One whose key never signed the binding, or is an earlier one's, has no rights."""
    doubled = doubled_keys(members)
    return tuple(
        Seat(
            peer_id_of(member.peer_key),
            member.account,
            member.active and member.bound and member.index not in doubled,
            tuple(member.addresses),
        )
        for member in members
    )


async def ask_chain(ledger: Ledger, session_id: int) -> list[MemberEntry]:
    """The members now. The request may outlive a cancellation: it changes nothing."""
    return await trio.to_thread.run_sync(  # trio-typing's stubs, which py-libp2p brings, know an older trio
        ledger.members,
        session_id,
        abandon_on_cancel=True,  # type: ignore[call-arg]
    )


async def keep_fresh(directory: LedgerDirectory, ledger: Ledger, session_id: int, changed: Callable[[], None]) -> None:
    """Follows the ledger's member list for ever; an unreachable chain is logged once and tried again."""
    silent = False
    while True:
        try:
            members = await ask_chain(ledger, session_id)
            silent = False
        except LedgerError as error:
            if not silent:
                log.warning("the member list cannot be refreshed, the last one is used: %s", error)
            silent = True
        else:
            if directory.replace(seats_of(members)):
                changed()
        await trio.sleep(REFRESH_S)


async def publish_addresses(
    ledger: Ledger, session_id: int, account: LocalAccount, seat: Seat, addresses: Sequence[str]
) -> bool:
    """Puts where this node can be reached on the ledger unless it says so already; whether it did.

    A chain that is out of reach costs a warning: there are other ways of being found.
    """
    wanted = [parse_peer_address(address).address for address in addresses][:MAX_PUBLISHED]
    if wanted == list(seat.addresses):
        return False
    try:
        await trio.to_thread.run_sync(ledger.set_addresses, account, session_id, wanted)
    except LedgerError as error:
        log.warning("the ledger does not say where this node is: %s", error)
        return False
    return True

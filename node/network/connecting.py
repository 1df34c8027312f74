"""Keeps this node connected to the members it knows, and cuts off those who do not belong.

Knows no protocol: what is said to a member once it is connected is a function of the caller's.
"""

import logging
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import trio
from libp2p.abc import IHost, INetConn, INetStream, INetwork
from libp2p.peer.id import ID
from multiaddr import Multiaddr

from node.causes import Cause
from node.errors import PeerError
from node.network.containment import OwnFaults, containing
from node.network.host import dial
from node.network.peer_book import PeerBook
from node.network.standing import Standings

logger = logging.getLogger(__name__)

PATROL_SECONDS = 0.5


@dataclass(frozen=True)
class ConnectionRules:
    """Seconds and counts."""

    dial_timeout: float = 8.0
    max_dials: int = 16  # under way at a time
    enough: int = 192  # members connected; others are dialed only for a reason, so that there is room to be dialed
    max_strangers: int = 32  # connections of peers that are no members
    stranger_seconds: float = 30.0  # until an idle stranger is disconnected


class Connector:
    """Dials members that are due, greets those that connect, and patrols the connections there are."""

    def __init__(
        self, host: IHost, peers: PeerBook, gate: Callable[[str], bool], standings: Standings, rules: ConnectionRules
    ) -> None:
        self._host = host
        self._swarm = host.get_network()
        self._peers = peers
        self._gate = gate
        self._standings = standings
        self._rules = rules
        self._chance = random.Random()  # noqa: S311  (whom to dial first)
        self._dialing: dict[str, trio.Event] = {}
        self._greeted: set[str] = set()
        self._since: dict[str, float] = {}  # when a stranger was first seen connected
        self._wake = trio.Event()

    # What others ask

    def connected(self) -> frozenset[str]:
        """The members that a connection is open to."""
        return frozenset(peer_id for peer_id in self.linked() if self._gate(peer_id))

    def is_linked(self, peer_id: str) -> bool:
        """Whether a connection to the peer is open, member or not."""
        return peer_id in self.linked()

    def wake(self) -> None:
        """Looks at once whether somebody is due."""
        self._wake.set()

    async def connect(self, peer_id: str) -> None:
        """Connects to a peer unless it is connected. Raises PeerError."""
        if self.is_linked(peer_id):
            return
        under_way = self._dialing.get(peer_id)
        if under_way is not None:
            await under_way.wait()
        else:
            await self._dial(peer_id)
        if not self.is_linked(peer_id):
            raise PeerError(f"peer {peer_id} cannot be reached; retrying")

    async def disconnect(self, peer_id: str) -> None:
        """Closes every connection to a peer."""
        with containing("disconnect", peer_id):
            await self._swarm.close_peer(ID.from_string(peer_id))

    # Life

    async def run(self, greet: Callable[[str], Awaitable[None]], faults: OwnFaults) -> None:
        """Dials, greets and patrols until cancelled. `greet` is called once per connected member."""
        self._swarm.register_notifee(_Watcher(lambda *_: self._wake.set()))
        async with trio.open_nursery() as nursery:
            while True:
                self._wake = trio.Event()
                with faults.ours():
                    self._dial_who_is_due(nursery)
                    await self._patrol(nursery, greet)
                with trio.move_on_after(PATROL_SECONDS):
                    await self._wake.wait()

    def _dial_who_is_due(self, nursery: trio.Nursery) -> None:
        linked = self.linked()
        wanted = self._rules.enough - sum(map(self._gate, linked | self._dialing.keys()))
        due = self._peers.due()
        self._chance.shuffle(due)
        for peer_id in due:
            if len(self._dialing) >= self._rules.max_dials:
                return
            if peer_id in linked or peer_id in self._dialing or self._standings.is_banned(peer_id):
                continue
            is_wanted = wanted > 0 and self._gate(peer_id)
            wanted -= is_wanted
            if is_wanted or self._peers.is_pinned(peer_id):
                nursery.start_soon(self._dial, peer_id)
                self._dialing[peer_id] = trio.Event()

    async def _dial(self, peer_id: str) -> None:
        done = self._dialing.setdefault(peer_id, trio.Event())
        try:
            for address in self._peers.addresses(peer_id):
                try:
                    await dial(self._host, peer_id, address, self._rules.dial_timeout)
                except PeerError as error:
                    logger.info("%s", error)
                    continue
                self._peers.succeeded(peer_id, address)
                return
            self._peers.failed(peer_id)
        finally:
            done.set()
            del self._dialing[peer_id]
            self._wake.set()

    async def _patrol(self, nursery: trio.Nursery, greet: Callable[[str], Awaitable[None]]) -> None:
        linked = self.linked()
        self._greeted &= linked
        self._since = {peer_id: at for peer_id, at in self._since.items() if peer_id in linked}
        for peer_id in linked:
            if self._standings.is_banned(peer_id):
                nursery.start_soon(self.disconnect, peer_id)
            elif self._gate(peer_id):
                self._since.pop(peer_id, None)
                if peer_id not in self._greeted:
                    self._greeted.add(peer_id)
                    nursery.start_soon(greet, peer_id)
            elif peer_id in self._greeted:
                logger.warning("peer %s is a member no more; disconnected", peer_id)
                nursery.start_soon(self.disconnect, peer_id)
            elif not self._peers.is_pinned(peer_id) and self._is_overdue(peer_id):
                nursery.start_soon(self.disconnect, peer_id)

    def _is_overdue(self, peer_id: str) -> bool:
        """Whether a stranger has been here long enough and does nothing."""
        since = self._since.setdefault(peer_id, trio.current_time())
        if trio.current_time() - since < self._rules.stranger_seconds:
            return False
        return not any(conn.get_streams() for conn in self._swarm.get_connections(ID.from_string(peer_id)))

    def admits(self, peer_id: str) -> bool:
        """Whether one more connection of a peer is welcome: members, peers the user named, and some strangers."""
        if self._standings.is_banned(peer_id):
            self._standings.count(Cause.BANNED_PEER, peer_id)
            return False
        if self._gate(peer_id) or self._peers.is_pinned(peer_id):
            return True
        strangers = sum(not self._gate(each) for each in self.linked())
        if strangers >= self._rules.max_strangers:
            self._standings.count(Cause.STRANGER_LIMIT, peer_id, f"{strangers} strangers are connected")
            return False
        return True

    def linked(self) -> set[str]:
        """The peers that a connection is open to, members or not."""
        return {str(peer_id) for peer_id, conns in self._swarm.connections.items() if conns}


class _Watcher:
    """Wakes the connector when a connection opens or closes."""

    def __init__(self, wake: Callable[[INetwork, INetConn], None]) -> None:
        self._wake = wake

    async def connected(self, network: INetwork, conn: INetConn) -> None:
        """Somebody to greet, or to turn away."""
        self._wake(network, conn)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:
        """Somebody to dial again."""
        self._wake(network, conn)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Of no interest."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Of no interest."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Of no interest."""

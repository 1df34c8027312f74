"""Two who dial each other at once: the dials of hole punching, and what becomes of them. Knows no message.

TCP knows two ways in which that ends in one connection: both SYNs cross (simultaneous open), or one comes to the
other's listener. Who is the client of the handshakes is agreed beforehand, whichever of the two happens.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import trio
from libp2p.abc import ConnectionType, INetConn
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.peer.id import ID
from libp2p.transport.exceptions import OpenConnectionError
from multiaddr import Multiaddr

from node.network import hardening
from node.network.containment import containing
from node.network.host import RunningHost
from node.network.metering import MeteredStream

logger = logging.getLogger(__name__)

AGAIN_SECONDS = 0.25  # between two dials of one address, where the first was refused
GLANCE_SECONDS = 0.05


@dataclass(frozen=True)
class PunchRules:
    """Seconds and counts."""

    tries: int = 3  # for each relayed connection
    answer: float = 10.0  # for all messages of one attempt
    dial: float = 5.0  # in which SYNs are sent
    handshake: float = 5.0  # once they have met
    pause: float = 2.0  # after an attempt that failed
    look: float = 0.5  # between looks at which connections there are
    grace: float = 20.0  # until a relayed connection is closed after a direct one stands, if no transfer uses it
    longest: float = 300.0  # until it is closed in any case: a transfer goes on where it stopped
    loopback: bool = False  # whether addresses of this machine may be dialed; for tests


class Meeting:
    """How a host is connected to peers, and how it meets those that dial it at the same moment."""

    def __init__(self, running: RunningHost, rules: PunchRules) -> None:
        self._host = running.host
        self._transport = running.transport
        self._swarm = running.host.get_network()
        self._rules = rules

    def connections(self, peer_id: str, kind: ConnectionType) -> list[INetConn]:
        """The open connections to a peer of one kind: direct or relayed."""
        found = self._swarm.get_connections(ID.from_string(peer_id))
        return [conn for conn in found if conn.get_connection_type() == kind and not conn.is_closed]

    def is_direct(self, peer_id: str) -> bool:
        """Whether a connection to the peer is open that needs no relay."""
        return bool(self.connections(peer_id, ConnectionType.DIRECT))

    async def meet(self, peer_id: str, addresses: Sequence[str], *, client: bool) -> bool:
        """Dials all addresses until a direct connection stands: one of ours, or one that came to our listener."""
        connecting = [trio.CancelScope() for _ in addresses]
        with self._transport.expecting(addresses if client else (), partial(self._take, peer_id)):
            async with trio.open_nursery() as nursery:
                for address, scope in zip(addresses, connecting, strict=True):
                    nursery.start_soon(self._knock, peer_id, address, client, scope)
                with trio.move_on_after(self._rules.dial):
                    while not self.is_direct(peer_id):
                        await trio.sleep(GLANCE_SECONDS)
                for scope in connecting:  # handshakes that have begun go on: the peer may count on another than we
                    scope.cancel()
        return self.is_direct(peer_id)

    async def _take(self, peer_id: str, came: MeteredStream) -> None:
        """Carries a dial of the peer's that came to our listener before we dialed; the peer is the server even so."""
        with containing("punch", peer_id):
            with trio.fail_after(self._rules.handshake):
                conn = await self._host.upgrade_outbound_connection(RawConnection(came, True), ID.from_string(peer_id))
            await conn.muxed_conn.event_closed.wait()

    async def _knock(self, peer_id: str, address: str, client: bool, connecting: trio.CancelScope) -> None:
        with containing("punch", peer_id):
            with connecting:
                met = await self._connected(address)
            if connecting.cancelled_caught:
                return
            try:
                with trio.fail_after(self._rules.handshake):
                    await self._upgrade(met, peer_id, address, client)
            except BaseException:
                with trio.CancelScope(shield=True), trio.move_on_after(1):
                    await met.close()
                raise

    async def _connected(self, address: str) -> MeteredStream:
        while True:
            try:
                return await self._transport.dial_from_listener(address)
            except OpenConnectionError as error:
                logger.debug("punch: %s", error)
                await trio.sleep(AGAIN_SECONDS)

    async def _upgrade(self, met: MeteredStream, peer_id: str, address: str, client: bool) -> None:
        """Both sides dialed; whoever began the attempt answers the handshakes, as specified."""
        raw = RawConnection(met, client)
        if client:
            await self._host.upgrade_outbound_connection(raw, ID.from_string(peer_id))
        else:
            await hardening.upgrade_as_listener(self._swarm, raw, Multiaddr(address))

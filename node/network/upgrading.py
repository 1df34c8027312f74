"""Turns relayed connections between members into direct ones where that goes, and closes what is not needed then.

The side that was dialed through the relay begins: it first dials the addresses that it knows, and punches a hole if
nobody answers there. Members whose NATs do not let that happen stay on the relay.
"""

import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio
from libp2p.abc import ConnectionType, IMuxedConn, INetConn
from libp2p.peer.id import ID
from libp2p.pubsub.gossipsub import PROTOCOL_ID, PROTOCOL_ID_V11, PROTOCOL_ID_V12

from node.errors import PeerError
from node.network.addresses import CIRCUIT
from node.network.containment import containing
from node.network.host import RunningHost, dial
from node.network.meeting import PunchRules
from node.network.metrics import Metric, labelled
from node.network.observed import ask_observed, own_places, places
from node.network.punching import Puncher

logger = logging.getLogger(__name__)

PLAIN_DIAL_SECONDS = 3.0
ASK_AGAIN_SECONDS = 30.0
LASTING = (PROTOCOL_ID, PROTOCOL_ID_V11, PROTOCOL_ID_V12)  # streams that stay open; py-libp2p opens them anew


@dataclass(frozen=True)
class Surroundings:
    """What the upgrader needs of others."""

    gate: Callable[[str], bool]  # who is a member
    relays: Sequence[str]  # peer ids of this node's relays
    addresses: Callable[[str], Sequence[str]]  # where a peer is known to be dialed
    leave: Callable[[IMuxedConn], Awaitable[None]]  # closes the idle streams on a connection


class Upgrader:
    """Looks after the connections of a host for as long as `run` does."""

    def __init__(self, running: RunningHost, around: Surroundings, rules: PunchRules) -> None:
        self._running = running
        self._swarm = running.host.get_network()
        self._around = around
        self._rules = rules
        self._seen: dict[INetConn, list[str]] = {}  # where relays see us, by our connection to each
        self._begun: set[INetConn] = set()  # relayed connections that we tried to make superfluous
        self._since: dict[INetConn, float] = {}  # when a relayed connection was found superfluous
        self.puncher = Puncher(running, around.gate, self.own_places, rules)

    def own_places(self) -> list[str]:
        """Where others should dial us."""
        seen = [address for addresses in self._seen.values() for address in addresses]
        return own_places(seen, self._running.addresses)

    def metrics(self) -> list[Metric]:
        """Attempts by outcome, and those of others that were not taken, by cause."""
        outcomes = {outcome: float(self.puncher.outcomes[outcome]) for outcome in ("direct", "failed")}
        refused: dict[str, float] = dict(self.puncher.refused)
        return [
            labelled(
                "fl_node_hole_punches_total", "counter", "Attempts, both sides', by outcome.", "outcome", outcomes
            ),
            labelled("fl_node_hole_punches_refused_total", "counter", "Not taken, by cause.", "cause", refused),
        ]

    async def run(self) -> None:
        """Looks, punches and closes until cancelled."""
        async with trio.open_nursery() as nursery:
            while True:
                self._forget_the_closed()
                self._ask_relays(nursery)
                for peer_id in list(map(str, self._swarm.connections)):
                    if self._around.gate(peer_id):
                        self._look_at(peer_id, nursery)
                await trio.sleep(self._rules.look)

    def _forget_the_closed(self) -> None:
        open_now = set(self._swarm.get_connections())
        self._begun &= open_now
        self._since = {conn: at for conn, at in self._since.items() if conn in open_now}
        self._seen = {conn: addresses for conn, addresses in self._seen.items() if conn in open_now}

    def _ask_relays(self, nursery: trio.Nursery) -> None:
        for relay in self._around.relays:
            for conn in self._swarm.get_connections(ID.from_string(relay)):
                if conn not in self._seen:
                    self._seen[conn] = []
                    nursery.start_soon(self._ask_relay, relay, conn)

    async def _ask_relay(self, relay: str, conn: INetConn) -> None:
        while conn in self._seen:
            seen = places(await ask_observed(self._running.host, relay), loopback=self._rules.loopback)
            if seen:
                self._seen[conn] = seen
                logger.info("relay %s sees this node at %s", relay, ", ".join(seen))
                return
            logger.info("relay %s does not say where it sees this node; asking again", relay)
            await trio.sleep(ASK_AGAIN_SECONDS)

    def _look_at(self, peer_id: str, nursery: trio.Nursery) -> None:
        relayed = self.puncher.meeting.connections(peer_id, ConnectionType.RELAYED)
        if self.puncher.meeting.is_direct(peer_id):
            for conn in relayed:
                nursery.start_soon(self._phase_out, peer_id, conn)
            return
        ours = [conn for conn in relayed if conn.muxed_conn.is_initiator]
        theirs = [conn for conn in relayed if conn not in ours]
        each_dialed = bool(ours) and bool(theirs)
        if not theirs or (each_dialed and str(self._swarm.get_peer_id()) > peer_id):  # the other side begins
            return
        if not self._begun.issuperset(theirs):
            self._begun.update(theirs)
            nursery.start_soon(self._upgrade, peer_id)

    async def _upgrade(self, peer_id: str) -> None:
        with containing("upgrade", peer_id):
            await self._dial_plainly(peer_id)
            for number in range(1, self._rules.tries + 1):
                if self.puncher.meeting.is_direct(peer_id):  # by our dial, or by what the peer began
                    logger.info("the connection to peer %s is direct now", peer_id)
                    return
                try:
                    if await self.puncher.attempt(peer_id):
                        logger.info("punched a hole to peer %s (attempt %d): it is direct now", peer_id, number)
                        return
                except PeerError as error:
                    logger.info("%s", error)
                await trio.sleep(self._rules.pause)
            logger.info("no hole to peer %s in %d attempts: it stays on the relay", peer_id, self._rules.tries)

    async def _dial_plainly(self, peer_id: str) -> None:
        """Dials all addresses that a peer is known by, once."""
        known = [address for address in self._around.addresses(peer_id) if not address.endswith(CIRCUIT)]

        async def one(address: str) -> None:
            try:
                await dial(self._running.host, peer_id, address, PLAIN_DIAL_SECONDS)
            except PeerError as error:
                logger.debug("%s", error)

        async with trio.open_nursery() as nursery:
            for address in known:
                nursery.start_soon(one, address)

    async def _phase_out(self, peer_id: str, conn: INetConn) -> None:
        """Leaves a relayed connection beside a direct one; closes it when it has been idle for long enough."""
        now = trio.current_time()
        age = now - self._since.setdefault(conn, now)
        with containing("closing a relayed connection", peer_id):
            await self._around.leave(conn.muxed_conn)
            idle = all(stream.get_protocol() in LASTING for stream in conn.get_streams())
            if age >= self._rules.longest or (idle and age >= self._rules.grace):
                logger.info("the relayed connection to peer %s is closed: there is a direct one", peer_id)
                await conn.close()

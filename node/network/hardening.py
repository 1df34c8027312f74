"""Work-arounds for py-libp2p 0.8.1, one function per fault, each with its test in tests/network/test_hardening.py.

When upstream mends a fault, its function goes and nothing else changes. What could not be mended from outside was
replaced instead: yamux.py (receive window, streams, writes), noise_session.py (speed), transport.py (listeners).
"""

import logging
from collections.abc import Callable

import trio
from libp2p.abc import IHost, IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
from libp2p.custom_types import TProtocol
from libp2p.identity.identify_push.identify_push import ID_PUSH
from libp2p.network.config import RetryConfig
from libp2p.network.connection.swarm_connection import SwarmConn
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.stream_muxer.muxer_multistream import MuxerMultistream
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX
from multiaddr import Multiaddr

from node.causes import Cause, Tally
from node.network.containment import containing, is_malformed, is_ordinary
from node.network.metering import MeteredStream
from node.network.noise_session import NoiseSession
from node.network.yamux import LARGE_FRAME, NOISE_SIZED_FRAME, BufferBudget, Yamux, YamuxLimits

logger = logging.getLogger(__name__)

LARGE_FRAMES = TProtocol("/fl-node/yamux/1.0.0")  # Yamux with frames up to 1 MiB; offered first, declined by others
NEGOTIATION_TIMEOUT = 10
MALFORMED = {
    "/rendezvous/": Cause.BAD_TRACKER_MESSAGE,
    "/fl-node/kad/": Cause.BAD_DIRECTORY_MESSAGE,
    "/libp2p/circuit/": Cause.BAD_RELAY_MESSAGE,
    "/libp2p/dcutr": Cause.BAD_RELAY_MESSAGE,
}  # beginning of a protocol -> what a message is counted as that its handler cannot read
Admission = Callable[[str], bool]  # peer id -> whether one more connection of it is welcome


def give_back_the_log() -> None:
    """Fault: importing it takes its log out of the program's: without a handler, warnings are bare text on stderr.

    It is heard where the program logs everything, and else not, as the other libraries.
    """
    log = logging.getLogger("libp2p")
    log.propagate = True
    log.setLevel(logging.DEBUG if logging.getLogger().isEnabledFor(logging.DEBUG) else logging.CRITICAL)


def contain_stream_handlers(host: IHost, tally: Tally) -> None:
    """Fault: an exception that leaves a stream handler, or the negotiation before it, ends the whole swarm.

    (A protocol name that is not UTF-8, or garbage Protocol Buffers on a GossipSub stream, are enough.)
    """
    inner = host._swarm_stream_handler

    async def handle(stream: INetStream) -> None:
        peer = stream.muxed_conn.peer_id
        with containing("stream", peer) as outcome:
            await inner(stream)
        cause = _cause(stream.get_protocol(), outcome.error)
        if cause is not None:
            tally.count(cause, str(peer), f"{stream.get_protocol() or 'no protocol'}: {outcome.error!r}")
        with containing("closing a stream", peer):
            await (stream.reset() if outcome.error else stream.close())

    host.get_network().set_stream_handler(handle)


def _cause(protocol: str | None, error: Exception | None) -> Cause | None:
    """What a stream's end is to be counted as, if at all."""
    if protocol is None:
        return Cause.HALF_OPEN_STREAM
    if is_ordinary(error):
        return None
    malformed = (cause for prefix, cause in MALFORMED.items() if protocol.startswith(prefix) and is_malformed(error))
    return next(malformed, Cause.BROKEN_STREAM)


def release_inbound_slots(swarm: Swarm) -> None:
    """Fault: an inbound connection keeps its slot and task until shutdown, so the 251st in a lifetime is refused."""
    upgrade = swarm.upgrade_inbound_raw_conn

    async def upgrade_and_wait(raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
        muxed = await upgrade(raw_conn, maddr)
        await muxed.event_closed.wait()
        raise SwarmException("inbound connection closed")

    swarm.upgrade_inbound_raw_conn = upgrade_and_wait


async def upgrade_as_listener(swarm: Swarm, raw_conn: IRawConnection, maddr: Multiaddr) -> IMuxedConn:
    """Makes a connection that we dialed one on which we answer the handshakes; returns when it stands.

    (What `release_inbound_slots` puts in place of the swarm's method returns only when the connection has ended.)
    """
    return await Swarm.upgrade_inbound_raw_conn(swarm, raw_conn, maddr)


def gate_connections(swarm: Swarm, admission: Admission) -> None:
    """Fault: there is no gate on peer ids (the allow-list is for IP addresses).

    Asked as soon as the handshake has proven the peer id, and again before the connection is registered.
    """
    upgrade, add = swarm.upgrader.upgrade_security, swarm.add_conn
    turn = trio.Lock()  # so that those who arrive together are counted one after the other

    async def upgrade_security(raw: IRawConnection, is_initiator: bool, peer_id: ID | None = None) -> ISecureConn:
        secured = await upgrade(raw, is_initiator, peer_id)
        remote = secured.get_remote_peer()
        stream = getattr(raw, "stream", None)
        if isinstance(stream, MeteredStream):
            stream.is_named = True
        if not admission(str(remote)):
            await secured.close()
            raise SwarmException(f"no room for peer {remote}")
        return secured

    async def add_conn(muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        async with turn:
            if admission(str(muxed_conn.peer_id)):
                return await add(muxed_conn, direction)
        await muxed_conn.close()
        raise SwarmException(f"no room for peer {muxed_conn.peer_id}")

    swarm.upgrader.upgrade_security = upgrade_security
    swarm.add_conn = add_conn


def silence_auto_connector(swarm: Swarm) -> None:
    """Fault: it dials peerstore entries even with low_watermark=0; and dial_addr sleeps and repeats on its own."""

    async def leave_alone() -> None:
        return

    swarm.auto_connector.maybe_connect = leave_alone
    swarm.retry_config = RetryConfig(max_retries=0)


def silence_identify(host: IHost) -> None:
    """Fault: identify runs as trio system tasks, where an error ends the program, and pushes are stored without bound.

    We still answer identify; what we learn about peers comes over the exchange protocol.
    """
    swarm = host.get_network()
    swarm.notifees[:] = [each for each in swarm.notifees if type(each).__name__ != "_IdentifyNotifee"]
    host._schedule_identify = _do_nothing
    host.remove_stream_handler(ID_PUSH)


def _do_nothing(peer_id: ID, *, reason: str) -> None:
    """Stands in for BasicHost._schedule_identify."""


def forget_peers_that_leave(swarm: Swarm) -> None:
    """Fault: the peerstore and the counters keep 17 kB for every peer id that ever connected."""
    remove = swarm.remove_conn

    def remove_conn(conn: INetConn) -> None:
        remove(conn)
        peer_id = conn.muxed_conn.peer_id
        if peer_id not in swarm.connections:
            swarm.peerstore.peer_data_map.pop(peer_id, None)
            swarm.peerstore.peer_record_map.pop(peer_id, None)

    swarm.remove_conn = remove_conn


class OwnMuxer(MuxerMultistream):
    """Fault: the stock selector builds its own Yamux whatever class it was given."""

    def __init__(self, limits: YamuxLimits, budget: BufferBudget) -> None:
        super().__init__({LARGE_FRAMES: Yamux, TProtocol(YAMUX): Yamux}, NEGOTIATION_TIMEOUT)
        self._limits = limits
        self._budget = budget

    async def new_conn(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """A Yamux connection; its frames are large if both sides are ours."""
        protocol, _ = await self._selector.select(conn, conn.is_initiator, self.negotiate_timeout)
        frame_size = LARGE_FRAME if protocol == LARGE_FRAMES else NOISE_SIZED_FRAME
        if isinstance(conn, NoiseSession) and isinstance(conn.raw.stream, MeteredStream):
            conn.raw.stream.book_to(str(peer_id))
        muxed = Yamux(conn, peer_id, frame_size, self._limits, self._budget)
        return self._annotate_connection(muxed, conn, protocol)

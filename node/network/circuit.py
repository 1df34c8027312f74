"""Circuit relay v2 (https://github.com/libp2p/specs/blob/master/relay/circuit-v2.md) for a node behind a NAT.

A node that nobody can dial keeps a reservation at a relay that its user named, and is dialed through it. What the two
ends say is secured between them by Noise: the relay sees ciphertext, and whom it connects. py-libp2p 0.8.1's own relay
confuses the circuits of a peer that has several (docs/decisions.md); the messages are its. The relay itself is in
`relaying.py`.
"""

import logging
from collections.abc import Callable, Sequence

import trio
from google.protobuf.message import DecodeError
from libp2p.abc import ConnectionType, IHost, INetStream
from libp2p.custom_types import TProtocol
from libp2p.exceptions import BaseLibp2pError
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.id import ID
from libp2p.relay.circuit_v2.pb.circuit_pb2 import HopMessage, PeerId, Status, StopMessage
from multiaddr import Multiaddr

from node.errors import PeerError
from node.network.addresses import CIRCUIT, PeerAddress, parse_peer_address
from node.network.delimited import encode_peer_id, receive, send
from node.network.wire import patience

logger = logging.getLogger(__name__)

HOP = "/libp2p/circuit/relay/0.2.0/hop"
STOP = "/libp2p/circuit/relay/0.2.0/stop"
ANSWER_SECONDS = 10.0
RENEW_SECONDS = 60.0  # between reservations, which relays keep for an hour or so: one that restarted is told again
RETRY_SECONDS = 2.0


class Circuit:
    """A stream to a relay as if it were a socket to the peer beyond it."""

    def __init__(self, stream: INetStream) -> None:
        self._stream = stream

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes, or b"" at the end."""
        try:
            return bytes(await self._stream.read(n))
        except StreamEOF:
            return b""
        except BaseLibp2pError as error:
            raise ConnectionClosedError(f"the circuit broke: {error}", transport="circuit") from error

    async def read_into(self, buffer: memoryview) -> int:
        """Receives 1 to len(buffer) bytes into `buffer`; 0 at the end."""
        data = await self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    async def write(self, data: bytes) -> None:
        """Sends all of `data`."""
        try:
            await self._stream.write(data)
        except BaseLibp2pError as error:
            raise ConnectionClosedError(f"the circuit broke: {error}", transport="circuit") from error

    async def write_pieces(self, pieces: list[bytes]) -> None:
        """Sends all of `pieces`."""
        await self.write(b"".join(pieces))

    async def close(self) -> None:
        """Ends it in both directions."""
        await self._stream.reset()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Unknown: the relay does not say."""
        return None


def circuit_address(relay: PeerAddress) -> str:
    """Where a node with a reservation at `relay` can be dialed."""
    return f"{relay}{CIRCUIT}"


async def dial_through(host: IHost, peer_id: str, address: str, dial: Callable[..., object]) -> None:
    """Connects to a peer through the relay in `address` (…/p2p/RELAY/p2p-circuit). Raises PeerError or libp2p's."""
    relay = parse_peer_address(address.removesuffix(CIRCUIT))
    relay_id = ID.from_string(relay.peer_id)
    if not host.get_network().get_connections(relay_id):
        await dial(host, relay.peer_id, relay.address, ANSWER_SECONDS)  # type: ignore[misc]
    stream = await _ask(host, relay.peer_id, HopMessage(type=HopMessage.CONNECT, peer=_peer(peer_id)))
    raw = _raw(stream, initiator=True, address=f"{address}/p2p/{peer_id}")
    try:
        await host.upgrade_outbound_connection(raw, ID.from_string(peer_id))
    except BaseException:
        with trio.CancelScope(shield=True), trio.move_on_after(1):
            await stream.reset()
        raise


async def keep_reservation(host: IHost, relay: PeerAddress, connect: Callable[[str], object]) -> None:
    """Has the relay remember this node, for ever; one that is out of reach is asked again."""
    reserved = False
    while True:
        try:
            await connect(relay.peer_id)  # type: ignore[misc]
            stream = await _ask(host, relay.peer_id, HopMessage(type=HopMessage.RESERVE))
            await stream.close()
        except PeerError as error:
            if reserved:
                logger.warning("%s", error)
            logger.info("%s", error)
            reserved = False
        else:
            if not reserved:
                logger.info("relay %s keeps a place for this node", relay)
            reserved = True
        await trio.sleep(RENEW_SECONDS if reserved else RETRY_SECONDS)


class CircuitDoor:
    """Takes connections that relays hand over: only from relays that the user named."""

    def __init__(self, host: IHost, relays: Sequence[PeerAddress]) -> None:
        self._host = host
        self._relays = {each.peer_id: each for each in relays}
        host.set_stream_handler(TProtocol(STOP), self.handle)

    async def handle(self, stream: INetStream) -> None:
        """Lets one peer in, and carries its connection until it ends. The handshake proves who it is."""
        relay = self._relays.get(str(stream.muxed_conn.peer_id))
        with trio.fail_after(ANSWER_SECONDS):
            message = await receive(stream, StopMessage)
            welcome = relay is not None and message.type == StopMessage.CONNECT
            status = Status.OK if welcome else Status.PERMISSION_DENIED
            await send(stream, StopMessage(type=StopMessage.STATUS, status=status))
        if relay is None or not welcome:
            logger.info("peer %s wanted to relay, which only --relay peers may", stream.muxed_conn.peer_id)
            return
        raw = _raw(stream, initiator=False, address=circuit_address(relay))
        await self._host.upgrade_inbound_connection(raw, Multiaddr(circuit_address(relay)))


async def _ask(host: IHost, relay: str, message: HopMessage) -> INetStream:
    """The stream on which a relay said yes. Raises PeerError."""
    try:
        with patience(relay, ANSWER_SECONDS):
            stream = await host.new_stream(ID.from_string(relay), [TProtocol(HOP)])
            await send(stream, message)
            answer = await receive(stream, HopMessage)
    except (BaseLibp2pError, DecodeError) as error:
        raise PeerError(f"relay {relay} gives no answer ({type(error).__name__}); retrying") from error
    if answer.type != HopMessage.STATUS or answer.status != Status.OK:
        await stream.reset()
        raise PeerError(f"relay {relay} refuses with status {answer.status}; retrying")
    return stream


def _raw(stream: INetStream, *, initiator: bool, address: str) -> RawConnection:
    return RawConnection(Circuit(stream), initiator, ConnectionType.RELAYED, [Multiaddr(address)])


def _peer(peer_id: str) -> PeerId:
    return PeerId(id=encode_peer_id(peer_id))

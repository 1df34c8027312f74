"""Yamux, https://github.com/hashicorp/yamux/blob/master/spec.md, for peers that may be hostile.

py-libp2p 0.8.1's own does not enforce the receive window or the number of streams, gives up on a reader that pauses
for 5 seconds, breaks the connection when a write is cancelled, polls, and sends frames one byte too long for a Noise
message. This one bounds what a peer can make us hold (docs/decisions.md has the numbers) and knows nothing of what
the streams carry. Streams are in `yamux_stream.py`.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import ConnectionType, IMuxedConn, IMuxedStream, ISecureConn
from libp2p.peer.id import ID
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.stream_muxer.exceptions import MuxedConnUnavailable
from multiaddr import Multiaddr

from node.causes import Cause, Tally
from node.network.containment import containing
from node.network.yamux_frames import (
    ACK,
    DATA,
    GO_AWAY,
    HEADER,
    PING,
    RST,
    SYN,
    WINDOW_UPDATE,
    FrameParser,
    Violation,
)
from node.network.yamux_pings import Pings
from node.network.yamux_stream import INITIAL_WINDOW, YamuxStream

NOISE_SIZED_FRAME = MAX_PLAINTEXT_LENGTH - HEADER.size  # header and payload fill one Noise message exactly
LARGE_FRAME = 16 * MAX_PLAINTEXT_LENGTH - HEADER.size  # just under 1 MiB
ABANDONED_AFTER = 60.0  # seconds
MAX_CONTROL_BACKLOG = 64 * 1024  # bytes of answers (pongs, resets) that a peer may leave unread


class BufferBudget:
    """Bytes that all connections of a host may hold unread, together; and where it is counted what peers do wrong."""

    def __init__(self, limit: int, tally: Tally | None = None) -> None:
        self.limit = limit
        self.used = 0
        self.tally = tally or Tally()


@dataclass(frozen=True)
class YamuxLimits:
    """What one connection may cost us."""

    max_streams: int = 64
    max_window: int = 16 << 20  # bytes, per stream; grown only for a reader that keeps up
    max_buffered: int = 32 << 20  # bytes, per connection
    write_timeout: float = 30.0  # seconds until a peer that takes nothing is cut off
    ping_interval: float = 10.0
    ping_timeout: float = 20.0


class Yamux(IMuxedConn):
    """A multiplexed connection over `secured_conn`; `start` runs it until either side closes."""

    on_close: Callable[[], Awaitable[Any]] | None = None  # set by the swarm

    def __init__(
        self, secured_conn: ISecureConn, peer_id: ID, frame_size: int, limits: YamuxLimits, budget: BufferBudget
    ) -> None:
        self.secured_conn = secured_conn
        self.peer_id = peer_id
        self.frame_size = frame_size
        self.limits = limits
        self.budget = budget
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.streams: dict[int, YamuxStream] = {}
        self.buffered = 0
        self._closing = False
        self._next_id = 1 if secured_conn.is_initiator else 2
        self._write_turn = trio.Lock()
        self._control = bytearray()
        self._control_ready = trio.Event()
        self._accept_send, self._accept_receive = trio.open_memory_channel[IMuxedStream](limits.max_streams)
        self._pings = Pings(limits.ping_timeout)
        self._peer_left = False

    # What the swarm asks

    @property
    def is_initiator(self) -> bool:
        """Whether we dialed."""
        return bool(self.secured_conn.is_initiator)

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._closing

    @property
    def is_closed(self) -> bool:
        """Whether the connection is gone."""
        return self._closing

    def rtt(self) -> float:
        """Smoothed round-trip time, seconds; 0 until the first pong."""
        return self._pings.rtt

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The other side's address."""
        return list(self.secured_conn.get_transport_addresses())

    def get_connection_type(self) -> ConnectionType:
        """Direct or relayed."""
        return self.secured_conn.get_connection_type()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other side."""
        return self.secured_conn.get_remote_address()

    # Life

    async def start(self) -> None:
        """Runs the connection. Returns, never raises, when it ends: the swarm would end with it."""
        with containing("connection", self.peer_id) as outcome:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._send_control)
                nursery.start_soon(self._keep_alive)
                self.event_started.set()
                try:
                    await self._receive()
                finally:
                    await self.close()  # first the socket, since a write that is under way holds out until it closes
                    nursery.cancel_scope.cancel()
        self.event_started.set()
        self._count_violations(outcome.error)
        await self.close()

    def _count_violations(self, error: Exception | None) -> None:
        found = error.exceptions if isinstance(error, ExceptionGroup) else [error]
        for each in found:
            if isinstance(each, Violation):
                self.budget.tally.count(each.cause, str(self.peer_id), each)

    async def close(self) -> None:
        """Says goodbye if the peer listens, closes the socket and wakes everyone who waits for a stream."""
        if self._closing:
            return
        self._closing = True
        with trio.CancelScope(shield=True):
            with containing("goodbye", self.peer_id), trio.move_on_after(0.2):
                if not self._write_turn.locked():
                    await self.secured_conn.write(HEADER.pack(0, GO_AWAY, 0, 0, 0))
            with containing("close", self.peer_id):
                await self.secured_conn.close()
            for stream in list(self.streams.values()):
                stream.break_off()
            self.streams.clear()
            self._accept_send.close()
            self._control_ready.set()
            self.event_closed.set()
            if self.on_close is not None:
                with containing("closing hook", self.peer_id):
                    await self.on_close()

    async def open_stream(self) -> IMuxedStream:
        """A new stream to the peer. Raises MuxedConnUnavailable if the connection is closed or full."""
        if self._closing:
            raise MuxedConnUnavailable("the connection is closed")
        if len(self.streams) >= self.limits.max_streams:
            raise MuxedConnUnavailable(f"{len(self.streams)} streams are open already")
        stream = YamuxStream(self._next_id, self)
        self._next_id += 2
        self.streams[stream.stream_id] = stream
        try:
            await self.write_frame(HEADER.pack(0, WINDOW_UPDATE, SYN, stream.stream_id, 0))
        except BaseException:
            stream.break_off()
            raise
        return stream

    async def accept_stream(self) -> IMuxedStream:
        """The next stream that the peer opens. Raises MuxedConnUnavailable once the connection is closed."""
        try:
            return await self._accept_receive.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise MuxedConnUnavailable("the connection is closed") from error

    # Sending

    async def write_frame(self, header: bytes, body: Sequence[memoryview] = ()) -> None:
        """Sends one frame, whole: cancellation waits for it, and a peer that takes nothing is cut off."""
        pieces = [memoryview(header), *body]
        sent = False
        async with self._write_turn:
            if self._closing:
                raise MuxedConnUnavailable("the connection is closed")
            with trio.CancelScope(shield=True, deadline=trio.current_time() + self.limits.write_timeout):
                with containing("send", self.peer_id) as outcome:
                    await self.secured_conn.write_pieces(pieces)
                sent = outcome.error is None
        if not sent:
            await self.close()
            raise MuxedConnUnavailable("the peer does not take what we send")

    def answer(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queues a frame without a body: whoever receives must never wait for the peer to read.

        Raises Violation if the peer leaves too many answers unread.
        """
        if len(self._control) > MAX_CONTROL_BACKLOG:
            raise Violation(Cause.ANSWERS_UNREAD, f"{len(self._control)} bytes")
        self.queue(kind, flags, stream_id, value)

    def queue(self, kind: int, flags: int, stream_id: int, value: int) -> None:
        """Queues a frame of our own without a body."""
        self._control += HEADER.pack(0, kind, flags, stream_id, value)
        self._control_ready.set()

    async def _send_control(self) -> None:
        while not self._closing:
            await self._control_ready.wait()
            self._control_ready = trio.Event()
            pending, self._control = self._control, bytearray()
            if pending:
                with containing("answer", self.peer_id):
                    await self.write_frame(bytes(pending))

    async def _keep_alive(self) -> None:
        """Closes a connection whose peer is silent (a link that went down, say), and streams it keeps half open."""
        while True:
            await self._pings.exchange(lambda nonce: self.answer(PING, SYN, 0, nonce))
            self._drop_abandoned()
            await trio.sleep(self.limits.ping_interval)

    def _drop_abandoned(self) -> None:
        """Resets streams that we finished long ago and the peer keeps open."""
        latest = trio.current_time() - ABANDONED_AFTER
        for stream in list(self.streams.values()):
            if stream.finished_at < latest:
                stream.break_off()
                self.budget.tally.count(Cause.ABANDONED_STREAM, str(self.peer_id))
                self.answer(WINDOW_UPDATE, RST, stream.stream_id, 0)

    # Receiving

    async def _receive(self) -> None:
        parser = FrameParser(self._frame)
        while not self._peer_left:
            for message in await self.secured_conn.read_messages():
                parser.feed(message)

    def _frame(self, kind: int, flags: int, stream_id: int, value: int) -> YamuxStream | None:
        """Acts on a header; returns the stream that the body is for."""
        if kind == DATA:
            return self._data_begins(flags, stream_id, value)
        if kind == WINDOW_UPDATE:
            stream = self._stream_of(flags, stream_id)
            if stream is not None:
                stream.grant(value)
                stream.flagged(flags)
        elif kind == PING:
            self._ping(flags, value)
        else:
            self._peer_left = True
        return None

    def _data_begins(self, flags: int, stream_id: int, size: int) -> YamuxStream | None:
        stream = self._stream_of(flags, stream_id)
        if stream is None:
            if size > INITIAL_WINDOW:
                raise Violation(Cause.NO_STREAM, f"{size} bytes for a stream that is not open")
            return None
        if size > stream.receive_window:
            raise Violation(Cause.WINDOW, f"{size} bytes into a window of {stream.receive_window}")
        if self.buffered + size > self.limits.max_buffered or self.budget.used + size > self.budget.limit:
            raise Violation(Cause.UNREAD_BYTES, f"{self.buffered + size}, or too many over all connections")
        stream.receive_window -= size
        return stream

    def _stream_of(self, flags: int, stream_id: int) -> YamuxStream | None:
        """The stream that a frame is for; a SYN opens it, or is answered by a reset if there are too many."""
        if not flags & SYN:
            return self.streams.get(stream_id)
        ours = stream_id % 2 == (1 if self.is_initiator else 0)
        if ours or stream_id == 0 or stream_id in self.streams:
            raise Violation(Cause.STREAM_ID, f"opens stream {stream_id}")
        if len(self.streams) >= self.limits.max_streams:
            self._turn_down(stream_id)
            return None
        stream = YamuxStream(stream_id, self)
        try:
            self._accept_send.send_nowait(stream)
        except trio.WouldBlock:
            self._turn_down(stream_id)
            return None
        self.streams[stream_id] = stream
        self.answer(WINDOW_UPDATE, ACK, stream_id, 0)
        return stream

    def _turn_down(self, stream_id: int) -> None:
        self.budget.tally.count(Cause.SURPLUS_STREAM, str(self.peer_id), f"{len(self.streams)} are open")
        self.answer(WINDOW_UPDATE, RST, stream_id, 0)

    def _ping(self, flags: int, nonce: int) -> None:
        if flags & SYN:
            self.answer(PING, ACK, 0, nonce)
        else:
            self._pings.answered(nonce)

"""One stream of a Yamux connection: flow control in both directions, half-close, reset."""

import math
from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

import trio
from libp2p.abc import IMuxedStream
from libp2p.stream_muxer.exceptions import MuxedStreamClosed, MuxedStreamEOF, MuxedStreamReset

from node.network.yamux_frames import DATA, FIN, HEADER, RST, WINDOW_UPDATE

if TYPE_CHECKING:
    from node.network.yamux import Yamux

INITIAL_WINDOW = 256 * 1024
MAX_SEND_WINDOW = (1 << 32) - 1
WINDOW_STALL = 60.0  # seconds that a writer waits for a reader that grants nothing


class YamuxStream(IMuxedStream):
    """A stream. `read` and `write` may be cancelled at any point without harm to the connection."""

    def __init__(self, stream_id: int, conn: "Yamux") -> None:
        self.stream_id = stream_id
        self.muxed_conn = conn
        self.receive_window = INITIAL_WINDOW  # what the peer may still send
        self._target = INITIAL_WINDOW
        self._unacknowledged = 0  # read by the owner, not yet granted again
        self._granted_at = 0.0
        self._send_window = INITIAL_WINDOW
        self._chunks: deque[bytes] = deque()
        self._size = 0
        self._counted = True  # whether what is unread counts against the connection
        self.finished_at = math.inf  # when our side was closed
        self._changed = trio.Event()
        self._send_closed = False
        self._receive_closed = False
        self._broken = False

    @property
    def is_closed(self) -> bool:
        """Whether the peer has finished (what it sent before can still be read) or the stream is broken."""
        return self._broken or self._receive_closed

    # What the connection does to us

    def feed(self, data: bytes) -> None:
        """Takes bytes that the peer sent within the window; drops them if nobody will read them."""
        if self._receive_closed or self._broken:
            return
        self._chunks.append(data)
        self._hold(len(data))
        self._wake()

    def grant(self, increment: int) -> None:
        """Lets us send `increment` more bytes."""
        self._send_window = min(self._send_window + increment, MAX_SEND_WINDOW)
        self._wake()

    def flagged(self, flags: int) -> None:
        """Notes the end of the peer's side (FIN), or of both (RST)."""
        if flags & RST:
            self.break_off()
        elif flags & FIN:
            self._receive_closed = True
            self._forget_if_done()
            self._wake()

    def break_off(self) -> None:
        """Ends both sides at once; what was not read is lost."""
        self._broken = True
        self._chunks.clear()
        self._hold(-self._size)
        self.muxed_conn.streams.pop(self.stream_id, None)
        self._wake()

    # What the owner does

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes; some if None. Raises MuxedStreamEOF or MuxedStreamReset."""
        await trio.lowlevel.checkpoint()
        while not self._chunks:
            if self._broken:
                raise MuxedStreamReset("the stream was reset")
            if self._receive_closed:
                raise MuxedStreamEOF("the peer has finished")
            await self._changed.wait()
        return self._take(n if n is not None and n >= 0 else self._size)

    async def read_pieces(self, n: int) -> list[bytes]:
        """Between 1 and `n` bytes, like `read`, as they came and without copying them together."""
        pieces = [await self.read(n)]
        left = n - len(pieces[0])
        while self._chunks and left:
            pieces.append(self._take(left))
            left -= len(pieces[-1])
        return pieces

    def _take(self, n: int) -> bytes:
        """The first `n` bytes of the oldest piece."""
        piece = self._chunks.popleft()
        if len(piece) > n:
            self._chunks.appendleft(piece[n:])
            piece = piece[:n]
        self._hold(-len(piece))
        self._grant_again(len(piece))
        return piece

    def _grant_again(self, count: int) -> None:
        """Opens the window again at half, and doubles it for a reader that empties it within 4 round trips."""
        self._unacknowledged += count
        if self._unacknowledged < self._target // 2 or self._receive_closed or self._broken:
            return
        now = trio.current_time()
        conn = self.muxed_conn
        if now - self._granted_at < 4 * max(conn.rtt(), 0.001) and self._target < conn.limits.max_window:
            self._unacknowledged += self._target
            self._target *= 2
        self._granted_at = now
        increment, self._unacknowledged = self._unacknowledged, 0
        self.receive_window += increment
        conn.queue(WINDOW_UPDATE, 0, self.stream_id, increment)

    async def write(self, data: bytes) -> None:
        """Sends all of `data` as the peer's window allows. Raises MuxedStreamClosed or MuxedStreamReset."""
        await self.write_pieces([data])

    async def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Sends all of `pieces`, like `write`, without copying them together."""
        left = [memoryview(piece) for piece in pieces]
        total = sum(map(len, left))
        while total:
            await self._wait_for_window()
            size = min(total, self._send_window, self.muxed_conn.frame_size)
            self._send_window -= size
            total -= size
            body = _cut(left, size)
            await self.muxed_conn.write_frame(HEADER.pack(0, DATA, 0, self.stream_id, size), body)

    async def _wait_for_window(self) -> None:
        while True:
            if self._broken:
                raise MuxedStreamReset("the stream was reset")
            if self._send_closed:
                raise MuxedStreamClosed("the stream is closed for writing")
            if self._send_window:
                return
            with trio.move_on_after(WINDOW_STALL) as stall:
                await self._changed.wait()
            if stall.cancelled_caught:
                raise MuxedStreamReset(f"the peer has read nothing for {WINDOW_STALL:.0f} s")

    async def close(self) -> None:
        """Finishes our side; the peer's can still be read."""
        if self._send_closed or self._broken:
            return
        self._send_closed = True
        self.finished_at = trio.current_time()
        self._forget_if_done()
        await self.muxed_conn.write_frame(HEADER.pack(0, WINDOW_UPDATE, FIN, self.stream_id, 0))

    async def reset(self) -> None:
        """Ends both sides at once and tells the peer."""
        if self._broken or (self._send_closed and self._receive_closed):
            return
        self.break_off()
        await self.muxed_conn.write_frame(HEADER.pack(0, WINDOW_UPDATE, RST, self.stream_id, 0))

    def set_deadline(self, ttl: int) -> None:
        """Not supported: trio's own deadlines are used."""
        raise NotImplementedError

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other side."""
        return self.muxed_conn.get_remote_address()

    async def __aenter__(self) -> "YamuxStream":
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc_val: BaseException | None, exc_tb: TracebackType | None
    ) -> None:
        await self.close()

    # Book-keeping

    def _hold(self, change: int) -> None:
        self._size += change
        if self._counted:
            self.muxed_conn.buffered += change
            self.muxed_conn.budget.used += change

    def _forget_if_done(self) -> None:
        """What is unread now is its owner's, who drops it with the stream."""
        if self._send_closed and self._receive_closed and self._counted:
            self.muxed_conn.streams.pop(self.stream_id, None)
            unread = self._size
            self._hold(-unread)
            self._counted = False
            self._size = unread

    def _wake(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _cut(pieces: list[memoryview], size: int) -> list[memoryview]:
    """The first `size` bytes, which are taken away from `pieces`."""
    cut = []
    while size:
        first = pieces[0]
        cut.append(first[:size])
        size -= len(cut[-1])
        if len(cut[-1]) == len(first):
            pieces.pop(0)
        else:
            pieces[0] = first[len(cut[-1]) :]
    return cut

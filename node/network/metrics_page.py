"""The metrics over HTTP for Prometheus: `GET /metrics`, one answer per connection, everything about a request bounded.

Knows no source of numbers. Asks for no password: it listens on loopback unless the operator says otherwise.
"""

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import trio

from node.causes import Cause, Tally
from node.errors import NetworkError
from node.network.metrics import Metric, prometheus_text

MAX_REQUEST = 8192  # bytes, up to the empty line
MAX_AT_A_TIME = 16  # connections
SECONDS = 5.0  # for a request and its answer
TEXT = "text/plain; version=0.0.4; charset=utf-8"

Read = Callable[[], list[Metric]]


@asynccontextmanager
async def metrics_page(host: str, port: int, read: Read, tally: Tally | None = None) -> AsyncIterator["MetricsPage"]:
    """Serves what `read` gives at `http://host:port/metrics` while the block runs; port 0 chooses one.

    What is no request for the page is counted in `tally`. Raises NetworkError if it cannot listen there. An exception
    of `read` is our own fault and ends the block loudly.
    """
    try:
        listeners = await trio.open_tcp_listeners(port, host=host)
    except OSError as error:
        raise NetworkError(
            f"cannot listen for metrics on {host}:{port}: {error.strerror or error}; choose another port or host"
        ) from error
    page = MetricsPage(host, int(listeners[0].socket.getsockname()[1]), read, tally)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, page.handle, listeners)
        yield page
        nursery.cancel_scope.cancel()


class MetricsPage:
    """Answers connections; `refused` counts those that were not asking for the page, by cause."""

    def __init__(self, host: str, port: int, read: Read, tally: Tally | None = None) -> None:
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}/metrics"
        self.refused: Counter[str] = Counter()
        self._read = read
        self._tally = tally or Tally()
        self._busy = 0

    async def handle(self, stream: trio.SocketStream) -> None:
        """Answers one request and closes the connection, whatever was sent."""
        if self._busy >= MAX_AT_A_TIME:
            self._refuse("too-many-connections")
            await trio.aclose_forcefully(stream)
            return
        self._busy += 1
        try:
            with trio.move_on_after(SECONDS) as patience:
                await self._answer(stream)
            if patience.cancelled_caught:
                self._refuse("too-slow")
        except trio.BrokenResourceError:
            self._refuse("gone")
        finally:
            self._busy -= 1
            await trio.aclose_forcefully(stream)

    async def _answer(self, stream: trio.SocketStream) -> None:
        head = await _receive_head(stream)
        status, body = self._judge(head)
        if status != "200 OK":
            self._refuse(status)
        lines = (f"HTTP/1.1 {status}", f"Content-Type: {TEXT}", f"Content-Length: {len(body)}", "Connection: close")
        answer = "\r\n".join((*lines, "", "")).encode()
        await stream.send_all(answer if head.startswith(b"HEAD ") else answer + body)
        await stream.send_eof()
        while await stream.receive_some(MAX_REQUEST):  # closing with bytes unread would reset the answer away
            pass

    def _judge(self, head: bytes) -> tuple[str, bytes]:
        words = head.split(b"\r\n", 1)[0].split(b" ")
        if len(head) > MAX_REQUEST:
            return "431 Request Header Fields Too Large", b"a request has at most 8192 bytes\n"
        if b"\r\n\r\n" not in head or len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            return "400 Bad Request", b"this is no HTTP request: GET /metrics\n"
        if words[0] not in (b"GET", b"HEAD"):
            return "405 Method Not Allowed", b"the metrics can only be read: GET /metrics\n"
        if words[1].split(b"?", 1)[0] != b"/metrics":
            return "404 Not Found", b"there is nothing here but /metrics\n"
        return "200 OK", prometheus_text(self._read()).encode()

    def _refuse(self, cause: str) -> None:
        self.refused[cause] += 1
        self._tally.count(Cause.BAD_METRICS_REQUEST, detail=cause)


async def _receive_head(stream: trio.SocketStream) -> bytes:
    """A request up to its empty line; less at the end of the stream, a little more than MAX_REQUEST if it has none."""
    head = b""
    while b"\r\n\r\n" not in head and len(head) <= MAX_REQUEST:
        some = await stream.receive_some(MAX_REQUEST)
        if not some:
            break
        head += some
    return head

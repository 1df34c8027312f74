"""TCP for libp2p: metered streams, and listeners on sockets that were bound beforehand and do not let in everybody.

Replaces two things of py-libp2p 0.8.1's TCP: listeners use SO_REUSEPORT, so a second node of the same user silently
shares a port in use, and they run as trio system tasks, where an error ends the program. For hole punching, dials can
leave from the port that we listen on (`shared_port.py`).
"""

import ipaddress
from collections.abc import Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import trio
from libp2p.abc import IListener, IRawConnection
from libp2p.custom_types import THandler
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.utils.multiaddr_utils import multiaddr_from_socket
from multiaddr import Multiaddr

from node.errors import NetworkError
from node.network.addresses import host_and_port, parse_address
from node.network.door import Door
from node.network.metering import MeteredStream, TrafficLedger
from node.network.shared_port import connect_from, let_dials_share

BACKLOG = 128
ANY_LISTENER = ("", 0)  # as the source of a dial: the port of the listener that fits

Meet = Callable[[MeteredStream], Awaitable[None]]  # carries a connection until it ends


@dataclass(frozen=True)
class BoundAddress:
    """An address of ours with the socket that listens on it."""

    address: str  # with the port that was bound
    port: int
    listener: trio.SocketListener


async def bind(addresses: Sequence[str], *, shared: bool = False) -> list[BoundAddress]:
    """Listening sockets for TCP multiaddrs; port 0 chooses a free port. If `shared`, our dials may leave from them.

    Raises NetworkError naming the address that is malformed, in use or not this machine's.
    """
    async with AsyncExitStack() as until_all_are_bound:
        bound = []
        for address in map(parse_address, addresses):
            each = await _bind_one(address, shared)
            until_all_are_bound.push_async_callback(each.listener.aclose)
            bound.append(each)
        until_all_are_bound.pop_all()
    return bound


async def _bind_one(address: str, shared: bool) -> BoundAddress:
    host, port = host_and_port(address)
    family = trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET
    sock = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        sock.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_REUSEADDR, 1)
        if family == trio.socket.AF_INET6:
            sock.setsockopt(trio.socket.IPPROTO_IPV6, trio.socket.IPV6_V6ONLY, 1)
        await sock.bind((host, port))
        sock.listen(BACKLOG)
        if shared:
            let_dials_share(sock)
    except OSError as error:
        sock.close()
        raise NetworkError(
            f"cannot listen on {address}: {error.strerror}; choose another --listen address or stop what uses it"
        ) from error
    bound_port = sock.getsockname()[1]
    return BoundAddress(address.rpartition("/")[0] + f"/{bound_port}", bound_port, trio.SocketListener(sock))


class MeteredTCP(TCP):
    """Dials and accepts metered streams; listens only on sockets that were bound with `bind`.

    The addresses in `from_listener` are dialed from the listening port if that goes.
    """

    def __init__(
        self, ledger: TrafficLedger, bound: Sequence[BoundAddress], door: Door, from_listener: Collection[str] = ()
    ) -> None:
        super().__init__()
        self._from_listener = frozenset(from_listener)
        self._ledger = ledger
        self._door = door
        self._bound: Mapping[str, trio.SocketListener] = {each.address: each.listener for each in bound}
        self._expected: dict[tuple[str, int], Meet] = {}

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """A connection to a multiaddr of TCP over IP or DNS. Raises OpenConnectionError."""
        if str(maddr).partition("/p2p/")[0] in self._from_listener:
            with suppress(OpenConnectionError):  # such as: the last connection from this port is not forgotten yet
                return await self.dial_with_source(maddr, ANY_LISTENER)
        return await super().dial(maddr)

    async def _dial_resolved(self, maddr: Multiaddr, source: tuple[str, int] | None = None) -> IRawConnection:
        if source is not None:
            return RawConnection(await self.dial_from_listener(str(maddr)), True)
        dialed = await super()._dial_resolved(maddr)
        return RawConnection(MeteredStream(dialed.stream.stream, self._ledger), True)

    async def dial_from_listener(self, address: str) -> MeteredStream:
        """A stream to an IP address and TCP port, from the port that we listen on. Raises OpenConnectionError."""
        host, port = host_and_port(address.partition("/p2p/")[0])
        try:
            own = next(name for name in self._own_ends() if (":" in name[0]) == (":" in host))
            return MeteredStream(await connect_from(own, host, port), self._ledger)
        except StopIteration as error:
            raise OpenConnectionError(f"no listener to dial {address} from") from error
        except OSError as error:
            raise OpenConnectionError(f"cannot dial {address} from the listening port: {error}") from error

    @contextmanager
    def expecting(self, addresses: Sequence[str], meet: Meet) -> Iterator[None]:
        """Inside, connections that come to our listeners from these addresses are given to `meet`."""
        expected = dict.fromkeys(map(host_and_port, addresses), meet)
        self._expected.update(expected)
        try:
            yield
        finally:
            for each in expected:
                self._expected.pop(each, None)

    def _own_ends(self) -> list[tuple[str, int]]:
        """Where we listen, loopback last: nothing outside can be dialed from there."""
        ends: list[tuple[str, int]] = [each.socket.getsockname()[:2] for each in self._bound.values()]
        return sorted(ends, key=lambda end: ipaddress.ip_address(end[0]).is_loopback)

    def create_listener(self, handler_function: THandler) -> IListener:
        """A listener that hands metered streams to `handler_function`."""

        async def handle(stream: MeteredStream) -> None:
            meet = self._who_expects(stream)
            if self._door.lets_in(stream, expected=meet is not None):
                async with self._door.passing(stream):
                    await (meet or handler_function)(stream)

        return BoundListener(self._bound, self._ledger, handle)

    def _who_expects(self, stream: MeteredStream) -> Meet | None:
        source = stream.get_remote_address()
        return self._expected.get(source) if source else None


class BoundListener(IListener):
    """Serves one bound socket inside the swarm's own nursery."""

    background_nursery: trio.Nursery  # set by the swarm before it calls listen

    def __init__(self, bound: Mapping[str, trio.SocketListener], ledger: TrafficLedger, handler: THandler) -> None:
        self._bound = bound
        self._ledger = ledger
        self._handler = handler
        self._scope = trio.CancelScope()
        self._serving: trio.SocketListener | None = None

    async def listen(self, maddr: Multiaddr) -> None:
        """Starts to accept connections; raises OpenConnectionError for an address that was not bound."""
        listener = self._bound.get(str(maddr))
        if listener is None:
            raise OpenConnectionError(f"{maddr} was not bound")
        self._serving = listener
        await self.background_nursery.start(self._serve, listener)

    async def _serve(self, listener: trio.SocketListener, task_status: Any) -> None:
        with self._scope:
            await trio.serve_listeners(self._accept, [listener], task_status=task_status)

    async def _accept(self, stream: trio.SocketStream) -> None:
        metered = MeteredStream(stream, self._ledger)
        try:
            await self._handler(metered)
        finally:
            with trio.CancelScope(shield=True):
                await metered.close()

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """The address served, or nothing."""
        return () if self._serving is None else (multiaddr_from_socket(self._serving.socket),)

    async def close(self) -> None:
        """Stops accepting; connections that were accepted are the swarm's."""
        self._scope.cancel()
        if self._serving is not None:
            serving, self._serving = self._serving, None
            with suppress(OSError):
                await serving.aclose()

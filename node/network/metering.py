"""Counts the bytes that each peer costs on the wire, at the TCP stream, so Noise and Yamux are included.

Knows no protocol, and who is a member only by asking. Bytes of a connection whose peer is not known yet wait in the
connection and are booked to the peer when the handshake names it; those of a handshake that fails are booked to nobody.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream

from node.messages import Traffic

NOBODY = ""
MAX_ACCOUNTS = 4096
READ_SIZE = 256 * 1024


class Account:
    """Running totals of one peer."""

    __slots__ = ("bytes_in", "bytes_out", "host", "open_streams")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.open_streams = 0
        self.host = ""  # the IP address at the other end when the peer last proved who it is

    def take_over(self, other: "Account") -> None:
        """Adds what was counted elsewhere."""
        self.bytes_in += other.bytes_in
        self.bytes_out += other.bytes_out


class TrafficLedger:
    """Accounts by peer id. If there are too many, the quietest one without a connection is closed into NOBODY's: a
    stranger's, as long as there is one. `is_member` is set by whoever knows.
    """

    def __init__(self, limit: int = MAX_ACCOUNTS) -> None:
        self._limit = limit
        self._accounts: OrderedDict[str, Account] = OrderedDict({NOBODY: Account()})
        self.is_member: Callable[[str], bool] = lambda _: False

    def account(self, peer_id: str) -> Account:
        """The account of a peer, opened if need be."""
        account = self._accounts.get(peer_id)
        if account is None:
            self._make_room()
            account = self._accounts[peer_id] = Account()
        self._accounts.move_to_end(peer_id)
        return account

    def traffic(self) -> dict[str, Traffic]:
        """Bytes in and out by peer id; the key "" is for handshakes that failed and accounts that were closed."""
        return {peer: Traffic(each.bytes_in, each.bytes_out) for peer, each in self._accounts.items()}

    def hosts_of_members(self) -> list[str]:
        """The IP addresses at which members have proven who they are."""
        return [each.host for peer_id, each in self._accounts.items() if each.host and self.is_member(peer_id)]

    def _make_room(self) -> None:
        if len(self._accounts) < self._limit:
            return
        gone = next((each for each in self._idle() if not self.is_member(each)), None) or next(self._idle(), None)
        if gone is not None:
            self._accounts[NOBODY].take_over(self._accounts.pop(gone))

    def _idle(self) -> Iterator[str]:
        return (id for id, each in self._accounts.items() if id != NOBODY and each.open_streams == 0)


class MeteredStream(TrioTCPStream):
    """A TCP stream that counts. `read` returns 1 to n bytes, or b"" at the end, like its parent's."""

    def __init__(self, stream: trio.SocketStream, ledger: TrafficLedger) -> None:
        super().__init__(stream)
        self._ledger = ledger
        self._account = Account()
        self._owned = False
        self._closed = False
        self.is_named = False  # whether a handshake has proven who the peer is, welcome or not
        self.get_remote_address()  # cached now: the socket forgets it when the peer resets

    @property
    def is_booked(self) -> bool:
        """Whether the handshake has named the peer."""
        return self._owned

    def book_to(self, peer_id: str) -> None:
        """Books what was and will be counted here to `peer_id`."""
        self.is_named = True
        if self._closed:  # pushed out in the last moment; settled already
            return
        self._settle(peer_id)
        self._account.host = (self.get_remote_address() or ("", 0))[0]
        self._account.open_streams += 1
        self._owned = True

    async def write(self, data: bytes) -> None:
        """Sends all of `data`; what a broken connection did not take is counted too."""
        if self.stream.socket.fileno() < 0:
            raise ConnectionClosedError("the connection was closed here", transport="tcp")
        self._account.bytes_out += len(data)
        await super().write(data)

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes (READ_SIZE if None), or b"" at the end."""
        data = await super().read(READ_SIZE if n is None else n)
        self._account.bytes_in += len(data)
        return data

    async def write_pieces(self, pieces: list[bytes]) -> None:
        """Sends all of `pieces`, in one system call if the socket takes them, without copying them together."""
        left = [memoryview(piece) for piece in pieces]
        try:
            while left:
                sent = await self.stream.socket.sendmsg(left)
                self._account.bytes_out += sent
                while left and sent >= len(left[0]):
                    sent -= len(left.pop(0))
                if sent:
                    left[0] = left[0][sent:]
        except OSError as error:
            raise ConnectionClosedError(f"the connection broke: {error}", transport="tcp") from error

    async def read_into(self, buffer: memoryview) -> int:
        """Receives 1 to len(buffer) bytes into `buffer`; 0 at the end."""
        try:
            count = int(await self.stream.socket.recv_into(buffer))
        except OSError as error:
            raise ConnectionClosedError(f"the connection broke: {error}", transport="tcp") from error
        self._account.bytes_in += count
        return count

    async def close(self) -> None:
        """Closes the socket and settles the account, once; what is on its way to being counted goes there too."""
        if self._owned:
            self._owned = False
            self._account.open_streams -= 1
        elif not self._closed:
            self._settle(NOBODY)
        self._closed = True
        await super().close()

    def _settle(self, peer_id: str) -> None:
        pending, self._account = self._account, self._ledger.account(peer_id)
        self._account.take_over(pending)

"""Counts the bytes that each peer costs on the wire, at the TCP stream, so Noise and Yamux are included.

Knows no protocol. Bytes of a connection whose peer is not known yet wait in the connection and are booked to the
peer when the handshake names it; those of a handshake that fails are booked to nobody.
"""

from collections import OrderedDict

import trio
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream

from node.messages import Traffic

NOBODY = ""
MAX_ACCOUNTS = 4096
READ_SIZE = 256 * 1024


class Account:
    """Running totals of one peer."""

    __slots__ = ("bytes_in", "bytes_out", "open_streams")

    def __init__(self) -> None:
        self.bytes_in = 0
        self.bytes_out = 0
        self.open_streams = 0


class TrafficLedger:
    """Accounts by peer id; the quietest ones without a connection are closed into NOBODY's when there are too many."""

    def __init__(self, limit: int = MAX_ACCOUNTS) -> None:
        self._limit = limit
        self._accounts: OrderedDict[str, Account] = OrderedDict({NOBODY: Account()})

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

    def _make_room(self) -> None:
        if len(self._accounts) < self._limit:
            return
        for peer_id, account in self._accounts.items():
            if peer_id != NOBODY and account.open_streams == 0:
                nobody = self._accounts[NOBODY]
                nobody.bytes_in += account.bytes_in
                nobody.bytes_out += account.bytes_out
                del self._accounts[peer_id]
                return


class MeteredStream(TrioTCPStream):
    """A TCP stream that counts. `read` returns 1 to n bytes, or b"" at the end, like its parent's."""

    def __init__(self, stream: trio.SocketStream, ledger: TrafficLedger) -> None:
        super().__init__(stream)
        self._ledger = ledger
        self._account = Account()
        self._owned = False
        self.is_named = False  # whether a handshake has proven who the peer is, welcome or not
        self.get_remote_address()  # cached now: the socket forgets it when the peer resets

    @property
    def is_booked(self) -> bool:
        """Whether the handshake has named the peer."""
        return self._owned

    def book_to(self, peer_id: str) -> None:
        """Books what was and will be counted here to `peer_id`."""
        pending, self._account = self._account, self._ledger.account(peer_id)
        self._account.bytes_in += pending.bytes_in
        self._account.bytes_out += pending.bytes_out
        self._account.open_streams += 1
        self._owned = self.is_named = True

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
        """Closes the socket and settles the account."""
        if self._owned:
            self._owned = False
            self._account.open_streams -= 1
        elif self._account.bytes_in or self._account.bytes_out:
            pending, self._account = self._account, Account()
            nobody = self._ledger.account(NOBODY)
            nobody.bytes_in += pending.bytes_in
            nobody.bytes_out += pending.bytes_out
        await super().close()

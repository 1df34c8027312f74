"""Noise for libp2p with whole reads and whole writes; same handshake, same keys, same bytes on the wire.

py-libp2p 0.8.1 receives twice per Noise message, sends once per Noise message and copies each several times; here a
receive takes whatever the socket has, a write leaves in a few system calls, and bulk is copied only by the cipher.
"""

from collections.abc import Iterator
from typing import Any

import trio
from libp2p.abc import ConnectionType, IRawConnection, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from node.network.metering import MeteredStream

LENGTH_BYTES = 2
FIRST_BUFFER = LENGTH_BYTES + 65_535  # the largest Noise message
MESSAGES_A_WRITE = 4  # the other side opens these while we seal the next
LARGE_BUFFER = 4 * FIRST_BUFFER  # for connections that carry much
SMALL_READS = 1000  # one after the other: what was much is over


class NoiseTransport(Transport):
    """Stock handshake, session of our own afterwards."""

    async def secure_inbound(self, conn: IRawConnection) -> ISecureConn:
        """The session with whoever dialed us."""
        return NoiseSession(await super().secure_inbound(conn), conn)

    async def secure_outbound(self, conn: IRawConnection, peer_id: ID) -> ISecureConn:
        """The session with the peer that we dialed."""
        return NoiseSession(await super().secure_outbound(conn, peer_id), conn)


class NoiseSession(BaseSession):
    """An encrypted byte stream over `raw`. One reader at a time; writers take turns."""

    def __init__(self, shaken: SecureSession, raw: IRawConnection) -> None:
        super().__init__(
            local_peer=shaken.local_peer,
            local_private_key=shaken.local_private_key,
            remote_peer=shaken.remote_peer,
            remote_permanent_pubkey=shaken.remote_permanent_pubkey,
            is_initiator=shaken.is_initiator,
        )
        self.raw = raw
        self.stream: MeteredStream = raw.stream
        # NoiseConnection would insist on bytes, and so on copies
        ciphers = shaken.conn.noise_state.noise_protocol
        self._sealing: Any = ciphers.cipher_state_encrypt
        self._opening: Any = ciphers.cipher_state_decrypt
        self._sealed = bytearray(FIRST_BUFFER)  # what was received; its first `_filled` bytes count
        self._filled = 0
        self._small_reads = 0
        self._unread = b""
        self._turn = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes; what one receive gave if None. Raises ConnectionClosedError at the end."""
        while not self._unread:
            self._unread = b"".join(await self.read_messages())
        taken, self._unread = (self._unread, b"") if n is None else (self._unread[:n], self._unread[n:])
        return taken

    async def read_messages(self) -> list[bytes]:
        """The Noise messages that have arrived, at least one, decrypted. Raises ConnectionClosedError at the end."""
        if self._unread:
            unread, self._unread = self._unread, b""
            return [unread]
        while True:
            with memoryview(self._sealed) as buffer:
                received = await self.stream.read_into(buffer[self._filled :])
            if not received:
                raise ConnectionClosedError("the peer closed the connection", transport="tcp")
            self._filled += received
            messages = self._open()
            if messages:
                return messages

    def _open(self) -> list[bytes]:
        messages, position, end = [], 0, self._filled
        decrypt = self._opening.decrypt_with_ad
        with memoryview(self._sealed) as sealed:
            while end - position >= LENGTH_BYTES:
                start = position + LENGTH_BYTES
                stop = start + (sealed[position] << 8 | sealed[position + 1])
                if stop > end:
                    break
                with sealed[start:stop] as message:
                    messages.append(decrypt(None, message))
                position = stop
            sealed[: end - position] = sealed[position:end]
        self._filled = end - position
        self._fit(end)
        return messages

    def _fit(self, end: int) -> None:
        """The buffer becomes large when one read fills it, and small again when many reads in a row would not have."""
        self._small_reads = self._small_reads + 1 if end < FIRST_BUFFER else 0
        if end == len(self._sealed) == FIRST_BUFFER:
            self._sealed.extend(bytes(LARGE_BUFFER - FIRST_BUFFER))  # there is more to come
        elif self._small_reads == SMALL_READS:
            del self._sealed[FIRST_BUFFER:]

    async def write(self, data: bytes) -> None:
        """Sends all of `data`; see `write_pieces`."""
        await self.write_pieces([memoryview(data)])

    async def write_pieces(self, pieces: list[memoryview]) -> None:
        """Sends all of `pieces`. Must not be cancelled: half a Noise message breaks the session."""
        encrypt = self._sealing.encrypt_with_ad
        async with self._turn:
            out: list[bytes] = []
            for message in _messages(pieces):
                sealed = encrypt(None, message)
                out += (len(sealed).to_bytes(LENGTH_BYTES, "big"), sealed)
                if len(out) == 2 * MESSAGES_A_WRITE:
                    await self.stream.write_pieces(out)
                    out = []
            if out:
                await self.stream.write_pieces(out)

    async def close(self) -> None:
        """Closes the socket."""
        await self.raw.close()

    def get_remote_address(self) -> tuple[str, int] | None:
        """Host and port of the other side."""
        return self.raw.get_remote_address()

    def get_transport_addresses(self) -> list[Multiaddr]:
        """The other side's address as a multiaddr."""
        return self.raw.get_transport_addresses()

    def get_connection_type(self) -> ConnectionType:
        """Direct, always: there is no relay below."""
        return self.raw.get_connection_type()


def _messages(pieces: list[memoryview]) -> Iterator[bytes | memoryview]:
    """The concatenation of `pieces` in messages of the largest size; only small pieces are copied together."""
    held: list[memoryview] = []
    room = MAX_PLAINTEXT_LENGTH
    for piece in pieces:
        rest = piece
        while rest:
            held.append(rest[:room])
            rest = rest[room:]
            room -= len(held[-1])
            if not room:
                yield held[0] if len(held) == 1 else b"".join(held)
                held, room = [], MAX_PLAINTEXT_LENGTH
    if held:
        yield held[0] if len(held) == 1 else b"".join(held)

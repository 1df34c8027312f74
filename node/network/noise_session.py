"""Noise for libp2p with whole reads and whole writes; same handshake, same keys, same bytes on the wire.

py-libp2p 0.8.1 receives twice per Noise message and sends once per Noise message; here a read takes whatever the
socket has and a write leaves as one send.
"""

import trio
from libp2p.abc import ConnectionType, IRawConnection, ISecureConn
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.peer.id import ID
from libp2p.security.base_session import BaseSession
from libp2p.security.noise.io import MAX_PLAINTEXT_LENGTH
from libp2p.security.noise.transport import Transport
from libp2p.security.secure_session import SecureSession
from multiaddr import Multiaddr

from node.network.metering import READ_SIZE

LENGTH_BYTES = 2


class NoiseTransport(Transport):
    """Stock handshake, batched session afterwards."""

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
        self._cipher = shaken.conn.noise_state
        self._sealed = bytearray()  # received, not yet a whole Noise message
        self._opened = b""  # decrypted, not yet read
        self._turn = trio.Lock()

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes; everything that has arrived if None. Raises ConnectionClosedError at the end."""
        while not self._opened:
            received = await self.raw.read(READ_SIZE)
            if not received:
                raise ConnectionClosedError("the peer closed the connection", transport="tcp")
            self._open(received)
        taken, self._opened = (self._opened, b"") if n is None else (self._opened[:n], self._opened[n:])
        return taken

    def _open(self, received: bytes) -> None:
        sealed = self._sealed
        sealed += received
        messages, position, end = [], 0, len(sealed)
        decrypt = self._cipher.decrypt
        while end - position >= LENGTH_BYTES:
            start = position + LENGTH_BYTES
            stop = start + (sealed[position] << 8 | sealed[position + 1])
            if stop > end:
                break
            messages.append(decrypt(bytes(sealed[start:stop])))
            position = stop
        del sealed[:position]
        self._opened = b"".join(messages)

    async def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sends all of `data`. Must not be cancelled: half a Noise message breaks the session."""
        encrypt = self._cipher.encrypt
        async with self._turn:
            pieces: list[bytes] = []
            view = memoryview(data)
            for start in range(0, len(view), MAX_PLAINTEXT_LENGTH):
                sealed = encrypt(bytes(view[start : start + MAX_PLAINTEXT_LENGTH]))
                pieces += (len(sealed).to_bytes(LENGTH_BYTES, "big"), sealed)
            await self.raw.write(b"".join(pieces))

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

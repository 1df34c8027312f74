"""Frames of Protocol Buffers messages on a stream, bounded in size; and announcements as messages.

Knows no request and no peer. Everything that is decoded here is checked for form before it is handed on.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

import trio
from google.protobuf.message import DecodeError, Message
from libp2p.exceptions import BaseLibp2pError

from node.errors import IdentityError, PeerError
from node.messages import NOTE_LIMIT, Announcement
from node.network.identity import SIGNATURE_BYTES, peer_id_of, public_key_of, verify
from node.network.wire_pb2 import Announcement as AnnouncementMessage
from node.network.yamux import LARGE_FRAME

LENGTH_BYTES = 4
MAX_REQUEST = 16 * 1024  # bytes
MAX_REPLY = 4 << 20
MAX_CHUNK = 1 << 20
FULL_CHUNK = LARGE_FRAME - 8  # what we send: with length, tag and varint it fills one Yamux frame
CHUNK_TAG = 0x0A  # field 1, length-delimited: a Chunk's only field
MAX_CHUNK_PREFIX = 1 + 4  # tag and the varint of a length up to MAX_CHUNK
DIGEST_BYTES = 32
MAX_CODEC_BYTES = 64
READ_SIZE = 1 << 20

M = TypeVar("M", bound=Message)


class TooSlow(PeerError):
    """A peer did not say, or take, in time what was due."""


class Malformed(PeerError):
    """What the peer sent cannot be: it is at fault, not the line."""


class ByteStream(Protocol):
    """What is used of a libp2p stream: that of the muxer, without the library's wrapper."""

    @property
    def is_closed(self) -> bool:
        """Whether the peer has finished."""

    async def read(self, n: int | None = None) -> bytes:
        """Between 1 and `n` bytes; raises at the end."""

    async def read_pieces(self, n: int) -> list[bytes]:
        """Between 1 and `n` bytes as they came."""

    async def write_pieces(self, pieces: Sequence[bytes | memoryview]) -> None:
        """Sends all of `pieces`."""


class Frames:
    """Reads and writes frames on one stream. Raises PeerError when it breaks or a frame is not as it must be."""

    def __init__(self, stream: ByteStream, peer_id: str) -> None:
        self.stream = stream
        self.peer_id = peer_id
        self._unread = b""

    @property
    def is_over(self) -> bool:
        """Whether the peer has ended the stream."""
        return bool(self.stream.is_closed)

    async def begin(self) -> None:
        """Waits until something has arrived."""
        if not self._unread:
            self._unread = await self._read(READ_SIZE)

    async def send(self, message: Message) -> None:
        """Sends one message."""
        body = message.SerializeToString()
        await self._write(len(body).to_bytes(LENGTH_BYTES, "big"), body)

    async def send_chunk(self, data: bytes | memoryview) -> None:
        """Sends a Chunk; the same bytes as `send(Chunk(data=…))`, with one copy less."""
        prefix = bytes((CHUNK_TAG,)) + _varint(len(data))
        await self._write((len(prefix) + len(data)).to_bytes(LENGTH_BYTES, "big"), prefix, data)

    async def receive(self, kind: type[M], limit: int) -> M:
        """The next message, if it is a `kind` of at most `limit` bytes."""
        size = int.from_bytes(await self._exactly(LENGTH_BYTES), "big")
        if size > limit:
            raise Malformed(f"peer {self.peer_id} sent a frame of {size} bytes, over {limit}; dropped")
        return decode(kind, await self._exactly(size), self.peer_id)

    async def chunk_size(self) -> int:
        """Length of the data of the next Chunk, whose data is read next, by `some`."""
        size = int.from_bytes(await self._exactly(LENGTH_BYTES), "big")
        if not 2 < size <= MAX_CHUNK + MAX_CHUNK_PREFIX or (await self._exactly(1))[0] != CHUNK_TAG:
            raise Malformed(f"peer {self.peer_id} sent {size} bytes that are no chunk; dropped")
        length, shift, prefix = 0, 0, 1
        while True:
            byte = (await self._exactly(1))[0]
            length |= (byte & 0x7F) << shift
            shift += 7
            prefix += 1
            if byte < 0x80 or shift > 28:
                break
        if prefix + length != size or not length:
            raise Malformed(f"peer {self.peer_id} sent a chunk that lies about its length; dropped")
        return length

    async def some(self, n: int) -> list[bytes]:
        """Between 1 and `n` bytes, in pieces."""
        if self._unread:
            data, self._unread = self._unread[:n], self._unread[n:]
            return [data]
        try:
            return await self.stream.read_pieces(n)
        except BaseLibp2pError as error:
            raise self._ended(error) from error

    async def _exactly(self, n: int) -> bytes:
        while len(self._unread) < n:
            self._unread += await self._read(READ_SIZE)
        data, self._unread = self._unread[:n], self._unread[n:]
        return data

    async def _read(self, n: int) -> bytes:
        try:
            return await self.stream.read(n)
        except BaseLibp2pError as error:
            raise self._ended(error) from error

    async def _write(self, *pieces: bytes | memoryview) -> None:
        try:
            await self.stream.write_pieces(pieces)
        except BaseLibp2pError as error:
            raise PeerError(f"peer {self.peer_id} takes nothing ({type(error).__name__}); asking again") from error

    def _ended(self, error: BaseLibp2pError) -> PeerError:
        return PeerError(f"peer {self.peer_id} ended the stream ({type(error).__name__}); asking again")


@contextmanager
def patience(peer_id: str, seconds: float) -> Iterator[None]:
    """Raises PeerError if the block takes longer than `seconds`."""
    with trio.move_on_after(seconds) as scope:
        yield
    if scope.cancelled_caught:
        raise TooSlow(f"peer {peer_id} was silent for {seconds:.0f} s; asking again")


def decode(kind: type[M], data: bytes, peer_id: str) -> M:
    """`data` as a message; raises Malformed if it is not one."""
    message = kind()
    try:
        message.ParseFromString(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise Malformed(f"peer {peer_id} sent {len(data)} bytes that are no {kind.__name__}; dropped") from error
    return message


def announcement_message(announcement: Announcement) -> AnnouncementMessage:
    """An announcement as it travels."""
    return AnnouncementMessage(
        session_id=announcement.session_id,
        round=announcement.round,
        digest=announcement.digest,
        size=announcement.size,
        codec=announcement.codec,
        public_key=public_key_of(announcement.peer_id),
        signature=announcement.signature,
        note=announcement.note,
    )


def read_announcement(
    message: AnnouncementMessage, known: Callable[[Announcement], bool] = lambda _: False
) -> Announcement:
    """The announcement in a message, if its form is right and its signature that of the peer it names.

    The signature of a `known` one, which is the same in every field, is not verified again. Raises PeerError otherwise.
    Says nothing about session, membership or size limits.
    """
    if len(message.digest) != DIGEST_BYTES or len(message.signature) != SIGNATURE_BYTES:
        raise PeerError("an announcement has a digest or signature of the wrong length; dropped")
    if not message.size or len(message.codec.encode()) > MAX_CODEC_BYTES:
        raise PeerError(f"an announcement has size {message.size} or too long a codec name; dropped")
    if len(message.note) > NOTE_LIMIT:
        raise PeerError(f"an announcement has a note of {len(message.note)} bytes, over {NOTE_LIMIT}; dropped")
    try:
        peer_id = peer_id_of(message.public_key)
    except IdentityError as error:
        raise PeerError(f"an announcement names no peer: {error}") from error
    announcement = Announcement(
        message.session_id,
        message.round,
        message.digest,
        message.size,
        message.codec,
        peer_id,
        message.signature,
        message.note,
    )
    if not known(announcement) and not verify(peer_id, announcement.signed_bytes(), announcement.signature):
        raise PeerError(f"an announcement in the name of {peer_id} is not signed by it; dropped")
    return announcement


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)

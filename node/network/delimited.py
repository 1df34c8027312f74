"""Messages of libp2p's own protocols: a varint length and a Protocol Buffers message; peers and addresses in them.

Everything that comes in is bounded, and what cannot be dialed is left out.
"""

from collections.abc import Iterable, Sequence
from typing import TypeVar

from google.protobuf.message import Message
from libp2p.abc import INetStream
from libp2p.peer.id import ID
from libp2p.utils.varint import encode_uvarint, read_varint_prefixed_bytes_limited
from multiaddr import Multiaddr
from multiaddr.exceptions import Error as MultiaddrError

from node.errors import IdentityError
from node.network.addresses import MAX_ADDRESS_LENGTH, known_addresses
from node.network.identity import public_key_of
from node.network.peer_book import MAX_ADDRESSES

MAX_MESSAGE = 64 * 1024  # bytes
MAX_PEER_ID = 64

M = TypeVar("M", bound=Message)


async def send(stream: INetStream, message: Message) -> None:
    """Sends one message."""
    data = message.SerializeToString()
    await stream.write(encode_uvarint(len(data)) + data)


async def receive(stream: INetStream, kind: type[M], limit: int = MAX_MESSAGE) -> M:
    """The next message, of at most `limit` bytes; raises what the stream or the decoder raises."""
    message = kind()
    message.ParseFromString(await read_varint_prefixed_bytes_limited(stream, limit))
    return message


def encode_peer_id(peer_id: str) -> bytes:
    """A peer id as it travels."""
    return bytes(ID.from_string(peer_id).to_bytes())


def encode_addresses(addresses: Iterable[str]) -> list[bytes]:
    """Multiaddrs as they travel."""
    return [Multiaddr(address).to_bytes() for address in addresses]


def decode_peer(peer_id: bytes, addresses: Sequence[bytes]) -> tuple[str, tuple[str, ...]] | None:
    """The peer with the addresses that can be dialed; None if it is no Ed25519 peer."""
    text = str(ID(peer_id[:MAX_PEER_ID]))
    try:
        public_key_of(text)
    except IdentityError:
        return None
    return text, tuple(known_addresses(_texts(addresses[: 2 * MAX_ADDRESSES]), MAX_ADDRESSES))


def _texts(addresses: Sequence[bytes]) -> Iterable[str]:
    for encoded in addresses:
        try:
            yield str(Multiaddr(encoded[:MAX_ADDRESS_LENGTH]))
        except (MultiaddrError, ValueError, KeyError, IndexError):
            continue

"""DAG-PB nodes and the UnixFS message inside them: bytes to values and back. Knows no store, no files.

Written by hand because the bytes are hashed: what is written must be exactly what Kubo writes (links before data, every
field of a link present), and what is read is hostile, so that each length, count and number is checked here.
Sources: https://ipld.io/specs/codecs/dag-pb/spec/ and https://specs.ipfs.tech/unixfs/
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from node.errors import ContentMalformed
from node.storage.cid import cid_from_bytes

MAX_BLOCK = 2 << 20  # the specification of bitswap
MAX_LINKS = 8192  # of one node; Kubo writes 174, its newer profile 1,024
DIRECTORY, FILE = 1, 2
RAW_LEAF = 0  # a leaf of files added without --raw-leaves

_VARINT_BYTES = 10
_MAX_NUMBER = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Link:
    """A node's link to a child. `size` counts the child's whole DAG, in bytes, as the writer of the node claims."""

    cid: bytes
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class UnixFs:
    """The UnixFS message of a node: its kind, inline bytes, size of the file, and sizes of the children's parts."""

    kind: int
    data: bytes
    size: int
    part_sizes: tuple[int, ...]


def encode_node(links: Sequence[Link], data: bytes) -> bytes:
    """The block of a node, in DAG-PB's canonical form."""
    return b"".join(_bytes_field(2, _encode_link(link)) for link in links) + _bytes_field(1, data)


def encode_file(part_sizes: Sequence[int]) -> bytes:
    """The UnixFS message of a file whose content lies in its children."""
    parts = b"".join(b"\x20" + varint(size) for size in part_sizes)
    return b"\x08\x02\x18" + varint(sum(part_sizes)) + parts


def encode_directory() -> bytes:
    """The UnixFS message of a directory."""
    return b"\x08\x01"


def decode_node(block: bytes) -> tuple[tuple[Link, ...], bytes]:
    """A node's links and data. Raises ContentMalformed when the block is not a well-formed node."""
    if len(block) > MAX_BLOCK:
        raise ContentMalformed(f"dag-pb block has {len(block):,} bytes, at most {MAX_BLOCK:,} are read: refuse the CID")
    links: list[Link] = []
    data: bytes | None = None
    for number, value in _fields(block):
        if number == 2 and isinstance(value, bytes) and len(links) < MAX_LINKS:
            links.append(_decode_link(value))
        elif number == 1 and isinstance(value, bytes) and data is None:
            data = value
        else:
            raise _malformed(f"field {number} is unknown, repeated or one of more than {MAX_LINKS:,} links")
    return tuple(links), data or b""


def decode_unixfs(data: bytes) -> UnixFs:
    """The UnixFS message of a node. Raises ContentMalformed when it is malformed."""
    numbers: dict[int, int] = {}
    content = b""
    part_sizes: list[int] = []
    for number, value in _fields(data):
        if number == 2 and isinstance(value, bytes):
            content = value
        elif number == 4 and isinstance(value, int) and len(part_sizes) < MAX_LINKS:
            part_sizes.append(value)
        elif number in (1, 3, 5, 6, 7) and isinstance(value, int):
            numbers[number] = value
        elif number != 8:  # the time of modification says nothing about the content
            raise _malformed(f"UnixFS field {number} is unknown or of the wrong type")
    if 1 not in numbers:
        raise _malformed("UnixFS message has no type")
    return UnixFs(numbers[1], content, numbers.get(3, len(content)), tuple(part_sizes))


def varint(number: int) -> bytes:
    """Protocol Buffers' variable-length integer."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _bytes_field(number: int, value: bytes) -> bytes:
    return bytes((number << 3 | 2,)) + varint(len(value)) + value


def _encode_link(link: Link) -> bytes:
    return _bytes_field(1, link.cid) + _bytes_field(2, link.name.encode()) + b"\x18" + varint(link.size)


def _decode_link(value: bytes) -> Link:
    cid, name, size = None, "", 0
    for number, field in _fields(value):
        if number == 1 and isinstance(field, bytes) and cid is None:
            cid = cid_from_bytes(field)
        elif number == 2 and isinstance(field, bytes):
            name = _text(field)
        elif number == 3 and isinstance(field, int):
            size = field
        else:
            raise _malformed(f"field {number} of a link is unknown, repeated or of the wrong type")
    if cid is None:
        raise _malformed("a link has no CID")
    return Link(cid, name, size)


def _text(field: bytes) -> str:
    try:
        return field.decode()
    except UnicodeDecodeError as error:
        raise _malformed(f"a link's name {field[:32]!r} is not UTF-8") from error


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        if key & 7 == 0:
            number, at = _read_varint(message, at)
            yield key >> 3, number
        elif key & 7 == 2:
            length, at = _read_varint(message, at)
            if length > len(message) - at:
                raise _malformed(f"a field of {length:,} bytes passes the end of its message")
            yield key >> 3, message[at : at + length]
            at += length
        else:
            raise _malformed(f"wire type {key & 7} does not occur in it")


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    number = 0
    for index, byte in enumerate(message[at : at + _VARINT_BYTES]):
        number |= (byte & 0x7F) << 7 * index
        if byte < 0x80 and number <= _MAX_NUMBER:
            return number, at + index + 1
    raise _malformed(f"the number at byte {at} is cut off or above 63 bits")


def _malformed(what: str) -> ContentMalformed:
    return ContentMalformed(f"dag-pb block is malformed, {what}: refuse the CID and whoever gave it")

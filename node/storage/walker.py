"""Reads files and directories out of DAGs that others made. Knows no store: `get` gives a verified block or None.

A hostile DAG costs at most what the caller's limit allows: every node is bounded in links and depth, a file's parts
must add up to the size that its root promises, no part may be empty, and the limit bounds the number of blocks visited.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from node.errors import ContentMalformed, ContentMissing
from node.storage.cid import DAG_PB, RAW, codec_of, format_cid
from node.storage.dagpb import DIRECTORY, FILE, MAX_BLOCK, RAW_LEAF, Link, decode_node, decode_unixfs

MAX_DEPTH = 16  # 5 levels of 174 links hold 40 PB

Get = Callable[[bytes], bytes | None]
"""The block of a CID, verified against it, or None where it is not at hand."""


def most_blocks(limit: int) -> int:
    """Blocks that a DAG of `limit` bytes may have: parts of 16 KiB on average, where Kubo makes 256 KiB or more."""
    return 1024 + limit // 16_384


def links_of(cid: bytes, block: bytes) -> tuple[Link, ...]:
    """The links of any block; none for a raw one. Raises StorageError."""
    return () if codec_of(cid) == RAW else decode_node(block)[0]


def directory_links(cid: bytes, get: Get) -> tuple[Link, ...]:
    """The entries of a directory. Raises StorageError (not a directory, malformed) or ContentMissing."""
    if codec_of(cid) != DAG_PB:
        raise ContentMalformed(f"{format_cid(cid)} is a raw block, not a directory: give the CID of a snapshot")
    links, data = decode_node(require(cid, get))
    if decode_unixfs(data).kind != DIRECTORY:
        raise ContentMalformed(f"{format_cid(cid)} is not a plain directory: give the CID of a snapshot")
    return links


def entry(cid: bytes, name: str, get: Get) -> Link:
    """The entry of this name in a directory. Raises StorageError where there is none, or more than one."""
    links = directory_links(cid, get)
    found = [link for link in links if link.name == name]
    if len(found) != 1:
        names = ", ".join(sorted(link.name for link in links)[:8]) or "nothing"
        raise ContentMalformed(f"{format_cid(cid)} has {len(found)} files named {name!r}: it holds {names}")
    return found[0]


def read_file(cid: bytes, get: Get, limit: int) -> Iterator[bytes]:
    """The file's content, part by part in order. Raises ContentMalformed, before yielding a byte too many."""
    pending: list[tuple[bytes, int | None, int]] = [(cid, None, 0)]  # CID, size its parent promised, depth
    for _ in range(most_blocks(limit)):
        if not pending:
            return
        child, promised, depth = pending.pop()
        part = _open_part(child, require(child, get))
        size = part.size
        if size > limit:
            raise ContentMalformed(
                f"{format_cid(cid)} has {size:,} bytes, at most {limit:,} are allowed: raise the limit"
            )
        if promised not in (None, size) or depth > MAX_DEPTH:
            raise ContentMalformed(
                f"{format_cid(cid)} is inconsistent: a part of {size:,} bytes where {promised} were due"
            )
        if part.content:
            yield part.content
        pending += [(link, part_size, depth + 1) for link, part_size in reversed(part.children)]
    if pending:
        raise ContentMalformed(f"{format_cid(cid)} is cut into too many parts for {limit:,} bytes: refuse it")


def file_size(cid: bytes, get: Get) -> int:
    """Bytes of the file, as its root promises. Raises StorageError or ContentMissing."""
    return _open_part(cid, require(cid, get)).size


def require(cid: bytes, get: Get) -> bytes:
    """The block. Raises ContentMissing."""
    block = get(cid)
    if block is None:
        raise ContentMissing(
            f"block {format_cid(cid)} is missing or damaged: pin its snapshot again while a peer has it"
        )
    return block


@dataclass(frozen=True, slots=True)
class _Part:
    content: bytes
    size: int
    children: tuple[tuple[bytes, int], ...]


def _open_part(cid: bytes, block: bytes) -> _Part:
    if len(block) > MAX_BLOCK:
        raise ContentMalformed(
            f"block {format_cid(cid)} has {len(block):,} bytes, at most {MAX_BLOCK:,} are read: refuse it"
        )
    if codec_of(cid) == RAW:
        return _Part(block, len(block), ())
    links, data = decode_node(block)
    message = decode_unixfs(data)
    if message.kind not in (FILE, RAW_LEAF):
        raise ContentMalformed(
            f"{format_cid(cid)} is UnixFS type {message.kind}, not a file: name a file in a snapshot"
        )
    sizes = message.part_sizes
    if len(sizes) != len(links) or 0 in sizes or message.size != len(message.data) + sum(sizes):
        raise ContentMalformed(f"{format_cid(cid)} is inconsistent: its parts do not add up to {message.size:,} bytes")
    children = tuple((link.cid, size) for link, size in zip(links, sizes, strict=True))
    return _Part(message.data, message.size, children)

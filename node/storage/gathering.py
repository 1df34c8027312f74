"""Makes a DAG complete in the block store: what is there, and the rest from peers, level by level. Knows no pins."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from node.errors import ContentMissing, PeerError, StorageError
from node.storage.blocks import BlockStore
from node.storage.cid import DIGEST_BYTES, format_cid
from node.storage.deadlines import check_deadline, in_thread
from node.storage.ports import FetchBlocks
from node.storage.walker import MAX_DEPTH, links_of, most_blocks

_BATCH = 32  # blocks in memory at once: 8 MiB of Kubo's chunks, 64 MiB at most


@dataclass(frozen=True, slots=True)
class Dag:
    """Digests of all blocks of a DAG, and their bytes together."""

    digests: tuple[bytes, ...]
    size: int


@dataclass(frozen=True, slots=True)
class _Seen:
    size: int
    children: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where blocks come from: the store first, then peers, if there is a way to ask them."""

    blocks: BlockStore
    fetch: FetchBlocks | None


async def complete_dag(root: bytes, sources: Sources, limit: int, levels: int = MAX_DEPTH) -> Dag:
    """The DAG, every block of which is now on disk and verified; only its top, if fewer `levels` are asked for.

    Raises StorageError above `limit` bytes in all or below MAX_DEPTH levels, ContentMissing when a block is neither
    here nor with a peer.
    """
    known: dict[bytes, None] = {root: None}
    level, size = [root], 0
    for _ in range(levels):
        below: dict[bytes, None] = {}
        for batch in _batches(level):
            for seen in (await _inspect(batch, sources)).values():
                size += seen.size
                below.update((cid, None) for cid in seen.children if cid not in known)
            if size > limit or len(known) + len(below) > most_blocks(limit):
                raise StorageError(f"{format_cid(root)} is larger than the {limit:,} bytes allowed: raise the limit")
        if not below:
            break
        level = list(below)
        known.update(below)
    else:
        if levels == MAX_DEPTH:
            raise StorageError(f"{format_cid(root)} is nested deeper than {MAX_DEPTH} levels: refuse it")
    return Dag(tuple({cid[-DIGEST_BYTES:]: None for cid in known}), size)


async def _inspect(batch: Sequence[bytes], sources: Sources) -> dict[bytes, _Seen]:
    blocks = sources.blocks
    seen = await in_thread(lambda: _inspect_here(batch, blocks))
    missing = [cid for cid in batch if cid not in seen]
    if missing:
        fetched = await _ask(missing, sources.fetch)
        await in_thread(lambda: _store(missing, fetched, blocks))
        seen |= await in_thread(lambda: _inspect_here(missing, blocks))
    return seen


async def _ask(missing: Sequence[bytes], fetch: FetchBlocks | None) -> Mapping[bytes, bytes]:
    what = f"{len(missing)} blocks, {format_cid(missing[0])} first,"
    if fetch is None:
        raise ContentMissing(f"{what} are missing or damaged here: start the node, so that peers can be asked")
    try:
        fetched = await fetch(missing)
    except PeerError as error:
        raise ContentMissing(f"{what} could not be had from peers ({error}): try again when one has them") from error
    absent = [cid for cid in missing if cid not in fetched]
    if absent:
        raise ContentMissing(f"{len(absent)} blocks, {format_cid(absent[0])} first, are with no peer: try again later")
    return fetched


def _store(cids: Iterable[bytes], fetched: Mapping[bytes, bytes], blocks: BlockStore) -> None:
    with blocks.writing() as put:
        for cid in cids:
            check_deadline()
            put(cid, fetched[cid])


def _inspect_here(batch: Sequence[bytes], blocks: BlockStore) -> dict[bytes, _Seen]:
    seen = {}
    for cid in batch:
        check_deadline()
        block = blocks.get(cid)
        if block is not None:
            seen[cid] = _Seen(len(block), tuple(link.cid for link in links_of(cid, block)))
    return seen


def _batches(cids: Sequence[bytes]) -> Iterator[list[bytes]]:
    rest = iter(cids)
    while batch := list(islice(rest, _BATCH)):
        yield batch

"""Snapshots on this machine's disk, for machines without an IPFS daemon. Knows no network: peers are a callable.

Order of an add: every block durable, then the row of the pin. Adds and pins share a lock; a collection has it alone,
also against another process (the `snapshot` commands beside a running node).
"""

from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from node.errors import ContentMissing, StorageError
from node.files import sync_directory
from node.storage.blocks import BlockStore, write_durably, writing_to
from node.storage.catalogue import Catalogue, new_pin
from node.storage.cid import DIGEST_BYTES, RAW, format_cid, make_cid, parse_cid
from node.storage.dagpb import MAX_BLOCK
from node.storage.deadlines import check_deadline, deadline, in_thread
from node.storage.gathering import Sources, complete_dag
from node.storage.locks import exclusive, shared
from node.storage.names import MAX_FILES, check_files
from node.storage.ports import Bounds, Collected, Entry, FetchBlocks, Label, Pin
from node.storage.unixfs import import_directory
from node.storage.walker import directory_links, entry, file_size, read_file

_T = TypeVar("_T")
_DEFAULT = Bounds()


class EmbeddedSnapshots:
    """`Snapshots` in a directory: blocks, list of pins, lock. `fetch` asks peers for blocks that are not here."""

    def __init__(self, root: Path, fetch: FetchBlocks | None = None, bounds: Bounds = _DEFAULT) -> None:
        self._root = root
        self.blocks = BlockStore(root / "blocks")
        self._catalogue = Catalogue(root / "pins.sqlite", self.blocks.any)
        self._lock = root / "lock"
        self._sources = Sources(self.blocks, fetch)
        self._bounds = bounds

    async def add(self, files: Mapping[str, bytes | Path], label: Label | None = None) -> str:
        """See `Snapshots.add`."""
        with deadline(self._bounds.seconds, f"adding {', '.join(files)[:80]}"):
            await self._make_room(check_files(files))
            try:
                return await in_thread(lambda: self._add(files, label))
            except StorageError:
                with suppress(StorageError):  # what was written before the disk was full must not keep it full
                    await in_thread(self._collect)
                raise

    async def entries(self, cid: str) -> list[Entry]:
        """See `Snapshots.entries`."""
        return await self._complete_and("listing", cid, "", 0, lambda: self._entries(parse_cid(cid)))

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """See `Snapshots.read`."""
        return await self._complete_and("reading", cid, name, limit, lambda: b"".join(self._parts(cid, name, limit)))

    async def fetch_to(self, cid: str, name: str, path: Path, limit: int) -> int:
        """See `Snapshots.fetch_to`."""

        def write() -> int:
            with writing_to(path):
                written = write_durably(path, self._parts(cid, name, limit))
                sync_directory(path.parent)
                return written

        return await self._complete_and("fetching", cid, name, limit, write)

    async def pin(self, cid: str, label: Label | None = None) -> None:
        """See `Snapshots.pin`."""
        root = parse_cid(cid)
        with deadline(self._bounds.seconds, f"pinning {cid}"):
            limit = (
                self._bounds.snapshot if self._bounds.disk is None else min(self._bounds.snapshot, self._bounds.disk)
            )
            async with self._shared():
                dag = await complete_dag(root, self._sources, limit)
                pin = new_pin(format_cid(root), label, dag.size)
                await in_thread(lambda: self._catalogue.record(pin, dag.digests))

    async def unpin(self, cid: str) -> None:
        """See `Snapshots.unpin`."""
        with deadline(self._bounds.seconds, f"unpinning {cid}"):
            if not await in_thread(lambda: self._catalogue.forget(cid)):
                raise StorageError(f"{cid} is not pinned here: `fl-node snapshot list` shows what is")

    async def pins(self) -> list[Pin]:
        """See `Snapshots.pins`."""
        with deadline(self._bounds.seconds, "listing the pins"):
            return await in_thread(self._catalogue.pins)

    async def block_cids(self, cid: str) -> list[bytes]:
        """See `Snapshots.block_cids`. All of them; but for the root as raw blocks, since digests are what is kept."""
        root = parse_cid(cid)
        with deadline(self._bounds.seconds, f"listing the blocks of {cid}"):
            digests = await in_thread(lambda: self._catalogue.digests_of(cid))
        return [root, *(make_cid(RAW, digest) for digest in digests if digest != root[-DIGEST_BYTES:])]

    async def damaged(self) -> list[Pin]:
        """See `Snapshots.damaged`. Reads the list of pins and every block; each pin has its own time."""
        with deadline(self._bounds.seconds, "reading the list of pins"):
            rows, pins = await in_thread(self._catalogue.damaged), await in_thread(self._catalogue.pins)
        found = []
        for pin in pins:
            with deadline(self._bounds.seconds, f"verifying {pin.cid}"):
                if pin.cid in rows or not await in_thread(partial(self._is_whole, pin.cid)):
                    found.append(pin)
        return found

    async def gc(self, force: bool = False) -> Collected:
        """See `Snapshots.gc`."""
        with deadline(self._bounds.seconds, "collecting garbage"):
            return await in_thread(lambda: self._collect(force))

    async def size(self) -> int:
        """See `Snapshots.size`."""
        with deadline(self._bounds.seconds, "measuring the store"):
            return await in_thread(self.blocks.size)

    def _add(self, files: Mapping[str, bytes | Path], label: Label | None) -> str:
        digests: dict[bytes, None] = {}
        with shared(self._lock, check_deadline):
            with self.blocks.writing() as put:

                def put_in_time(cid: bytes, block: bytes) -> None:
                    check_deadline()
                    digests[cid[-DIGEST_BYTES:]] = None
                    put(cid, block)

                root = import_directory(files, put_in_time)
            pin = new_pin(format_cid(root.cid), label, root.dag_size)
            self._catalogue.record(pin, tuple(digests))
        return pin.cid

    async def _complete_and(self, doing: str, cid: str, name: str, limit: int, work: Callable[[], _T]) -> _T:
        """Tries the work with the blocks that are here; if some are missing, fetches what it needs and retries."""
        with deadline(self._bounds.seconds, f"{doing} {cid}/{name}"):
            async with self._shared():
                try:
                    return await in_thread(work)
                except ContentMissing:
                    if self._sources.fetch is None:
                        raise
                await self._fetch_parts(parse_cid(cid), name, limit)
                return await in_thread(work)

    async def _fetch_parts(self, root: bytes, name: str, limit: int) -> None:
        """Fetches the blocks of one file; without a name the top of each file."""
        directory_limit = MAX_FILES * MAX_BLOCK
        await complete_dag(root, self._sources, directory_limit, levels=1 if name else 2)
        if name:
            file = entry(root, name, self.blocks.get).cid
            await complete_dag(file, self._sources, limit + limit // 64 + MAX_BLOCK)

    def _parts(self, cid: str, name: str, limit: int) -> Iterator[bytes]:
        file = entry(parse_cid(cid), name, self.blocks.get)
        for part in read_file(file.cid, self.blocks.get, limit):
            check_deadline()
            yield part

    def _entries(self, root: bytes) -> list[Entry]:
        links = sorted(directory_links(root, self.blocks.get), key=lambda link: link.name)
        return [Entry(link.name, format_cid(link.cid), file_size(link.cid, self.blocks.get)) for link in links]

    def _is_whole(self, cid: str) -> bool:
        for digest in self._catalogue.digests_of(cid):
            check_deadline()
            if self.blocks.get(make_cid(RAW, digest)) is None:  # a block is found by its digest, whatever the codec
                return False
        return True

    def _collect(self, force: bool = False) -> Collected:
        count = freed = 0
        with writing_to(self._root), exclusive(self._lock, check_deadline):
            if self._catalogue.began_anew() and not force:
                cure = "pin again what is to stay (`fl-node snapshot pin CID`), then `fl-node snapshot gc --force`"
                lost = f"list of pins {self._root / 'pins.sqlite'} is newer than the blocks beside it"
                raise StorageError(f"{lost}, so an earlier one was lost and nothing is removed: {cure}")
            needed = self._catalogue.digests()
            for digest, path in self.blocks.files():
                check_deadline()
                if digest not in needed:
                    freed += path.stat().st_size
                    count += digest is not None
                    path.unlink()
            if force:
                self._catalogue.settle()
        return Collected(count, freed)

    async def _make_room(self, incoming: int) -> None:
        """Collects garbage if the disk limit would be passed. Raises StorageError if that does not help."""
        limit = self._bounds.disk
        if limit is None or await in_thread(self.blocks.size) + incoming <= limit:
            return
        await in_thread(self._collect)
        used = await in_thread(self.blocks.size)
        if used + incoming > limit:
            wants = f"{incoming:,} bytes more would pass the {limit:,} allowed for snapshots ({used:,} are pinned)"
            raise StorageError(f"{wants}: unpin some or raise the disk limit")

    @asynccontextmanager
    async def _shared(self) -> AsyncIterator[None]:
        with ExitStack() as held:
            await in_thread(lambda: held.enter_context(shared(self._lock, check_deadline)))
            yield

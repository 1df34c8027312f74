"""Copies of other members' snapshots, brought into whatever store this node has. Knows no members and no policy."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from node.errors import StorageError
from node.storage.names import is_file_name
from node.storage.opening import open_snapshots
from node.storage.ports import Bounds, FetchBlocks, Label, Snapshots
from node.storage.staging import staged


class Copier:
    """Fetches snapshots and pins them. `through` is where blocks come first if `snapshots` can't ask our peers."""

    def __init__(self, snapshots: Snapshots, through: Snapshots | None, home: Path, limit: int) -> None:
        self._snapshots = snapshots
        self._through = through
        self._home = home
        self._limit = limit

    async def keep(self, cid: str, label: Label) -> None:
        """Pins a snapshot, every block of which was verified. Raises ContentMissing, StorageError.

        What came before a failure or a cancellation stays until the next garbage collection, so the next try goes on.
        """
        if self._through is None:
            await self._snapshots.pin(cid, label)
        else:
            await self._bring(cid, label, self._through)

    async def _bring(self, cid: str, label: Label, through: Snapshots) -> None:
        """Through the embedded store into a daemon, which need not reach any of our peers."""
        entries = await through.entries(cid)
        size = sum(entry.size for entry in entries)
        if size > self._limit or not all(is_file_name(entry.name) for entry in entries):
            raise StorageError(f"{cid} has {size:,} bytes, {self._limit:,} are a snapshot of this session: refuse it")
        with staged(self._home) as place:
            files: dict[str, bytes | Path] = {entry.name: place / entry.name for entry in entries}
            for entry in entries:
                await through.fetch_to(cid, entry.name, place / entry.name, self._limit)
            added = await self._snapshots.add(files, label)
        if added != cid:
            await self._snapshots.unpin(added)
            raise StorageError(f"{cid} was not added as snapshots are (its files give {added}): it can't be kept here")
        await through.gc()


@asynccontextmanager
async def open_copier(home: Path, url: str | None, fetch: FetchBlocks, bounds: Bounds) -> AsyncIterator[Copier]:
    """A copier beside the snapshots of the same home, with bounds of its own. Raises StorageError."""
    async with open_snapshots(home, None, fetch, bounds) as embedded:
        if url is None:
            yield Copier(embedded, None, home, bounds.snapshot)
            return
        async with open_snapshots(home, url, None, bounds) as daemon:
            yield Copier(daemon, embedded, home, bounds.snapshot)

"""`Snapshots` of a private session: sealed on the way in, opened on the way out. Knows no backend and no members.

File names stay readable (`update`, `mixed.safetensors`), so that an auditor with the key, and only one, can replay.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from node.files import sync_directory
from node.storage.blocks import write_durably, writing_to
from node.storage.deadlines import in_thread
from node.storage.names import check_files
from node.storage.ports import Collected, Entry, Label, Pin, Snapshots
from node.storage.sealing import content_size, seal, seal_bytes, sealed_size, unseal, unseal_bytes
from node.storage.staging import staged
from node.storage.unixfs import open_regular


class SealedSnapshots:
    """Snapshots whose files only who holds `key` (32 bytes, see `sealing`) can read. Sizes are those of content.

    What is sealed lies in `home` until it is in the store.
    """

    def __init__(self, inner: Snapshots, key: bytes, home: Path) -> None:
        self._inner = inner
        self._key = key
        self._home = home

    async def add(self, files: Mapping[str, bytes | Path], label: Label | None = None) -> str:
        """See `Snapshots.add`."""
        check_files(files)
        with staged(self._home) as place:
            sealed = await in_thread(lambda: {name: self._seal(files[name], place / name) for name in files})
            return await self._inner.add(sealed, label)

    async def entries(self, cid: str) -> list[Entry]:
        """See `Snapshots.entries`. Raises StorageError for a snapshot that is not sealed."""
        return [replace(entry, size=content_size(entry.size)) for entry in await self._inner.entries(cid)]

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """See `Snapshots.read`."""
        sealed = await self._inner.read(cid, name, sealed_size(limit))
        return await in_thread(lambda: unseal_bytes(sealed, self._key))

    async def fetch_to(self, cid: str, name: str, path: Path, limit: int) -> int:
        """See `Snapshots.fetch_to`."""
        sealed = path.with_name(f"{path.name}.sealed")
        try:
            await self._inner.fetch_to(cid, name, sealed, sealed_size(limit))
            return await in_thread(lambda: self._unseal(sealed, path))
        finally:
            sealed.unlink(missing_ok=True)

    async def pin(self, cid: str, label: Label | None = None) -> None:
        """See `Snapshots.pin`. Needs no key: anybody can keep what only members can read."""
        await self._inner.pin(cid, label)

    async def unpin(self, cid: str) -> None:
        """See `Snapshots.unpin`."""
        await self._inner.unpin(cid)

    async def pins(self) -> list[Pin]:
        """See `Snapshots.pins`."""
        return await self._inner.pins()

    async def block_cids(self, cid: str) -> list[bytes]:
        """See `Snapshots.block_cids`."""
        return await self._inner.block_cids(cid)

    async def damaged(self) -> list[Pin]:
        """See `Snapshots.damaged`."""
        return await self._inner.damaged()

    async def gc(self, force: bool = False) -> Collected:
        """See `Snapshots.gc`."""
        return await self._inner.gc(force)

    async def size(self) -> int:
        """See `Snapshots.size`."""
        return await self._inner.size()

    def _seal(self, content: bytes | Path, place: Path) -> bytes | Path:
        if isinstance(content, bytes):
            return seal_bytes(content, self._key)
        with writing_to(place), open_regular(content) as source, place.open("wb") as target:
            target.writelines(seal(source, self._key))
        return place

    def _unseal(self, sealed: Path, path: Path) -> int:
        with writing_to(path), open_regular(sealed) as source:
            written = write_durably(path, unseal(source, self._key))
            sync_directory(path.parent)
            return written

"""Another's embedded store, read and never written to: no list of pins, no lock, no directory is made."""

from pathlib import Path

from node.storage.blocks import BlockStore
from node.storage.cid import parse_cid
from node.storage.deadlines import check_deadline, deadline, in_thread
from node.storage.ports import Bounds
from node.storage.walker import entry, read_file

_DEFAULT = Bounds()


class StoredSnapshots:
    """Files of snapshots in the store of a home. What a collection takes meanwhile is missing."""

    def __init__(self, home: Path, bounds: Bounds = _DEFAULT) -> None:
        self._blocks = BlockStore(home / "ipfs" / "blocks", make=False)
        self._bounds = bounds

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """See `Snapshots.read`."""
        with deadline(self._bounds.seconds, f"reading {cid}/{name}"):
            return await in_thread(lambda: self._read(cid, name, limit))

    def _read(self, cid: str, name: str, limit: int) -> bytes:
        parts = []
        for part in read_file(entry(parse_cid(cid), name, self._blocks.get).cid, self._blocks.get, limit):
            check_deadline()
            parts.append(part)
        return b"".join(parts)

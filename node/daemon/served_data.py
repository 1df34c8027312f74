"""A learner's side of `data = "served"`: its split pulled by hash from the coordinator, kept on disk, made its data.

What arrived stays: an interrupted transfer goes on at the next byte, also after a restart, and a split that is there is
not asked for again. Knows no protocol: fetching is a function.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import trio

from node.config import Shares
from node.daemon.handing_out import MANIFEST_LIMIT, read_manifest
from node.daemon.learner import TorchLearner
from node.errors import DataError, PeerError, TaskError
from node.files import sha256_of_file
from node.learning.served import read_split
from node.learning.task import LocalSplit
from node.messages import Content

log = logging.getLogger(__name__)
TRY_S = 600.0  # for one attempt; what arrived stays
PAUSE_S = 1.0  # before the next one

Fetch = Callable[[Content, str, float, Path], Awaitable[None]]  # (what, from whom, seconds, into which file)


@dataclass
class ServedData:
    """Implements `node.session.coordinated.Supply`."""

    directory: Path
    shares: Shares
    place: int  # this learner's number among the learners
    learner: TorchLearner
    try_one_step: Callable[[LocalSplit], None]
    fetch: Fetch
    tell: Callable[[str], None]
    _refused: set[bytes] = field(default_factory=set)  # manifests that proved bad

    async def obtain(self, said: Content | None, holder: str) -> bool:
        """Whether the learner has its data now; asks `holder` for as long as it takes. False if what it has is bad."""
        if len(self.learner.data.train):
            return True
        if said is None or said.digest in self._refused:
            return False
        try:
            await self._take(said, holder)
        except (DataError, TaskError) as error:
            log.warning("the coordinator's data are refused: %s", error)
            self.tell(f"the coordinator's data are refused: {error}")
            self._refused.add(said.digest)
            return False
        return True

    async def _take(self, said: Content, holder: str) -> None:
        if said.size > MANIFEST_LIMIT:
            raise DataError(f"a manifest of {said.size:,} bytes: at most {MANIFEST_LIMIT:,} are read")
        manifest = read_manifest((await self._file(said, holder)).read_bytes())
        if len(manifest.splits) != self.shares.count:
            raise DataError(f"a manifest of {len(manifest.splits)} splits: the session has {self.shares.count}")
        split = manifest.splits[self.place % len(manifest.splits)]
        if split.bytes > self.shares.bytes:
            raise DataError(f"a split of {split.bytes:,} bytes: the session allows {self.shares.bytes:,}")
        path = await self._file(Content(bytes.fromhex(split.sha256), split.bytes), holder)
        data = await trio.to_thread.run_sync(read_split, path)
        await self.learner.run(self.try_one_step, data)
        self.learner.data = data
        self.tell(f"{split.examples} examples came from the coordinator ({split.bytes:,} bytes)")

    async def _file(self, wanted: Content, holder: str) -> Path:
        """The file of that hash, from the disk or from the holder."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / wanted.digest.hex()
        if await trio.to_thread.run_sync(is_whole, path, wanted):
            return path
        partial = path.with_suffix(".part")
        while True:
            try:
                await self.fetch(wanted, holder, TRY_S, partial)
                break
            except PeerError as error:
                log.info("data of the coordinator: %s", error)
            await trio.sleep(PAUSE_S)
        partial.replace(path)
        return path


def is_whole(path: Path, wanted: Content) -> bool:
    """Whether a file is what its hash says."""
    return path.is_file() and path.stat().st_size == wanted.size and sha256_of_file(path) == wanted.digest

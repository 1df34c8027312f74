"""A learner's side of `data = "served"`: its split pulled by hash from the data's owner, kept on disk, made its data.

What arrived stays: an interrupted transfer goes on at the next byte, also after a restart, and a split that is there is
not asked for again. The owner is the session's own coordinator, whoever coordinates by now. Knows no protocol: fetching
is a function.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import orjson
import trio

from node.config import Shares
from node.daemon.handing_out import MANIFEST_LIMIT, read_manifest
from node.daemon.learner import TorchLearner
from node.errors import DataError, PeerError, TaskError
from node.files import sha256_of_file, write_atomically
from node.learning.served import read_split
from node.learning.task import LocalSplit
from node.messages import Content

log = logging.getLogger(__name__)
TRY_S = 600.0  # for one attempt; what arrived stays
PAUSE_S = 1.0  # before the next one
POINTER = "mine.json"  # names the manifest from which this learner has its split

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
    owner: Callable[[], str | None]  # the peer id of who has the data set
    tell: Callable[[str], None]
    _waiting: bool = False
    _refused: set[bytes] = field(default_factory=set)  # manifests that proved bad

    async def obtain(self, said: Content | None) -> bool:
        """Whether the learner has its data now; asks the owner for as long as it takes. False if what it has is bad."""
        if len(self.learner.data.train):
            return True
        said = said or await trio.to_thread.run_sync(taken_from, self.directory)
        if said is None or said.digest in self._refused:
            return False
        try:
            await self._take(said)
        except (DataError, TaskError) as error:
            log.warning("the coordinator's data are refused: %s", error)
            self.tell(f"the coordinator's data are refused: {error}")
            self._refused.add(said.digest)
            return False
        return True

    async def _take(self, said: Content) -> None:
        if said.size > MANIFEST_LIMIT:
            raise DataError(f"a manifest of {said.size:,} bytes: at most {MANIFEST_LIMIT:,} are read")
        manifest = read_manifest((await self._file(said)).read_bytes())
        if len(manifest.splits) != self.shares.count:
            raise DataError(f"a manifest of {len(manifest.splits)} splits: the session has {self.shares.count}")
        split = manifest.splits[self.place % len(manifest.splits)]
        if split.bytes > self.shares.bytes:
            raise DataError(f"a split of {split.bytes:,} bytes: the session allows {self.shares.bytes:,}")
        path = await self._file(Content(bytes.fromhex(split.sha256), split.bytes))
        data = await trio.to_thread.run_sync(read_split, path)
        await self.learner.run(self.try_one_step, data)
        self.learner.data = data
        pointer = orjson.dumps({"manifest": said.digest.hex(), "bytes": said.size})
        await trio.to_thread.run_sync(write_atomically, self.directory / POINTER, pointer)
        self.tell(f"{split.examples} examples came from the coordinator ({split.bytes:,} bytes)")

    async def _file(self, wanted: Content) -> Path:
        """The file of that hash, from the disk or from the data's owner."""
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path = self.directory / wanted.digest.hex()
        if await trio.to_thread.run_sync(is_whole, path, wanted):
            return path
        partial = path.with_suffix(".part")
        while True:
            try:
                await self.fetch(wanted, self._owner(), TRY_S, partial)
                break
            except PeerError as error:
                log.info("data of the coordinator: %s", error)
                self._complain(error)
            await trio.sleep(PAUSE_S)
        partial.replace(path)
        return path

    def _owner(self) -> str:
        owner = self.owner()
        if owner is None:
            raise PeerError("the member that has the data set has left the session")
        return owner

    def _complain(self, error: PeerError) -> None:
        """Says once what is missing: nobody but the owner can give it."""
        if not self._waiting:
            self.tell(
                f"this member's split is not here yet ({error}): only the session's own coordinator can give it, "
                "and is asked until it does; until then this member trains nothing"
            )
        self._waiting = True


def taken_from(directory: Path) -> Content | None:
    """The manifest from which the learner of this home took its split; None before it did."""
    try:
        kept = orjson.loads((directory / POINTER).read_bytes())
        return Content(bytes.fromhex(kept["manifest"]), int(kept["bytes"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


class OwnersRest:
    """Implements `node.session.coordinated.Supply` for who owns the data and coordinates no more.

    The splits are the learners', so it trains on none; it gives them to who asks, as before.
    """

    async def obtain(self, said: Content | None) -> bool:  # noqa: ARG002  (the protocol's)
        """No data."""
        return False


def is_whole(path: Path, wanted: Content) -> bool:
    """Whether a file is what its hash says."""
    return path.is_file() and path.stat().st_size == wanted.size and sha256_of_file(path) == wanted.digest

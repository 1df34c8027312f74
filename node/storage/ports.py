"""The port that other rooms see of this one: Protocol `Snapshots` and its frozen values. Knows neither backend."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

FetchBlocks = Callable[[Sequence[bytes]], Awaitable[Mapping[bytes, bytes]]]
"""Asks peers for the blocks of these CIDs; the answer may lack some. Blocks are verified by who called it."""


@dataclass(frozen=True, slots=True)
class Label:
    """Which snapshot this is, for retention and lists: session id, index of the member, round."""

    session: int
    member: int
    round: int


@dataclass(frozen=True, slots=True)
class Pin:
    """A snapshot that this node keeps. `size` in bytes of all its blocks, `at` in seconds since 1970."""

    cid: str
    label: Label | None
    size: int
    at: float


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of a snapshot, with its size in bytes."""

    name: str
    cid: str
    size: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What a garbage collection removed."""

    blocks: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Bounds:
    """Seconds for one call, bytes of one snapshot, bytes of all on disk (None: no bound)."""

    seconds: float = 300.0
    snapshot: int = 4 << 30
    disk: int | None = None


class Snapshots(Protocol):
    """Directories of files as IPFS content. Every method has a deadline and raises StorageError or ContentMissing."""

    async def add(self, files: Mapping[str, bytes | Path], label: Label | None = None) -> str:
        """CID of a directory of these files, written durably and pinned."""

    async def entries(self, cid: str) -> list[Entry]:
        """The files of a snapshot, by name."""

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """Content of one file of a snapshot, verified; StorageError if it has more than `limit` bytes."""

    async def fetch_to(self, cid: str, name: str, path: Path, limit: int) -> int:
        """Bytes of the file now at `path`, which appears only when it is complete and verified."""

    async def pin(self, cid: str, label: Label | None = None) -> None:
        """Keeps a snapshot, fetching what is missing; pinning twice is harmless and repairs damaged blocks."""

    async def unpin(self, cid: str) -> None:
        """Releases a snapshot, so that the next collection may remove it. Unknown CIDs raise StorageError."""

    async def pins(self) -> list[Pin]:
        """What this node keeps, oldest first."""

    async def block_cids(self, cid: str) -> list[bytes]:
        """CIDs of the blocks that a pinned snapshot needs, as far as this backend lists them: at least its root."""

    async def damaged(self) -> list[Pin]:
        """Pins whose content is not all here: blocks torn or lost, or unpinned behind our back. `pin` mends them."""

    async def gc(self, force: bool = False) -> Collected:
        """Removes every block that no pin needs; StorageError where that is not known.

        With `force` also the blocks of an earlier list of pins, which was lost.
        """

    async def size(self) -> int:
        """Bytes on disk."""

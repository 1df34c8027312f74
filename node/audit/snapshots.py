"""Where an audit finds snapshots: homes on this machine, or a Kubo daemon; what they give is checked by its hash."""

from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import orjson

from node.errors import ConfigError, ContentMalformed, StorageError
from node.learning.parameters import BYTES_PER_NUMBER, ParameterSpec
from node.storage import Snapshots, open_snapshots


@dataclass(frozen=True, slots=True)
class SnapshotShelf:
    """Reads files of snapshots from the first source that has them."""

    sources: Sequence[Snapshots]
    limit: int  # bytes of a file

    async def read(self, cid: str, name: str, limit: int | None = None) -> bytes | None:
        """A file of a snapshot, of at most `limit` bytes; None if no source has it, or none answers.

        Raises ContentMalformed where the snapshot's own blocks, checked against their CIDs, hold no such file.
        """
        for source in self.sources:
            try:
                return await source.read(cid, name, limit or self.limit)
            except ContentMalformed:
                raise
            except StorageError:  # not there, too slow, or a daemon that gives wrong bytes: nobody's proven fault
                continue
        return None


@asynccontextmanager
async def open_shelf(places: Sequence[str], beside: Path, limit: int) -> AsyncIterator[SnapshotShelf]:
    """The named homes and daemons; without any, the homes in the directory of the session file."""
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        chosen = list(places) or sorted(str(found.parent) for found in beside.glob("*/ipfs") if found.is_dir())
        sources: list[Snapshots] = []
        for place in chosen:
            if place.startswith(("http://", "https://", "/ip4/", "/ip6/", "/dns")):
                opened = open_snapshots(scratch, place)
            elif (Path(place) / "ipfs").is_dir():
                opened = open_snapshots(Path(place))
            else:
                raise ConfigError(f"--ipfs {place} is neither a node's home nor the URL of a Kubo daemon")
            sources.append(await stack.enter_async_context(opened))
        yield SnapshotShelf(sources, limit)


def spec_of_payload(payload: bytes) -> ParameterSpec | None:
    """The names and shapes that a `float32` payload's header claims; None if it claims none that could be.

    Nothing is believed: the caller compares the hash of `spec.header` with the session's.
    """
    length = int.from_bytes(payload[:8], "little")
    try:
        entries = orjson.loads(payload[8 : 8 + min(length, len(payload))])
        names = tuple(sorted(entries))
        shapes = tuple(tuple(entries[name]["shape"]) for name in names)
    except (ValueError, LookupError, TypeError):
        return None
    spec = ParameterSpec(names, shapes)
    sound = isinstance(entries, dict) and all(_is_shape(shape, len(payload)) for shape in shapes)
    return spec if sound and spec.size * BYTES_PER_NUMBER <= len(payload) else None


def _is_shape(shape: tuple[object, ...], most: int) -> bool:
    """Whether these are sizes of a tensor that fits into so many bytes; 64 dimensions are torch's limit."""
    return len(shape) <= 64 and all(type(size) is int and 0 <= size <= most for size in shape)

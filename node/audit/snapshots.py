"""Where an audit finds snapshots: homes on this machine, or a Kubo daemon; what they give is checked by its hash."""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Protocol

import orjson
import trio

from node.errors import ConfigError, ContentMalformed, StorageError
from node.learning.parameters import BYTES_PER_NUMBER, ParameterSpec
from node.storage import StoredSnapshots, open_snapshots, sealed_size, unseal_bytes

log = logging.getLogger(__name__)


class Source(Protocol):
    """What gives files of snapshots, as `Snapshots` does."""

    async def read(self, cid: str, name: str, limit: int) -> bytes:
        """A file of a snapshot."""
        ...


@dataclass(frozen=True, slots=True)
class SnapshotShelf:
    """Reads files of snapshots from the first source that has them."""

    sources: Sequence[Source]
    limit: int  # bytes of a file
    key: bytes | None = None  # of a sealed session

    async def read(self, cid: str, name: str, limit: int | None = None) -> bytes | None:
        """A file of a snapshot, of at most `limit` bytes; None if no source has it, or none answers.

        Raises ContentMalformed where the snapshot's own blocks, checked against their CIDs, hold no such file.
        """
        most = limit or self.limit
        for source in self.sources:
            try:
                content = await source.read(cid, name, most if self.key is None else sealed_size(most))
                return content if self.key is None else await self._unsealed(cid, content, self.key)
            except ContentMalformed:
                raise
            except StorageError:  # not there, too slow, or a daemon that gives wrong bytes: nobody's proven fault
                continue
        return None

    async def _unsealed(self, cid: str, content: bytes, key: bytes) -> bytes:
        """The session file vouches for the key, so what it does not open is its author's fault."""
        try:
            return await trio.to_thread.run_sync(unseal_bytes, content, key)
        except StorageError as error:
            raise ContentMalformed(f"{cid} is not sealed with the session's key: {error}") from error


@asynccontextmanager
async def open_shelf(
    places: Sequence[str], beside: Path | None, limit: int, key: bytes | None = None
) -> AsyncIterator[SnapshotShelf]:
    """The named homes and daemons; without any, the homes in the directory `beside`. None of them without `beside`."""
    if beside is None:
        yield SnapshotShelf((), limit)
        return
    async with AsyncExitStack() as stack:
        scratch = Path(stack.enter_context(TemporaryDirectory()))
        chosen = list(places) or sorted(str(found.parent) for found in beside.glob("*/ipfs") if found.is_dir())
        sources: list[Source] = []
        for place in chosen:
            if is_daemon(place):
                try:
                    sources.append(await stack.enter_async_context(open_snapshots(scratch, place)))
                except StorageError as error:
                    if place == chosen[-1] and not sources:  # none is left
                        raise
                    log.warning("snapshots are looked for elsewhere: %s", error)
            elif _is_home(Path(place)):
                sources.append(StoredSnapshots(Path(place)))
            else:
                raise ConfigError(f"--ipfs {place} is neither a node's home nor the URL of a Kubo daemon")
        yield SnapshotShelf(sources, limit, key)


def _is_home(place: Path) -> bool:
    try:
        return (place / "ipfs").is_dir()
    except OSError as error:
        raise ConfigError(f"--ipfs {place} cannot be read: {error.strerror}") from error


def is_daemon(place: str) -> bool:
    """Whether this is the address of a Kubo daemon, and no directory."""
    return place.startswith(("http://", "https://", "/ip4/", "/ip6/", "/dns"))


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

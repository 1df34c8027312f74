"""Blocks as files in Kubo's flatfs layout (`blocks/<2 characters>/<multihash>.data`). Knows no pins and no DAGs.

A block is there completely or not at all: written to a temporary file, fdatasync, rename, fsync of its directory. It is
verified on each read; a torn or altered file reads as missing, is logged once, and is replaced by the next `put`.
Synchronous: callers on the event loop use a thread.
"""

import base64
import binascii
import errno
import logging
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from node.errors import StorageError
from node.files import sync_directory
from node.storage.cid import cid_from_bytes, format_cid, is_block_of
from node.storage.dagpb import MAX_BLOCK

_SHARDING = "/repo/flatfs/shard/v1/next-to-last/2\n"
_MULTIHASH_BYTES = 34
_WRITERS = 4
_IN_FLIGHT = 16  # blocks, 4 MiB of Kubo's chunks
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

log = logging.getLogger(__name__)

Put = Callable[[bytes, bytes], None]


class BlockStore:
    """Blocks by CID below one directory. Safe to use from several threads and processes."""

    def __init__(self, root: Path, make: bool = True) -> None:
        self._root = root
        self._reported: set[bytes] = set()
        if not make:  # for who only reads, perhaps without the right to write
            return
        with writing_to(root):
            root.mkdir(parents=True, exist_ok=True, mode=0o700)
            (root / "SHARDING").write_text(_SHARDING)

    def get(self, cid: bytes) -> bytes | None:
        """The block, verified; None if it is missing, damaged, or the CID is none that we keep. Never raises."""
        try:
            path = self._path(cid_from_bytes(cid))
            with path.open("rb", buffering=0) as file:
                block = file.read(min(os.fstat(file.fileno()).st_size, MAX_BLOCK + 1))
        except FileNotFoundError:
            return None
        except (OSError, StorageError) as error:  # a failing disk, or a peer's nonsense: both are "not here"
            log.warning("block %s cannot be read: %s", cid[:40].hex(), error)
            return None
        if is_block_of(cid, block):
            return block
        self._report(cid, path)
        return None

    @contextmanager
    def writing(self) -> Iterator[Put]:
        """A function that stores blocks; on leaving without an error all of them are durable. Raises StorageError.

        A few threads write beside each other, since the disk takes several syncs for the price of one; so an error of
        a block may come at a later one, or on leaving.
        """
        touched = {self._root}
        pending: deque[Future[Path]] = deque()
        with writing_to(self._root), ThreadPoolExecutor(_WRITERS, "blocks") as pool:

            def put(cid: bytes, block: bytes) -> None:
                if len(pending) == _IN_FLIGHT:
                    touched.add(pending.popleft().result())
                pending.append(pool.submit(self._put, cid, block))

            yield put
            touched.update(future.result() for future in pending)
            deque(pool.map(sync_directory, touched), maxlen=0)  # raises the first error

    def files(self) -> Iterator[tuple[bytes | None, Path]]:
        """Every file of the store with its block's digest, or None for a leftover of an interrupted write."""
        for shard in self._root.iterdir():
            for path in shard.iterdir() if shard.is_dir() else ():
                yield _digest_in(path.name), path

    def any(self) -> bool:
        """Whether there is a block at all."""
        return next((True for digest, _ in self.files() if digest is not None), False)

    def size(self) -> int:
        """Bytes of all block files."""
        total = 0
        for _, path in self.files():
            with suppress(FileNotFoundError):  # a collection beside us
                total += path.stat().st_size
        return total

    def _put(self, cid: bytes, block: bytes) -> Path:
        if len(block) > MAX_BLOCK or not is_block_of(cid, block):
            raise StorageError(f"block {format_cid(cid)} has {len(block):,} wrong bytes: refuse it and who sent it")
        path = self._path(cid)
        if self.get(cid) is None:
            path.parent.mkdir(exist_ok=True, mode=0o700)
            write_durably(path, (block,))
        return path.parent

    def _path(self, cid: bytes) -> Path:
        key = base64.b32encode(cid[-_MULTIHASH_BYTES:]).decode().rstrip("=")
        return self._root / key[-3:-1] / f"{key}.data"

    def _report(self, cid: bytes, path: Path) -> None:
        if cid not in self._reported and len(self._reported) < 10_000:
            self._reported.add(cid)
            log.warning("block %s is damaged on disk and counts as missing: %s", format_cid(cid), path)


def write_durably(path: Path, parts: Iterator[bytes] | tuple[bytes, ...]) -> int:
    """Bytes written; the file appears under its name only when complete and on disk (its directory is not synced)."""
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.{os.urandom(4).hex()}.tmp")
    try:
        with unfinished.open("xb", buffering=0) as file:
            written = sum(_write_all(file.fileno(), part) for part in parts)
            os.fdatasync(file.fileno())
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
    return written


@contextmanager
def writing_to(place: Path) -> Iterator[None]:
    """Turns the operating system's errors into a StorageError that names the place and the cure."""
    try:
        yield
    except OSError as error:
        cure = "free some space or lower the retention" if error.errno in _FULL else "check the disk and permissions"
        raise StorageError(f"{place} cannot be written ({error.strerror}): {cure}") from error


def _write_all(descriptor: int, part: bytes) -> int:
    view = memoryview(part)
    while view:
        view = view[os.write(descriptor, view) :]
    return len(part)


def _digest_in(name: str) -> bytes | None:
    stem = name.removesuffix(".data")
    try:
        multihash = base64.b32decode(stem + "=" * (-len(stem) % 8))
    except binascii.Error:
        return None
    return multihash[2:] if stem != name and len(multihash) == _MULTIHASH_BYTES else None

"""A payload on its way in: to memory, or to a file above a limit; hashed as it comes, so it is read only once.

Knows no peer. Where the bytes come from, and when to start again, is the caller's. A worker thread writes files while
the next bytes arrive. (Hashing there too was slower: the threads take turns at the interpreter lock for every piece.)
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from node.errors import NetworkError

BATCH = 4 << 20  # bytes that are written at a time; two batches wait at most
MAX_VECTOR = 512  # pieces in one system call


@dataclass(frozen=True)
class SpoolRule:
    """Payloads above `memory_limit` bytes go to files in `directory` (None: the system's temporary one)."""

    memory_limit: int = 64 << 20
    directory: Path | None = None


class Sink:
    """Takes `size` bytes whose SHA-256 must be `digest`. `received` says where to go on after an interruption.

    With `partial`, a file, it goes on after what lies there, and leaves there what came. `run` must be running
    meanwhile. Raises NetworkError when the bytes cannot be stored.
    """

    def __init__(self, digest: bytes, size: int, rule: SpoolRule, partial: Path | None = None) -> None:
        self.digest = digest
        self.size = size
        self.received = 0
        self._path: Path | None = None
        self._file: io.BytesIO | io.FileIO = io.BytesIO()
        self._hash = hashlib.sha256()
        self._batch: list[bytes] = []
        self._batch_size = 0
        self._give, self._take = trio.open_memory_channel[list[bytes]](1)
        self._in_work = 0
        self._idle = trio.Event()
        self._failure: OSError | None = None
        self._stays = partial is not None
        if partial is not None:
            self._go_on(partial)
        elif size > rule.memory_limit:
            self._open(rule.directory)

    @property
    def in_memory(self) -> bool:
        """Whether it writes no file."""
        return isinstance(self._file, io.BytesIO)

    def _open(self, directory: Path | None) -> None:
        try:
            descriptor, name = tempfile.mkstemp(prefix="fl-node-", suffix=".payload", dir=directory)
        except OSError as error:
            raise NetworkError(f"cannot spool payloads in {directory}: {error.strerror}; choose another") from error
        self._path = Path(name)
        self._file = io.FileIO(descriptor, "wb")

    def _go_on(self, partial: Path) -> None:
        """Hashes what is there, which takes long for a large file: make such a sink in a thread."""
        try:
            file = partial.open("a+b", buffering=0)
            file.seek(0)
            while piece := file.read(BATCH):
                self._hash.update(piece)
                self.received += len(piece)
        except OSError as error:
            raise NetworkError(f"cannot go on with {partial}: {error.strerror}; free space there") from error
        self._path, self._file = partial, file
        if self.received > self.size:  # of something else
            file.truncate(0)
            self.received, self._hash = 0, hashlib.sha256()

    async def run(self) -> None:
        """Stores batches until cancelled."""
        async for batch in self._take:
            try:
                await trio.to_thread.run_sync(self._store, batch)
            except OSError as error:
                self._failure = error
            self._in_work -= 1
            self._idle.set()

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Takes the next bytes; waits only if two batches wait already."""
        for piece in pieces:
            self._hash.update(piece)
            self.received += len(piece)
        if isinstance(self._file, io.BytesIO):
            self._file.writelines(pieces)
            return
        self._batch.extend(pieces)
        self._batch_size += sum(map(len, pieces))
        if self._batch_size >= BATCH:
            await self._flush()

    async def finish(self) -> bytes | Path | None:
        """The payload, in memory or as a file that is now the caller's; None if it is not what was promised."""
        await self._flush()
        await self._settle()
        if self.received != self.size or self._hash.digest() != self.digest:
            return None
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()  # does not copy
        self._file.close()
        path, self._path = self._path, None
        return path

    async def restart(self) -> None:
        """Forgets everything received."""
        await self._settle()
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self._batch = []
        self._batch_size = self.received = 0

    async def store(self) -> None:
        """Everything that came is in the file."""
        await self._flush()
        await self._settle()

    def discard(self) -> None:
        """Frees memory and file, unless `finish` has handed them out; a partial file stays."""
        self._file.close()
        if self._path is not None and not self._stays:
            self._path.unlink(missing_ok=True)
            self._path = None

    async def _flush(self) -> None:
        batch, self._batch, self._batch_size = self._batch, [], 0
        if batch:
            self._in_work += 1
            await self._give.send(batch)
        self._check()

    async def _settle(self) -> None:
        """Waits until everything given to the worker is stored."""
        while self._in_work:
            self._idle = trio.Event()
            await self._idle.wait()
        self._check()

    def _check(self) -> None:
        if self._failure is not None:
            reason = self._failure.strerror
            raise NetworkError(f"cannot spool a payload to {self._path}: {reason}; free space there") from self._failure

    def _store(self, pieces: Sequence[bytes]) -> None:
        left = [memoryview(piece) for piece in pieces]
        while left:
            written = os.writev(self._file.fileno(), left[:MAX_VECTOR])
            while left and written >= len(left[0]):
                written -= len(left.pop(0))
            if written:
                left[0] = left[0][written:]

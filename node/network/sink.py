"""A payload on its way in: to memory, or to a file above a limit; hashed as it comes, so it is read only once.

Knows no peer. Where the bytes come from, and when to start again, is the caller's.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

FLUSH_AT = 4 << 20  # bytes gathered before a worker thread hashes and writes them


@dataclass(frozen=True)
class SpoolRule:
    """Payloads above `memory_limit` bytes go to files in `directory` (None: the system's temporary one)."""

    memory_limit: int = 64 << 20
    directory: Path | None = None


class Sink:
    """Takes `size` bytes whose SHA-256 must be `digest`. `received` says where to go on after an interruption."""

    def __init__(self, digest: bytes, size: int, rule: SpoolRule) -> None:
        self.digest = digest
        self.size = size
        self.received = 0
        self._rule = rule
        self._path: Path | None = None
        self._file: io.BytesIO | io.FileIO = io.BytesIO()
        self._hash = hashlib.sha256()
        self._pending: list[bytes] = []
        self._pending_size = 0
        if size > rule.memory_limit:
            descriptor, name = tempfile.mkstemp(prefix="fl-node-", suffix=".payload", dir=rule.directory)
            self._path = Path(name)
            self._file = io.FileIO(descriptor, "wb")

    async def write(self, pieces: Sequence[bytes]) -> None:
        """Takes the next bytes."""
        size = sum(map(len, pieces))
        self.received += size
        if self._path is None:
            for piece in pieces:
                self._hash.update(piece)
                self._file.write(piece)
            return
        self._pending.extend(pieces)
        self._pending_size += size
        if self._pending_size >= FLUSH_AT:
            await self._flush()

    async def finish(self) -> bytes | Path | None:
        """The payload, in memory or as a file that is now the caller's; None if it is not what was promised."""
        await self._flush()
        if self.received != self.size or self._hash.digest() != self.digest:
            return None
        if isinstance(self._file, io.BytesIO):
            return self._file.getvalue()  # does not copy
        self._file.close()
        path, self._path = self._path, None
        return path

    def restart(self) -> None:
        """Forgets everything received."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self._pending.clear()
        self._pending_size = self.received = 0

    def discard(self) -> None:
        """Frees memory and file, unless `finish` has handed them out."""
        self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
            self._path = None

    async def _flush(self) -> None:
        pending, self._pending, self._pending_size = self._pending, [], 0
        if pending:
            await trio.to_thread.run_sync(self._store, pending)

    def _store(self, pieces: list[bytes]) -> None:
        for piece in pieces:
            self._hash.update(piece)
            view = memoryview(piece)
            while view:
                view = view[os.write(self._file.fileno(), view) :]

"""Files that survive a crash: written whole or not at all, and on disk when a function says so; knows no room."""

import hashlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from node.errors import HomeError

Piece = bytes | memoryview


def write_atomically(path: Path, content: bytes | Iterable[Piece], mode: int = 0o600, durable: bool = True) -> None:
    """The whole content or the old one, whatever happens; if `durable`, on disk when it returns.

    Raises HomeError if the disk does not take it.
    """
    with written_before(path, content, mode, durable):
        pass


@contextmanager
def written_before(
    path: Path, content: bytes | Iterable[Piece], mode: int = 0o600, durable: bool = True
) -> Iterator[None]:
    """As `write_atomically`; the content is written before the block runs, and has its name if that ends well."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with _refusals(path):
            _write(temporary, content, mode, durable)
        yield
        with _refusals(path):
            temporary.replace(path)
            if durable:
                sync_directory(path.parent)
    except BaseException:
        with suppress(OSError):  # a name that is too long
            temporary.unlink(missing_ok=True)
        raise


def _write(path: Path, content: bytes | Iterable[Piece], mode: int, durable: bool) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        for piece in (content,) if isinstance(content, bytes) else content:
            file.write(piece)
        if durable:
            file.flush()
            os.fsync(file.fileno())


@contextmanager
def _refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HomeError(f"{path} cannot be written ({error.strerror}): mend that, then start again") from error


def clear_temporaries(directory: Path, name: str = "*") -> None:
    """Removes the halves of files that a killed process left; only where no other process writes now."""
    for left in directory.glob(f".{name}.*.tmp"):
        left.unlink(missing_ok=True)


def move_durably(source: Path, path: Path) -> None:
    """A file of the same disk takes its name, and is on disk when this returns."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    source.replace(path)
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Makes the names in a directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of_file(path: Path) -> bytes:
    """The SHA-256 of a file's content, read piece by piece."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()

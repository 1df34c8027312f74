"""What may be in a snapshot: the edge where callers' file names and paths are checked. Knows no backend."""

import re
from collections.abc import Mapping
from pathlib import Path

from node.errors import StorageError

MAX_FILES = 256
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")


def check_files(files: Mapping[str, bytes | Path]) -> int:
    """Bytes of all files together. Raises StorageError for a name or a path that cannot be in a snapshot."""
    if not 0 < len(files) <= MAX_FILES:
        raise StorageError(f"snapshot of {len(files)} files: put 1 to {MAX_FILES} files into it")
    for name in files:
        if not is_file_name(name):
            raise StorageError(f"file name {name[:140]!r}: use letters, digits, '.', '_' and '-', 128 at most")
    return sum(len(content) if isinstance(content, bytes) else _size(content) for content in files.values())


def is_file_name(name: str) -> bool:
    """True if a file of this name can be in a snapshot, and can be written to any directory."""
    return _NAME.fullmatch(name) is not None


def _size(path: Path) -> int:
    if path.is_symlink() or not path.is_file():
        raise StorageError(f"{path} is not a regular file: add the file that it stands for")
    return path.stat().st_size

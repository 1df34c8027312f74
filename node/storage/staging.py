"""Directories for files on their way into a store, below the home: what a killed process left there can be removed.

Who uses one holds a lock together with others; who cleans up has to hold it alone, so nothing in use is removed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from node.storage.blocks import writing_to
from node.storage.locks import shared

_NAME = "staging"
_LOCK = "lock"


@contextmanager
def staged(home: Path) -> Iterator[Path]:
    """An empty directory, gone on leaving. Raises StorageError where it or its files cannot be written."""
    root = home / _NAME
    with writing_to(root):
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    with shared(root / _LOCK, _no_deadline), writing_to(root), tempfile.TemporaryDirectory(dir=root) as place:
        yield Path(place)


def clear_staging(home: Path) -> int:
    """How many directories of killed processes were removed; none while any process uses one. Never raises."""
    root = home / _NAME
    try:
        descriptor = os.open(root / _LOCK, os.O_RDWR)
    except OSError:  # nothing was ever staged here
        return 0
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        left = [path for path in root.iterdir() if path.is_dir()]
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        return sum(not path.exists() for path in left)
    except OSError:  # in use, or a disk that is read only: the next start tries again
        return 0
    finally:
        os.close(descriptor)


def _no_deadline() -> None:
    """Only a clean-up holds the lock alone, for a moment."""

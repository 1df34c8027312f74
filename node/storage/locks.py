"""A lock on a directory, between threads and processes: many writers beside each other, or one collection.

flock on a descriptor of its own each time; the kernel releases it however the process ends.
"""

import fcntl
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from node.errors import StorageError
from node.storage.blocks import writing_to

_POLL_SECONDS = 0.02

Check = Callable[[], None]
"""Raises when the caller's deadline has passed; called at each step of long work."""


@contextmanager
def shared(path: Path, check: Check) -> Iterator[None]:
    """Held together with other shared holders."""
    with _locked(path, fcntl.LOCK_SH, check):
        yield


@contextmanager
def exclusive(path: Path, check: Check) -> Iterator[None]:
    """Held alone."""
    with _locked(path, fcntl.LOCK_EX, check):
        yield


@contextmanager
def _locked(path: Path, kind: int, check: Check) -> Iterator[None]:
    with writing_to(path):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        while not _try(path, descriptor, kind):
            check()
            time.sleep(_POLL_SECONDS)  # a blocking flock could not be cancelled
        yield
    finally:
        os.close(descriptor)


def _try(path: Path, descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:  # a network file system without locks
        raise StorageError(f"{path} cannot be locked ({error.strerror}): put the home on a local disk") from error
    return True

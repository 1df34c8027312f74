"""Deadlines of storage work: a trio scope around it, and threads that stop at their next block."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import trio

from node.errors import StorageError

_T = TypeVar("_T")


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Gives the work inside so many seconds; raises StorageError when they have passed."""
    try:
        with trio.fail_after(seconds):
            yield
    except trio.TooSlowError as error:
        raise StorageError(f"{what} took over {seconds:g} s: try again, or look at the disk and the peers") from error


async def in_thread(work: Callable[[], _T], abandon: bool = False) -> _T:
    """What `work` returns, from a worker thread; it stops early only where it calls `check_deadline`.

    With `abandon` a deadline does not wait for it: for work that changes nothing here, such as a request to a daemon.
    """
    # libp2p brings type stubs of an older trio, which lack the argument
    return await trio.to_thread.run_sync(work, abandon_on_cancel=abandon)  # type: ignore[call-arg, unused-ignore]


def check_deadline() -> None:
    """Ends the work of the worker thread that calls it, if its deadline has passed."""
    trio.from_thread.check_cancelled()

"""How far runs or rounds are, on standard error: a bar on a terminal, else a line now and then. Knows no simulation."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from node.cli.result import note

Watch = Callable[[int, int], None]  # (what is over, in all); called before the first of them too
Clock = Callable[[], float]
QUIET_S = 30.0  # between two lines


@contextmanager
def watched(what: str, clock: Clock = time.monotonic) -> Iterator[Watch]:
    """What to tell how many are over (`what` is the name of one)."""
    console = Console(stderr=True)
    if not (console.is_interactive and console.file.isatty()):
        yield in_lines(what, clock)
        return
    with bar(console, clock) as shown:
        yield in_bar(shown, what)


def bar(console: Console, clock: Clock) -> Bar:
    """What is done, and an estimate of the time that is left from all that is over: a run may take minutes."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    left = (TextColumn("left:"), TimeRemainingColumn())
    return Bar(*columns, *left, console=console, transient=True, speed_estimate_period=math.inf, get_time=clock)


def in_bar(shown: Bar, what: str) -> Watch:
    """Moves the bar."""
    task = shown.add_task(what, total=None)

    def watch(over: int, total: int) -> None:
        if shown.tasks[0].total is None:
            shown.reset(task, total=total, completed=over)
            shown.advance(task, 0)  # the estimate counts from here
        else:
            shown.update(task, completed=over, total=total)

    return watch


def in_lines(what: str, clock: Clock) -> Watch:
    """Says now and then how many are over, and how long the rest will take at this speed."""
    started, spoke, first = 0.0, 0.0, -1

    def watch(over: int, total: int) -> None:
        nonlocal started, spoke, first
        now = clock()
        if first < 0:
            started, spoke, first = now, now, over
        elif now - spoke >= QUIET_S and first < over < total:
            spoke = now
            left = (now - started) / (over - first) * (total - over)
            note(f"{over} of {total} {what}s, about {span(left)} left")

    return watch


def span(seconds: float) -> str:
    """A time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"

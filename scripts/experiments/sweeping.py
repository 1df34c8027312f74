"""Runs what is missing of a list of cells, and says how long it will take."""

import statistics
import sys
import time
from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from node.errors import NodeError
from node.simulation.results import key
from node.simulation.sweeps import Failed, read_rows, run_sweep
from scripts.experiments.cells import Cell
from scripts.experiments.samples import Row, by_key

SECONDS_PER_MEMBER = 1.0  # of 20 rounds on one core, where nothing was measured yet
QUIET = 20.0  # seconds between two lines of progress


def sweep(cells: Sequence[Cell], options: Namespace, out: Path) -> None:
    """Runs what is missing, saying how long it will take; a run that fails does not keep the others from running."""
    runs = [replace(cell, data_dir=options.data_dir) for cell in cells]
    done = by_key(read_rows(out))
    missing = [settings for settings in runs if key(settings) not in done]
    expected = estimate(missing, list(done.values())) / max(1, options.processes)
    guess = f", about {minutes(expected)}" if missing else ""
    say(f"{len(runs)} runs, {len(missing)} to do on {options.processes} processes{guess}")
    require_all(run_sweep(runs, out, options.processes, progress()))


def require_all(failed: Sequence[Failed]) -> None:
    """Raises NodeError where runs of a sweep failed, after all the others."""
    if failed:
        raise NodeError(f"{len(failed)} runs failed, the others are done; the first: {failed[0]}")


def estimate(missing: Sequence[Cell], done: Sequence[Row]) -> float:
    """Seconds of one core: by the median of the finished runs of the same kind, or else by the number of members."""
    kinds: dict[tuple[int, bool], list[float]] = {}
    for row in done:
        kinds.setdefault((row["settings"]["members"], row["settings"]["sharing"] == "learned"), []).append(
            row["seconds"]
        )
    medians = {kind: statistics.median(seconds) for kind, seconds in kinds.items()}
    kind_of = [(cell.members, cell.sharing == "learned") for cell in missing]
    return sum(medians.get(kind, SECONDS_PER_MEMBER * kind[0]) for kind in kind_of)


def progress() -> Callable[[int, int], None]:
    """Says now and then how many runs are over, and how long the rest will take at this speed."""
    started, first, spoke = time.monotonic(), -1, 0.0

    def report(over: int, total: int) -> None:
        nonlocal first, spoke
        now = time.monotonic()
        first = over if first < 0 else first
        if over > first and (now - spoke >= QUIET or over == total):
            spoke = now
            left = (now - started) / (over - first) * (total - over)
            say(f"{over} of {total} runs" + (f", about {minutes(left)} left" if left else ""))

    return report


def minutes(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

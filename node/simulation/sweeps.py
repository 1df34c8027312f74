"""Sweeps: many independent runs on several processes, one JSON line each in a file, resumed where they stopped.

A line is written and synced when its run is over, so that kill -9 loses at most the runs in flight. A run that fails
(its training diverged, its data are missing) keeps no other from running. Knows no TOML (sweep_files.py) and no cluster
(cluster.py): whoever computes rows is a function `runs -> rows`.
"""

import fcntl
import json
import multiprocessing
import os
import signal
import stat
import threading
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import BinaryIO

import orjson
import torch

from node.errors import ConfigError, NodeError
from node.simulation.results import FIELDS, Row, key, measure
from node.simulation.settings import SimulationSettings

Progress = Callable[[int, int], None]  # (runs that are over, runs in all)
ROW_START = b'{"key": "'  # how every line begins
SIZE_LIMIT = 4 * 1024**3  # bytes of a sweep's file: a hundred thousand runs of a thousand rounds


@dataclass(frozen=True, slots=True)
class Failed:
    """A run that gave no row, and why, with its settings."""

    settings: SimulationSettings
    reason: str

    def __str__(self) -> str:
        return f"run with {said(self.settings)}: {self.reason}"


Outcome = Row | Failed
Compute = Callable[[Sequence[SimulationSettings]], Generator[Outcome, None, None]]


def run_sweep(runs: Sequence[SimulationSettings], out: Path, processes: int, progress: Progress) -> list[Failed]:
    """Computes the rows that `out` does not have yet, on so many processes of one torch thread each.

    The runs that failed, which leave no row; the others are on file. Raises ConfigError when `out` can't be used.
    """
    return collect(runs, out, partial(in_processes, processes=processes), progress)


def collect(runs: Sequence[SimulationSettings], out: Path, compute: Compute, progress: Progress) -> list[Failed]:
    """Appends the rows of the runs whose key is not in `out`, as they come; calls `progress` before and after each."""
    failed = []
    with opened(out) as stream:
        done = {row["key"] for row in parsed(out, stream.read())}
        wanted = {key(settings): settings for settings in runs}
        missing = [settings for digest, settings in wanted.items() if digest not in done]
        over = len(wanted) - len(missing)
        progress(over, len(wanted))
        with closing(compute(missing)) as outcomes:
            for number, outcome in enumerate(outcomes, over + 1):
                if isinstance(outcome, Failed):
                    failed.append(outcome)
                else:
                    append(out, stream, outcome)
                progress(number, len(wanted))
    return failed


def append(out: Path, stream: BinaryIO, row: Row) -> None:
    """Writes a row to the disk. Raises ConfigError where there is no room."""
    try:
        line = memoryview(json.dumps(row, allow_nan=False).encode() + b"\n")
        while line:  # past the stream's buffer, which would try again where the file is closed
            line = line[os.write(stream.fileno(), line) :]
        os.fsync(stream.fileno())
    except OSError as error:
        raise ConfigError(
            f"{out} can't be written ({error.strerror}): make room and start the sweep again, it goes on where it "
            "stopped"
        ) from error


def read_rows(out: Path) -> list[Row]:
    """The rows of a sweep's file, in the order in which the runs ended; a torn last line is left out.

    Raises ConfigError for a file that is no sweep's; a file that is not there has no rows.
    """
    try:
        with out.open("rb") as stream:
            require_file(out, stream)
            return parsed(out, stream.read())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise ConfigError(f"{out} can't be read ({error.strerror}): give another file") from error


def require_file(out: Path, stream: BinaryIO) -> None:
    """Raises ConfigError for a device or a pipe, which have no end, and for a file too large to be a sweep's."""
    found = os.fstat(stream.fileno())
    if not stat.S_ISREG(found.st_mode):
        raise ConfigError(f"{out} is no regular file: give another one")
    if found.st_size > SIZE_LIMIT:
        raise ConfigError(f"{out} has {found.st_size} bytes, more than the {SIZE_LIMIT} of a sweep: give another file")


def parsed(out: Path, content: bytes) -> list[Row]:
    """The rows in a sweep file's bytes; what follows the last line's end is left out."""
    rows = []
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            row = orjson.loads(line)  # bounds its depth; the standard library's can crash the process
        except orjson.JSONDecodeError as error:
            raise ConfigError(f"{out}, line {number} is no JSON: remove that line, or give another file") from error
        if (
            not isinstance(row, dict)
            or not isinstance(row.get("key"), str)
            or not isinstance(row.get("settings"), dict)
            or not all(isinstance(row.get(name), int | float | None) for name in FIELDS)
        ):
            raise ConfigError(f"{out}, line {number} is no run of a sweep: give another file")
        rows.append(row)
    return rows


@contextmanager
def opened(out: Path) -> Iterator[BinaryIO]:
    """The sweep's file for reading and appending, ours alone, without a torn last line."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        stream = out.open("a+b")
    except OSError as error:
        reason = error.strerror or error  # a pipe's has no number
        raise ConfigError(f"{out} can't be written ({reason}): give another file") from error
    with stream:
        require_file(out, stream)
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"another sweep writes to {out}: wait for it, or give another file") from error
        drop_torn_line(out, stream)
        yield stream


def drop_torn_line(out: Path, stream: BinaryIO) -> None:
    """Cuts off what was being written when a sweep was killed, and nothing that is not a sweep's."""
    stream.seek(0)
    *lines, torn = stream.read().split(b"\n")
    if not torn.startswith(ROW_START[: len(torn)]):
        raise ConfigError(f"{out}, line {len(lines) + 1} is no run of a sweep: give another file")
    stream.truncate(sum(len(line) + 1 for line in lines))
    stream.seek(0)


def in_processes(runs: Sequence[SimulationSettings], processes: int) -> Generator[Outcome, None, None]:
    """What becomes of the runs, as they end; closing it ends the processes. With one process, in this one."""
    if processes <= 1 or len(runs) <= 1:
        with one_thread():
            for settings in runs:
                yield measured(settings)
        return
    # The workers live as long as this end of the pipe is open: not beyond us, whatever ends us.
    alive, kept = multiprocessing.Pipe(duplex=False)
    context = multiprocessing.get_context("spawn")  # torch's threads do not survive a fork
    with kept, alive, ProcessPoolExecutor(min(processes, len(runs)), context, begin, (alive,)) as pool:
        futures = [pool.submit(measured, settings) for settings in runs]
        try:
            yield from finished(futures)
        except BaseException:  # GeneratorExit and KeyboardInterrupt too: the pool would wait for the runs in flight
            kept.close()
            raise


def finished(futures: Iterable[Future[Outcome]]) -> Iterator[Outcome]:
    """The outcomes as they come."""
    for future in as_completed(futures):
        try:
            yield future.result()
        except BrokenProcessPool as error:
            raise ConfigError(
                "a process of the sweep was killed (out of memory?): start the sweep again, it goes on where it "
                "stopped; with fewer --processes if it happens again"
            ) from error


def measured(settings: SimulationSettings) -> Outcome:
    """The row of a run, or why there is none."""
    try:
        with explained():
            return measure(settings)
    except NodeError as error:
        return Failed(settings, str(error))


@contextmanager
def explained() -> Iterator[None]:
    """Makes a NodeError, with the line where it was raised, of what a run raises otherwise.

    A user's task may raise anything, and torch does where memory ends.
    """
    try:
        yield
    except NodeError:
        raise
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        raise NodeError(f"{type(error).__name__}: {error} ({last.filename}, line {last.lineno})") from error


def row_of(outcome: Outcome) -> Row:
    """The row. Raises NodeError, which says which run, where it failed."""
    if isinstance(outcome, Failed):
        raise NodeError(str(outcome))
    return outcome


def said(settings: SimulationSettings) -> str:
    """The settings that are not the default, for people."""
    usual, these = asdict(SimulationSettings()), asdict(settings)
    return ", ".join(f"{name}={value}" for name, value in these.items() if value != usual[name]) or "default settings"


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread, as in a worker: the number of threads is part of a result's last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def begin(alive: Connection) -> None:
    """A worker's first act: one torch thread, deaf to Ctrl-C (which is for the parent), gone with the parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=end_with, args=(alive,), daemon=True).start()


def end_with(alive: Connection) -> None:
    """Ends this process when the other end of the pipe is closed."""
    alive.poll(None)
    os._exit(1)

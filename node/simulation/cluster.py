"""A sweep's runs on a Ray cluster (an optional extra), by Ray's own scheduling: each run is a task on one CPU.

All machines of the cluster need fl-node, and the data set where --data-dir or FL_NODE_DATA_DIR says. Whoever owns the
cluster is trusted: Ray moves tasks and results as pickles.
"""

import importlib
import os
import socket
from collections.abc import Callable, Generator, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from node.errors import ConfigError
from node.simulation.settings import SimulationSettings
from node.simulation.sweeps import Failed, Outcome, Progress, collect, measured, one_thread

LOCAL = "local"
CONNECT_S = 10.0
PATIENCE_S = 1.0  # how long finished runs may wait to be written


def run_sweep_on_ray(runs: Sequence[SimulationSettings], out: Path, address: str, progress: Progress) -> list[Failed]:
    """As `run_sweep`, on the Ray cluster at that address (`local`: one on this machine, for the time of the sweep).

    Raises ConfigError when Ray is not installed or does not answer.
    """
    return collect(runs, out, partial(on_ray, address=address), progress)


def on_ray(runs: Sequence[SimulationSettings], address: str) -> Generator[Outcome, None, None]:
    """What becomes of the runs, as they end; closing it cancels those that are left."""
    ray = joined(address)
    try:
        remote: Callable[[SimulationSettings], Any] = ray.remote(num_cpus=1)(measured_on_one_thread).remote
        waiting = [remote(settings) for settings in runs]
        while waiting:
            over, waiting = ray.wait(waiting, num_returns=len(waiting), timeout=PATIENCE_S)
            for reference in over:
                yield fetched(ray, reference)
    finally:
        ray.shutdown()


def joined(address: str) -> ModuleType:
    """The `ray` package, connected."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is told to Ray's makers
    try:
        ray = importlib.import_module("ray")
    except ImportError as error:
        raise ConfigError("--ray needs Ray, which is not installed: `pip install fl-node[ray]`") from error
    where = {"include_dashboard": False} if address == LOCAL else {}
    try:
        require_listener(address)
        ray.init(address, log_to_driver=False, logging_level="error", **where)
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"no Ray cluster answers at {address!r} ({reason}): check --ray: ray://HOST:10001, HOST:6379, auto or local"
        ) from error
    return ray


def require_listener(address: str) -> None:
    """Raises OSError where nobody listens, since Ray itself would wait for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_S).close()


def fetched(ray: ModuleType, reference: Any) -> Outcome:
    """What became of a run. Raises ConfigError where its process or machine was lost, and Ray's tries were used up."""
    try:
        outcome: Outcome = ray.get(reference)
    except ray.exceptions.RayTaskError:
        raise  # a mistake in this program
    except ray.exceptions.RayError as error:
        raise ConfigError(
            f"a run was lost on the Ray cluster ({type(error).__name__}; out of memory?): start the sweep again, it "
            "goes on where it stopped"
        ) from error
    return outcome


def measured_on_one_thread(settings: SimulationSettings) -> Outcome:
    """What becomes of a run, in a worker process."""
    with one_thread():
        return measured(settings)

"""A sweep's TOML file, parsed and validated into the settings of its runs. Runs nothing.

[base]                                  # of every run; all fields of SimulationSettings but data_dir
task = "mnist-softmax"
members = 6

[grid]                                  # every combination of these
sharing = ["fixed", "learned"]
seed = [1, 2, 3, 4, 5]

[[runs]]                                # each with every combination of the grid; without any, the grid alone
split = "iid"
[[runs]]
split = "dirichlet:0.5"
attack = "sign_flip"
attackers = 2
"""

import difflib
import itertools
import math
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from node.errors import ConfigError, NodeError
from node.learning.codecs import codec
from node.learning.splits import require_split
from node.learning.task import Task
from node.learning.task_files import load_task
from node.simulation.attacks import require_attack
from node.simulation.neighbors import fixed_neighbors
from node.simulation.run import SHARING
from node.simulation.settings import (
    MOST_BATCH,
    MOST_EPOCHS,
    MOST_MEMBERS,
    MOST_PRIOR,
    MOST_RATE,
    MOST_ROUNDS,
    SimulationSettings,
    require_graph,
)

FILE_LIMIT = 256 * 1024
RUNS_LIMIT = 100_000
Line = Annotated[str, StringConstraints(min_length=1, max_length=512, pattern=r"^[^\n]*$")]


class _Choices(BaseModel):
    """SimulationSettings as outside text gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    task: Line = "mnist-softmax"
    members: int = Field(default=4, ge=1, le=MOST_MEMBERS)
    cohort: int | None = Field(default=None, ge=1, le=MOST_MEMBERS)
    topology: Line = "random"
    rounds: int = Field(default=10, ge=1, le=MOST_ROUNDS)
    split: Line = "iid"
    sharing: Line = "learned"
    objective: Literal["common", "personal"] = "common"
    codec: Line = "float32"
    seed: int = Field(default=7, ge=0, lt=2**32)
    attack: Line | None = None
    attackers: int = Field(default=0, ge=0, le=MOST_MEMBERS)
    attackers_absent: bool = False
    held_out: bool = False
    batch_size: int | None = Field(default=None, ge=1, le=MOST_BATCH)
    local_epochs: float | None = Field(default=None, gt=0, le=MOST_EPOCHS)
    learning_rate: float | None = Field(default=None, gt=0, le=MOST_RATE)
    prior_strength: float | None = Field(default=None, ge=0, le=MOST_PRIOR)


class _SweepFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    base: dict[str, Any] = {}
    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    runs: list[dict[str, Any]] = [{}]


def read_sweep(path: Path, data_dir: Path | None = None) -> list[SimulationSettings]:
    """The runs of a sweep file, each once, in its order. Raises ConfigError naming file, field, value and cure."""
    if data_dir is not None and not data_dir.is_dir():  # what is on file already would never miss it
        raise ConfigError(f"there is no folder {data_dir}: check --data-dir")
    try:
        with path.open("rb") as stream:
            content = stream.read(FILE_LIMIT + 1)
    except OSError as error:
        raise ConfigError(f"sweep file {path} can't be read ({error.strerror}): check --sweep") from error
    return parse_sweep(content, str(path), data_dir)


def parse_sweep(content: bytes, source: str, data_dir: Path | None = None) -> list[SimulationSettings]:
    """The runs that the bytes of a sweep file describe; see `read_sweep`."""
    if len(content) > FILE_LIMIT:
        raise ConfigError(f"{source} has more than {FILE_LIMIT} bytes: cut it into several sweeps")
    try:
        sweep = _SweepFile.model_validate(tomllib.loads(content.decode()))
    except ValidationError as error:
        reason = _first(error, _SweepFile)
        raise ConfigError(f"{source}: {reason} (a sweep has [base], [grid] of lists, and [[runs]])") from error
    except (ValueError, RecursionError) as error:  # no UTF-8, no TOML, a number of more digits than Python reads
        raise ConfigError(f"{source} is not valid TOML ({error}): mend it") from error
    _require_bounded(sweep, source)
    runs = []
    tasks: dict[str, Task] = {}
    for number, own in enumerate(sweep.runs, 1):
        _require_apart(sweep.grid, own, f"{source}: run {number}")
        for values in itertools.product(*sweep.grid.values()):
            fields = {**sweep.base, **own, **dict(zip(sweep.grid, values, strict=True))}
            runs.append(_settings(fields, source, data_dir))
            _require_known(runs[-1], source, tasks)
            _require_attackers(fields, source)
    for graph in {(run.topology, run.members): run for run in runs}.values():
        _require_possible(graph, source)
    return list(dict.fromkeys(runs))


def _require_bounded(sweep: _SweepFile, source: str) -> None:
    count = len(sweep.runs) * math.prod(len(values) for values in sweep.grid.values())
    if not 1 <= count <= RUNS_LIMIT:
        raise ConfigError(f"{source} describes {count} runs: give between 1 and {RUNS_LIMIT}")
    _require_apart(sweep.grid, sweep.base, f"{source}: [base]")


def _require_apart(grid: Mapping[str, Any], own: Mapping[str, Any], where: str) -> None:
    for name in grid.keys() & own.keys():
        raise ConfigError(f"{where}: {name!r} is in [grid] too: leave it in one of them")


def _settings(fields: Mapping[str, Any], source: str, data_dir: Path | None) -> SimulationSettings:
    try:
        choices = _Choices.model_validate(fields)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_first(error, _Choices)}") from error
    return SimulationSettings(**choices.model_dump(), data_dir=data_dir)


def _first(error: ValidationError, model: type[BaseModel]) -> str:
    """The first thing that is wrong: field, reason, value or what was probably meant."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(name, model.model_fields, n=1)
        known = f"did you mean {near[0]}?" if near else f"choose one of {', '.join(model.model_fields)}"
        return f"no {'setting' if model is _Choices else 'table'} is called {name[:80]!r}: {known}"
    return f"{name[:80]}: {first['msg']}, not {_text(first['input'])!r}"


def _text(value: object) -> str:
    """The beginning of a value, for people."""
    try:
        return str(value)[:80]
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def _require_known(settings: SimulationSettings, source: str, tasks: dict[str, Task]) -> None:
    """Finds before the first run what would end a later one."""
    try:
        require_split(settings.split)
        require_graph(settings.topology)
        codec(settings.codec)
        if settings.sharing not in SHARING:
            raise ConfigError(f"unknown sharing {settings.sharing!r}: choose one of {', '.join(SHARING)}")
        if settings.task not in tasks:
            tasks[settings.task] = load_task(settings.task)
        if settings.attack is not None:
            require_attack(settings.attack, tasks[settings.task])
        if settings.attackers >= settings.members or (settings.attackers and settings.attack is None):
            raise ConfigError(
                f"{settings.attackers} attackers of {settings.members} members with attack {settings.attack!r}: "
                "name an attack, and leave at least one honest"
            )
    except NodeError as error:
        raise ConfigError(f"{source}: {error}") from error


def _require_attackers(fields: Mapping[str, Any], source: str) -> None:
    """A grid may have 0 of them among others; a line that was forgotten would pass for a rule that withstands."""
    for name in ("attack", "attackers_absent"):
        if fields.get(name) and "attackers" not in fields:
            raise ConfigError(f"{source}: {name} without attackers: say how many members attack")


def _require_possible(settings: SimulationSettings, source: str) -> None:
    """Draws one graph of each kind and size: whether there is any does not depend on the seed."""
    try:
        fixed_neighbors(settings)
    except NodeError as error:
        raise ConfigError(f"{source}: {error}") from error

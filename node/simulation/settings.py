"""What is simulated, and what a simulated round tells. Values only: whoever reports or sweeps needs nothing else."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from torch import Tensor

from node.errors import ConfigError
from node.learning.task import Task

MOST_MEMBERS, MOST_ROUNDS, MOST_BATCH = 10_000, 100_000, 1_000_000  # of settings that come from outside
MOST_EPOCHS, MOST_RATE, MOST_PRIOR = 10_000, 1_000, 1_000


@dataclass(frozen=True, slots=True)
class SimulationSettings:
    """A run; the same settings give the same result, bit for bit, on one thread of torch."""

    task: str = "mnist-softmax"
    members: int = 4
    cohort: int | None = None  # peers that a member asks in a round; None: everybody
    topology: str = "random"  # a new random cohort in each round; ring or regular:K: the same neighbours in all rounds
    rounds: int = 10
    split: str = "iid"
    sharing: str = "learned"
    objective: str = "common"
    codec: str = "float32"
    seed: int = 7
    data_dir: Path | None = None
    attack: str | None = None
    attackers: int = 0  # how many; who they are is drawn from the seed
    attackers_absent: bool = False  # the reference: the same run without them
    held_out: bool = False  # measure on a part of the training set instead of the test set: for choosing settings
    batch_size: int | None = None  # None: what the task says
    local_epochs: float | None = None
    learning_rate: float | None = None
    prior_strength: float | None = None  # λ of the trust row; None: what the objective wants


@dataclass(frozen=True, slots=True)
class SimulatedRound:
    """One finished round, of the honest members in the order of their index.

    `metrics` per member: loss, accuracy, own_accuracy (on the member's own distribution of classes) and, under a
    backdoor, backdoor (the fraction of stamped test images that are taken for the attacker's class). `rows`: peer ->
    weight of 65,535, empty for rules that give no row. `attacker_weight`: mean over members of the summed weight on
    attackers, a fraction. `flats` (honest, size): their parameters after the round.
    """

    round: int
    members: tuple[int, ...]
    metrics: tuple[Mapping[str, float], ...]
    payload_bytes: int  # of the largest update
    bytes_per_member: float  # that a member received, mean; every payload counted as the largest
    rows: tuple[Mapping[int, int], ...]
    attacker_weight: float
    flats: Tensor = field(repr=False, compare=False)


def require_graph(topology: str) -> tuple[str, int]:
    """The graph's kind and its degree (0 for a random cohort). Raises ConfigError for one that can't be."""
    kind, _, argument = topology.partition(":")
    if kind in ("random", "ring") and not argument:
        return kind, 2 if kind == "ring" else 0
    if kind == "regular" and len(argument) <= 4 and argument.isdecimal() and 2 <= int(argument) <= 1024:
        return kind, int(argument)
    raise ConfigError(
        f"unknown topology {topology[:80]!r}: choose random, ring, or regular:K with K neighbours, 2 to 1024"
    )


def with_settings(task: Task, settings: SimulationSettings) -> Task:
    """The task with what the settings say otherwise."""
    return replace(
        task,
        batch_size=settings.batch_size or task.batch_size,
        local_epochs=settings.local_epochs or task.local_epochs,
        learning_rate=settings.learning_rate or task.learning_rate,
    )

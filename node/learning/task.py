"""A task: all that a user writes, and all that learning knows of the world. Knows no data set and no model.

A task is found by a built-in name (`mnist-softmax`) or in a Python file of the user's (`my_task.py:task`).
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from node.errors import TaskError
from node.learning.parameters import ParameterSpec, flatten, parameter_spec
from node.learning.schedules import Schedule, constant

Augment = Callable[[Tensor, torch.Generator], Tensor]  # (inputs (n, …), where draws come from) -> inputs (n, …)


@dataclass(frozen=True, slots=True)
class Share:
    """Which part of a shared data set is this member's. Members with data of their own need none of it."""

    data_dir: Path | None = None
    index: int = 0
    shares: int = 1
    split: str = "iid"  # splits.SPLITS
    seed: int = 0
    held_out: bool = False  # test on a part of the training set that nobody has: for choosing settings


@dataclass(frozen=True, slots=True)
class Examples:
    """Inputs (n, …) and targets (n, …), row by row."""

    inputs: Tensor
    targets: Tensor

    def __len__(self) -> int:
        return len(self.inputs)

    def rows(self, indices: Tensor) -> "Examples":
        """The examples at these positions."""
        return Examples(self.inputs[indices], self.targets[indices])


class Rows(Protocol):
    """What training takes batches from: Examples, or some that lie elsewhere."""

    def __len__(self) -> int: ...

    def rows(self, indices: Tensor) -> Examples:
        """The examples at these positions."""


@dataclass(frozen=True, slots=True)
class LocalSplit:
    """A member's own data: trained on, used to judge peers, and held out."""

    train: Examples
    validation: Examples
    test: Examples


@dataclass(frozen=True)
class Task:
    """A model, its local data and its loss; `loss(outputs, targets)` is a mean over the batch.

    `metrics` are shown beside the loss: mean over a batch, `(outputs, targets) -> scalar`. With `classes` set, targets
    are class numbers (n,) and outputs (n, classes): then accuracy is reported and trust is balanced over classes.
    """

    name: str
    model: Callable[[], nn.Module]
    data: Callable[[Share], LocalSplit]
    loss: Callable[[Tensor, Tensor], Tensor] = nn.functional.cross_entropy
    metrics: Mapping[str, Callable[[Tensor, Tensor], Tensor]] = field(default_factory=dict)
    classes: int | None = None
    learning_rate: float = 0.05
    schedule: Schedule = constant  # (round, rounds of the session) -> factor of the learning rate
    momentum: float = 0.0
    weight_decay: float = 0.0
    batch_size: int = 32
    augment: Augment | None = None  # of a batch's inputs, before each training step
    local_epochs: float = 1.0  # per round, if local_steps is not given
    local_steps: int | None = None

    def steps_per_round(self, examples: int) -> int:
        """Training steps that a member with so many examples takes in a round; at least 1."""
        if self.local_steps is not None:
            return self.local_steps
        return max(1, round(self.local_epochs * examples / self.batch_size))

    def learning_rate_in(self, round: int, rounds: int) -> float:
        """The learning rate of a round of so many. Raises TaskError when the schedule gives no number from 0 up."""
        factor = self.schedule(round, rounds)
        if not isinstance(factor, (int, float)) or not math.isfinite(factor) or factor < 0:
            raise TaskError(
                f"task {self.name!r}: schedule({round}, {rounds}) gave {factor!r}: return a factor of the learning "
                "rate, a finite number not below 0"
            )
        return self.learning_rate * factor


@dataclass(frozen=True)
class Learner:
    """A task made ready to compute: its module (whose own numbers are not used) and the spec of its parameters."""

    task: Task
    module: nn.Module
    spec: ParameterSpec
    seed: int = 0

    @property
    def plain(self) -> bool:
        """Whether model and loss are of torch or this package: a call does the same operations each time."""
        sources = [type(part).__module__ for part in self.module.modules()]
        sources.append(getattr(self.task.loss, "__module__", ""))
        return all(source.startswith(("torch.", "node.learning.")) for source in sources)

    def initial(self) -> Tensor:
        """Flat parameters (size,) as the task's model starts them, a copy."""
        if any(parameter.is_meta for parameter in self.module.parameters()):
            return prepare(self.task, self.seed).initial()
        return flatten(self.spec, self.module)

    def without_numbers(self) -> "Learner":
        """Itself, after its module gave up the memory of its own numbers; `initial` makes them again."""
        owned = [
            (part, name, parameter)
            for part in self.module.modules()
            for name, parameter in part._parameters.items()
            if parameter is not None and parameter.requires_grad
        ]
        hollow = {id(each): nn.Parameter(torch.empty_like(each, device="meta")) for _, _, each in owned}
        for part, name, parameter in owned:
            part._parameters[name] = hollow[id(parameter)]
        return self

    def in_round(self, round: int, rounds: int) -> "Learner":
        """The same learner with the learning rate of a round of so many. TaskError as `learning_rate_in`."""
        rate = self.task.learning_rate_in(round, rounds)
        return replace(self, task=replace(self.task, learning_rate=rate))


def prepare(task: Task, seed: int = 0) -> Learner:
    """A learner whose initial parameters depend on the seed only.

    Raises TaskError when the model cannot be made, is no module, or has batch statistics, which break under mixing.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            module = task.model()
        except (TypeError, ValueError, RuntimeError, AttributeError) as error:
            raise TaskError(f"task {task.name!r}: model() failed with {type(error).__name__}: {error}") from error
    if not isinstance(module, nn.Module):
        raise TaskError(f"task {task.name!r}: model() returned {type(module).__name__}: return a torch.nn.Module")
    for name, part in module.named_modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):  # the one parent of all its kinds
            kind = type(part).__name__
            raise TaskError(
                f"task {task.name!r}: layer {name!r} is {kind}, whose statistics break mixing: use GroupNorm"
            )
    module = module.float()
    return Learner(task, module, parameter_spec(module), seed)

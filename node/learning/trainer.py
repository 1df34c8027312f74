"""Local training and evaluation as pure functions of (parameters, batch). Knows no peers and no event loop.

The node takes a step for one member; the simulation takes the same step for many, its loss mapped by torch.func.vmap.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from node.errors import TaskError
from node.learning.gradients import gradient_and_value
from node.learning.pure import Loss, batch_loss, outputs, require_fit
from node.learning.task import Examples, Learner, Rows

EVALUATION_CHUNK = 512  # examples at a time, so that memory stays bounded

Step = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to train, and the randomness (order of the examples, dropout, augmentation) to do it with."""

    steps: int
    generator: torch.Generator


@dataclass(frozen=True, slots=True)
class Trained:
    """The parameters (size,) after training, and the mean training loss on the way."""

    flat: Tensor
    loss: float
    steps: int
    examples: int


def training_step(learner: Learner, loss: Loss) -> Step:
    """One step of SGD with momentum and weight decay (as torch.optim.SGD computes it), as a pure function.

    `(flat, velocity, inputs, targets, learning rate ()) -> (flat, velocity, loss)`; the velocity starts at zero. With a
    loss mapped over members, everything but the rate has them as its first dimension.
    """
    task = learner.task
    gradient_and_loss = gradient_and_value(loss)

    def step(
        flat: Tensor, velocity: Tensor, inputs: Tensor, targets: Tensor, rate: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        gradient, value = gradient_and_loss(flat, inputs, targets)
        if task.weight_decay:
            gradient = gradient + task.weight_decay * flat
        if task.momentum:
            velocity = task.momentum * velocity + gradient
            gradient = velocity
        return flat - rate * gradient, velocity, value

    return step


def batch_rows(examples: int, batch_size: int, plan: Plan) -> Iterator[Tensor]:
    """Positions (batch,) for each step: one random order after another, cut into batches of equal size."""
    size = min(batch_size, examples)
    left = torch.empty(0, dtype=torch.long)
    for _ in range(plan.steps):
        while len(left) < size:
            left = torch.cat([left, torch.randperm(examples, generator=plan.generator)])
        yield left[:size]
        left = left[size:]


def augmentation(learner: Learner, plan: Plan) -> Callable[[Tensor], Tensor]:
    """What the task makes of one batch's inputs after another; to be called before a plan's first batch is drawn.

    Its draws come from a generator of its own, so that the order of the examples does not depend on it.
    """
    augment = learner.task.augment
    if augment is None:
        return lambda inputs: inputs
    chance = torch.Generator().manual_seed(int(torch.randint(2**62, (1,), generator=plan.generator)))
    return lambda inputs: augment(inputs, chance)


def batches(learner: Learner, data: Rows, plan: Plan) -> Iterator[Examples]:
    """The examples of each step, as the task augments them."""
    augmented = augmentation(learner, plan)
    for row in batch_rows(len(data), learner.task.batch_size, plan):
        batch = data.rows(row)
        yield Examples(augmented(batch.inputs), batch.targets)


def train(learner: Learner, flat: Tensor, data: Rows, plan: Plan, check: Callable[[], None] = lambda: None) -> Trained:
    """Parameters after `plan.steps` steps from `flat` (which is left alone); deterministic given the generator.

    `check` is called before each step and stops training by raising. Raises TaskError when the model and the data do
    not fit each other.
    """
    require_examples(learner, data)
    step = training_step(learner, batch_loss(learner, training=True))
    velocity, total, rate = torch.zeros_like(flat), 0.0, torch.tensor(learner.task.learning_rate)
    with seeded(plan):
        for position, batch in enumerate(batches(learner, data, plan)):
            check()
            if position == 0:
                require_fit(learner, flat, batch)
            flat, velocity, loss = step(flat, velocity, batch.inputs, batch.targets, rate)
            total += float(loss)
    seen = plan.steps * min(learner.task.batch_size, len(data))
    return Trained(flat, total / max(1, plan.steps), plan.steps, seen)


@contextmanager
def seeded(*plans: Plan) -> Iterator[None]:
    """Torch's own randomness (dropout) drawn from the plans' generators, and as it was before at the end."""
    with torch.random.fork_rng(devices=[]):
        drawn = sum(int(torch.randint(2**62, (1,), generator=plan.generator)) for plan in plans)
        torch.manual_seed(drawn % 2**62)
        yield


def require_examples(learner: Learner, data: Sized) -> None:
    """Raises TaskError when there is nothing to train on."""
    if len(data) == 0:
        raise TaskError(f"task {learner.task.name!r} has no training examples: its data() must give at least one")


@torch.no_grad()
def evaluate(learner: Learner, flat: Tensor, data: Examples) -> dict[str, float]:
    """Means over the examples: `loss`, `accuracy` if the task has classes, and each of the task's metrics."""
    task = learner.task
    measures = {"loss": task.loss, **task.metrics}
    if task.classes is not None:
        measures = {"loss": task.loss, "accuracy": accuracy, **task.metrics}
    totals = dict.fromkeys(measures, 0.0)
    for start in range(0, len(data), EVALUATION_CHUNK):
        targets = data.targets[start : start + EVALUATION_CHUNK]
        predicted = outputs(learner, flat, data.inputs[start : start + EVALUATION_CHUNK])
        for name, measure in measures.items():
            totals[name] += float(measure(predicted, targets)) * len(targets)
    return {name: total / max(1, len(data)) for name, total in totals.items()}


@torch.no_grad()
def predict(learner: Learner, flat: Tensor, inputs: Tensor) -> Tensor:
    """Predicted classes (n,)."""
    starts = range(0, len(inputs), EVALUATION_CHUNK)
    return torch.cat([outputs(learner, flat, inputs[s : s + EVALUATION_CHUNK]).argmax(dim=-1) for s in starts])


def accuracy(predicted: Tensor, targets: Tensor) -> Tensor:
    """The fraction of rows whose largest output is the target class."""
    return (predicted.argmax(dim=-1) == targets).float().mean()

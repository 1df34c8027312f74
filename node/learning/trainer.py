"""Local training and evaluation as pure functions of (parameters, batch). Knows no peers and no event loop.

The node takes a step for one member; the simulation takes the same step for many, its loss mapped by torch.func.vmap.
"""

from collections.abc import Callable, Iterator, Sized
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from node.errors import TaskError
from node.learning.gradients import gradient_and_value
from node.learning.losses import mappable
from node.learning.parameters import unflatten
from node.learning.task import Examples, Learner, Rows

EVALUATION_CHUNK = 512  # examples at a time, so that memory stays bounded

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (flat parameters, inputs, targets) -> mean over the batch
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


def outputs(learner: Learner, flat: Tensor, inputs: Tensor, training: bool = False) -> Tensor:
    """The model's outputs (n, …) with these flat parameters; pure and differentiable, and random only in training."""
    with nullcontext() if training else evaluating(learner.module):
        result = functional_call(learner.module, unflatten(learner.spec, flat), (inputs,))
    assert isinstance(result, Tensor)
    return result


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode (no dropout), and each of its parts as it was at the end."""
    parts = [part for part in module.modules() if part.training]
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        for part in parts:
            part.training = True


def batch_loss(learner: Learner, training: bool = False) -> Loss:
    """The task's loss as a pure function of flat parameters and a batch."""

    def loss(flat: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return learner.task.loss(outputs(learner, flat, inputs, training), targets)

    return loss


def mappable_loss(learner: Learner, training: bool = False) -> Loss:
    """`batch_loss` to map over members: there in fewer operations."""
    of_outputs = mappable(learner.task.loss)

    def loss(flat: Tensor, inputs: Tensor, targets: Tensor) -> Tensor:
        return of_outputs(outputs(learner, flat, inputs, training), targets)

    return loss


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
def require_fit(learner: Learner, flat: Tensor, batch: Examples) -> None:
    """Raises TaskError when the model or the loss can't take a batch, with torch's reason."""
    name, before = learner.task.name, own_tensors(learner.module)
    try:
        loss = batch_loss(learner, training=True)(flat, batch.inputs, batch.targets)
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        shapes = f"inputs {tuple(batch.inputs.shape)}, targets {tuple(batch.targets.shape)} {batch.targets.dtype}"
        raise TaskError(f"task {name!r}: model and data do not fit ({shapes}): {reason}") from error
    if loss.shape != ():
        raise TaskError(f"task {name!r}: loss has shape {tuple(loss.shape)}: return the mean over the batch, a scalar")
    for place, (tensor, version) in own_tensors(learner.module).items():
        if place not in before or before[place][0] is not tensor or before[place][1] != version:
            raise TaskError(
                f"task {name!r}: the model changes its own {'.'.join(place)!r} when it computes, and members mix "
                "parameters alone: use layers without running statistics, such as GroupNorm"
            )


def own_tensors(module: nn.Module) -> dict[tuple[str, ...], tuple[Tensor, int]]:
    """The tensors beside its parameters that a module keeps, and how often each was changed."""
    return {
        (*filter(None, [name]), key): (value, value._version)
        for name, part in module.named_modules()
        for key, value in {**vars(part), **part._buffers}.items()
        if isinstance(value, Tensor)
    }


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

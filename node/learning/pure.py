"""A task's model and loss as pure functions of flat parameters and a batch. Knows no training and no peers.

Random (dropout) only in training; whoever maps them over members does it with node.learning.mapped.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.func import functional_call

from node.errors import TaskError
from node.learning.losses import mappable
from node.learning.parameters import unflatten
from node.learning.task import Examples, Learner

Loss = Callable[[Tensor, Tensor, Tensor], Tensor]  # (flat parameters, inputs, targets) -> mean over the batch


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

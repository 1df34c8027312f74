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
Own = dict[str, tuple[Tensor, int]]  # tensors by name, and how often each was changed


def outputs(learner: Learner, flat: Tensor, inputs: Tensor, training: bool = False) -> Tensor:
    """The model's outputs (n, …) with these flat parameters; pure and differentiable, and random only in training."""
    with nullcontext() if training else evaluating(learner.module):
        result = functional_call(learner.module, unflatten(learner.spec, flat), (inputs,))
    assert isinstance(result, Tensor)
    return result


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """The module in evaluation mode (no dropout), and each of its parts as it was at the end.

    Without the fused kernels that torch's attention then takes: they have no gradient, and can't be mapped.
    """
    parts, fused = [part for part in module.modules() if part.training], torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    for part in parts:
        part.training = False
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
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
    """Raises TaskError when model or loss can't take a batch, with torch's reason, or the model's state changes."""
    name, loss = learner.task.name, batch_loss(learner, training=True)
    try:
        value, changed = loss(flat, batch.inputs, batch.targets), None
        before = own_tensors(learner.module)  # now with what a model keeps from its first call
        if before:
            loss(flat, batch.inputs, batch.targets)
            changed = first_change(before, own_tensors(learner.module))
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        shapes = f"inputs {tuple(batch.inputs.shape)}, targets {tuple(batch.targets.shape)} {batch.targets.dtype}"
        raise TaskError(f"task {name!r}: model and data do not fit ({shapes}): {reason}") from error
    if value.shape != ():
        raise TaskError(f"task {name!r}: loss has shape {tuple(value.shape)}: return the mean over the batch, a scalar")
    if changed:
        raise TaskError(
            f"task {name!r}: the model changes its own {changed!r} when it computes, and members mix parameters alone: "
            "use layers without running statistics, such as GroupNorm"
        )


def own_tensors(module: nn.Module) -> Own:
    """The tensors beside its parameters that a module keeps, by name, and how often each was changed."""
    return {
        ".".join(filter(None, (name, key))): (value, value._version)
        for name, part in module.named_modules()
        for key, value in {**vars(part), **part._buffers}.items()
        if isinstance(value, Tensor)
    }


def first_change(before: Own, after: Own) -> str | None:
    """The name of a tensor that is another one, or was changed in place."""
    for name, (tensor, version) in after.items():
        if name not in before or before[name][0] is not tensor or before[name][1] != version:
            return name
    return None

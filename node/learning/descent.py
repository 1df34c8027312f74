"""Steps of SGD that change the parameters themselves, for models that fill the memory: bit for bit the trainer's.

While a gradient travels back through the model, each parameter takes its step as soon as its own part has come, and the
part is forgotten: besides parameters (and velocity, with momentum) there is never more than one tensor's gradient.
"""

from collections.abc import Mapping
from functools import partial
from typing import Self

import torch
from torch import Tensor
from torch.func import functional_call

from node.learning.parameters import ParameterSpec, unflatten
from node.learning.task import Examples, Learner
from node.learning.vectors import parts


def leaves(spec: ParameterSpec, flat: Tensor) -> dict[str, Tensor]:
    """The parameters by name as leaves of autograd that lie in `flat`; a change of one is no change of the others."""
    return {name: part.data.requires_grad_() for name, part in unflatten(spec, flat.detach()).items()}


def backward(learner: Learner, parameters: Mapping[str, Tensor], batch: Examples) -> float:
    """The batch's mean loss, after its gradient went to the leaves."""
    outputs = functional_call(learner.module, dict(parameters), (batch.inputs,))
    loss = learner.task.loss(outputs, batch.targets)
    loss.backward()  # type: ignore[no-untyped-call]
    return float(loss.detach())


class Descent:
    """SGD with momentum and weight decay on `flat`, in place; with `proximal` μ the term μ/2 · ‖θ − θ₀‖² of FedProx.

    A `with` block ends it: its hooks hold the parameters, which would stay in memory until Python looks for cycles.
    """

    def __init__(self, learner: Learner, flat: Tensor, proximal: float = 0.0) -> None:
        self._learner, self._rate = learner, torch.tensor(learner.task.learning_rate)
        self._leaves = leaves(learner.spec, flat)
        momentum = learner.task.momentum
        self._velocity = leaves(learner.spec, torch.zeros_like(flat)) if momentum else {}
        self._model = leaves(learner.spec, flat.clone()) if proximal else {}
        self._proximal = proximal
        self._hooks = [
            leaf.register_post_accumulate_grad_hook(partial(self._take, name))  # type: ignore[no-untyped-call]
            for name, leaf in self._leaves.items()
        ]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def step(self, batch: Examples) -> float:
        """Changes the parameters; the mean loss before it."""
        distance = sum(
            float(torch.linalg.vector_norm(leaf.data - self._model[name].data)) ** 2
            for name, leaf in self._leaves.items()
            if self._proximal
        )
        return backward(self._learner, self._leaves, batch) + 0.5 * self._proximal * distance

    @torch.no_grad()
    def _take(self, name: str, leaf: Tensor) -> None:
        """A parameter's step, a few MiB at a time."""
        assert leaf.grad is not None
        task, gradient, numbers = self._learner.task, leaf.grad.contiguous().view(-1), leaf.view(-1)
        for part in parts(len(numbers)):
            step = gradient[part]
            if self._proximal:
                step.add_((numbers[part] - self._model[name].view(-1)[part]).mul_(2.0).mul_(0.5 * self._proximal))
            if task.weight_decay:
                step.add_(task.weight_decay * numbers[part])
            if task.momentum:
                step = self._velocity[name].view(-1)[part].mul_(task.momentum).add_(step)
            numbers[part] -= self._rate * step
        leaf.grad = None

"""Gradients by plain autograd, around functions of one member or mapped over many.

torch.func.grad gives the same up to rounding, but imports torch's compiler when it is first called: a second of every
node's start.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def gradient_and_value(function: Callable[..., Tensor]) -> Callable[..., tuple[Tensor, Tensor]]:
    """`(x, …) -> (gradient by x, value)` of `function(x, …)`; neither carries a graph.

    Mapped over members, x is (members, …) and the value (members,): each member's value must depend on its own x alone.
    """

    def found(x: Tensor, *more: Tensor) -> tuple[Tensor, Tensor]:
        leaf = x.detach().requires_grad_()
        with torch.enable_grad():
            value = function(leaf, *more)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return gradient, value.detach()

    return found

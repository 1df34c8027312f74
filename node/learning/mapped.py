"""One function for one member, mapped over many: torch.func.vmap, traced so that small models don't pay for Python.

A step of a small model is a few dozen tiny operations; the function transforms around them cost more than they do.
So what torch does is recorded for given shapes; playing it back gives the same bits (tested).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from node.learning.recording import recorded

Mapped = Callable[..., Any]
WARM = 16  # calls with the same shapes before tracing pays: it costs some 10 ms, and a call saves half of one or more
TRACES = 128  # kept; the oldest goes first
SMALL = 1 << 20  # numbers in the largest argument of a function that is worth tracing: beyond it, arithmetic dominates


def mapped(function: Callable[..., Any], in_dims: int | tuple[int | None, ...] = 0) -> Mapped:
    """`function` over the first dimension of its arguments (or as `in_dims` says), traced when it is called often."""
    return traced(over_members(function, in_dims))


def over_members(function: Callable[..., Any], in_dims: int | tuple[int | None, ...] = 0) -> Mapped:
    """`function` over the first dimension of its arguments (or as `in_dims` says), each with its own randomness."""
    return vmap(function, in_dims=in_dims, randomness="different")


def traced(function: Mapped) -> Mapped:
    """The function, its operations recorded and played back once it was called often with the same shapes.

    Arguments are tensors. The result depends on the arguments alone, not on earlier calls.
    """
    calls: dict[tuple[torch.Size, ...], int] = {}
    traces: dict[tuple[torch.Size, ...], Mapped] = {}

    def call(*arguments: Tensor) -> Any:
        shapes = tuple(argument.shape for argument in arguments)
        if shapes in traces:
            return traces[shapes](*arguments)
        calls[shapes] = calls.get(shapes, 0) + 1
        if calls[shapes] == WARM and max(argument.numel() for argument in arguments) <= SMALL:
            while len(traces) >= TRACES:
                traces.pop(next(iter(traces)))
            traces[shapes], result = recorded(function, *arguments)
            return result
        return function(*arguments)

    return call

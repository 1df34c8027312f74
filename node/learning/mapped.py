"""One function for one member, mapped over many: torch.func.vmap, traced so that small models don't pay for Python.

A step of a small model is a few dozen tiny operations; the function transforms around them cost more than they do.
So what torch does is recorded for a kind of arguments; playing it back gives the same bits (tested).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap

from node.learning.recording import recorded

Mapped = Callable[..., Any]
Kind = tuple[tuple[torch.Size, tuple[int, ...], torch.dtype], ...]  # of arguments
WARM = 16  # calls with arguments of a kind before tracing pays: it costs some 10 ms, and saves half of one a call
TRACES = 128  # kept; the oldest goes first
SMALL = 1 << 20  # numbers in the largest argument of a function that is worth tracing: beyond it, arithmetic dominates


def mapped(function: Callable[..., Any], in_dims: int | tuple[int | None, ...] = 0, plain: bool = True) -> Mapped:
    """`function` over the first dimension of its arguments (or as `in_dims` says), traced if it is plain."""
    return traced(over_members(function, in_dims), plain)


def over_members(function: Callable[..., Any], in_dims: int | tuple[int | None, ...] = 0) -> Mapped:
    """`function` over the first dimension of its arguments (or as `in_dims` says), each with its own randomness."""
    return vmap(function, in_dims=in_dims, randomness="different")


def traced(function: Mapped, plain: bool = True) -> Mapped:
    """The function, its operations recorded and played back once it was called often with arguments of the same kind.

    Arguments are tensors. The function itself if it is not plain: a plain one does the same operations at each call,
    and draws from torch what it draws.
    """
    if not plain:
        return function
    calls: dict[Kind, int] = {}
    traces: dict[Kind, Mapped] = {}

    def call(*arguments: Tensor) -> Any:
        kind = tuple((argument.shape, argument.stride(), argument.dtype) for argument in arguments)
        if kind in traces:
            return traces[kind](*arguments)
        calls[kind] = calls.get(kind, 0) + 1
        if calls[kind] == WARM and max(argument.numel() for argument in arguments) <= SMALL:
            while len(traces) >= TRACES:
                traces.pop(next(iter(traces)))
            traces[kind], result = recorded(function, *arguments)
            return result
        return function(*arguments)

    return call

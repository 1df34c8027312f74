"""One function for one member, mapped over many: torch.func.vmap, traced so that small models don't pay for Python.

A step of a small model is a few dozen tiny operations; the function transforms around them cost more than they do.
`make_fx` records the operations of a mapped function for given shapes; playing them back gives the same bits (tested).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.func import vmap
from torch.fx import GraphModule

Mapped = Callable[..., Any]
WARM = 2000  # calls with the same shapes before tracing pays: it costs a tenth of a second, and at first one or two
TRACES = 32  # kept; the oldest goes first
RESHAPES = (torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default)
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
            traces[shapes] = recorded(function, *arguments)
            return traces[shapes](*arguments)
        return function(*arguments)

    return call


def recorded(function: Mapped, *arguments: Tensor) -> GraphModule:
    """The operations of a call with these arguments."""
    from torch.fx.experimental.proxy_tensor import make_fx  # imports torch's compiler: a second that nodes don't need

    return simplified(make_fx(function)(*arguments))


def simplified(trace: GraphModule) -> GraphModule:
    """The trace without views and expansions to the shape that is there already: a sixth of its operations."""
    for node in trace.graph.nodes:
        if node.op == "call_function" and node.target in RESHAPES:
            source = node.args[0]
            if source.meta["val"].shape == node.meta["val"].shape:
                node.replace_all_uses_with(source)
                trace.graph.erase_node(node)
    trace.recompile()
    return trace

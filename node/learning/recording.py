"""What torch computes in one call of a function, recorded and played back without the Python around it.

As `torch.fx.experimental.proxy_tensor.make_fx` does, without importing torch's compiler, which takes a second. Knows
nothing of members: node.learning.mapped says which functions are worth it.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

ATEN = torch.ops.aten
RESHAPES = (ATEN.expand.default, ATEN.view.default, ATEN._unsafe_view.default)


class UnrecordableError(Exception):
    """The call looked at a number of a tensor, and may do something else when that number is another one."""


def recorded(function: Callable[..., Any], *arguments: Tensor) -> tuple[GraphModule, Any]:
    """The operations of a call with these arguments, to be called with others of the same shapes, and its result.

    Raises UnrecordableError for a function that branches on the values of its arguments.
    """
    recording = _Recording(arguments)
    with recording:
        result = function(*arguments)
    return recording.played(result), result


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that torch carries out. Sees tensors as they are when functions were mapped away."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._constants = Graph(), nn.Module()
        self._nodes: dict[int, Node] = {}  # by the identity of a tensor
        self._tensors: list[Tensor] = []  # keeps them, so that no identity is used twice
        for number, argument in enumerate(arguments):
            self._note(argument, self._graph.placeholder(f"argument_{number}"))

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Else the first operation imports torch's compiler."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Carries the operation out, and notes it."""
        result = func(*args, **(kwargs or {}))
        given, named = map_aggregate((tuple(args), dict(kwargs or {})), self._found)
        node = self._graph.call_function(func, given, named)
        if isinstance(result, Tensor):
            self._note(result, node)
        elif isinstance(result, list | tuple) and all(isinstance(part, Tensor) for part in result):
            for number, part in enumerate(result):
                self._note(part, self._graph.call_function(operator.getitem, (node, number)))
        elif result is not None:
            raise UnrecordableError(f"{func} gives {result!r}, which is no tensor")
        return result

    def played(self, result: Any) -> GraphModule:
        """What was noted, as a function of the arguments, without what changes nothing."""
        self._graph.output(map_aggregate(result, self._found))
        for node in self._graph.nodes:
            if _changes_nothing(node):
                node.replace_all_uses_with(node.args[0])
                self._graph.erase_node(node)
        self._graph.eliminate_dead_code()
        return GraphModule(self._constants, self._graph)

    def _note(self, tensor: Tensor, node: Node) -> None:
        node.meta["shape"] = tensor.shape
        self._nodes[id(tensor)] = node
        self._tensors.append(tensor)

    def _found(self, value: Any) -> Any:
        """The node of a tensor; one that no operation made is a constant."""
        if not isinstance(value, Tensor):
            return value
        if id(value) not in self._nodes:
            name = f"constant_{len(self._tensors)}"
            self._constants.register_buffer(name, value.detach())
            self._note(value, self._graph.get_attr(name))
        return self._nodes[id(value)]


def _changes_nothing(node: Node) -> bool:
    """Whether a node only reshapes to the shape that is there, or detaches where no gradient is taken."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    alike = node.meta.get("shape") == node.args[0].meta.get("shape")
    return node.target is ATEN.detach.default or (node.target in RESHAPES and alike)

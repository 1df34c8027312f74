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
MEMORY = 64 * 1024 * 1024  # bytes that a recording may keep alive, roughly: where there are more, arithmetic dominates
PLAIN = (Node, str, int, float, bool, torch.dtype, torch.device, torch.layout, torch.memory_format, type(None))
DEPENDENT = (torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape)


def recorded(function: Callable[..., Any], *arguments: Tensor) -> tuple[Callable[..., Any], Any]:
    """The operations of a call, to be called with other arguments of the same shapes, strides and types; its result.

    The function itself, and its result, where an operation depends on the numbers of a tensor, takes a tensor that is
    neither an argument nor another's result, or draws from a generator of its own; or where there is too much to keep.
    What Python does besides is not seen: the function must do the same operations at each call.
    """
    distinct = [argument.detach() for argument in arguments]  # the same tensor may be given twice
    recording = _Recording(distinct)
    with recording:
        result = function(*distinct)
    played = recording.played(result)
    return played or function, result


class _Recording(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes each operation that torch carries out. Sees tensors as they are when functions were mapped away."""

    def __init__(self, arguments: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._graph, self._given_up = Graph(), False
        self._nodes: dict[int, Node] = {}  # by the identity of a tensor
        self._tensors: list[Tensor] = []  # keeps them, so that no identity is used twice
        self._left = MEMORY
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
        given = map_aggregate((tuple(args), dict(kwargs or {})), self._found)
        result = func(*args, **(kwargs or {}))
        if not self._given_up:
            self._note_results(self._graph.call_function(func, *given), result)
        if any(tag in func.tags for tag in DEPENDENT):
            self._give_up()
        return result

    def played(self, result: Any) -> GraphModule | None:
        """What was noted, as a function of the arguments, without what changes nothing; None if it was given up."""
        returned = map_aggregate(result, self._found)
        if self._given_up:
            return None
        self._graph.output(returned)
        for node in self._graph.nodes:
            if _changes_nothing(node):
                node.replace_all_uses_with(node.args[0])
                self._graph.erase_node(node)
        self._graph.eliminate_dead_code()
        return GraphModule(nn.Module(), self._graph)

    def _note_results(self, node: Node, result: Any) -> None:
        if isinstance(result, Tensor):
            self._note(result, node)
        elif isinstance(result, list | tuple):
            for number, part in enumerate(result):
                if part is not None:
                    self._note_results(self._graph.call_function(operator.getitem, (node, number)), part)
        elif result is not None:
            self._give_up()

    def _note(self, tensor: Tensor, node: Node) -> None:
        node.meta["shape"] = tensor.shape
        self._nodes[id(tensor)] = node
        self._tensors.append(tensor)
        self._left -= tensor.numel() * tensor.element_size()
        if self._left < 0:
            self._give_up()

    def _give_up(self) -> None:
        self._given_up = True
        self._nodes.clear()
        self._tensors.clear()

    def _found(self, value: Any) -> Any:
        """The node of a tensor, and other values as they are."""
        found = self._nodes.get(id(value)) if isinstance(value, Tensor) else value
        if not isinstance(found, PLAIN) or (found is None and value is not None):
            self._give_up()
        return found


def _changes_nothing(node: Node) -> bool:
    """Whether a node only reshapes to the shape that is there, or detaches where no gradient is taken."""
    if node.op != "call_function" or not node.args or not isinstance(node.args[0], Node):
        return False
    alike = node.meta.get("shape") == node.args[0].meta.get("shape")
    return node.target is ATEN.detach.default or (node.target in RESHAPES and alike)

"""A tensor function as a short list of tensor operations on tensors that stay where they are.

For networks as small as those of meta-training, the bookkeeping of vmap and of autograd, and fetching memory for every
result, take longer than the arithmetic. A recording does both once, much like a CUDA graph: the inputs, all results
between and the outputs have their place for good, and replaying is arithmetic only, the same numbers bit for bit.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch._guards import TracingContext, tracing
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functionalize
from torch.fx import Graph, Node
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.node import map_arg

TensorFunction = Callable[..., Sequence[Tensor]]
Operation = Callable[[], object]

_ATEN = torch.ops.aten
_RESHAPES = {_ATEN.expand.default, _ATEN.view.default, _ATEN._unsafe_view.default}
# Their results depend on the shape of what they take, not on the numbers in it.
_FILLS = {
    packet.default
    for packet in (_ATEN.zeros_like, _ATEN.ones_like, _ATEN.full_like, _ATEN.new_zeros, _ATEN.new_ones, _ATEN.new_full)
}


class Recording:
    """What a function does to tensors, recorded once.

    Args:
        function: Takes tensors and returns tensors. What it does must not depend on their values, only on their shapes;
            random numbers are drawn anew in every replay.
        inputs: Where the inputs lie at every replay.

    Attributes:
        outputs: Where the outputs lie after a replay.
    """

    def __init__(self, function: TensorFunction, *inputs: Tensor) -> None:
        # One mode to describe all results with: else each would make one of its own, which takes most of the time.
        described = tracing(TracingContext(FakeTensorMode()))
        with torch.random.fork_rng(devices=[]), torch.no_grad(), described:
            graph = make_fx(functionalize(function))(*inputs).graph
            _simplify(graph)
            binding = _Binding(graph, inputs)
        self.outputs: Sequence[Tensor] = binding.outputs
        self._operations = binding.operations

    def replay(self) -> Sequence[Tensor]:
        """Computes the outputs from what lies in the inputs now."""
        with torch.no_grad():
            for operation in self._operations:
                operation()
        return self.outputs


def _simplify(graph: Graph) -> None:
    """Drops what leaves its tensor as it is: vmap asks for many reshapes to the shape that is there already."""
    for node in list(graph.nodes):
        if _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            graph.erase_node(node)
        elif node.target is _ATEN.relu.default:
            # The same function, and one that can write to given memory.
            node.target, node.args = _ATEN.clamp_min.default, (node.args[0], 0)
    graph.eliminate_dead_code()


def _is_idle(node: Node) -> bool:
    if node.target in _RESHAPES:
        before, after = _shape(node.args[0]), _shape(node)
        return before is not None and before == after
    # The factor of a bias in a linear layer.
    return node.target is _ATEN.mul.Scalar and bool(node.args[1] == 1)


def _shape(node: object) -> torch.Size | None:
    value = node.meta.get("val", node.meta.get("tensor_meta")) if isinstance(node, Node) else None
    return getattr(value, "shape", None)


class _Binding:
    """Gives every value of a graph its place in memory, and binds the graph's operations to these places."""

    def __init__(self, graph: Graph, inputs: Sequence[Tensor]) -> None:
        self.operations: list[Operation] = []
        self.outputs: list[Tensor] = []
        self._values: dict[Node, Any] = {}
        self._constant: set[Node] = set()
        self._last_uses = _last_uses(graph)
        waiting = iter(inputs)
        for node in graph.nodes:
            if node.op == "placeholder":
                self._values[node] = next(waiting)
            elif node.op == "get_attr":
                self._values[node] = getattr(graph.owning_module, node.target)
                self._constant.add(node)
            elif node.op == "output":
                self.outputs = list(self._evaluated(node.args[0]))
            else:
                self._bind(node)

    def _bind(self, node: Node) -> None:
        target: Any = node.target
        args, kwargs = self._evaluated(node.args), self._evaluated(node.kwargs)
        if self._is_constant(node):
            self._constant.add(node)
        if node in self._constant or _is_view(node):
            # Done here, once for all: neither constants nor views change when the numbers in the inputs do.
            self._values[node] = target(*args, **kwargs)
            return
        place = self._reusable(node)
        self._values[node] = target(*args, **kwargs) if place is None else place
        self.operations.append(_writer(target, args, kwargs, self._values[node]))

    def _evaluated(self, arguments: Any) -> Any:
        return map_arg(arguments, self._values.__getitem__)

    def _is_constant(self, node: Node) -> bool:
        random = isinstance(node.target, OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        return node.target in _FILLS or (not random and self._constant.issuperset(node.all_input_nodes))

    def _reusable(self, node: Node) -> Tensor | None:
        """The memory of an argument that nobody reads any more, for an elementwise operation."""
        if torch.Tag.pointwise not in node.target.tags:  # type: ignore[union-attr]
            return None
        for argument in node.all_input_nodes:
            own = argument.op == "call_function" and not _is_view(argument) and argument not in self._constant
            if own and self._last_uses[argument] is node and _alike(argument, node):
                value: Tensor = self._values[argument]
                return value
        return None


def _last_uses(graph: Graph) -> dict[Node, Node]:
    """Which node is the last to read each node's memory, be it through a view."""
    owner: dict[Node, Node] = {}
    last: dict[Node, Node] = {}
    for node in graph.nodes:
        owner[node] = owner[node.all_input_nodes[0]] if _is_view(node) else node
        last |= dict.fromkeys((owner[read] for read in node.all_input_nodes), node)
    return last


def _is_view(node: Node) -> bool:
    return node.target is operator.getitem or (
        isinstance(node.target, OpOverload) and (node.target.is_view or node.target in _RESHAPES)
    )


def _alike(one: Node, other: Node) -> bool:
    a, b = (node.meta.get("val", node.meta.get("tensor_meta")) for node in (one, other))
    return a is not None and b is not None and (a.shape, a.dtype, a.stride) == (b.shape, b.dtype, b.stride)


def _writer(target: OpOverload, args: Any, kwargs: Any, place: Any) -> Operation:
    """An operation that computes `target` into the memory of `place`, a tensor or several."""
    if target is _ATEN.clone.default:
        return functools.partial(place.copy_, args[0])
    for write, out in _writing_forms(target):
        operation = functools.partial(write, *args, **kwargs, **{out: place})
        try:
            operation()
        except (TypeError, RuntimeError):
            continue
        return operation

    def compute_and_copy() -> None:
        results = target(*args, **kwargs)
        for to, result in zip(_listed(place), _listed(results), strict=True):
            to.copy_(result)

    return compute_and_copy


def _writing_forms(target: OpOverload) -> Iterator[tuple[Callable[..., object], str]]:
    """The forms of an operation that write to given memory, with the name of that argument.

    Torch's own function comes first, as it is the fastest to call.
    """
    packet = target.overloadpacket
    if hasattr(torch, packet.__name__):
        yield getattr(torch, packet.__name__), "out"
    for overload in packet.overloads():
        form = getattr(packet, overload)
        written = [argument.name for argument in form._schema.arguments if argument.is_out]
        if len(written) == 1:
            yield form, written[0]


def _listed(tensors: Any) -> list[Tensor]:
    # Some operations leave out results that nobody wants.
    return [tensors] if isinstance(tensors, Tensor) else [tensor for tensor in tensors if tensor is not None]

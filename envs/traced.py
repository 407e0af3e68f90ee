"""A tensor function as a short list of tensor operations, recorded once and replayed.

For networks as small as those of meta-training, the bookkeeping of vmap and of autograd takes longer than the
arithmetic. Recording what they do and replaying it gives the same numbers, bit for bit, in about half the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import functionalize
from torch.fx import GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

TensorFunction = Callable[..., Sequence[Tensor]]

_RESHAPES = {torch.ops.aten.expand.default, torch.ops.aten.view.default, torch.ops.aten._unsafe_view.default}


def trace(function: TensorFunction, *examples: Tensor) -> TensorFunction:
    """Records what a function does to tensors of these shapes.

    Args:
        function: Takes tensors and returns tensors. What it does must not depend on their values, only on their shapes;
            random numbers are drawn anew in every call.
        examples: Tensors of the shapes that it will be called with.

    Returns:
        The same function, for tensors of these shapes only.
    """
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        recorded = make_fx(functionalize(function))(*examples)
    return _without_idle_operations(recorded)


def _without_idle_operations(recorded: GraphModule) -> GraphModule:
    """Drops what leaves its tensor as it is: vmap asks for many reshapes to the shape that is there already."""
    for node in list(recorded.graph.nodes):
        if _is_idle(node):
            node.replace_all_uses_with(node.args[0])
            recorded.graph.erase_node(node)
    recorded.graph.eliminate_dead_code()
    recorded.recompile()
    return recorded


def _is_idle(node: Node) -> bool:
    if node.target in _RESHAPES:
        before, after = _shape(node.args[0]), _shape(node)
        return before is not None and before == after
    # The factor of a bias in a linear layer.
    return node.target is torch.ops.aten.mul.Scalar and bool(node.args[1] == 1)


def _shape(node: object) -> torch.Size | None:
    value = node.meta.get("val", node.meta.get("tensor_meta")) if isinstance(node, Node) else None
    return getattr(value, "shape", None)

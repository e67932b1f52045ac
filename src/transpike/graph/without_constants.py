"""What a network makes of a change of its input: the network without its constants.

In differential coding biases and other constants enter at the first timestep only. From the second
on, every linear operation is applied without its additive constants; they are dropped from the
graph, not subtracted, so that nothing rounds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from transpike.graph import ops
from transpike.graph.network import Argument, Network, Node, Value, Weight, map_leaves

_WITH_BIAS = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear".split()
)
_SUMS = frozenset("add sub rsub".split())
# Position of the value that is padded with.
_PAD_VALUE_AT = {"constant_pad_nd": 2, "pad": 3}
_TIMES = "aten.mul.Scalar"


def increments(network: Network) -> Network:
    """The same graph with every additive constant gone: biases, shifts, added tensors, padding.

    The nodes keep their names; some more hold zeros in the place of constants.
    """
    tensors = dict(network.tensors)
    constants = {node.name for node in network.nodes if node.kind == "constant"}
    nodes: list[Node] = []
    for node in network.nodes:
        nodes.append(_linear_part(node, constants, tensors) if node.kind == "linear" else node)
        if node.kind == "constant" and node.shape is not None:
            args = (Value(node.name), 0)
            nodes.append(replace(node, name=_zero(node.name), op=_TIMES, args=args, kwargs={}))
    return replace(network, nodes=tuple(nodes), tensors=tensors)


def _zero(name: str) -> str:
    return f"{name}:zero"


def _linear_part(node: Node, constants: set[str], tensors: dict[str, Tensor]) -> Node:
    """The node with its additive constants dropped or set to zero."""

    def zeroed(leaf: Argument) -> Argument:
        if isinstance(leaf, Value) and leaf.name in constants:
            return Value(_zero(leaf.name))
        if isinstance(leaf, Weight):
            tensors[_zero(leaf.name)] = torch.zeros_like(tensors[leaf.name])
            return Weight(_zero(leaf.name))
        return leaf

    name, args, kwargs = ops.packet(node.op), node.args, dict(node.kwargs)
    if name in _WITH_BIAS:
        kwargs.pop("bias", None)
        return replace(node, args=(*args[:2], None, *args[3:]), kwargs=kwargs)
    if node.op == "affine":
        return replace(node, args=(*args[:2], zeroed(args[2])))
    if name in _PAD_VALUE_AT:
        kwargs.pop("value", None)
        return replace(node, args=args[: _PAD_VALUE_AT[name]], kwargs=kwargs)
    if ops.LINEAR[node.op] != "any":
        return node
    args = map_leaves(zeroed, args)
    if name in _SUMS and isinstance(args[1], int | float):
        args = (args[0], 0, *args[2:])
    return replace(node, args=args, kwargs=map_leaves(zeroed, kwargs))

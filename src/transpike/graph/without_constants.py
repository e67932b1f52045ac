"""The network without its additive constants, for inputs given as changes.

In differential coding, biases and other constants enter at the first timestep only. From the second
timestep on, every linear operation is applied without its additive constants. They are dropped from
the graph and not subtracted, so that nothing rounds.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from transpike.graph import ops
from transpike.graph.network import Argument, Network, Node, Value, Weight, map_leaves


def increments(network: Network) -> Network:
    """Drop every additive constant: biases, shifts, added tensors, and values of padding.

    The nodes keep their names. Additional nodes hold zeros where a constant was added.
    """
    tensors = dict(network.tensors)
    constants = {node.name for node in network.nodes if node.kind == "constant"}
    nodes: list[Node] = []
    for node in network.nodes:
        nodes.append(_linear_part(node, constants, tensors) if node.kind == "linear" else node)
        if node.kind == "constant" and node.shape is not None:
            args = (Value(node.name), 0)
            nodes.append(replace(node, name=_zero(node.name), op=ops.TIMES, args=args, kwargs={}))
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

    operation, args, kwargs = ops.OPERATIONS[node.op], node.args, dict(node.kwargs)
    if operation.bias_at is not None:
        kwargs.pop("bias", None)
        before, after = args[: operation.bias_at], args[operation.bias_at + 1 :]
        return replace(node, args=(*before, None, *after), kwargs=kwargs)
    if node.op == "affine":
        return replace(node, args=(*args[:2], zeroed(args[2])))
    if operation.pad_value_at is not None:
        kwargs.pop("value", None)
        return replace(node, args=args[: operation.pad_value_at], kwargs=kwargs)
    if operation.signals != "any":
        return node
    args = map_leaves(zeroed, args)
    if operation.role == "sum" and isinstance(args[1], int | float):
        args = (args[0], 0, *args[2:])
    return replace(node, args=args, kwargs=map_leaves(zeroed, kwargs))

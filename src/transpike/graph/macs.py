"""Multiply-accumulates of the analog network: the only place where they are counted.

`inspect` and `measure_cost` both read `macs_of`. It counts every position of a kernel or matrix.
This includes weights that are zero and kernel positions that lie in the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor

from transpike.graph.network import INPUT, Argument, Node, Weight
from transpike.graph.ops import OPERATIONS


def macs_of(
    nodes: Sequence[Node], tensors: Mapping[str, Tensor], input_shape: Sequence[int]
) -> dict[str, int]:
    """Count the multiply-accumulates of every operation for one sample.

    Args:
        nodes: the operations of a network.
        tensors: its weights by name.
        input_shape: shape of one sample.

    Returns:
        The number for each node that multiplies by weights, by the name of the node.
    """
    shapes = {INPUT: (-1, *input_shape)}
    shapes |= {node.name: node.shape for node in nodes if node.shape is not None}
    counts = {node.name: _node_macs(node, tensors, shapes) for node in nodes}
    return {name: count for name, count in counts.items() if count}


def _node_macs(
    node: Node, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> int:
    operation = OPERATIONS.get(node.op)
    if operation is None or node.shape is None or node.kind == "constant":
        return 0
    outputs = prod(node.shape[1:]) * max(1, -node.shape[0])
    if operation.role == "product":
        return outputs * _operand_shape(node.args[0], tensors, shapes)[-1]
    if operation.role != "layer" or not isinstance(node.args[1], Weight):
        return 0
    weight = tensors[node.args[1].name].shape
    if operation.groups_at is not None:
        # In a transposed convolution every input position meets the output channels of its group.
        source = _operand_shape(node.args[0], tensors, shapes)
        return prod(source[2:]) * max(1, -source[0]) * prod(weight)
    return outputs * prod(weight[1:])


def _operand_shape(
    operand: Argument, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    if isinstance(operand, Weight):
        return tuple(tensors[operand.name].shape)
    return shapes[operand.name]

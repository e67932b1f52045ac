"""Multiply-accumulates of the analog network: the only place where they are counted.

`inspect` and `measure_cost` both read `macs_of`. It counts every position of a kernel or matrix.
This includes weights that are zero and kernel positions that lie in the padding.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

from torch import Tensor

from transpike.graph.network import INPUT, Argument, Node, Weight
from transpike.graph.ops import OPERATIONS, packet


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
    outputs = _size(node.shape)
    if operation.role == "product":
        return outputs * _operand_shape(node.args[0], tensors, shapes)[-1]
    if packet(node.op) == "scaled_dot_product_attention":
        query, key, value = (_operand_shape(arg, tensors, shapes) for arg in node.args[:3])
        return _size(query[:-1]) * key[-2] * (query[-1] + value[-1])
    if packet(node.op) == "einsum":
        return _einsum_macs(node, [_operand_shape(arg, tensors, shapes) for arg in node.args[1]])
    if operation.role != "layer":
        return 0
    weight = tuple(abs(size) for size in _operand_shape(node.args[1], tensors, shapes))
    if operation.groups_at is not None:
        # In a transposed convolution every input position meets the output channels of its group.
        source = _operand_shape(node.args[0], tensors, shapes)
        return prod(source[2:]) * max(1, -source[0]) * prod(weight)
    return outputs * prod(weight[1:])


def _size(shape: Sequence[int]) -> int:
    """Number of elements for one sample; a size of k times the batch is -k."""
    return prod(abs(size) for size in shape)


def _einsum_macs(node: Node, operands: Sequence[Sequence[int]]) -> int:
    """Every combination of indices is one multiply-accumulate for each operand after the first."""
    assert node.shape is not None
    terms, _, result = node.args[0].replace(" ", "").partition("->")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms.split(","), operands, strict=True):
        before, dots, after = term.partition("...")
        sizes.update(zip(before, shape, strict=False))
        if after or not dots:
            sizes.update(zip(reversed(after), reversed(shape), strict=False))
    summed = prod(abs(size) for letter, size in sizes.items() if letter not in result)
    return _size(node.shape) * summed * max(1, len(operands) - 1)


def _operand_shape(
    operand: Argument, tensors: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]]
) -> tuple[int, ...]:
    if isinstance(operand, Weight):
        return tuple(tensors[operand.name].shape)
    return shapes[operand.name]

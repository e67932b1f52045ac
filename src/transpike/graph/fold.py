"""Fold BatchNorm into the linear operation before it.

A BatchNorm that cannot be folded stays as an affine operation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transpike.graph import ops
from transpike.graph.network import Node, Value, Weight, leaves, map_leaves


@dataclass(frozen=True)
class FoldCount:
    """Number of BatchNorms that were folded, and of those that stayed affine operations."""

    folded: int
    affine: int


def batch_norm_affine(
    gamma: Tensor | None, beta: Tensor | None, mean: Tensor, var: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Scale and shift of a BatchNorm in evaluation mode, computed in float64, shape (C,)."""
    scale = (var.double() + eps).rsqrt()
    if gamma is not None:
        scale = scale * gamma.double()
    shift = -mean.double() * scale
    if beta is not None:
        shift = shift + beta.double()
    return scale, shift


def fold_affine(
    nodes: list[Node], tensors: dict[str, Tensor], outputs: tuple[object, ...]
) -> tuple[list[Node], dict[str, str], FoldCount]:
    """Fold every affine node whose producer is linear and has no other reader.

    New tensors are added to `tensors`. Existing tensors are never changed, because a module that is
    called twice shares them.

    Returns:
        The new nodes; for each value that was folded away, the value that replaces it; and the
        number of folded nodes.
    """
    readers: dict[str, int] = {}
    for name in [n for node in nodes for n in node.reads] + [
        leaf.name for leaf in leaves(outputs) if isinstance(leaf, Value)
    ]:
        readers[name] = readers.get(name, 0) + 1
    result: dict[str, Node] = {}
    alias: dict[str, str] = {}
    folded = kept = 0
    for node in nodes:
        node = _renamed(node, alias)
        if node.op == "affine":
            source = node.args[0].name
            producer = result.get(source)
            if producer is not None and readers[source] == 1 and _foldable(producer):
                scale, shift = (tensors[leaf.name] for leaf in node.args[1:])
                result[source] = _folded(producer, tensors, scale, shift)
                alias[node.name] = source
                readers[source] = readers.get(node.name, 0)
                folded += 1
                continue
            kept += 1
        result[node.name] = node
    return list(result.values()), alias, FoldCount(folded, kept)


def _renamed(node: Node, alias: dict[str, str]) -> Node:
    if not any(name in alias for name in node.reads):
        return node

    def swap(leaf: object) -> object:
        return Value(alias[leaf.name]) if isinstance(leaf, Value) and leaf.name in alias else leaf

    return replace(node, args=map_leaves(swap, node.args), kwargs=map_leaves(swap, node.kwargs))


def _foldable(node: Node) -> bool:
    if node.op == "affine":
        return True
    layer = ops.OPERATIONS[node.op]
    if layer.role != "layer" or not isinstance(node.args[1], Weight):
        return False
    bias = node.args[2] if len(node.args) > 2 else None
    if bias is not None and not isinstance(bias, Weight):
        return False
    # BatchNorm works on axis 1, where a linear layer on (B, N, C) does not have its channels.
    return not layer.channels_last or (node.shape is not None and len(node.shape) == 2)


def _folded(node: Node, tensors: dict[str, Tensor], scale: Tensor, shift: Tensor) -> Node:
    """The producer with scale and shift folded into new tensors."""
    if node.op == "affine":
        first_scale, first_shift = (tensors[leaf.name] for leaf in node.args[1:])
        tensors[f"{node.name}:scale"] = first_scale * scale
        tensors[f"{node.name}:shift"] = first_shift * scale + shift
        args = (node.args[0], Weight(f"{node.name}:scale"), Weight(f"{node.name}:shift"))
        return replace(node, args=args)
    layer = ops.OPERATIONS[node.op]
    weight = tensors[node.args[1].name].double()
    bias_ref = node.args[2] if len(node.args) > 2 else None
    bias = tensors[bias_ref.name].double() if bias_ref is not None else torch.zeros_like(shift)
    position = layer.groups_at
    groups = node.args[position] if position is not None and len(node.args) > position else 1
    assert layer.output_axis is not None
    tensors[f"{node.name}:weight"] = _scaled(weight, scale, layer.output_axis, groups)
    tensors[f"{node.name}:bias"] = bias * scale + shift
    args = (
        node.args[0],
        Weight(f"{node.name}:weight"),
        Weight(f"{node.name}:bias"),
        *node.args[3:],
    )
    return replace(node, args=args)


def _scaled(weight: Tensor, scale: Tensor, axis: int, groups: int) -> Tensor:
    """Scale the output channels, which a transposed convolution holds per group on axis 1."""
    if axis == 0:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    inputs, per_group = weight.shape[:2]
    grouped = weight.reshape(groups, inputs // groups, *weight.shape[1:])
    factors = scale.reshape(groups, 1, per_group, *[1] * (weight.ndim - 2))
    return (grouped * factors).reshape(weight.shape)

"""Which inputs an output of a pooling, an interpolation or a reduction depends on."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import Network, Node
from transpike.graph.ops import OPERATIONS, packet

_TINY = 1e-12  # an interpolation weight below this is a rounding error of zero
_PROBES = 32  # basis vectors per pass when the pattern of a window is measured


def window_sums(network: Network, node: Node, value: Tensor) -> Tensor:
    """Sum the values in the window of every output, without weights.

    Args:
        network: the network, in float64 on the CPU.
        node: a pooling, an interpolation or a reduction.
        value: rows of its operand, shape (rows, ...).

    Raises:
        ArgumentError: a reduction runs over all axes.
    """
    name = packet(node.op)
    if OPERATIONS[node.op].role == "mean" or name == "amax":
        return _reduced(node, value)
    out = value
    axes: int = int(re.findall(r"(\d)d", name)[0])
    for axis in range(axes):
        pattern = _pattern_along(network, node, value.shape, (axes, axis))
        position = out.ndim - axes + axis
        out = (out.movedim(position, -1) @ pattern).movedim(-1, position)
    return out


def _reduced(node: Node, value: Tensor) -> Tensor:
    dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
    keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
    if not dims:
        raise ArgumentError(
            f"measure_cost: no counting rule for {node.op} over all axes at '{node.place}'. Name "
            "the axes."
        )
    out: Tensor = value.sum(dim=dims, keepdim=bool(keep))
    return out


def _pattern_along(
    network: Network, node: Node, shape: torch.Size, place: tuple[int, int]
) -> Tensor:
    """Measure the windows along one spatial axis: (in, out), 1 where a window has the input.

    Poolings and interpolations are products over the axes, so a slab of ones shows the reach of one
    axis. `place` is (number of spatial axes, the axis).
    """
    axes, axis = place
    spatial = list(shape[-axes:])
    size = spatial[axis]
    rows = []
    for first in range(0, size, _PROBES):
        count = min(_PROBES, size - first)
        view = [count, 1, *(size if i == axis else 1 for i in range(axes))]
        slab = torch.eye(size, dtype=torch.float64)[first : first + count].reshape(view)
        slab = slab.expand(count, 1, *spatial).contiguous()
        reply = network.compute(node, {node.reads[0]: slab}, count)[:, 0].abs()
        others = [1 + i for i in range(axes) if i != axis]
        rows.append((reply.amax(dim=others) if others else reply) > _TINY)
    return torch.cat(rows).double()


__all__ = ["window_sums"]

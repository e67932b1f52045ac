"""Find the windows of a max-pool that hold padding only.

The maximum of such a window is minus infinity. A spiking network sends the changes of a maximum,
and the change from minus infinity to itself is not a number.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from transpike.graph import ops

if TYPE_CHECKING:
    from transpike.graph.network import Node


def has_empty_window(
    node: Node, nodes: Mapping[str, Node], shapes: Mapping[str, Sequence[int]]
) -> bool:
    """Whether a window of a max-pool holds no element of its input.

    Args:
        node: any node.
        nodes: the nodes before it by name. If it reads a node that adds a border of minus
            infinity, that border counts as padding.
        shapes: the shapes of all values so far by name, with that of the node itself.
    """
    if not ops.packet(node.op).startswith("max_pool"):
        return False
    inner, outer, before = shapes[node.reads[0]], shapes[node.name], nodes.get(node.reads[0])
    axes = len(inner) - 2
    kernel, stride, padding, dilation = (
        _each(node.args, position, axes, otherwise)
        for position, otherwise in ((1, 1), (2, 0), (3, 0), (4, 1))
    )
    borders = _infinite_borders(before, axes)
    for axis, (size, windows) in enumerate(zip(inner[2:], outer[2:], strict=True)):
        low, high = borders[axis]
        step = stride[axis] or kernel[axis]
        taps = range(-padding[axis], kernel[axis] * dilation[axis] - padding[axis], dilation[axis])
        if _some_empty(range(low, size - high), range(0, windows * step, step), taps):
            return True
    return False


def _some_empty(elements: range, starts: range, taps: range) -> bool:
    """Whether a window along one axis has no tap in the range of the elements."""
    for inwards in (starts, reversed(starts)):  # Only windows that reach over an end can be empty.
        for start in inwards:
            own = [start + tap for tap in (taps[0], taps[-1])]
            if own[0] in elements and own[1] in elements:
                break
            if not any(start + tap in elements for tap in taps):
                return True
    return False


def _each(args: Sequence[Any], position: int, axes: int, otherwise: int) -> tuple[int, ...]:
    """Return an argument of a pool for every axis."""
    given = args[position] if len(args) > position else otherwise
    numbers = tuple(given) if isinstance(given, tuple | list) else (given,)
    return (numbers or (otherwise,)) * axes if len(numbers) < 2 else numbers


def _infinite_borders(before: Node | None, axes: int) -> list[tuple[int, int]]:
    """Return the width of the border on both sides of every axis, 0 if it is finite."""
    borders = [(0, 0)] * axes
    position = None if before is None else ops.record(before.op).pad_value_at
    if before is None or position is None:
        return borders
    value = before.args[position] if len(before.args) > position else before.kwargs.get("value")
    if value is None or value != -math.inf:
        return borders
    widths = before.args[1]  # from the last axis to the first one
    for pair in range(min(axes, len(widths) // 2)):
        borders[axes - 1 - pair] = (widths[2 * pair], widths[2 * pair + 1])
    return borders


__all__ = ["has_empty_window"]

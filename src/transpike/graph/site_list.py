"""The sites of a graph: their names, shapes and channels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from transpike.graph import ops
from transpike.graph.network import Node, Site

_TOKENS = 3  # axes of a value (B, N, C), whose channels come last


def sites_of(nodes: Sequence[Node], bases: Mapping[str, str]) -> Iterator[Site]:
    """Name and describe the sites of a graph.

    Args:
        nodes: the nodes in execution order.
        bases: the path that a user knows, for each node that is a site. A number is added where
            several sites have the same.
    """
    by_name = {node.name: node for node in nodes}
    # A generated name such as "relu_1" must not be the name of a module.
    modules = set(bases.values())
    taken: set[str] = set()
    for node in nodes:
        if node.kind != "site" or node.shape is None:
            continue
        base = bases[node.name]
        name, repeat = base, 0
        while name in taken or (repeat and name in modules):
            repeat += 1
            name = f"{base}_{repeat}"
        taken.add(name)
        yield site_at(node, name, by_name)


def site_at(node: Node, name: str, by_name: Mapping[str, Node]) -> Site:
    """Return the site of a node. All of it but its name follows from the graph."""
    assert node.shape is not None
    axis = _axis_of_readers(node, by_name) or _channel_axis(node, by_name)
    return Site(
        name=name,
        node=node.name,
        shape=node.shape[1:],
        channel_axis=axis,
        channels=node.shape[axis] if axis < len(node.shape) else 1,
        upper_bound=node.kwargs.get("upper_bound"),
        lower_bound=None if node.op == ops.SPIKES else 0.0,
    )


def _axis_of_readers(node: Node, by_name: Mapping[str, Node]) -> int | None:
    """Return the axis along which the next layers of a region's value mix it, if it is known."""
    if node.op != ops.SPIKES:
        return None
    reached, rank, moved = {node.name}, len(node.shape or ()), False
    for other in by_name.values():
        if reached.isdisjoint(other.reads):
            continue
        operation = ops.record(other.op)
        shape = other.shape or ()
        if operation.role in ("layer", "product"):
            last = operation.channels_last or operation.role == "product"
            return rank - 1 if last else None if moved else 1
        if operation.role in ("sum", "scale") and len(shape) == rank:
            reached.add(other.name)
        if other.op in (ops.RESHAPE, ops.PERMUTE) and shape[-1:] == (node.shape or ())[-1:]:
            reached.add(other.name)
            moved = moved or len(shape) != rank or other.op == ops.PERMUTE
    return rank - 1 if rank == _TOKENS else None


def _channel_axis(node: Node, by_name: Mapping[str, Node]) -> int:
    """Return the axis of the channels: the last axis after a linear layer, otherwise axis 1."""
    rank = len(node.shape or ())
    current: Node | None = node
    while current is not None and len(current.shape or ()) == rank:
        operation = ops.OPERATIONS.get(current.op)
        if operation is None or current.op == "affine":
            return 1
        if operation.channels_last or operation.role == "product":
            return rank - 1
        if current.kind != "site" and operation.role not in ("sum", "scale"):
            return 1
        reads = current.reads
        current = by_name.get(reads[0]) if reads else None
    return 1


__all__ = ["site_at", "sites_of"]

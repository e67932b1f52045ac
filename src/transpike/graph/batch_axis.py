"""Put the batch first where a simulation keeps values over time.

A model may move the batch to another axis, or merge it with one behind it, as in a partition into
windows: (B, ...) becomes (B k, ...). Linear operations work on such values as they are. Neurons and
running sums need one row per sample. For them a value is brought to (B, k, ...), and then back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transpike.graph import ops
from transpike.graph.fuse import Fused
from transpike.graph.network import Argument, Batch, Kind, Node, Value, leaves, map_leaves
from transpike.graph.regions import Region, regions_of


def batch_first(found: Fused) -> Fused:
    """Return the graph with the batch first in front of and behind all regions and sites."""
    return _Moved(found).result()


@dataclass(frozen=True)
class _Layout:
    """Where the batch is in a value: at an axis of k times the batch size."""

    axis: int
    multiple: int
    rest: tuple[int, ...]  # the other sizes

    @property
    def order(self) -> tuple[int, ...]:
        """The axes with that of the batch first."""
        return (self.axis, *(n for n in range(len(self.rest) + 1) if n != self.axis))


class _Moved:
    def __init__(self, found: Fused) -> None:
        self.found = found
        self.done: dict[str, Node] = {}
        self.renamed: dict[str, str] = {}
        read_out = [leaf.name for leaf in leaves(found.outputs) if isinstance(leaf, Value)]
        self.regions = regions_of(found.nodes, read_out)
        self.first = {region.nodes[0].name: region for region in self.regions}
        self.last = {region.name: region for region in self.regions}
        self.shapes = {node.name: node.shape for node in found.nodes}

    def result(self) -> Fused:
        inner: dict[str, str] = {}
        for node in self.found.nodes:
            if node.name in self.first:
                inner = self._enter(self.first[node.name])
            if node.kind == "site":
                self._site(node)
            elif node.kind == "function":
                self._add(self._rewired(node, self.renamed | inner))
            else:
                self._add(self._rewired(node, self.renamed))
            if node.name in self.last:
                self._leave(self.last[node.name])
        outputs = map_leaves(lambda leaf: self._swapped(leaf, self.renamed), self.found.outputs)
        return replace(self.found, nodes=tuple(self.done.values()), outputs=outputs)

    def _add(self, node: Node) -> None:
        self.done[node.name] = node

    def _enter(self, region: Region) -> dict[str, str]:
        """Bring the signals of a region to the batch first, and back inside of the region."""
        found = {}
        outside: list[tuple[str, str, _Layout]] = []
        for name in region.signals:
            layout = _layout(self.shapes.get(name))
            if layout is not None:
                source = self.renamed.get(name, name)
                first = self._chain(source, f"{name}_rows_{region.name}", layout, "linear", False)
                outside.append((name, first, layout))
        for name, first, layout in outside:
            back = f"{name}_inside_{region.name}"
            found[name] = self._chain(first, back, layout, "function", True)
        return found

    def _leave(self, region: Region) -> None:
        """Bring the outputs of a region to the batch first, and back behind it without a site."""
        inside = {node.name for node in region.nodes}
        for name in region.outputs:
            layout = _layout(self.shapes[name])
            if layout is None:
                continue
            rows = self._chain(name, f"{name}_rows", layout, "function", False)
            readers = [node for node in self.found.nodes if name in node.reads]
            if any(node.kind != "site" and node.name not in inside for node in readers):
                self.renamed[name] = self._chain(rows, f"{name}_after", layout, "linear", True)

    def _site(self, node: Node) -> None:
        source, layout = node.reads[0], _layout(node.shape)
        if layout is None:
            self._add(self._rewired(node, self.renamed))
            return
        rows = f"{source}_rows"
        if rows not in self.done:
            self._chain(self.renamed.get(source, source), rows, layout, "linear", False)
        self._add(replace(node, args=(Value(rows),), shape=self.done[rows].shape))
        back = self._chain(node.name, f"{node.name}_back", layout, "linear", True)
        self.renamed[node.name] = back

    def _chain(self, source: str, name: str, layout: _Layout, kind: Kind, back: bool) -> str:
        """Add the nodes that move the batch to the front, or back; return the last one's name."""
        size, rest = layout.multiple, layout.rest
        merged, apart = (-size, *rest), (-1, size, *rest)
        sizes: tuple[Argument, ...] = (Batch(size), *rest) if back else (Batch(1), size, *rest)
        order = layout.order
        moves: list[tuple[str, tuple[Argument, ...], tuple[int, ...]]] = []
        if size > 1:
            moves.append((ops.RESHAPE, (sizes,), merged if back else apart))
        if order != tuple(range(len(order))):
            turned = tuple(order.index(n) for n in range(len(order))) if back else order
            own = list(rest)
            own.insert(layout.axis, -size)
            moves.append((ops.PERMUTE, (turned,), tuple(own) if back else merged))
        for number, (op, args, shape) in enumerate(moves if back else reversed(moves)):
            last = number == len(moves) - 1
            new = name if last else f"{name}_{number}"
            place = self.done[source].place if source in self.done else ""
            self._add(Node(new, op, (Value(source), *args), {}, kind, place, shape))
            source = new
        return source

    def _rewired(self, node: Node, names: dict[str, str]) -> Node:
        args = map_leaves(lambda leaf: self._swapped(leaf, names), node.args)
        return replace(
            node, args=args, kwargs=map_leaves(lambda leaf: self._swapped(leaf, names), node.kwargs)
        )

    def _swapped(self, leaf: Argument, names: dict[str, str]) -> Argument:
        known = isinstance(leaf, Value) and leaf.name in names
        return Value(names[leaf.name]) if known else leaf


def _layout(shape: Sequence[int] | None) -> _Layout | None:
    """The layout of a value whose batch is not alone at axis 0, or None."""
    moved = [axis for axis, size in enumerate(shape or ()) if size < 0]
    if shape is None or len(moved) != 1 or (moved == [0] and shape[0] == -1):
        return None
    axis = moved[0]
    return _Layout(axis, -shape[axis], tuple(size for n, size in enumerate(shape) if n != axis))


__all__ = ["batch_first"]

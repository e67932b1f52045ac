"""Fuse neighboring functions into regions, and put neurons behind them.

`export` marks every function of signals. This module decides what becomes of each of them:

- Behind the last activation a function belongs to the readout. It runs once, on the time average.
- All others form regions. Two functions are in one region if no weighted layer lies between them.
  Linear operations, pools and clamps between them join the region if nothing else reads them. A
  region never contains both ends of a path that leaves it and comes back.
- What leaves a region goes through a site, unless the region follows from the input alone.
"""

from __future__ import annotations

import heapq
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from transpike.graph import ops
from transpike.graph.network import INPUT, Argument, Kind, Node, Value, leaves, map_leaves

_PASSING = frozenset({"sum", "scale", "copy", "pad"})  # They work on each element on its own.


@dataclass(frozen=True)
class Fused:
    """A graph with regions.

    Attributes:
        nodes: the nodes, with a site behind every region.
        outputs: the outputs, which read the sites in place of the regions.
        origin: for every new site, the function node that computes its value, by name.
    """

    nodes: tuple[Node, ...]
    outputs: tuple[Argument, ...]
    origin: Mapping[str, str]


def fused(nodes: Sequence[Node], outputs: tuple[Argument, ...]) -> Fused:
    """Form the regions of a graph whose functions are marked, see the top of this file."""
    if not any(node.kind == "function" for node in nodes):
        return Fused(tuple(nodes), outputs, {})
    graph = _Graph(nodes, outputs)
    lively, raw = graph.lively(every=False), graph.raw()
    if not graph.has_sites and lively <= raw:  # Without any activation, all functions count.
        lively = graph.lively(every=True)
        raw = set() if lively <= raw else raw
    return _Rebuilt(graph, _groups(graph, lively, raw), raw).result()


class _Graph:
    """The nodes of a graph with their readers."""

    def __init__(self, nodes: Sequence[Node], outputs: tuple[Argument, ...]) -> None:
        self.by_name: dict[str, Node] = {}
        for node in nodes:  # One part of a tuple of a function belongs to the function.
            source = self.by_name.get(node.reads[0]) if node.op == "getitem" else None
            if source is not None and source.kind == "function":
                node = replace(node, kind="function")
            self.by_name[node.name] = node
        self.nodes = tuple(self.by_name.values())
        self.outputs = outputs
        self.place = {node.name: index for index, node in enumerate(self.nodes)}
        self.readers: dict[str, list[str]] = {name: [] for name in (INPUT, *self.by_name)}
        for node in self.nodes:
            for name in dict.fromkeys(node.reads):
                self.readers[name].append(node.name)
        self.read_out = {leaf.name for leaf in leaves(outputs) if isinstance(leaf, Value)}
        self.has_sites = any(node.kind == "site" for node in nodes)

    def weighted(self, node: Node) -> bool:
        """Whether a node is a linear operation with weights."""
        return node.kind == "linear" and ops.record(node.op).role in ("layer", "product")

    def neutral(self, name: str) -> bool:
        """Whether a value may lie inside of a region, though it is that of no function."""
        node = self.by_name.get(name)
        if node is None:
            return False
        return node.kind == "cumulative" or (node.kind == "linear" and not self.weighted(node))

    def lively(self, *, every: bool) -> set[str]:
        """Functions that need neurons: activations before a layer, and all that leads to a site.

        Args:
            every: whether any function before a layer counts as an activation.
        """
        active = self._activations(every)
        found: set[str] = set()
        leading: set[str] = set()
        for node in reversed(self.nodes):
            needed = node.name in leading or node.name in active
            if node.kind == "function" and needed:
                found.add(node.name)
            if needed or node.kind == "site":
                leading.update(node.reads)
        parts = [n for n in self.nodes if n.kind == "function" and n.op == "getitem"]
        return found | {node.name for node in parts if node.reads[0] in found}

    def _activations(self, every: bool) -> set[str]:
        """Activations that a layer follows, and functions of single elements right behind them."""
        before_layer: set[str] = set()
        for node in reversed(self.nodes):
            layer = node.kind == "linear" and ops.record(node.op).role == "layer"
            if layer or node.name in before_layer:
                before_layer.update(node.reads)
        flowing: set[str] = set()
        active: set[str] = set()
        for node in self.nodes:
            packet, behind = ops.packet(node.op), not flowing.isdisjoint(node.reads)
            if node.kind == "function" and node.name in before_layer:
                alone = packet in ops.ELEMENTWISE or node.op == "getitem"
                if every or packet in ops.ACTIVATIONS or (behind and alone):
                    active.add(node.name)
                    flowing.add(node.name)
            elif node.kind == "site":
                flowing.add(node.name)
            elif node.kind == "linear" and ops.record(node.op).role in _PASSING and behind:
                flowing.add(node.name)
        return active

    def raw(self) -> set[str]:
        """Functions that follow from the input without any weighted layer or site."""
        raw = {INPUT}
        signals = {INPUT}
        for node in self.nodes:
            moving = [name for name in node.reads if name in signals]
            if node.kind == "constant" or not moving:
                continue
            signals.add(node.name)
            plain = node.kind == "function" or self.neutral(node.name)
            if plain and all(name in raw for name in moving):
                raw.add(node.name)
        return {name for name in raw if name != INPUT and self.by_name[name].kind == "function"}


@dataclass
class _Group:
    """The members of one region under construction; `real` if one of them is a function."""

    members: set[str]
    real: bool


def _groups(graph: _Graph, lively: set[str], raw: set[str]) -> dict[str, _Group]:
    """Form the regions and return the group of every member by name."""
    group = {
        node.name: _Group({node.name}, node.name in lively)
        for node in graph.nodes
        if node.name in lively or node.kind == "site"
    }
    # What several functions read joins their region in the second round.
    while _merge(graph, group, raw):
        pass
    return {name: one for name, one in group.items() if one.real}


def _merge(graph: _Graph, group: dict[str, _Group], raw: set[str]) -> bool:
    """Join the groups of all neighbors that may be together. Returns whether any were joined."""
    changed = False
    for node in graph.nodes:
        if node.name not in group:
            continue
        for source in _sources(graph, node, group):
            one, other = group[source], group[node.name]
            if one is other or not (one.real or other.real):
                continue
            if (source in raw) != (node.name in raw):
                continue
            members = _joined(graph, node, one, other)
            if members is not None:
                together = _Group(members, True)
                group.update(dict.fromkeys(members, together))
                changed = True
    return changed


def _sources(graph: _Graph, node: Node, group: Mapping[str, _Group]) -> list[str]:
    """Members of groups whose value reaches a node through neutral nodes alone, nearest first."""
    found: dict[str, None] = {}
    seen: set[str] = set()
    waiting = list(node.reads)
    while waiting:
        nearer: list[str] = []
        for name in waiting:
            if name in seen:
                continue
            seen.add(name)
            if name in group:
                found[name] = None
            elif graph.neutral(name):
                nearer += graph.by_name[name].reads
        waiting = nearer
    return list(found)


def _joined(graph: _Graph, node: Node, one: _Group, other: _Group) -> set[str] | None:
    """The members of two groups and of what lies between, or None if they stay apart."""
    members = one.members | other.members
    between = _between(graph, node, one.members, members)
    if not one.real and not all(_closed(graph, n, members | between) for n in one.members):
        return None  # A clamp stays a site of its own if anything else reads it.
    linked = any(name in one.members or name in between for name in node.reads)
    if not linked or _comes_back(graph, members | between):
        return None
    return members | between


def _between(graph: _Graph, node: Node, sources: set[str], members: set[str]) -> set[str]:
    """Neutral nodes on the way from some members to a node that nothing else reads."""
    behind: set[str] = set()
    before: list[str] = []
    waiting, seen = list(node.reads), set()
    while waiting:
        name = waiting.pop()
        if name in seen or name in members or not graph.neutral(name):
            continue
        seen.add(name)
        before.append(name)
        waiting += graph.by_name[name].reads
    for name in sorted(before, key=graph.place.__getitem__):
        if any(read in sources or read in behind for read in graph.by_name[name].reads):
            behind.add(name)
    while True:
        kept = {name for name in behind if _closed(graph, name, members | behind)}
        kept = {
            name
            for name in kept
            if any(read in sources or read in kept for read in graph.by_name[name].reads)
        }
        if kept == behind:
            return kept
        behind = kept


def _closed(graph: _Graph, name: str, members: Collection[str]) -> bool:
    """Whether a value is read by members alone."""
    return name not in graph.read_out and all(one in members for one in graph.readers[name])


def _comes_back(graph: _Graph, members: set[str]) -> bool:
    """Whether a path leaves the members and comes back to them."""
    last = max(graph.place[name] for name in members)
    waiting = [r for name in members for r in graph.readers[name] if r not in members]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen or graph.place[name] > last:
            continue
        seen.add(name)
        for reader in graph.readers[name]:
            if reader in members:
                return True
            waiting.append(reader)
    return False


class _Rebuilt:
    """The graph with regions, and with sites behind them."""

    def __init__(self, graph: _Graph, group: dict[str, _Group], raw: set[str]) -> None:
        self.graph, self.group = graph, group
        self.nodes = dict(graph.by_name)
        self.origin: dict[str, str] = {}
        self.renamed: dict[str, str] = {}
        self._set_kinds()
        for one in {id(one): one for one in group.values()}.values():
            self._leave(one, not one.members.isdisjoint(raw))

    def result(self) -> Fused:
        """The nodes in an order in which the nodes of a region follow each other."""
        nodes = {name: self._rewired(node) for name, node in self.nodes.items()}
        outputs = map_leaves(self._swapped, self.graph.outputs)
        return Fused(tuple(self._ordered(nodes)), outputs, self.origin)

    def _set_kinds(self) -> None:
        averaged: set[str] = set()  # what follows from a function of the readout
        for node in self.graph.nodes:
            kind: Kind = node.kind
            if node.name in self.group:
                kind = "function"
            elif node.kind == "function":
                kind = "readout"
            elif node.kind == "cumulative" and not averaged.isdisjoint(node.reads):
                kind = "readout"
            if kind == "readout" or not averaged.isdisjoint(node.reads):
                averaged.add(node.name)
            if kind == "function" and node.kind == "site":
                bounds = (0.0, node.kwargs["upper_bound"])
                node = replace(node, op=ops.CLAMP, args=(*node.args, *bounds), kwargs={})
            self.nodes[node.name] = replace(node, kind=kind)

    def _leave(self, one: _Group, raw: bool) -> None:
        """Put a site, or an alias for another region, behind every value that leaves a group."""
        for name in sorted(one.members, key=self.graph.place.__getitem__):
            outside = [r for r in self.graph.readers[name] if r not in one.members]
            if raw:
                if any(reader in self.group for reader in outside):
                    self._behind(name, f"{name}_input", ops.ALIAS, "linear")
                continue
            if not outside and name not in self.graph.read_out:
                continue
            last = self._with_copies(name, one)
            site = self._behind(last, f"{last}_spikes", ops.SPIKES, "site")
            self.origin[site] = name

    def _behind(self, name: str, new: str, op: str, kind: Kind) -> str:
        while new in self.nodes:
            new += "_"
        node = self.nodes[name]
        self.nodes[new] = Node(new, op, (Value(name),), {}, kind, node.place, node.shape)
        self.renamed[name] = new
        return new

    def _with_copies(self, name: str, one: _Group) -> str:
        """Take copies with a single reader into the region; they only move the value around."""
        while True:
            outside = [r for r in self.graph.readers[name] if r not in one.members]
            if len(outside) != 1 or name in self.graph.read_out or outside[0] in self.group:
                return name
            node, before = self.nodes[outside[0]], self.nodes[name]
            copies = node.kind == "linear" and ops.record(node.op).role == "copy"
            if not copies or node.op == "getitem" or set(node.reads) != {name}:
                return name
            if not node.shape or not before.shape or node.shape[0] != -1 or len(node.shape) < 2:
                return name
            inner = any(reader in one.members for reader in self.graph.readers[name])
            if inner or prod(node.shape) * prod(before.shape) < 0:
                return name
            if abs(prod(node.shape)) > abs(prod(before.shape)):
                return name
            self.nodes[node.name] = replace(node, kind="function")
            one.members.add(node.name)
            self.group[node.name] = one
            name = node.name

    def _swapped(self, leaf: Argument) -> Argument:
        known = isinstance(leaf, Value) and leaf.name in self.renamed
        return Value(self.renamed[leaf.name]) if known else leaf

    def _rewired(self, node: Node) -> Node:
        """Read the sites in place of the regions, except from the inside."""
        own = self.group.get(node.name)

        def swap(leaf: Argument) -> Argument:
            inside = isinstance(leaf, Value) and (
                (own is not None and leaf.name in own.members)
                or self.renamed.get(leaf.name) == node.name
                or (own is None and self._is_raw(leaf.name))
            )
            return leaf if inside else self._swapped(leaf)

        return replace(node, args=map_leaves(swap, node.args), kwargs=map_leaves(swap, node.kwargs))

    def _is_raw(self, name: str) -> bool:
        """Whether a value is that of a region without neurons."""
        new = self.renamed.get(name)
        return new is not None and self.nodes[new].kind != "site"

    def _ordered(self, nodes: Mapping[str, Node]) -> Iterator[Node]:
        """Sort by the last place of a unit, which is a region or a single node."""
        place: dict[str, float] = dict(self.graph.place.items())
        for group in {id(one): one for one in self.group.values()}.values():
            last = max(place[name] for name in group.members)
            place.update(dict.fromkeys(group.members, last))
        for name, new in self.renamed.items():
            place[new] = place[name] + 0.5
        unit = {n: min(self.group[n].members) if n in self.group else n for n in nodes}
        members: dict[str, list[str]] = {}
        for name in nodes:
            members.setdefault(unit[name], []).append(name)
        waits = {
            one: {unit[r] for n in names for r in nodes[n].reads if r != INPUT} - {one}
            for one, names in members.items()
        }
        then: dict[str, list[str]] = {one: [] for one in members}
        for one, before in waits.items():
            for earlier in before:
                then[earlier].append(one)
        ready = [(place[one], one) for one, before in waits.items() if not before]
        heapq.heapify(ready)
        while ready:
            _, one = heapq.heappop(ready)
            yield from _inner_order(members[one], nodes)
            for later in then[one]:
                waits[later].discard(one)
                if not waits[later]:
                    heapq.heappush(ready, (place[later], later))


def _inner_order(names: Sequence[str], nodes: Mapping[str, Node]) -> Iterator[Node]:
    """The nodes of a unit; copies that were taken in come after what they read."""
    done: set[str] = set()
    left = list(names)
    inside = set(names)
    while left:
        now = [n for n in left if all(r in done or r not in inside for r in nodes[n].reads)]
        for name in now:
            yield nodes[name]
        done.update(now)
        left = [name for name in left if name not in done]


__all__ = ["Fused", "fused"]

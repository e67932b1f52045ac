"""Regions: what a network computes between two weighted layers besides clamps.

A region is a part of the graph that is one function of several signals, such as a GELU, a
LayerNorm, softmax(q k') v, or x * sigmoid(w x). It has no weights of a layer in it. In a spiking
network a region is computed on the running means of its inputs. With S_t the sums of the inputs up
to timestep t, a region with the function g sends

    t g(S_t / t) - (t-1) g(S_{t-1} / (t-1))   in rate coding,
    g(S_t) - g(S_{t-1})                       in differential coding.

Behind it stands a site without bounds, whose neurons send this value as spikes. A region that
follows from the input alone, without a weighted layer in between, has no neurons: its value is a
part of the input of the first layer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

if TYPE_CHECKING:
    from transpike.graph.network import Network, Node


@dataclass(frozen=True)
class Region:
    """One function of several signals.

    Attributes:
        name: name of the last node.
        nodes: the nodes in execution order. They follow each other in the network.
        signals: names of the values that enter the function, which change over time.
        constants: names of the values that it reads and that do not depend on the input.
        outputs: names of the values that are read outside of the region.
    """

    name: str
    nodes: tuple[Node, ...]
    signals: tuple[str, ...]
    constants: tuple[str, ...]
    outputs: tuple[str, ...]

    @property
    def reads(self) -> tuple[str, ...]:
        """Names of all values from outside."""
        return (*self.signals, *self.constants)


def regions_of(nodes: Sequence[Node], read_out: Iterable[str]) -> tuple[Region, ...]:
    """Find the regions of a network: function nodes that read each other belong together.

    Args:
        nodes: the nodes of the network.
        read_out: names of the values that are outputs of the network.
    """
    root: dict[str, str] = {}

    def find(name: str) -> str:
        while root[name] != name:
            root[name] = root[root[name]]
            name = root[name]
        return name

    for node in nodes:
        if node.kind == "function":
            root[node.name] = node.name
            for read in node.reads:
                if read in root:
                    root[find(read)] = find(node.name)
    members: dict[str, list[Node]] = {}
    for node in nodes:
        if node.name in root:
            members.setdefault(find(node.name), []).append(node)
    constants = {node.name for node in nodes if node.kind == "constant"}
    outside = set(read_out)
    for node in nodes:
        own = find(node.name) if node.name in root else None
        outside.update(n for n in node.reads if n in root and find(n) != own)
    return tuple(_region(group, constants, outside) for group in members.values())


def _region(group: Sequence[Node], constants: set[str], outside: set[str]) -> Region:
    inside = {node.name for node in group}
    reads = dict.fromkeys(name for node in group for name in node.reads if name not in inside)
    return Region(
        name=group[-1].name,
        nodes=tuple(group),
        signals=tuple(name for name in reads if name not in constants),
        constants=tuple(name for name in reads if name in constants),
        outputs=tuple(node.name for node in group if node.name in outside),
    )


def evaluate(
    network: Network, region: Region, values: Mapping[str, Any], rows: int
) -> dict[str, Tensor]:
    """Compute a region as the analog network does.

    Args:
        network: the network.
        region: the region.
        values: the values that the region reads, by name.
        rows: length of the batch axis.

    Returns:
        The outputs of the region by name.
    """
    found: dict[str, Any] = {name: values[name] for name in region.reads}
    for node in region.nodes:
        found[node.name] = network.compute(node, found, rows)
    return {name: found[name] for name in region.outputs}


def tail_of(nodes: Sequence[Node]) -> frozenset[str]:
    """Return the nodes from which no site, region or cumulative operation is reachable."""
    reaches: set[str] = set()
    for node in reversed(nodes):
        if node.kind in ("site", "cumulative", "function") or node.name in reaches:
            reaches.update(node.reads)
    tail: set[str] = set()
    for node in nodes:
        if node.name in reaches or node.kind not in ("linear", "readout"):
            continue
        # One part of a split is averaged over time, but never the tuple of all parts.
        if node.op != "getitem" or node.reads[0] in tail:
            tail.add(node.name)
    return frozenset(tail)


def over_time(nodes: Sequence[Node], outputs: Sequence[Any]) -> set[str]:
    """Names of the values that a simulation keeps over time, whose first axis is the batch.

    They are the inputs and outputs of neurons and of running sums, and what is read out.
    """
    tail = tail_of(nodes)
    names = {leaf.name for leaf in outputs if hasattr(leaf, "name")}
    for node in nodes:
        if node.kind in ("site", "cumulative"):
            names.update((node.name, *node.reads))
        elif node.name in tail:
            names.update(name for name in node.reads if name not in tail)
    for region in regions_of(nodes, names):
        names.update((*region.signals, *region.outputs))
    return names


__all__ = ["Region", "evaluate", "over_time", "regions_of", "tail_of"]

"""Plan a simulation once: the order of operations, the reuse of memory, and its layout.

Every node becomes a `Step`. Values that are the same at every timestep are computed once. A sum of
two branches that only a site reads is computed inside the neuron update. Every step names the
values that no later step reads, so that their memory can be released.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.graph.network import (
    INPUT,
    Batch,
    Network,
    Node,
    Site,
    Value,
    Weight,
    leaves,
    operation,
)
from transpike.graph.ops import ADD, OPERATIONS, SUB
from transpike.graph.regions import Region
from transpike.simulation.readout import frontier

Values = dict[str, Any]
_FORMATS = {4: torch.channels_last, 5: torch.channels_last_3d}


@dataclass(frozen=True)
class Step:
    """One node of the plan.

    Attributes:
        node: the node.
        kind: "site", "cumulative", "function" or "linear".
        site: the site, if the node is one.
        region: the region whose last node this is, or None. The step computes all its nodes.
        reads: names of the values that are read. A site reads its current, or the two currents
            whose sum it is.
        dead: names of the values that no later step reads.
        reusable: whether the output of the site may overwrite its current.
        broadcast: whether the node adds a value that changes in time and one that does not.
    """

    node: Node
    kind: Literal["site", "cumulative", "function", "linear"]
    site: Site | None
    region: Region | None
    reads: tuple[str, ...]
    dead: tuple[str, ...]
    reusable: bool
    broadcast: bool

    @property
    def sends(self) -> tuple[str, ...]:
        """Names of the values that the step computes."""
        return (self.node.name,) if self.region is None else self.region.outputs


@dataclass(frozen=True)
class Plan:
    """The order of a simulation.

    Attributes:
        network: the network.
        static: nodes whose value is the same at every timestep.
        kept: names of the static values that a step or the readout needs.
        steps: what is computed at every timestep, in order.
        readout: names of the values whose time average is read out.
    """

    network: Network
    static: tuple[Node, ...]
    kept: frozenset[str]
    steps: tuple[Step, ...]
    readout: tuple[str, ...]

    def bytes_per_timestep(self, itemsize: int) -> int:
        """Largest number of bytes that values of one sample and timestep take at the same time."""
        size = _value_sizes(self.network)
        live: dict[str, int] = {}
        most = 0
        for step in self.steps:
            live.update({name: size[name] for name in step.sends})
            most = max(most, sum(live.values()) + _scratch(step, size))
            for name in step.dead:
                live.pop(name, None)
        return max(most, 1) * itemsize

    def bytes_per_sample(self, itemsize: int) -> int:
        """Bytes per sample that are kept between timesteps: states, sums and static values."""
        size = _value_sizes(self.network)
        state = sum(2 * step.site.neurons for step in self.steps if step.site is not None)
        sums = sum(size[s.reads[0]] for s in self.steps if s.kind == "cumulative")
        regions = [step.region for step in self.steps if step.region is not None]
        sums += sum(size[name] for one in regions for name in (*one.signals, *one.outputs))
        static = sum(size[name] for name in self.kept)
        read = sum(size[name] for name in self.readout)
        return (state + sums + static + read) * itemsize

    def largest_value(self, itemsize: int) -> int:
        """Bytes of the largest value of one sample and timestep."""
        size = _value_sizes(self.network)
        names = [name for step in self.steps for name in (step.node.name, *_inside(step))]
        return max((size[name] for name in names), default=1) * itemsize


def _inside(step: Step) -> tuple[str, ...]:
    """Names of the values inside of a region."""
    return () if step.region is None else tuple(node.name for node in step.region.nodes)


def _scratch(step: Step, size: Mapping[str, int]) -> int:
    """Number of values in memory while a step runs, besides its inputs and its output."""
    if step.kind == "cumulative":  # The running sums, before and after pooling.
        return size[step.reads[0]] + size[step.node.name]
    if step.region is not None:  # The means of its inputs and all values inside of it.
        return sum(size[name] for name in (*step.region.signals, *_inside(step)))
    if OPERATIONS[step.node.op].convolves:
        # Lists of values and their channels, or a copy in another order.
        return 3 * sum(size[name] for name in step.reads) // 2
    return 0


def _value_sizes(network: Network) -> dict[str, int]:
    """Number of values per sample of every node. A tuple counts as the value it was split from."""
    sizes = {INPUT: prod(network.input_shape)}
    for node in network.nodes:
        if node.shape is None:
            sizes[node.name] = sum(sizes[name] for name in node.reads)
        else:
            lead = max(1, -node.shape[0]) if node.shape else 1
            sizes[node.name] = lead * prod(abs(n) for n in node.shape[1:])
    return sizes


def plan(
    network: Network, *, constant_input: bool, joins: Mapping[str, Node] | None = None
) -> Plan:
    """Plan a simulation.

    Args:
        network: the network.
        constant_input: whether the input is the same at every timestep.
        joins: concatenations whose parts their only reader reads directly, by the name of the
            reader.
    """
    static = _static_names(network, constant_input)
    readout = frontier(network)
    moving = [
        node for node in network.nodes if node.name not in static and node.name not in network.tail
    ]
    readers = Counter(name for node in moving for name in node.reads)
    readers.update(readout)
    fused, joined = _fused(network, moving, readers), joins or {}
    left_out = fused.keys() | {node.name for node in joined.values()}
    left_out |= {name for name, region in network.regions.items() if name != region.name}
    kept_nodes = [node for node in moving if node.name not in left_out]
    reads = {
        node.name: joined[node.name].reads if node.name in joined else _reads(network, node, fused)
        for node in kept_nodes
    }
    last = {name: node.name for node in kept_nodes for name in reads[node.name]}
    for name in readout:
        last.pop(name, None)
    steps = tuple(
        _step(network, node, reads[node.name], last, readers, static) for node in kept_nodes
    )
    needed = {name for names in reads.values() for name in names} | set(readout)
    return Plan(
        network=network,
        static=tuple(node for node in network.nodes if node.name in static),
        kept=frozenset(name for name in static if name in needed),
        steps=steps,
        readout=readout,
    )


def _static_names(network: Network, constant_input: bool) -> frozenset[str]:
    """Names of the values that are the same at every timestep and have the batch as first axis."""
    names = {INPUT} if constant_input else set()
    for node in network.nodes:
        if node.name in network.tail or node.kind not in ("linear", "constant"):
            continue
        batch_first = node.shape is None or node.shape[:1] == (-1,)
        if batch_first and all(name in names for name in node.reads):
            names.add(node.name)
    return frozenset(names)


def _fused(network: Network, moving: list[Node], readers: Counter[str]) -> dict[str, Node]:
    """Sums of two branches of equal shape that only a site reads, by name."""
    sums: dict[str, Node] = {}
    shapes = {node.name: node.shape for node in network.nodes}
    in_time = {node.name for node in moving}
    for node in moving:
        if node.name not in network.site_of:
            continue
        source = network.by_name.get(node.reads[0])
        if source is None or readers[source.name] != 1 or source.op != ADD:
            continue
        plain = len(source.args) == 2 and not source.kwargs
        tensors = plain and all(isinstance(arg, Value) for arg in source.args)
        if not tensors or source.kind != "linear" or len(source.reads) != 2:
            continue
        if source.name not in in_time or any(shapes.get(n) != source.shape for n in source.reads):
            continue
        sums[source.name] = source
    return sums


def _reads(network: Network, node: Node, fused: Mapping[str, Node]) -> tuple[str, ...]:
    if node.name in network.site_of and node.reads[0] in fused:
        return fused[node.reads[0]].reads
    return network.regions[node.name].reads if node.kind == "function" else node.reads


def _step(
    network: Network,
    node: Node,
    reads: tuple[str, ...],
    last: Mapping[str, str],
    readers: Counter[str],
    static: frozenset[str],
) -> Step:
    site = network.site_of.get(node.name)
    kind: Literal["site", "cumulative", "function", "linear"] = "linear"
    if site is not None:
        kind = "site"
    elif node.kind in ("cumulative", "function"):
        kind = node.kind
    source = network.by_name.get(reads[0]) if reads else None
    # With another reader, even an earlier one, a view of the current may still be in use.
    alone = source is not None and readers[source.name] == 1 and source.name not in static
    constant = [name for name in set(reads) if name in static]
    return Step(
        node=node,
        kind=kind,
        site=site,
        region=network.regions.get(node.name),
        reads=reads,
        dead=tuple(n for n in dict.fromkeys(reads) if last.get(n) == node.name),
        reusable=alone and source is not None and _is_fresh(source),
        broadcast=len(constant) == 1
        and len(set(reads)) == 2
        and node.op in (ADD, SUB)
        and all(_batch_first(network, name) for name in (node.name, *reads)),
    )


def _batch_first(network: Network, name: str) -> bool:
    """Whether the first axis of a value is the batch."""
    shape = (-1,) if name == INPUT else network.by_name[name].shape
    return shape is not None and shape[:1] == (-1,)


def _is_fresh(node: Node) -> bool:
    """Whether the result of an operation never shares memory with anything else."""
    return node.kind == "function" or OPERATIONS[node.op].role in ("layer", "sum")


def bound_call(network: Network, node: Node) -> Callable[[Mapping[str, Any], int], Any]:
    """Turn a node into a function of (values, rows), with all constant arguments looked up.

    The result is that of `Network.compute`, which also serves nodes with nested arguments or with
    arguments that depend on the batch size.
    """
    plain = all(isinstance(arg, Value) or not _nested(arg) for arg in node.args)
    if node.kwargs or not plain or any(isinstance(leaf, Batch) for leaf in leaves(node.args)):
        return lambda values, rows: network.compute(node, values, rows)
    function = operation(node.op)
    template = [
        None if isinstance(arg, Value) else network.resolve(arg, {}, 0) for arg in node.args
    ]
    slots = [(at, arg.name) for at, arg in enumerate(node.args) if isinstance(arg, Value)]
    first = node.shape is not None  # The pooled values without the indices.

    def call(values: Mapping[str, Any], rows: int) -> Any:
        args = list(template)
        for at, name in slots:
            args[at] = values[name]
        result = function(*args)
        return result[0] if first and isinstance(result, tuple) else result

    return call


def _nested(argument: Any) -> bool:
    """Whether an argument is a tuple that contains references."""
    inside = isinstance(argument, tuple | list)
    return inside and any(isinstance(leaf, Value | Weight | Batch) for leaf in leaves(argument))


def dense(value: Tensor) -> Tensor:
    """The value in channels-last memory order, or in plain order if it has no spatial axes."""
    return value.contiguous(memory_format=_FORMATS.get(value.ndim, torch.contiguous_format))


def room(rows: int, like: Tensor, dtype: torch.dtype) -> Tensor:
    """Allocate `rows` rows with the shape of those of `like`, in channels-last order."""
    shape = (rows, *like.shape[1:])
    order = _FORMATS.get(like.ndim, torch.contiguous_format)
    return torch.empty(shape, dtype=dtype, device=like.device, memory_format=order)


def flat(value: Tensor, length: int) -> Tensor:
    """View a dense value (L*B, ...) as (L, B, N) in memory order; the memory is shared."""
    batch = value.shape[0] // length
    neurons = value[:1].numel()
    return value.as_strided((length, batch, neurons), (batch * neurons, neurons, 1))

"""The engine: the same numbers as the reference, layer by layer over chunks of timesteps.

Linear operations see time and batch as one axis; what is constant in time is computed once; a
population runs through all timesteps of a chunk while a block of its neurons stays in the cache;
intermediate results are freed after their last reader.

Shapes: L timesteps of a chunk, B batch. A value that changes in time is (L*B, ...), time first.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from transpike.convert import SpikingNetwork, site_bounds
from transpike.errors import ArgumentError
from transpike.network import INPUT, Node, Site
from transpike.neuron import Neuron, State, initial_state
from transpike.ops import packet
from transpike.reference import (
    Record,
    Simulation,
    Totals,
    add_totals,
    check_request,
    frontier,
    mean_of,
    pooled,
    read_out,
)

DEFAULT_CHUNK = 8
# Values per block of the neuron update: its five buffers of fp32 fit a 512 KiB second-level cache.
_BLOCK = 24_576
_PRECISIONS = ("exact",)


def simulate(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    output_at: Iterable[int] | None = None,
    record: Iterable[str] = (),
    totals: bool = False,
    chunk: int = DEFAULT_CHUNK,
    precision: str = "exact",
) -> Simulation:
    """Simulate a spiking network; state is made anew for every call.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1, every synchronous pass counted.
        time_axis: the input's first axis is time.
        output_at: the timesteps to read out, 1-based; default all.
        record: names of the sites whose counts and membranes are kept.
        totals: whether to sum currents and counts of every neuron.
        chunk: timesteps computed together; memory grows with it, results do not depend on it.
        precision: "exact": the network's own type throughout.

    Returns:
        Mean readout over 1..t for every t, spike counts, records and totals.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the input does not fit the network.
    """
    record = tuple(record)
    wanted = check_request(snn, x, timesteps, time_axis, output_at, record)
    if isinstance(chunk, bool) or not isinstance(chunk, int) or chunk < 1:
        raise ArgumentError(f"chunk: needed an integer >= 1, got {chunk!r}.")
    if precision not in _PRECISIONS:
        raise ArgumentError(f"precision: needed one of {_PRECISIONS}, got {precision!r}.")
    with torch.inference_mode():
        return _Engine(snn, x, time_axis, record, totals).run(timesteps, wanted, chunk)


class _Engine:
    """State of one simulation of one batch."""

    def __init__(
        self,
        snn: SpikingNetwork,
        x: Tensor,
        time_axis: bool,
        record: tuple[str, ...],
        totals: bool,
    ) -> None:
        self.network = snn.network
        self.neurons = snn.neurons
        self.steps = snn.steps
        self.bounds = site_bounds(snn)
        self.x, self.time_axis = x, time_axis
        self.batch = x.shape[1] if time_axis else x.shape[0]
        self.readout = frontier(self.network)
        self.static_names = self._static_names()
        self.static = self._static_values()
        self.states: dict[str, State] = {}
        self.sums: dict[str, Tensor] = {}
        self.totals: dict[str, Tensor] = {}
        self.counts: dict[str, list[Tensor]] = {site.name: [] for site in self.network.sites}
        self.recorded: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in record}
        self.site_totals: dict[str, Totals] | None = {} if totals else None
        self.plan = [
            node
            for node in self.network.nodes
            if node.name not in self.static_names and node.name not in self.network.tail
        ]
        self.readers = Counter(name for node in self.plan for name in node.reads)
        self.readers.update(self.readout)
        self.last_reader = {name: node.name for node in self.plan for name in node.reads}
        for name in self.readout:
            self.last_reader.pop(name, None)

    def _static_names(self) -> frozenset[str]:
        """Values that are the same at every timestep: computed once, shape (B, ...)."""
        names = set() if self.time_axis else {INPUT}
        for node in self.network.nodes:
            if node.name in self.network.tail or node.kind not in ("linear", "constant"):
                continue
            batch_first = node.shape is None or node.shape[:1] == (-1,)
            if batch_first and all(name in names for name in node.reads):
                names.add(node.name)
        return frozenset(names)

    def _static_values(self) -> dict[str, Any]:
        values: dict[str, Any] = {} if self.time_axis else {INPUT: self.x}
        for node in self.network.nodes:
            if node.name in self.static_names:
                values[node.name] = self.network.compute(node, values, self.batch)
        read = {
            name
            for node in self.network.nodes
            if node.name not in self.static_names
            for name in node.reads
        } | set(self.readout)
        return {name: value for name, value in values.items() if name in read}

    def run(self, timesteps: int, wanted: tuple[int, ...], chunk: int) -> Simulation:
        outputs: list[list[Tensor]] = []
        for start in range(0, timesteps, chunk):
            length = min(chunk, timesteps - start)
            values = self.pass_chunk(start, length)
            outputs += self.read_chunk(values, start, length, wanted)
        stacked = [torch.cat(column) for column in zip(*outputs, strict=True)]
        return Simulation(
            output=self.network.structured(stacked),
            output_at=wanted,
            timesteps=timesteps,
            counts_per_timestep={name: torch.cat(parts) for name, parts in self.counts.items()},
            neurons=self.network.neurons,
            precision="exact",
            records={
                name: Record(*(torch.cat(series) for series in zip(*parts, strict=True)))
                for name, parts in self.recorded.items()
            },
            totals=self.site_totals or {},
        )

    def pass_chunk(self, start: int, length: int) -> dict[str, Any]:
        """Run timesteps start+1 .. start+length through every node before the readout."""
        values: dict[str, Any] = {}
        if self.time_axis:
            values[INPUT] = self.x[start : start + length].flatten(0, 1)
        for node in self.plan:
            site = self.network.site_of.get(node.name)
            if site is not None:
                values[node.name] = self.population(site, node, values, start, length)
            elif node.kind == "cumulative":
                source = self.over_time(node.reads[0], values, length)
                values[node.name] = self.cumulative(node, source, length)
            else:
                values[node.name] = self.linear(node, values, length)
            for name in node.reads:
                if self.last_reader.get(name) == node.name:
                    values.pop(name, None)
        return values

    def over_time(self, name: str, values: dict[str, Any], length: int) -> Any:
        """A value as (L*B, ...), repeating what is constant in time."""
        if name in values:
            return values[name]
        value = self.static[name]
        if isinstance(value, tuple | list):
            return [_repeated(item, length) for item in value]
        return _repeated(value, length)

    def linear(self, node: Node, values: dict[str, Any], length: int) -> Any:
        reads = set(node.reads)
        constant = [name for name in reads if name not in values]
        if len(constant) == 1 and len(reads) == 2 and node.op in _BROADCASTS:
            # Add a value that is constant in time without repeating it.
            split = {name: self._by_time(name, values, length) for name in reads}
            result: Tensor = self.network.compute(node, split, self.batch)
            return result.flatten(0, 1)
        inputs = {name: self.over_time(name, values, length) for name in reads}
        return self.network.compute(node, inputs, length * self.batch)

    def _by_time(self, name: str, values: dict[str, Any], length: int) -> Tensor:
        """(L, B, ...), or (B, ...) for a value that is constant in time."""
        if name not in values:
            constant: Tensor = self.static[name]
            return constant
        value: Tensor = values[name]
        return _split_time(value, length)

    def population(
        self, site: Site, node: Node, values: dict[str, Any], start: int, length: int
    ) -> Tensor:
        """All timesteps of a chunk for one site; current in, counts times step out (L*B, ...)."""
        name = node.reads[0]
        current = self._by_time(name, values, length)
        # With another reader, even an earlier one, a view of the current may still be in use.
        reusable = name in values and self.readers[name] == 1
        neuron, bound = self.neurons[site.name], self.bounds[site.name]
        if site.name not in self.states:
            like = current if name not in values else current[0]
            self.states[site.name] = initial_state(neuron, bound is not None, like.contiguous())
        state = self.states[site.name]
        if name not in values:
            current = current.expand(length, *current.shape)
        step = site.along_channels(self.steps[site.name])
        reusable = reusable and current.is_contiguous() and self._owned(name)
        out = (
            current
            if reusable
            else torch.empty(current.shape, dtype=current.dtype, device=current.device)
        )
        membranes = (
            torch.empty(current.shape, dtype=current.dtype, device=current.device)
            if site.name in self.recorded
            else None
        )
        currents = current.clone() if self.site_totals is not None else current
        counts = scan(neuron, state, current, step, bound, start, out, membranes)
        self.counts[site.name].append(counts)
        if membranes is not None:
            self.recorded[site.name].append((torch.round(out / step), membranes * step))
        if self.site_totals is not None:
            before = self.site_totals.get(site.name)
            for index in range(length):
                before = add_totals(before, currents[index], torch.round(out[index] / step))
            assert before is not None
            self.site_totals[site.name] = before
        return out.flatten(0, 1)

    def _owned(self, name: str) -> bool:
        """Whether a value has memory of its own, not that of another value or of the input."""
        node = self.network.by_name.get(name)
        return node is not None and packet(node.op) in _FRESH

    def cumulative(self, node: Node, source: Tensor, length: int) -> Tensor:
        """f(S_t) - f(S_{t-1}) for all timesteps of a chunk at once."""
        steps = _split_time(source, length)
        sums = torch.empty((length + 1, *steps.shape[1:]), dtype=source.dtype, device=source.device)
        before = self.sums.get(node.name)
        sums[0] = 0 if before is None else before
        for index in range(length):
            torch.add(sums[index], steps[index], out=sums[index + 1])
        self.sums[node.name] = sums[length].clone()
        reached = pooled(self.network, node, sums.flatten(0, 1))
        reached = _split_time(reached, length + 1)
        result: Tensor = reached[1:] - reached[:-1]
        if before is None:
            result[0] = reached[1]
        return result.flatten(0, 1)

    def read_chunk(
        self, values: dict[str, Any], start: int, length: int, wanted: tuple[int, ...]
    ) -> list[list[Tensor]]:
        """Means over 1..t for the wanted timesteps of this chunk, and the tail on them."""
        asked = [t for t in wanted if start < t <= start + length]
        means: dict[str, list[Tensor]] = {name: [] for name in self.readout}
        for name in self.readout:
            series = self._by_time(name, values, length)
            for index in range(length):
                value = series[index] if name in values else series
                total = self.totals.get(name)
                self.totals[name] = value.clone() if total is None else total.add_(value)
                if start + index + 1 in asked:
                    means[name].append(mean_of(self.totals[name], start + index + 1))
        if not asked:
            return []
        joined = {name: torch.cat(parts) for name, parts in means.items()}
        flat = read_out(self.network, joined, len(asked) * self.batch)
        return [[_split_time(item, len(asked)) for item in flat]]


# Operations on two tensors that broadcast over a leading time axis.
_BROADCASTS = frozenset({"aten.add.Tensor", "aten.sub.Tensor"})
# Operations whose result never shares memory with anything else.
_FRESH = frozenset(
    "conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d linear add sub".split()
)


def _repeated(value: Tensor, length: int) -> Tensor:
    return value.expand(length, *value.shape).flatten(0, 1)


def _split_time(value: Tensor, length: int) -> Tensor:
    """(L*B, ...) -> (L, B, ...)."""
    return value.reshape(length, value.shape[0] // length, *value.shape[1:])


def scan(
    neuron: Neuron,
    state: State,
    current: Tensor,
    step: Tensor,
    bound: Tensor | None,
    start: int,
    out: Tensor,
    membranes: Tensor | None,
) -> Tensor:
    """Run a population through L timesteps, one cache-sized block of samples at a time.

    Args:
        neuron: settings.
        state: updated in place, tensors (B, ...).
        current: (L, B, ...), activation units; may share memory with `out`.
        step: d, broadcastable over (B, ...).
        bound: c/d of a bounded activation, broadcastable over (B, ...), or None.
        start: timesteps done before.
        out: (L, B, ...) receives counts times step.
        membranes: (L, B, ...) receives the membranes in units of the step, or None.

    Returns:
        (L, B) sums of |count| over the neurons of each sample.
    """
    length, batch = current.shape[:2]
    per_sample = max(1, current[0, 0].numel())
    block = max(1, _BLOCK // per_sample) if current.device.type == "cpu" else batch
    counts = torch.empty(length, batch, dtype=torch.float64, device=current.device)
    # A sum below 2^24 is exact in float32; the telescoped neuron's counts have no bound.
    small = not neuron.telescoped and per_sample * neuron.max_count < 2**24
    exact = current.dtype if small else torch.float64
    for low in range(0, batch, block):
        rows = slice(low, min(low + block, batch))
        membrane = state.membrane[rows]
        total = None if state.total is None else state.total[rows]
        count = torch.empty_like(membrane)
        for index in range(length):
            torch.div(current[index, rows], step, out=count)
            membrane += count
            _fire_into(count, neuron, membrane, total, start + index + 1, bound)
            if membranes is not None:
                membranes[index, rows] = membrane
            torch.mul(count, step, out=out[index, rows])
            magnitude = count.abs_() if neuron.signed or neuron.telescoped else count
            counts[index, rows] = magnitude.flatten(1).sum(dim=1, dtype=exact)
    return counts


def _fire_into(
    count: Tensor,
    neuron: Neuron,
    membrane: Tensor,
    total: Tensor | None,
    t: int,
    bound: Tensor | None,
) -> None:
    """`neuron.fire` with every result written in place: counts of timestep t into `count`."""
    torch.floor(membrane, out=count)
    limit = None if bound is None else torch.floor(bound * t + neuron.initial_membrane)
    if neuron.telescoped:
        assert total is not None
        count.clamp_(0, neuron.max_count * t)
        if limit is not None:
            torch.minimum(count, limit, out=count)
        count -= total
        total += count
        return
    count.clamp_(-neuron.max_count if neuron.signed else 0, neuron.max_count)
    if total is not None:
        if neuron.signed:
            torch.maximum(count, -total, out=count)
        if limit is not None:
            torch.minimum(count, limit - total, out=count)
        total += count
    membrane -= count

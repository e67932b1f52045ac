"""The reference simulator: slow, obvious, one timestep after the other through the whole graph.

Every faster path has to equal it. It runs in the network's own type, float32 or float64.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError
from transpike.graph.network import INPUT, Network, Node, Value, check_timesteps, leaves
from transpike.graph.without_constants import increments
from transpike.spiking.neuron import Neuron, State, fire, initial_state, refine
from transpike.spiking.spiking_network import SpikingNetwork, site_bounds, site_offsets, site_starts


@dataclass(frozen=True)
class Record:
    """What one site did over time, if asked for.

    Attributes:
        counts: (T, B, ...) counts per timestep.
        membrane: (T, B, ...) membrane after each timestep, activation units; for the telescoped
            neuron the cumulative input plus its start. It starts at start times the first step,
            also where the step shrinks.
    """

    counts: Tensor
    membrane: Tensor


@dataclass(frozen=True)
class Totals:
    """Sums over timesteps 1..T at one site, if asked for, each (B, ...).

    Attributes:
        current: input current, activation units.
        net: signed counts, where the step shrinks in units of the first one; times that step it
            is what the site sent on.
        unit: |count|: events if a count of n is sent as n spikes.
        binary: bits set in |count|: events if a count is sent as a binary number.
    """

    current: Tensor
    net: Tensor
    unit: Tensor
    binary: Tensor


def add_totals(before: Totals | None, current: Tensor, counts: Tensor, finer: int = 1) -> Totals:
    """Totals with one more timestep: current (B, ...), counts (B, ...) of 1/finer each."""
    magnitude = counts.abs()
    now = Totals(current, counts / finer, magnitude, bits_set(magnitude))
    if before is None:
        return now
    pairs = zip(vars(before).values(), vars(now).values(), strict=True)
    return Totals(*(old + new for old, new in pairs))


def spikes_of(neuron: Neuron, count: Tensor) -> Tensor:
    """Spikes that send each count (B, ...): |n|, or the bits set in |n| in the binary code."""
    magnitude = count.abs()
    return bits_set(magnitude) if neuron.code == "binary" else magnitude


def bits_set(counts: Tensor) -> Tensor:
    """Number of ones in the binary expansion of non-negative whole counts."""
    bits = torch.zeros_like(counts)
    while bool((counts > 0).any()):
        half = torch.floor(counts / 2)
        bits += counts - 2 * half
        counts = half
    return bits


@dataclass(frozen=True)
class Simulation:
    """Result of a simulation.

    Attributes:
        output: readout for every t in `output_at`, shape (T', B, ...), in the structure of the
            model's output: the mean over timesteps readout_start+1..t (1..t up to there), or the
            sum over 1..t in differential coding.
        output_at: the timesteps t of `output`, 1-based.
        timesteps: T, every synchronous pass counted.
        counts_per_timestep: per site (T, B), spikes of the site's neurons: the sum of |count|, or
            of the bits set in |count| for a binary-coded neuron.
        neurons: neurons per sample, over all sites.
        precision: arithmetic used.
        records: per recorded site.
        totals: per site, if asked for.
        decided_at: with a stopping rule, (B,) timestep at which each sample's output was settled, T
            if it never was; its output is held from there on.
        computed: with a stopping rule, (B,) timesteps computed; spikes count up to there.
    """

    output: Any = field(repr=False)
    output_at: tuple[int, ...]
    timesteps: int
    counts_per_timestep: Mapping[str, Tensor] = field(repr=False)
    neurons: int
    precision: str
    records: Mapping[str, Record] = field(default_factory=dict, repr=False)
    totals: Mapping[str, Totals] = field(default_factory=dict, repr=False)
    decided_at: Tensor | None = field(default=None, repr=False)
    computed: Tensor | None = field(default=None, repr=False)

    @cached_property
    def spike_counts(self) -> dict[str, Tensor]:
        """Per site (B,): spikes summed over neurons and timesteps."""
        return {name: counts.sum(dim=0) for name, counts in self.counts_per_timestep.items()}

    @cached_property
    def spikes_per_neuron(self) -> Tensor:
        """(T,): spikes summed up to t over all sites, per neuron, mean over the batch.

        Raises:
            DataError: spikes were not counted.
        """
        if not self.counts_per_timestep:
            raise DataError("spikes were not counted: simulate with spikes=True.")
        total = torch.stack([c.double().mean(dim=1) for c in self.counts_per_timestep.values()])
        return total.sum(dim=0).cumsum(dim=0) / self.neurons


def readout_timesteps(output_at: Iterable[int] | None, timesteps: int) -> tuple[int, ...]:
    """The timesteps to read out, each once and ascending; None: all of them.

    Raises:
        ArgumentError: timesteps or output_at are out of range.
    """
    check_timesteps(timesteps)
    if output_at is not None and not isinstance(output_at, Iterable):
        raise ArgumentError(f"output_at: needed a list of timesteps, got {output_at!r}.")
    wanted = tuple(range(1, timesteps + 1)) if output_at is None else tuple(output_at)
    if not wanted or not all(isinstance(t, int) and 1 <= t <= timesteps for t in wanted):
        raise ArgumentError(f"output_at: needed timesteps in 1..{timesteps}, got {wanted}.")
    return tuple(sorted(set(wanted)))


def check_request(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    time_axis: bool,
    output_at: Iterable[int] | None,
    record: Iterable[str],
) -> tuple[int, ...]:
    """Check the arguments both simulators share; returns the timesteps to read out.

    Raises:
        ArgumentError: timesteps, output_at or record are out of range.
        DataError: the input does not fit the network.
    """
    snn.check_timesteps(timesteps)
    network = snn.network
    if network.dtype not in (torch.float32, torch.float64):
        raise DataError(
            f"simulate: needed a network in float32 or float64, got {network.dtype}: its membranes "
            "would drift. Use snn.float()."
        )
    network.check_input(x, time_axis=time_axis)
    if time_axis and len(x) != timesteps:
        raise ArgumentError(
            f"time_axis: needed an input of {timesteps} timesteps (T, B, ...), got {len(x)}."
        )
    if time_axis and any(neuron.schedule.varies for neuron in snn.neurons.values()):
        raise ArgumentError(
            "time_axis: a refining or staggered neuron sends what comes late with a small step or "
            "not at all, so its input has to stay as it is. Use Differential(levels, max_count) "
            "for inputs that change."
        )
    wanted = readout_timesteps(output_at, timesteps)
    known = {site.name for site in network.sites}
    unknown = sorted(set(record) - known)
    if unknown:
        raise ArgumentError(f"record: no site named {unknown}; there are {sorted(known)}.")
    return wanted


def simulate_reference(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    output_at: Iterable[int] | None = None,
    record: Iterable[str] = (),
    totals: bool = False,
) -> Simulation:
    """Simulate step by step: the same result as `simulate`, slowly and obviously.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1.
        time_axis: the input's first axis is time.
        output_at: the timesteps to read out, 1-based; default all.
        record: names of the sites whose counts and membranes are kept.
        totals: whether to sum currents and counts of every neuron.

    Returns:
        Outputs, counts, records and totals.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the input does not fit the network.
    """
    record = tuple(record)
    wanted = check_request(snn, x, timesteps, time_axis, output_at, record)
    with torch.inference_mode():
        return _Stepwise(snn, record, totals).run(x, timesteps, time_axis, wanted)


class _Stepwise:
    """State of one reference run."""

    def __init__(self, snn: SpikingNetwork, record: tuple[str, ...], totals: bool = False) -> None:
        self.network = snn.network
        self.neurons = snn.neurons
        self.steps = {
            site.name: site.along_channels(snn.steps[site.name]) for site in self.network.sites
        }
        self.bounds = site_bounds(snn)
        self.starts, self.offsets = site_starts(snn), site_offsets(snn)
        self.readout_start, self.differential = snn.readout_start, snn.coding == "differential"
        self.later = increments(self.network) if self.differential else self.network
        self.states: dict[str, State] = {}
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, list[Tensor]] = {site.name: [] for site in self.network.sites}
        self.recorded: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in record}
        self.totals: dict[str, Totals] | None = {} if totals else None

    def run(
        self, x: Tensor, timesteps: int, time_axis: bool, wanted: tuple[int, ...]
    ) -> Simulation:
        readout = frontier(self.network)
        totals: dict[str, Tensor] = {}
        outputs = []
        for t in range(1, timesteps + 1):
            values = self.step(self.presented(x, t, time_axis), t)
            if t == self.readout_start + 1:
                totals = {}
            for name in readout:
                totals[name] = totals[name] + values[name] if name in totals else values[name]
            if t in wanted:
                means = {name: self.averaged(total, t) for name, total in totals.items()}
                outputs.append(read_out(self.network, means, len(values[INPUT])))
        stacked = [torch.stack(column) for column in zip(*outputs, strict=True)]
        return Simulation(
            output=self.network.structured(stacked),
            output_at=wanted,
            timesteps=timesteps,
            counts_per_timestep={name: torch.stack(c) for name, c in self.counts.items()},
            neurons=self.network.neurons,
            precision=f"reference ({str(self.network.dtype).removeprefix('torch.')})",
            records={
                name: Record(*(torch.stack(series) for series in zip(*pairs, strict=True)))
                for name, pairs in self.recorded.items()
            },
            totals=self.totals or {},
        )

    def presented(self, x: Tensor, t: int, time_axis: bool) -> Tensor:
        """The input of timestep t (B, ...): its change since t - 1 in differential coding."""
        if not self.differential or t == 1:
            return x[t - 1] if time_axis else x
        return x[t - 1] - x[t - 2] if time_axis else torch.zeros_like(x)

    def averaged(self, total: Tensor, t: int) -> Tensor:
        """What is read out at t of a sum since the readout's start."""
        if self.differential:
            return total
        return mean_of(total, t - self.readout_start if t > self.readout_start else t)

    def step(self, x: Tensor, t: int) -> dict[str, Any]:
        """All values of timestep t, up to the readout."""
        values: dict[str, Any] = {INPUT: x}
        network = self.network if t == 1 else self.later
        for node in network.nodes:
            if node.name in self.network.tail:
                continue
            site = self.network.site_of.get(node.name)
            if site is not None:
                values[node.name] = self.population(site.name, values[node.reads[0]], t)
            elif node.kind == "cumulative":
                values[node.name] = self.cumulative(node, values, t)
            else:
                values[node.name] = network.compute(node, values, len(x))
        return values

    def population(self, name: str, current: Tensor, t: int) -> Tensor:
        """One timestep of one population: current (B, ...) in, counts times step out."""
        neuron, step, bound = self.neurons[name], self.steps[name], self.bounds[name]
        start, offset = self.starts[name], self.offsets[name]
        if name not in self.states:
            self.states[name] = initial_state(neuron, bound is not None, current, start)
        state = self.states[name]
        refine(neuron, state, t)
        finer, v0 = neuron.finer_at(t), neuron.initial_membrane
        first, step = step, step / finer
        drive = current / step
        if offset is not None and (t == 1 or not self.differential):
            drive = drive + offset
        state.membrane = state.membrane + drive
        count = fire(neuron, state, t, bound, start)
        spikes = spikes_of(neuron, count)
        self.counts[name].append(spikes.flatten(1).sum(dim=1, dtype=torch.float64))
        if name in self.recorded:
            membrane = state.membrane if finer == 1 else (state.membrane - v0) / finer + v0
            self.recorded[name].append((count, membrane * first))
        if self.totals is not None:
            self.totals[name] = add_totals(self.totals.get(name), current, count, finer)
        return count * step

    def cumulative(self, node: Node, values: dict[str, Any], t: int) -> Tensor:
        """f(S_t) - f(S_{t-1}) for positively homogeneous f; at t = 1 just f(S_1)."""
        source = node.reads[0]
        before = self.sums.get(node.name)
        total = values[source] if before is None else before + values[source]
        self.sums[node.name] = total
        reached = pooled(self.network, node, total)
        if before is None:
            return reached
        return reached - pooled(self.network, node, before)


def pooled(network: Network, node: Node, total: Tensor) -> Tensor:
    """A cumulative operation applied to the sum of its inputs."""
    values: Tensor = network.compute(node, {node.reads[0]: total}, len(total))
    return values


def frontier(network: Network) -> tuple[str, ...]:
    """Names of the values whose time average is read out: outputs, and what the tail reads."""
    produced_by_tail = network.tail
    constants = {node.name for node in network.nodes if node.kind == "constant"}
    read = [n for node in network.nodes if node.name in produced_by_tail for n in node.reads]
    read += [leaf.name for leaf in leaves(network.outputs) if isinstance(leaf, Value)]
    return tuple(dict.fromkeys(n for n in read if n not in produced_by_tail and n not in constants))


def mean_of(total: Tensor, t: int) -> Tensor:
    """Total / t, rounded alike at every position.

    Division by a Python number becomes a product with its reciprocal in some positions only.
    """
    return total / total.new_full([1] * total.ndim, t)


def read_out(network: Network, means: Mapping[str, Tensor], rows: int) -> list[Tensor]:
    """Run the tail once on time averages (rows, ...); the flat outputs."""
    values: dict[str, Any] = dict(means)
    for node in network.nodes:
        if node.name in network.tail or node.kind == "constant":
            values[node.name] = network.compute(node, values, rows)
    return [network.resolve(leaf, values, rows) for leaf in network.outputs]

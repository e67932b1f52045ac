"""The reference simulator: slow and obvious.

It computes one timestep after the other through the whole graph, in the network's own type (float32
or float64). Every faster path has to give the same result.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from transpike.graph.ambient import isolated
from transpike.graph.network import INPUT, Node
from transpike.graph.regions import Region, evaluate
from transpike.graph.without_constants import increments
from transpike.simulation.readout import BLOCK, RunningSum, frontier, mean_of, pooled, read_out
from transpike.simulation.record import OUTPUT_ONLY, Record
from transpike.simulation.result import (
    Simulation,
    SiteRecord,
    Totals,
    add_totals,
    check_request,
    spikes_of,
)
from transpike.spiking.neuron import State, fire, initial_state, refine
from transpike.spiking.spiking_network import (
    SpikingNetwork,
    site_bounds,
    site_lowers,
    site_offsets,
    site_starts,
)


@isolated()
def simulate_reference(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    *,
    time_axis: bool = False,
    record: Record = OUTPUT_ONLY,
) -> Simulation:
    """Simulate step by step: slow, obvious, and with the same result as `simulate`.

    Args:
        snn: the converted network.
        x: input (B, ...), the same at every timestep, or (T, B, ...) with `time_axis`.
        timesteps: T >= 1; every synchronous pass is counted.
        time_axis: whether the first axis of the input is time.
        record: what to keep; by default the output at every timestep. Spikes are always counted.

    Returns:
        The output at every t in `record.output_at`, the spike counts, and what else was recorded.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the input does not fit the network.
    """
    wanted = check_request(snn, x, timesteps, time_axis, record)
    with torch.inference_mode():
        sized = snn.sized_for(x, time_axis=time_axis)
        return _Stepwise(sized, record).run(x, timesteps, time_axis, wanted)


class _Stepwise:
    """State of one reference run."""

    def __init__(self, snn: SpikingNetwork, record: Record) -> None:
        self.network = snn.network
        self.neurons = snn.neurons
        self.steps = {
            site.name: site.along_channels(snn.steps[site.name]) for site in self.network.sites
        }
        self.bounds, self.lowers = site_bounds(snn), site_lowers(snn)
        self.starts, self.offsets = site_starts(snn), site_offsets(snn)
        self.readout_start, self.differential = snn.readout_start, snn.coding == "differential"
        self.later = increments(self.network) if self.differential else self.network
        self.states: dict[str, State] = {}
        self.sums: dict[str, Tensor] = {}
        self.region_sums: dict[str, dict[str, Tensor]] = {}
        self.region_sent: dict[str, dict[str, Tensor]] = {}
        self.counts: dict[str, list[Tensor]] = {site.name: [] for site in self.network.sites}
        self.recorded: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in record.sites}
        self.totals: dict[str, Totals] | None = {} if record.totals else None

    def run(
        self, x: Tensor, timesteps: int, time_axis: bool, wanted: tuple[int, ...]
    ) -> Simulation:
        readout = frontier(self.network)
        totals: dict[str, RunningSum] = {}
        outputs = []
        for t in range(1, timesteps + 1):
            values = self.step(self.presented(x, t, time_axis), t)
            if t == self.readout_start + 1:
                totals = {}
            for name in readout:
                if name in totals:
                    totals[name].add(values[name], t)
                else:
                    totals[name] = RunningSum(values[name].clone())
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
                name: SiteRecord(*(torch.stack(series) for series in zip(*pairs, strict=True)))
                for name, pairs in self.recorded.items()
            },
            totals=self.totals or {},
        )

    def presented(self, x: Tensor, t: int, time_axis: bool) -> Tensor:
        """Input of timestep t, (B, ...). In differential coding it is the change since t - 1."""
        if not self.differential or t == 1:
            return x[t - 1] if time_axis else x
        return x[t - 1] - x[t - 2] if time_axis else torch.zeros_like(x)

    def averaged(self, total: RunningSum, t: int) -> Tensor:
        """Output at t, given the sum since the start of the readout."""
        if self.differential:
            return total.mean(1)
        return total.mean(t - self.readout_start if t > self.readout_start else t)

    def step(self, x: Tensor, t: int) -> dict[str, Any]:
        """Compute all values of timestep t, up to the readout."""
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
            elif node.kind == "function":
                region = self.network.regions[node.name]
                if node.name == region.name:
                    values |= self.region(region, values, t)
            else:
                values[node.name] = network.compute(node, values, len(x))
        return values

    def population(self, name: str, current: Tensor, t: int) -> Tensor:
        """Update one population for one timestep.

        It takes a current (B, ...) and returns counts times the step.
        """
        neuron, step, bound = self.neurons[name], self.steps[name], self.bounds[name]
        start, offset = self.starts[name], self.offsets[name]
        if name not in self.states:
            self.states[name] = initial_state(neuron, bound is not None, current, start)
        state = self.states[name]
        refine(neuron, state, t)
        finer, divisor, v0 = neuron.finer_at(t), neuron.divisor_at(t), neuron.initial_membrane
        drive = current / (step / finer)
        if offset is not None and (t == 1 or not self.differential):
            drive = drive + offset * finer
        state.membrane = state.membrane + drive
        count = fire(neuron, state, t, bound, start, self.lowers[name])
        spikes = spikes_of(neuron, count)
        self.counts[name].append(spikes.flatten(1).sum(dim=1, dtype=torch.float64))
        if name in self.recorded:
            membrane = state.membrane if finer == 1 else (state.membrane - v0) / finer + v0
            self.recorded[name].append((count, membrane * step))
        if self.totals is not None:
            self.totals[name] = add_totals(self.totals.get(name), current, count, divisor)
        return count * (step / divisor)

    def cumulative(self, node: Node, values: dict[str, Any], t: int) -> Tensor:
        """Compute f(S_t) - f(S_{t-1}) for a positively homogeneous f; at t = 1 it is f(S_1)."""
        source = node.reads[0]
        before = self.sums.get(node.name)
        if before is not None and t > BLOCK:
            before = before.double()
        total = values[source] if before is None else before + values[source]
        self.sums[node.name] = total
        reached = pooled(self.network, node, total)
        if before is None:
            return reached
        return (reached - pooled(self.network, node, before)).to(values[source].dtype)

    def region(self, region: Region, values: dict[str, Any], t: int) -> dict[str, Tensor]:
        """Compute R_t - R_{t-1} for every output of a region, where R_0 = 0.

        R_t is t g(S_t / t) in rate coding and g(S_t) in differential coding, with the sums S_t of
        the inputs up to t.
        """
        sums = self.region_sums.get(region.name)
        total = {n: values[n] if sums is None else sums[n] + values[n] for n in region.signals}
        self.region_sums[region.name] = total
        scale = 1 if self.differential else t
        means = {name: mean_of(value, scale) for name, value in total.items()}
        read = means | {name: values[name] for name in region.constants}
        found = evaluate(self.network, region, read, len(values[INPUT]))
        reached = {name: value * scale for name, value in found.items()}
        before = self.region_sent.get(region.name)
        self.region_sent[region.name] = reached
        if before is None:
            return reached
        return {name: value - before[name] for name, value in reached.items()}

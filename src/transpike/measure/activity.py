"""How often neurons fire, and how often the outputs of max-pools change."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transpike.graph.network import Network, Node
from transpike.measure.counts import Activity
from transpike.measure.fanout import is_copy
from transpike.simulation.record import Record
from transpike.simulation.result import Simulation, bits_set
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork

_RECORD_BYTES = 256 * 2**20  # memory for the counts at every timestep, which max-pools need


class ActivityTally:
    """Sums of events over batches.

    Attributes:
        samples: number of samples so far.
        spikes: sums over samples and timesteps by the name of the site, as in `Activity.sites`.
    """

    def __init__(self, snn: SpikingNetwork, timesteps: int) -> None:
        self.snn, self.network, self.timesteps = snn, snn.network, timesteps
        self.samples = 0
        self.spikes: dict[str, Tensor] = {}
        self._changes: dict[str, Tensor] = {}
        self._pools = {node.name: node for node in self.network.nodes if passes_counts(snn, node)}
        self._feeding = sorted({s for node in self._pools.values() for s in sources(snn, node)})

    def part_size(self, samples: int) -> int:
        """Number of samples, out of so many, that can be simulated at once."""
        sizes = {site.name: site.neurons for site in self.network.sites}
        per_sample = 2 * self.timesteps * sum(sizes[name] for name in self._feeding)
        per_sample *= self.network.dtype.itemsize
        return samples if not per_sample else max(1, _RECORD_BYTES // per_sample)

    def add(self, x: Tensor) -> Any:
        """Simulate samples, count their events, and return the output at T, (1, B, ...)."""
        record = Record(output_at=[self.timesteps], sites=self._feeding, totals=True)
        run = simulate(self.snn, x, self.timesteps, record=record)
        self._take(run)
        self.samples += len(x)
        return run.output

    def _take(self, run: Simulation) -> None:
        for name, totals in run.totals.items():
            unit = totals.unit.double().sum(dim=0).cpu()
            binary = totals.binary.double().sum(dim=0).cpu()
            self._sum(self.spikes, name, unit, binary, self.snn.neurons[name])
        if not self._pools:
            return
        sums = {
            site.node: self._sent(site.name, run).cumsum(dim=0).flatten(0, 1)
            for site in self.network.sites
            if site.name in self._feeding
        }
        with torch.inference_mode():
            for name, node in self._pools.items():
                reached = follow(self.network, node, sums)
                series = reached.reshape(self.timesteps, -1, *reached.shape[1:])
                change = torch.diff(series, dim=0, prepend=torch.zeros_like(series[:1])).abs()
                neuron = self.snn.neurons[sources(self.snn, node)[0]]
                change = change * self._at_each(neuron.finer_at, change)
                # As many whole steps of the timestep as possible, and smaller ones for the rest.
                steps = self._at_each(neuron.unit_at, change)
                whole = torch.floor(change / steps)
                unit = (whole + change - whole * steps).double().sum(dim=(0, 1)).cpu()
                binary = bits_set(change).double().sum(dim=(0, 1)).cpu()
                self._sum(self._changes, name, unit, binary, neuron)

    def _sent(self, name: str, run: Simulation) -> Tensor:
        """Counts of a site at every timestep (T, B, ...), in units of its first step."""
        counts = run.records[name].counts
        return counts / self._at_each(self.snn.neurons[name].divisor_at, counts)

    def _at_each(self, of: Callable[[int], int], like: Tensor) -> Tensor:
        """A number for every timestep, shaped to broadcast over (T, B, ...)."""
        values = [float(of(t)) for t in range(1, self.timesteps + 1)]
        return like.new_tensor(values).reshape(-1, *[1] * (like.ndim - 1))

    def _sum(
        self, into: dict[str, Tensor], name: str, unit: Tensor, binary: Tensor, neuron: Neuron
    ) -> None:
        sent = binary if neuron.code == "binary" else unit
        events = torch.stack([sent, unit, binary])
        into[name] = into[name] + events if name in into else events

    def _bits(self, name: str, neuron: Neuron) -> int:
        """Bits of an activation that has as many levels: ceil(log2(levels + 1)), and the sign."""
        lower = self.snn.lowers.get(name)
        signed = lower is not None and bool((lower < 0).any())
        return math.ceil(math.log2(neuron.levels_at(self.timesteps) + 1)) + signed

    def activity(self) -> Activity:
        """Everything that was measured."""
        neurons, timesteps = self.snn.neurons, self.timesteps
        return Activity(
            samples=self.samples,
            timesteps=timesteps,
            differential=self.snn.coding == "differential",
            sites=self.spikes,
            pools=self._changes,
            bits={name: self._bits(name, neuron) for name, neuron in neurons.items()},
            updates={name: _updates(neuron, timesteps) for name, neuron in neurons.items()},
            comparisons={name: _comparisons(neuron) for name, neuron in neurons.items()},
            resets={name: 2 if neuron.signed else 1 for name, neuron in neurons.items()},
        )


def _updates(neuron: Neuron, timesteps: int) -> int:
    """Timesteps up to T in which a neuron may fire; in the others it only sums its input."""
    return sum(neuron.schedule.fires_at(t) for t in range(1, timesteps + 1))


def _comparisons(neuron: Neuron) -> int:
    """Comparisons per neuron and timestep.

    A neuron finds its count bit by bit, with one comparison for each bit. A signed neuron also
    compares with zero and with its running total.
    """
    return neuron.max_count.bit_length() + (2 if neuron.signed else 0)


def sources(snn: SpikingNetwork, node: Node) -> list[str]:
    """List the sites whose counts reach a node through copies and max-pools alone.

    The list is empty if anything else lies on the way.
    """
    network = snn.network
    found: list[str] = []
    waiting = list(node.reads)
    while waiting:
        name = waiting.pop()
        site = network.site_of.get(name)
        before = network.by_name.get(name)
        if site is not None:
            found.append(site.name)
        elif before is not None and (is_copy(before) or before.kind == "cumulative"):
            waiting += before.reads
        else:
            return []
    return sorted(set(found), key=[site.name for site in network.sites].index)


def passes_counts(snn: SpikingNetwork, node: Node) -> bool:
    """Whether the changes of a max-pool are whole counts.

    They are if all inputs of a window have the same step, at every timestep.
    """
    if node.kind != "cumulative":
        return False
    feeding = sources(snn, node)
    if not feeding:
        return False
    neurons = [snn.neurons[name] for name in feeding]
    schedules = {(n.levels, replace(n.schedule, lag=0)) for n in neurons}
    if len(schedules) > 1:
        return False  # their steps shrink at different times
    network = snn.network
    steps = {
        site.node: site.along_channels(snn.steps[site.name]).expand(1, *site.shape)
        for site in network.sites
        if site.name in feeding
    }
    with torch.inference_mode():
        source = follow(network, node, steps, inner=True)
        most = network.compute(node, {node.reads[0]: source}, 1)
        least = -network.compute(node, {node.reads[0]: -source}, 1)
    return bool((most == least).all())


def follow(
    network: Network, node: Node, at_sites: Mapping[str, Tensor], *, inner: bool = False
) -> Any:
    """Compute the value of a node, or of its operand with `inner`, from values at the sites."""

    def value(name: str) -> Any:
        if name in at_sites:
            return at_sites[name]
        before = network.by_name[name]
        return network.compute(before, {read: value(read) for read in before.reads}, rows)

    rows = len(next(iter(at_sites.values())))
    return value(node.reads[0]) if inner else value(node.name)


__all__ = ["ActivityTally", "passes_counts"]

"""A sweep runs the analog and the spiking network side by side and corrects every site.

It runs all timesteps of an operation before the next operation. Each site is corrected with the
currents that it receives from the sites corrected before. A sweep costs about one simulation.

Shapes: T timesteps, B inputs, C channels, P samples of a channel (inputs times positions).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import INPUT, Network, Node, Site
from transpike.graph.regions import Region, evaluate
from transpike.graph.structure import flat_values, map_values
from transpike.graph.without_constants import increments
from transpike.simulation.engine.scan import Chunk, Constants, Population, scan
from transpike.simulation.readout import mean_of, pooled
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork

# Bytes of the largest value in a sweep. Inputs that do not fit are left out.
_SWEEP_VALUE = 256 * 2**20
# Samples of a channel for a correction, in total and per input. They are drawn with a fixed seed.
_SAMPLES, _SAMPLES_PER_INPUT = 16_384, 128
_ROWS = 64  # inputs that a linear operation computes at once


@dataclass(frozen=True)
class Values:
    """The values of a site that a correction may change, each of shape (C,).

    Attributes:
        step: in activation units.
        start: initial membrane, in units of the step.
        offset: extra current, in units of the step.
    """

    step: Tensor
    start: Tensor
    offset: Tensor


@dataclass(frozen=True)
class Bounds:
    """The bounds of an activation, each a number, a tensor of one per neuron, or None.

    Attributes:
        upper: upper bound, or None.
        lower: lower bound, <= 0, or None for 0.
    """

    upper: Tensor | float | None
    lower: Tensor | float | None


@dataclass(frozen=True)
class Sampled:
    """Samples of one site.

    Attributes:
        neuron: settings of the neuron.
        current: (T, P, C), or (1, P, C) if it is constant in time, in activation units.
        target: (P, C) activations of the analog network.
        bounds: bounds of the activation.
        timesteps: T.
        scale: divisor of a sum over time, which is T, or 1 in differential coding.
    """

    neuron: Neuron
    current: Tensor
    target: Tensor
    bounds: Bounds
    timesteps: int
    scale: int

    def error(self, values: Values) -> Tensor:
        """Spiking output at T minus activation, (P, C), in activation units."""
        counts = outputs_of(self.neuron, values, self.current, self.bounds, self.timesteps)
        return counts.sum(dim=0) / self.scale - self.target


Correction = Callable[[Sampled, Values], Values]


def check_rounds(rounds: int) -> None:
    """Refuse anything but an integer from 1 to 6.

    Raises:
        ArgumentError: `rounds` is out of range.
    """
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 6:
        raise ArgumentError(f"rounds: needed an integer in 1..6, got {rounds!r}.")


def outputs_of(
    neuron: Neuron, values: Values, current: Tensor, bounds: Bounds, timesteps: int
) -> Tensor:
    """Outputs of a population, counts times step, shape (T, P, N).

    Args:
        neuron: settings of the neuron.
        values: values per neuron (N,).
        current: (T, P, N), or (1, P, N) if it is constant in time.
        bounds: bounds of the activation.
        timesteps: T.
    """
    upper = None if bounds.upper is None else bounds.upper / values.step
    lower = None if bounds.lower is None else bounds.lower / values.step
    constants = Constants(neuron, values.step, values.start, values.offset, upper, lower)
    shape = current.shape[1:]
    out = torch.empty(timesteps, *shape, dtype=current.dtype, device=current.device)
    population = Population.at_rest(constants, len(current[0]))
    # In differential coding the offset enters at t = 1 only.
    cuts = [0, timesteps] if neuron.levels is None or timesteps == 1 else [0, 1, timesteps]
    for first, end in pairwise(cuts):
        part = current if len(current) == 1 else current[first:end]
        offset = neuron.levels is None or first == 0
        scan(constants, population, Chunk(part, None, out[first:end], None, first, offset))
    return out


def inputs_at_once(network: Network, timesteps: int, available: int) -> int:
    """Number of inputs, at least one, whose largest value over all timesteps fits in a sweep."""
    sizes = [1]
    for node in network.nodes:
        if node.shape is not None:
            size = max(1, -node.shape[0]) if node.shape else 1
            for extent in node.shape[1:]:
                size *= abs(extent)
            sizes.append(size)
    itemsize = torch.empty(0, dtype=network.dtype).element_size()
    return max(1, min(available, _SWEEP_VALUE // (max(sizes) * timesteps * itemsize)))


class Sweep:
    """A sweep. Spiking values are (T, B, ...), or (1, B, ...) if they are constant in time."""

    def __init__(self, snn: SpikingNetwork, timesteps: int, correct: Correction) -> None:
        self.snn, self.network, self.timesteps = snn, snn.network, timesteps
        self.correct = correct
        self.differential = snn.coding == "differential"
        self.later = increments(self.network) if self.differential else self.network
        self.later_nodes = {node.name: node for node in self.later.nodes}
        steps, starts, offsets = snn.steps, snn.starts, snn.offsets
        self.values = {n: Values(steps[n], starts[n], offsets[n]) for n in steps}

    def run(self, images: Tensor) -> SpikingNetwork:
        """Correct all sites in the order of execution, with inputs (B, ...)."""
        analog: dict[str, Any] = {INPUT: images}
        spiking: dict[str, Any] = {INPUT: images.unsqueeze(0)}
        if self.differential:
            rest = torch.zeros_like(images).expand(self.timesteps - 1, *images.shape)
            spiking[INPUT] = torch.cat([images.unsqueeze(0), rest])
        with torch.inference_mode():
            for node in self.network.nodes:
                if node.name not in self.network.tail:
                    self.node(node, analog, spiking, len(images))
        return self.snn.changed(
            steps={n: v.step.clone() for n, v in self.values.items()},
            starts={n: v.start.clone() for n, v in self.values.items()},
            offsets={n: v.offset.clone() for n, v in self.values.items()},
        )

    def node(self, node: Node, analog: dict[str, Any], spiking: dict[str, Any], n: int) -> None:
        """Compute a node in both networks and drop values that are no longer needed.

        A node that is a site is corrected first.
        """
        site = self.network.site_of.get(node.name)
        if site is not None:
            current = spiking[node.reads[0]]
            analog[node.name] = site.activate(analog[node.reads[0]])
            spiking[node.name] = self.site(site, current, analog[node.name])
        else:
            analog[node.name] = self.network.compute(node, analog, n)
            if node.kind == "function":
                region = self.network.regions[node.name]
                if node.name == region.nodes[0].name:
                    spiking |= self.region(region, spiking, n)
            elif node.kind == "cumulative":
                spiking[node.name] = self.cumulative(node, spiking[node.reads[0]])
            else:
                spiking[node.name] = self.linear(node, spiking, n)
        for name in node.reads:
            if self.network.last_reader.get(name) == node.name:
                analog.pop(name, None)
                spiking.pop(name, None)

    def site(self, site: Site, current: Tensor, target: Tensor) -> Tensor:
        """Correct a site with samples of its channels, and return its output (T, B, ...)."""
        neuron, scale = self.snn.neurons[site.name], 1 if self.differential else self.timesteps
        rows, wanted = samples_of(site, current, target)
        upper = self.snn.uppers.get(site.name, site.upper_bound)
        lower = self.snn.lowers.get(site.name, site.lower_bound or None)
        sampled = Sampled(neuron, rows, wanted, Bounds(upper, lower), self.timesteps, scale)
        values = self.values[site.name] = self.correct(sampled, self.values[site.name])

        def spread(per_channel: Tensor) -> Tensor:
            return site.along_channels(per_channel).expand(1, *site.shape).reshape(-1).contiguous()

        bounds = Bounds(*(spread(b) if isinstance(b, Tensor) else b for b in (upper, lower)))
        every = Values(spread(values.step), spread(values.start), spread(values.offset))
        flat = current.flatten(2).contiguous()
        return outputs_of(neuron, every, flat, bounds, self.timesteps).reshape(
            self.timesteps, *current.shape[1:]
        )

    def cumulative(self, node: Node, source: Tensor) -> Tensor:
        """f(S_t) - f(S_{t-1}) of the running sum S_t, as the reference simulation computes it."""
        if len(source) == 1:
            source = source.expand(self.timesteps, *source.shape[1:])
        total, before, out = None, None, []
        for value in source:
            total = value if total is None else total + value
            reached = pooled(self.network, node, total)
            out.append(reached if before is None else reached - before)
            before = reached
        return torch.stack(out)

    def region(self, region: Region, spiking: dict[str, Any], n: int) -> dict[str, Tensor]:
        """R_t - R_{t-1} of a region, as the reference simulation computes it."""
        constants = {name: spiking[name][0] for name in region.constants}
        sums: dict[str, Tensor] = {}
        before: dict[str, Tensor] = {}
        sent: dict[str, list[Tensor]] = {name: [] for name in region.outputs}
        for t in range(self.timesteps):
            for name in region.signals:
                value = spiking[name][t if len(spiking[name]) > 1 else 0]
                sums[name] = sums[name] + value if name in sums else value
            scale = 1 if self.differential else t + 1
            means = {name: mean_of(total, scale) for name, total in sums.items()}
            for name, value in evaluate(self.network, region, means | constants, n).items():
                reached = value * scale
                sent[name].append(reached - before[name] if name in before else reached)
                before[name] = reached
        return {name: torch.stack(parts) for name, parts in sent.items()}

    def linear(self, node: Node, spiking: dict[str, Any], n: int) -> Any:
        """A linear operation at every timestep, or once if its inputs are constant in time."""
        length = max((_length(spiking[name]) for name in node.reads), default=1)
        rows = _ROWS if self.by_input(node) else n
        series = [
            _joined(
                [self.at(node, spiking, t, low, min(low + rows, n)) for low in range(0, n, rows)]
            )
            for t in range(length)
        ]
        return map_values(lambda *leaves: torch.stack(leaves), *series)

    def by_input(self, node: Node) -> bool:
        """Whether parts of the batch can be computed separately.

        This holds if the first axis of the node and of all values that it reads is the batch axis.
        """
        nodes = [node, *(self.network.by_name[n] for n in node.reads if n != INPUT)]
        return all(n.shape is None or n.shape[:1] == (-1,) for n in nodes)

    def at(self, node: Node, spiking: dict[str, Any], t: int, low: int, high: int) -> Any:
        """A node at one timestep t (0-based), for the inputs from `low` to `high` - 1."""
        cut = self.by_input(node)

        def now(value: Tensor) -> Tensor:
            found = value[t if len(value) > 1 else 0]
            return found[low:high] if cut else found

        network, wanted = self.network, node
        if self.differential and t:
            network, wanted = self.later, self.later_nodes[node.name]
        read = {n: map_values(now, self.constant(n, spiking)) for n in wanted.reads}
        return network.compute(wanted, read, high - low)

    def constant(self, name: str, spiking: dict[str, Any]) -> Any:
        """A value by name, or the zeros that replace a constant after the first timestep."""
        if name in spiking:
            return spiking[name]
        return torch.zeros_like(spiking[self.later_nodes[name].reads[0]])


def _length(value: Any) -> int:
    return max(len(leaf) for leaf in flat_values(value))


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return map_values(lambda *leaves: torch.cat(leaves), *parts)


def samples_of(site: Site, current: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The same samples of every channel from the currents and from the activations.

    Args:
        site: the site.
        current: (T, B, ...), or (1, B, ...) if it is constant in time.
        target: (B, ...) activations of the analog network.

    Returns:
        Samples of the currents, (T, P, C) or (1, P, C), and of the activations, (P, C).
    """
    rows = current.movedim(site.channel_axis + 1, -1).reshape(len(current), -1, site.channels)
    wanted = target.movedim(site.channel_axis, -1).reshape(-1, site.channels)
    most = min(_SAMPLES, _SAMPLES_PER_INPUT * len(target))
    if rows.shape[1] > most:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randperm(rows.shape[1], generator=generator)[:most].to(rows.device)
        rows, wanted = rows[:, drawn], wanted[drawn]
    return rows.contiguous(), wanted.contiguous()

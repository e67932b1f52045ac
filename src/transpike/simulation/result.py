"""What a simulation returns: outputs, spikes, records and totals."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError
from transpike.graph.network import check_timesteps
from transpike.simulation.record import Record
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork


@dataclass(frozen=True)
class SiteRecord:
    """What one site of `Record.sites` did over time.

    Attributes:
        counts: (T, B, ...) counts per timestep.
        membrane: (T, B, ...) membrane potential after each timestep, in activation units. For a
            telescoped neuron it is the cumulative input plus the initial membrane. The initial
            value is `start` times the first step, even if the step shrinks later.
    """

    counts: Tensor
    membrane: Tensor


@dataclass(frozen=True)
class Totals:
    """Sums over the timesteps 1..T at one site, each of shape (B, ...).

    Attributes:
        current: input current, in activation units.
        net: signed counts. If the step shrinks, they are in units of the first step. The product
            of `net` and the first step is what the site sent.
        unit: |count|, which is the number of events if a count of n is sent as n spikes.
        binary: bits set in |count|, which is the number of events if a count is sent as a binary
            number.
    """

    current: Tensor
    net: Tensor
    unit: Tensor
    binary: Tensor


def add_totals(before: Totals | None, current: Tensor, counts: Tensor, finer: int = 1) -> Totals:
    """Add one timestep to the totals.

    Args:
        before: the totals so far, or None before the first timestep.
        current: input current (B, ...), in activation units.
        counts: signed counts (B, ...).
        finer: how many times smaller the step is than the first one.
    """
    magnitude = counts.abs()
    now = Totals(current, counts / finer, magnitude, bits_set(magnitude))
    if before is None:
        return now
    pairs = zip(vars(before).values(), vars(now).values(), strict=True)
    return Totals(*(old + new for old, new in pairs))


def spikes_of(neuron: Neuron, count: Tensor) -> Tensor:
    """Number of spikes that send each count (B, ...).

    It is |n|, or the number of bits set in |n| in the binary code.
    """
    magnitude = count.abs()
    return bits_set(magnitude) if neuron.code == "binary" else magnitude


def bits_set(counts: Tensor) -> Tensor:
    """Number of ones in the binary form of non-negative whole counts."""
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
        output: the output at every t in `output_at`, shape (T', B, ...), in the structure of the
            model's output. In rate coding it is the mean over the timesteps readout_start+1..t, or
            over 1..t while t does not exceed `readout_start`. In differential coding it is the sum
            over 1..t.
        output_at: the timesteps t of `output`, counted from 1.
        timesteps: T; every synchronous pass is counted.
        counts_per_timestep: spikes of every site, (T, B). A count of n is |n| spikes, or as many
            spikes as |n| has bits set if the neuron has a binary code.
        neurons: number of neurons per sample, over all sites.
        precision: the arithmetic that was used.
        records: what each site of `Record.sites` did.
        totals: sums of each site, if `Record.totals` is set.
        decided_at: with early stopping, the timestep at which the output of each sample was
            settled, (B,). It is T if the output never settled. The output is held from there on.
        computed: with early stopping, the number of timesteps computed for each sample, (B,).
            Spikes are counted up to there.
    """

    output: Any = field(repr=False)
    output_at: tuple[int, ...]
    timesteps: int
    counts_per_timestep: Mapping[str, Tensor] = field(repr=False)
    neurons: int
    precision: str
    records: Mapping[str, SiteRecord] = field(default_factory=dict, repr=False)
    totals: Mapping[str, Totals] = field(default_factory=dict, repr=False)
    decided_at: Tensor | None = field(default=None, repr=False)
    computed: Tensor | None = field(default=None, repr=False)

    @cached_property
    def spike_counts(self) -> dict[str, Tensor]:
        """Spikes of every site, summed over its neurons and all timesteps, (B,)."""
        return {name: counts.sum(dim=0) for name, counts in self.counts_per_timestep.items()}

    @cached_property
    def spikes_per_neuron(self) -> Tensor:
        """Spikes per neuron up to each timestep, (T,).

        Spikes are summed over all sites and over the timesteps 1..t, divided by the number of
        neurons, and averaged over the batch.

        Raises:
            DataError: spikes were not counted.
        """
        if not self.counts_per_timestep:
            raise DataError("spikes were not counted: simulate with Record(spikes=True).")
        total = torch.stack([c.double().mean(dim=1) for c in self.counts_per_timestep.values()])
        return total.sum(dim=0).cumsum(dim=0) / self.neurons


def readout_timesteps(output_at: Iterable[int] | None, timesteps: int) -> tuple[int, ...]:
    """Timesteps at which the output is read, each once and in ascending order.

    None stands for all of them.

    Raises:
        ArgumentError: timesteps or output_at are out of range.
    """
    check_timesteps(timesteps)
    if output_at is None:
        return tuple(range(1, timesteps + 1))
    given = tuple(output_at)
    wanted = [_whole(t) for t in given]
    found = {t for t in wanted if t is not None and 1 <= t <= timesteps}
    if not found or found != set(wanted):
        raise ArgumentError(f"output_at: needed timesteps in 1..{timesteps}, got {given}.")
    return tuple(sorted(found))


def _whole(t: object) -> int | None:
    """A whole number of Python, NumPy or PyTorch as an int; None for anything else."""
    if isinstance(t, bool) or (isinstance(t, Tensor) and t.dtype == torch.bool):
        return None
    try:
        return operator.index(t)  # type: ignore[arg-type]
    except TypeError:
        return None


def check_request(
    snn: SpikingNetwork,
    x: Tensor,
    timesteps: int,
    time_axis: bool,
    record: Record,
) -> tuple[int, ...]:
    """Check the arguments that both simulators share and return the timesteps to read out.

    Raises:
        ArgumentError: the timesteps or a field of `record` are out of range.
        DataError: the input does not fit the network.
    """
    snn.check_timesteps(timesteps)
    network = snn.network.sized_for(x, time_axis=time_axis)
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
    if time_axis and not all(neuron.schedule.follows for neuron in snn.neurons.values()):
        raise ArgumentError(
            "time_axis: a refining or staggered neuron sends what comes late with a small step or "
            "not at all, so its input has to stay as it is. Use Differential(levels, max_count) "
            "or Cyclic(max_count, divisors) for inputs that change."
        )
    if not isinstance(record, Record):
        raise ArgumentError(
            f"record: needed a tp.Record, got {record!r}. Use, for example, "
            "record=tp.Record(output_at=[timesteps])."
        )
    wanted = readout_timesteps(record.output_at, timesteps)
    known = {site.name for site in network.sites}
    unknown = sorted(set(record.sites) - known)
    if unknown:
        raise ArgumentError(
            f"record.sites: needed names of sites, got {unknown}. The sites are {sorted(known)}."
        )
    return wanted

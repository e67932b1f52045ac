"""What an inference costs: operations, state and estimated energy, beside the analog network.

Every number is an estimate from counted operations, never a measurement on hardware. The rules for
counting a spike on its way through the graph are in `transpike.measure.fanout`, and the energies
are in `transpike.measure.energy`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from transpike.errors import DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.network import check_timesteps
from transpike.measure.activity import ActivityTally
from transpike.measure.counts import Activity, Counts, Operation
from transpike.measure.energy import HEADER, TABLES, Energy, EnergyTable, energy_under
from transpike.measure.fanout import count_operations
from transpike.measure.quality import Quality, QualityTally
from transpike.measure.state_memory import state_memory
from transpike.spiking.spiking_network import SpikingNetwork

NOT_COUNTED = (
    "memory traffic: reading weights, reading and writing membranes",
    "routing of spikes (addresses, packets, buffers), control, clock and static power",
    "reading the input, and sigmoid, softmax or argmax behind the readout",
    "shifting membrane and total where a refining neuron's step shrinks",
    "the search for the new maximum in a max-pool after a negative spike",
)


@dataclass(frozen=True)
class SiteActivity:
    """Spikes of one site over all timesteps, mean over samples.

    Attributes:
        name: name of the site.
        neurons: number of neurons per sample.
        max_count: K.
        bits: bits of the activation in the quantized network, ceil(log2(levels + 1)).
        spikes: spikes per neuron, counted as the neuron's code sends them.
        spikes_unit: spikes per neuron if a count of n is sent as n spikes.
        spikes_binary: spikes per neuron if a count is sent as its binary digits.
    """

    name: str
    neurons: int
    max_count: int
    bits: int
    spikes: float
    spikes_unit: float
    spikes_binary: float


@dataclass(frozen=True)
class Cost:
    """What one inference of one sample costs, mean over samples.

    Attributes:
        n: number of samples measured.
        timesteps: T, every pass counted.
        max_count: K, largest over all sites.
        coding: "rate" or "differential".
        neurons: number of neurons per sample.
        parameters: number of parameters of the folded network.
        sites: spikes of every site.
        operations: what every operation of the graph costs; `total` is their sum.
        memory_bytes: state per sample by kind, in the network's own type.
        not_counted: what the numbers leave out.
        settings: how the network was made.
        quality: predictions at T on the same samples; None where the output holds no classes.
    """

    n: int
    timesteps: int
    max_count: int
    coding: str
    neurons: int
    parameters: int
    sites: tuple[SiteActivity, ...]
    operations: tuple[Operation, ...]
    memory_bytes: dict[str, int]
    not_counted: tuple[str, ...]
    settings: dict[str, Any]
    quality: Quality | None

    @property
    def total(self) -> Counts:
        """The sum over all operations."""
        return sum((operation.counts for operation in self.operations), Counts())

    @property
    def spikes_per_neuron(self) -> float:
        """Spikes of all sites per neuron, as sent."""
        return sum(site.spikes * site.neurons for site in self.sites) / self.neurons

    @property
    def energy(self) -> tuple[Energy, ...]:
        """Energy under the fp32 and the int8 table."""
        return tuple(self.energy_under(table) for table in TABLES)

    def energy_under(self, table: EnergyTable) -> Energy:
        """Energy under one table."""
        return energy_under(table, self.total, self.timesteps)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        tables = {table.name: asdict(table) for table in TABLES}
        return {
            **asdict(self),
            "total": asdict(self.total),
            "spikes_per_neuron": self.spikes_per_neuron,
            "energy": [asdict(row) for row in self.energy],
            "energy_tables": tables,
        }

    def __str__(self) -> str:
        """Spikes, operations, memory and energy as text."""
        operations = [*_operation_lines(self.total), *self._regions(), ""]
        return "\n".join([*self._head(), *operations, *self._tail()])

    def _regions(self) -> list[str]:
        """The analog work of every region."""
        found = [row for row in self.operations if row.op == "region"]
        width = max((len(row.name) for row in found), default=0)
        return [
            f"region {row.name:<{width}} {row.counts.macs_region:>14,.0f} MACs, "
            f"{row.counts.evaluations:,.0f} evaluations, "
            f"{row.counts.additions_region:,.0f} additions"
            for row in found
        ]

    def _head(self) -> list[str]:
        width = max(len("all"), *(len(site.name) for site in self.sites))
        head = f"{'site':<{width}} {'neurons':>9} {'K':>4} {'spikes/neuron':>14} {'unit':>9} "
        lines = [
            f"n={self.n}, T={self.timesteps}, K={self.max_count}, {self.coding} coding, "
            f"{self.neurons:,} neurons, {self.parameters:,} parameters; numbers are per sample",
            "",
            f"{head}{'binary':>9}",
        ]
        whole = [
            sum(getattr(site, name) * site.neurons for site in self.sites) / self.neurons
            for name in ("spikes", "spikes_unit", "spikes_binary")
        ]
        rows = [
            (s.name, s.neurons, s.max_count, s.spikes, s.spikes_unit, s.spikes_binary)
            for s in self.sites
        ]
        for name, neurons, count, *spikes in [*rows, ("all", self.neurons, self.max_count, *whole)]:
            sent, unit, binary = spikes
            lines.append(
                f"{name:<{width}} {neurons:>9,} {count:>4} {sent:>14.3f} {unit:>9.3f} "
                f"{binary:>9.3f}"
            )
        return [*lines, ""]

    def _tail(self) -> list[str]:
        state = ", ".join(f"{name} {size:,}" for name, size in self.memory_bytes.items())
        lines = [
            f"state: {sum(self.memory_bytes.values()):,} bytes ({state})",
            "",
            HEADER,
            *map(str, self.energy),
        ]
        lines += [row.region_line for row in self.energy if row.regions_pj]
        if self.quality is not None:
            lines.append(f"at T={self.timesteps}: {self.quality}")
        lines += [
            "SNN: the first layer is computed once; input again: at every timestep; bit-matched: "
            f"ANN with activations of {_bits_text(self.sites)} bits",
            "Estimated from arithmetic alone. Not counted:",
        ]
        return lines + [f"  - {item}" for item in self.not_counted]


def _bits_text(sites: tuple[SiteActivity, ...]) -> str:
    bits = sorted({site.bits for site in sites})
    return str(bits[0]) if len(bits) == 1 else f"{bits[0]} to {bits[-1]}"


def _operation_lines(total: Counts) -> list[str]:
    macs = total.macs_input + total.macs_readout + total.macs_current
    rows = [
        ("accumulates (spikes)", total.accumulates, total.ann_additions),
        ("  if counts are sent as unit spikes", total.accumulates_unit, None),
        ("  if counts are sent in binary", total.accumulates_binary, None),
        ("multiply-accumulates", macs, total.ann_macs),
        ("  on the input, once", total.macs_input, None),
        ("  behind the time average, once", total.macs_readout, None),
        ("  on currents, every timestep", total.macs_current, None),
        ("other additions", total.additions, None),
        ("comparisons", total.comparisons, total.ann_comparisons),
        ("neuron updates", total.neuron_updates, None),
    ]
    lines = [f"{'operations':<38} {'SNN':>16} {'ANN':>16}"]
    for name, snn, ann in rows:
        last = "" if ann is None else f"{ann:>16,.0f}"
        lines.append(f"{name:<38} {snn:>16,.0f} {last}".rstrip())
    if total.macs_region or total.evaluations or total.additions_region:
        for name, count in (
            ("in regions: multiply-accumulates", total.macs_region),
            ("  evaluations of functions", total.evaluations),
            ("  additions", total.additions_region),
        ):
            lines.append(f"{name:<38} {count:>16,.0f}")
    nominal = f"{total.ann_macs_nominal:,.0f}"
    lines.append(f"ANN MACs with padding and zero weights, as usually printed: {nominal}")
    return lines


@isolated()
def measure_cost(
    snn: SpikingNetwork,
    batches: Iterable[Any],
    timesteps: int,
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> Cost:
    """Count the operations of a spiking network on data, and estimate their energy.

    Args:
        snn: the converted network.
        batches: tensors (B, ...) or (tensor, label) pairs. The input is the same at every
            timestep. With class indices as labels the result states both accuracies.
        timesteps: T >= 1.
        progress: called with (samples done, None).

    Returns:
        Spikes, operations, state memory and energy, beside the analog network.

    Raises:
        DataError: no data, or data that does not fit the network.
        ArgumentError: `timesteps` is out of range, or an operation has no counting rule.

    Source: the energies are from Horowitz 2014. Synaptic operations are counted as in NeuroBench
    (Yik et al. 2025), without zero weights and padding; differs: every spike of a burst is one
    accumulate.
    """
    check_timesteps(timesteps)
    tally, quality = ActivityTally(snn, timesteps), QualityTally(snn.network)
    for x, labels in Batches(batches):
        x = x.to(snn.network.device)
        if not tally.samples:  # The first batch decides on the size of all inputs.
            snn = snn.sized_for(x)
            tally, quality = ActivityTally(snn, timesteps), QualityTally(snn.network)
        snn.network.check_input(x)
        size = tally.part_size(len(x))
        for first in range(0, len(x), size):
            part = x[first : first + size]
            output = tally.add(part)
            some = labels[first : first + size] if isinstance(labels, Tensor) else labels
            quality.add(part, some, output)
        if progress is not None:
            progress(tally.samples, None)
    if not tally.samples:
        raise DataError("measure_cost: needed at least one batch of data, got none.")
    return _cost(snn, tally.activity(), quality.result())


def _cost(snn: SpikingNetwork, activity: Activity, quality: Quality | None) -> Cost:
    network = snn.network
    floating = [t for t in network.tensors.values() if t.is_floating_point()]
    return Cost(
        n=activity.samples,
        timesteps=activity.timesteps,
        max_count=snn.max_count,
        coding=snn.coding,
        neurons=network.neurons,
        parameters=sum(t.numel() for t in floating),
        sites=tuple(_site(snn, activity, site.name, site.neurons) for site in network.sites),
        operations=count_operations(network, activity),
        memory_bytes=state_memory(snn),
        not_counted=NOT_COUNTED,
        settings=dict(snn.settings),
        quality=quality,
    )


def _site(snn: SpikingNetwork, activity: Activity, name: str, neurons: int) -> SiteActivity:
    sums = activity.sites[name].flatten(1).sum(dim=1) / (activity.samples * neurons)
    sent, unit, binary = sums.tolist()
    count = snn.neurons[name].max_count
    return SiteActivity(name, neurons, count, activity.bits[name], sent, unit, binary)


__all__ = ["NOT_COUNTED", "Cost", "Energy", "EnergyTable", "SiteActivity", "measure_cost"]

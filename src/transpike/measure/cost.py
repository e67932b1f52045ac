"""What an inference costs: operations, state and estimated energy, beside the analog network.

Every number is an estimate from counted operations, never a measurement on hardware. How a spike
is counted on its way through the graph is defined in `transpike.measure.fanout`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from math import prod
from typing import Any

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.batches import Batches
from transpike.graph.network import INPUT, Network, Node, check_timesteps
from transpike.measure.fanout import Activity, Counts, Operation, count_operations, is_copy
from transpike.measure.quality import Quality, QualityTally
from transpike.simulation.readout import frontier
from transpike.simulation.record import Record
from transpike.simulation.result import Simulation, bits_set
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork

_RECORD_BYTES = 256 * 2**20  # of counts over time kept at once, for the changes of max-pools
_PICO_PER_MICRO = 1e6

NOT_COUNTED = (
    "memory traffic: reading weights, reading and writing membranes",
    "routing of spikes (addresses, packets, buffers), control, clock and static power",
    "reading the input, and sigmoid, softmax or argmax behind the readout",
    "shifting membrane and total where a refining neuron's step shrinks",
    "in the max-pool, looking for the new maximum after a negative spike",
)


@dataclass(frozen=True)
class EnergyTable:
    """Energy per arithmetic operation, in picojoule.

    A multiply-accumulate is one multiplication and one addition; comparisons cost an addition.
    An operand of b bits makes a multiplication b / operand_bits as expensive: the partial products
    of an array multiplier are added row by row, one row per bit.

    Attributes:
        name: how tables call it.
        multiply_pj: one multiplication.
        add_pj: one addition.
        operand_bits: bits of one operand of the multiplication (24: a float's mantissa).
        source: where the numbers are from.
    """

    name: str
    multiply_pj: float
    add_pj: float
    operand_bits: int
    source: str

    @property
    def mac_pj(self) -> float:
        """One multiply-accumulate."""
        return self.multiply_pj + self.add_pj


FP32_45NM = EnergyTable(
    "45 nm fp32", 3.7, 0.9, 24, "Horowitz 2014, ISSCC, fig. 1.1.9: FMult 32 bit, FAdd 32 bit"
)
INT8_45NM = EnergyTable(
    "45 nm int8", 0.2, 0.1, 8, "Horowitz 2014, ISSCC, fig. 1.1.9: Mult 8 bit, Add 32 bit"
)


@dataclass(frozen=True)
class SiteActivity:
    """Spikes of one site, mean over samples, over all timesteps.

    Attributes:
        name: of the site.
        neurons: per sample.
        max_count: K.
        bits: of the activation in the quantized network, ceil(log2(levels + 1)).
        spikes: per neuron, counted as the neuron's code sends them.
        spikes_unit: per neuron, a count of n as n spikes.
        spikes_binary: per neuron, a count as its binary digits.
    """

    name: str
    neurons: int
    max_count: int
    bits: int
    spikes: float
    spikes_unit: float
    spikes_binary: float


@dataclass(frozen=True)
class Energy:
    """Estimated energy of one inference of one sample under one table, picojoule.

    Attributes:
        table: the table's name.
        snn_pj: the spiking network, what follows from the static input computed once.
        snn_uncached_pj: the same with it computed again at every timestep.
        snn_unit_pj: as `snn_pj`, every count of n sent as n spikes.
        snn_binary_pj: as `snn_pj`, every count sent as its binary digits.
        ann_pj: the analog network in the table's arithmetic.
        quantized_ann_pj: the analog network with activations of as many levels as the spiking
            network has (K T), the input as it is.
    """

    table: str
    snn_pj: float
    snn_uncached_pj: float
    snn_unit_pj: float
    snn_binary_pj: float
    ann_pj: float
    quantized_ann_pj: float


@dataclass(frozen=True)
class Cost:
    """What one inference of one sample costs, mean over samples.

    Attributes:
        n: samples measured.
        timesteps: T, every pass counted.
        max_count: K, largest over all sites.
        coding: "rate" or "differential".
        neurons: per sample.
        parameters: numbers of the folded network.
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
        """Under the fp32 and the int8 table."""
        return tuple(self.energy_under(table) for table in (FP32_45NM, INT8_45NM))

    def energy_under(self, table: EnergyTable) -> Energy:
        """Energy under one table."""
        total = self.total
        macs = total.macs_input + total.macs_readout + total.macs_current
        fixed = table.mac_pj * macs + table.add_pj * (total.additions + total.comparisons)
        again = table.mac_pj * total.macs_input * (self.timesteps - 1)
        other = table.add_pj * (total.ann_additions + total.ann_comparisons)
        quantized = (
            table.mac_pj * (total.ann_macs - total.ann_quantized_macs)
            + table.multiply_pj * total.ann_bit_macs / table.operand_bits
            + table.add_pj * total.ann_quantized_macs
        )
        snn = fixed + table.add_pj * total.accumulates
        return Energy(
            table=table.name,
            snn_pj=snn,
            snn_uncached_pj=snn + again,
            snn_unit_pj=fixed + table.add_pj * total.accumulates_unit,
            snn_binary_pj=fixed + table.add_pj * total.accumulates_binary,
            ann_pj=table.mac_pj * total.ann_macs + other,
            quantized_ann_pj=quantized + other,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        tables = {table.name: asdict(table) for table in (FP32_45NM, INT8_45NM)}
        return {
            **asdict(self),
            "total": asdict(self.total),
            "spikes_per_neuron": self.spikes_per_neuron,
            "energy": [asdict(row) for row in self.energy],
            "energy_tables": tables,
        }

    def __str__(self) -> str:
        """Spikes, operations, memory and energy as text."""
        return "\n".join([*self._head(), *_operation_lines(self.total), "", *self._tail()])

    def _head(self) -> list[str]:
        width = max(len("all"), *(len(site.name) for site in self.sites))
        head = f"{'site':<{width}} {'neurons':>9} {'K':>4} {'spikes/neuron':>14} {'unit':>9} "
        lines = [
            f"n={self.n}, T={self.timesteps}, K={self.max_count}, {self.coding} coding, "
            f"{self.neurons:,} neurons, {self.parameters:,} parameters; per sample",
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
            f"{'energy, uJ':<12} {'SNN':>10} {'input again':>12} {'ANN':>10} {'bit-matched':>12} "
            f"{'SNN/ANN':>8} {'SNN/bit-m.':>11}",
        ]
        for row in self.energy:
            cells = (row.snn_pj, row.snn_uncached_pj, row.ann_pj, row.quantized_ann_pj)
            snn, again, ann, quantized = (cell / _PICO_PER_MICRO for cell in cells)
            lines.append(
                f"{row.table:<12} {snn:>10.3f} {again:>12.3f} {ann:>10.3f} {quantized:>12.3f} "
                f"{snn / ann:>8.2f} {snn / quantized:>11.2f}"
            )
        if self.quality is not None:
            lines.append(f"at T={self.timesteps}: {self.quality}")
        lines += [
            "SNN: first layer once; input again: at every timestep; bit-matched: ANN with "
            f"activations of {_bits_text(self.sites)} bits",
            "estimated from arithmetic alone; not counted:",
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
    nominal = f"{total.ann_macs_nominal:,.0f}"
    lines.append(f"ANN MACs with padding and zero weights, as usually printed: {nominal}")
    return lines


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
        batches: tensors (B, ...) or (tensor, label) pairs; the input is the same at every
            timestep. With class indices as labels the result states both accuracies.
        timesteps: T >= 1.
        progress: called with (samples done, None).

    Returns:
        Spikes, operations, state memory and energy, beside the analog network.

    Raises:
        DataError: no data, or data that does not fit the network.
        ArgumentError: `timesteps` is out of range, or an operation has no counting rule.

    Source: energies from Horowitz 2014; synaptic operations as in NeuroBench (Yik et al. 2025):
    no zero weights, no padding; differs: every spike of a burst is one accumulate.
    """
    check_timesteps(timesteps)
    tally = _Tally(snn, timesteps)
    for x, labels in Batches(batches):
        tally.add(x.to(snn.network.device), labels)
        if progress is not None:
            progress(tally.samples, None)
    return tally.result()


class _Tally:
    """Sums over batches."""

    def __init__(self, snn: SpikingNetwork, timesteps: int) -> None:
        self.snn, self.network, self.timesteps = snn, snn.network, timesteps
        self.samples = 0
        self.quality = QualityTally(snn.network)
        self.spikes: dict[str, Tensor] = {}
        self.changes: dict[str, Tensor] = {}
        self.pools = {node.name: node for node in self.network.nodes if passes_counts(snn, node)}
        self.feeding = sorted({s for node in self.pools.values() for s in sources(snn, node)})

    def add(self, x: Tensor, labels: Any) -> None:
        sizes = {site.name: site.neurons for site in self.network.sites}
        per_sample = 2 * self.timesteps * sum(sizes[name] for name in self.feeding)
        per_sample *= self.network.dtype.itemsize
        rows = len(x) if not per_sample else max(1, _RECORD_BYTES // per_sample)
        for first in range(0, len(x), rows):
            part = x[first : first + rows]
            run = simulate(
                self.snn,
                part,
                self.timesteps,
                record=Record(output_at=[self.timesteps], sites=self.feeding, totals=True),
            )
            self._take(run)
            some = labels[first : first + rows] if isinstance(labels, Tensor) else None
            self.quality.add(part, some, run.output)
        self.samples += len(x)

    def _take(self, run: Simulation) -> None:
        for name, totals in run.totals.items():
            unit = totals.unit.double().sum(dim=0).cpu()
            binary = totals.binary.double().sum(dim=0).cpu()
            self._sum(self.spikes, name, unit, binary, self.snn.neurons[name])
        if not self.pools:
            return
        sums = {
            site.node: self._sent(site.name, run).cumsum(dim=0).flatten(0, 1)
            for site in self.network.sites
            if site.name in self.feeding
        }
        with torch.inference_mode():
            for name, node in self.pools.items():
                reached = follow(self.network, node, sums)
                steps = reached.reshape(self.timesteps, -1, *reached.shape[1:])
                change = torch.diff(steps, dim=0, prepend=torch.zeros_like(steps[:1])).abs()
                change = change * self._finer(sources(self.snn, node)[0], change)
                unit = change.double().sum(dim=(0, 1)).cpu()
                binary = bits_set(change).double().sum(dim=(0, 1)).cpu()
                neuron = self.snn.neurons[sources(self.snn, node)[0]]
                self._sum(self.changes, name, unit, binary, neuron)

    def _sent(self, name: str, run: Simulation) -> Tensor:
        """What a site sends at every timestep (T, B, ...), in units of its first step."""
        counts = run.records[name].counts
        return counts / self._finer(name, counts)

    def _finer(self, name: str, like: Tensor) -> Tensor:
        """First step over the step at every timestep, shaped to broadcast over (T, B, ...)."""
        neuron = self.snn.neurons[name]
        finer = [float(neuron.finer_at(t)) for t in range(1, self.timesteps + 1)]
        return like.new_tensor(finer).reshape(-1, *[1] * (like.ndim - 1))

    def _sum(
        self, into: dict[str, Tensor], name: str, unit: Tensor, binary: Tensor, neuron: Neuron
    ) -> None:
        sent = binary if neuron.code == "binary" else unit
        events = torch.stack([sent, unit, binary])
        into[name] = into[name] + events if name in into else events

    def result(self) -> Cost:
        if not self.samples:
            raise DataError("measure_cost: needed at least one batch of data, got none.")
        snn, network = self.snn, self.network
        neurons = snn.neurons
        bits = {name: _bits(neuron, self.timesteps) for name, neuron in neurons.items()}
        activity = Activity(
            samples=self.samples,
            timesteps=self.timesteps,
            differential=snn.coding == "differential",
            sites=self.spikes,
            pools=self.changes,
            bits=bits,
            updates={name: _updates(neuron, self.timesteps) for name, neuron in neurons.items()},
            comparisons={name: _comparisons(neuron) for name, neuron in neurons.items()},
            resets={name: 2 if neuron.signed else 1 for name, neuron in neurons.items()},
        )
        floating = [t for t in network.tensors.values() if t.is_floating_point()]
        return Cost(
            n=self.samples,
            timesteps=self.timesteps,
            max_count=snn.max_count,
            coding=snn.coding,
            neurons=network.neurons,
            parameters=sum(t.numel() for t in floating),
            sites=tuple(
                self._site(site.name, site.neurons, bits[site.name]) for site in network.sites
            ),
            operations=count_operations(network, activity),
            memory_bytes=_memory(snn),
            not_counted=NOT_COUNTED,
            settings=dict(snn.settings),
            quality=self.quality.result(),
        )

    def _site(self, name: str, neurons: int, bits: int) -> SiteActivity:
        sums = self.spikes[name].flatten(1).sum(dim=1) / (self.samples * neurons)
        sent, unit, binary = sums.tolist()
        count = self.snn.neurons[name].max_count
        return SiteActivity(name, neurons, count, bits, sent, unit, binary)


def _bits(neuron: Neuron, timesteps: int) -> int:
    """Bits of an activation with as many levels: ceil(log2(levels + 1))."""
    return math.ceil(math.log2(neuron.levels_at(timesteps) + 1))


def _updates(neuron: Neuron, timesteps: int) -> int:
    """Timesteps up to T in which a neuron may fire; in others it only adds up what comes."""
    return sum(neuron.schedule.fires_at(t) for t in range(1, timesteps + 1))


def _comparisons(neuron: Neuron) -> int:
    """Comparisons per neuron and timestep.

    The count is found bit by bit, one comparison each; a signed neuron also compares with zero and
    with its running total.
    """
    return neuron.max_count.bit_length() + (2 if neuron.signed else 0)


def _memory(snn: SpikingNetwork) -> dict[str, int]:
    """Bytes of state of one sample, in the network's own type."""
    network = snn.network
    size = network.dtype.itemsize

    def elements(name: str) -> int:
        if name == INPUT:
            return prod(network.input_shape)
        shape = network.by_name[name].shape
        return 0 if shape is None else prod(shape[1:]) * max(1, -shape[0])

    counted = sum(
        site.neurons
        for site in network.sites
        if snn.neurons[site.name].signed or site.upper_bound is not None
    )
    pools = [n for n in network.nodes if n.kind == "cumulative" and n.name not in network.tail]
    return {
        "membranes": size * network.neurons,
        "running totals of counts": size * counted,
        "running sums of max-pools": size * sum(elements(node.reads[0]) for node in pools),
        "constant currents": size * sum(elements(name) for name in _cached(network)),
        "readout sums": size * sum(elements(name) for name in frontier(network)),
    }


def _cached(network: Network) -> set[str]:
    """Values that follow from the static input alone and are read at every timestep."""
    static = {INPUT}
    for node in network.nodes:
        if node.kind == "linear" and node.name not in network.tail:
            if node.reads and all(name in static for name in node.reads):
                static.add(node.name)
    used = {
        name
        for node in network.nodes
        if node.name not in static and node.name not in network.tail
        for name in node.reads
    }
    return static & used


def sources(snn: SpikingNetwork, node: Node) -> list[str]:
    """Sites whose counts reach a node through nothing but moves and max-pools.

    Empty where anything else lies on the way.
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
    """Whether the changes of a max-pool are whole counts: one step per window, at every t."""
    if node.kind != "cumulative":
        return False
    feeding = sources(snn, node)
    if not feeding:
        return False
    neurons = [snn.neurons[name] for name in feeding]
    schedules = {
        (n.schedule.ratio, n.schedule.period, n.levels, n.schedule.delay, n.schedule.window)
        for n in neurons
    }
    if len(schedules) > 1:
        return False  # steps that shrink at other times
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
    """A node's value, or its operand's with `inner`, from values at the nodes of the sites."""

    def value(name: str) -> Any:
        if name in at_sites:
            return at_sites[name]
        before = network.by_name[name]
        return network.compute(before, {read: value(read) for read in before.reads}, rows)

    rows = len(next(iter(at_sites.values())))
    return value(node.reads[0]) if inner else value(node.name)


__all__ = [
    "FP32_45NM",
    "INT8_45NM",
    "Cost",
    "Energy",
    "EnergyTable",
    "SiteActivity",
    "measure_cost",
]

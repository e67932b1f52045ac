"""Calibration passes: correct a spiking network on unlabelled training inputs.

Most passes are a sweep: the analog and the spiking network run side by side, all timesteps of one
operation before the next, and every site is corrected on the currents that the already corrected
sites before it send. One sweep costs about one simulation.

Shapes: T timesteps, B inputs, C channels, P samples of a channel (inputs times positions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.conversion.calibrate import inputs_of
from transpike.conversion.passes.distillation import Distillation, distilled
from transpike.errors import ArgumentError, DataError
from transpike.graph.network import INPUT, Network, Node, Site
from transpike.graph.without_constants import increments
from transpike.simulation.engine.scan import Chunk, Constants, Population, scan
from transpike.simulation.readout import pooled
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork

# Bytes of the largest value of a sweep: inputs beyond it are left out.
_SWEEP_VALUE = 256 * 2**20
# Samples of a channel that a correction looks at, in all and per input, drawn with a fixed seed.
_SAMPLES, _SAMPLES_PER_INPUT = 16_384, 128
_ROWS = 64  # inputs times timesteps that a linear operation sees at once
# Half-widths of SiteSearch in its first round; they halve every round.
_STEP_OCTAVES, _START_STEPS, _OFFSET_LEVELS = 0.7, 1.5, 2.0
_POINTS = 8


@dataclass(frozen=True)
class BiasCorrection:
    """Correct the mean output of every channel by a constant current.

    offset <- offset - (E[spiking output] - E[activation]) / step, site by site on the spiking
    network's own currents; repeated, as the output does not follow the current exactly.

    Attributes:
        rounds: repetitions per site, >= 1.

    Source: Li et al. 2021 (SNN calibration, light); differs: at the site, in several rounds, so
    that sums and concatenations are corrected too.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        _check_rounds(self.rounds)


@dataclass(frozen=True)
class MembraneCorrection:
    """Correct the mean output of every channel by its initial membrane.

    start <- start - T (E[spiking output] - E[activation]) / step, one value per channel, so that
    the input size stays free. It acts at once, and fades as 1/t where a bias stays.

    Attributes:
        rounds: repetitions per site, >= 1.

    Source: Li et al. 2021 (SNN calibration, advanced); differs: per channel, not per neuron.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        _check_rounds(self.rounds)


@dataclass(frozen=True)
class SiteSearch:
    """Search step, start and offset of every channel for the least error of its mean output at T.

    Coordinate search for the least E[e^2] + weight E[e]^2, e = spiking output - activation, of
    the neuron itself on the spiking network's own currents: clipping, quantisation and unevenness
    are weighed against each other as they occur. The mean is given extra weight because later
    layers average independent errors, but not a common one.

    Attributes:
        rounds: grids per quantity, each half as wide as the one before, 1 to 6.
        weight: of the squared mean error, >= 0.

    Source: this library.
    """

    rounds: int = 3
    weight: float = 3.0

    def __post_init__(self) -> None:
        _check_rounds(self.rounds)
        if not 0 <= self.weight < float("inf"):
            raise ArgumentError(f"weight: needed a number >= 0, got {self.weight!r}.")


@dataclass(frozen=True)
class AllocateCounts:
    """Give every site its own max count, within a budget of spikes or of levels.

    For every site and every halving of its max count K (step = threshold / K) the change of the
    output and what is saved are measured; then the cheapest change for what it saves is taken
    until the network keeps the budget. Comes before corrections, which depend on the step.

    Attributes:
        spikes_per_neuron: budget, spikes per neuron over all T timesteps, mean over inputs.
        mean_count: in its place, budget of K, the levels per timestep, mean over all neurons.

    Source: Wang et al. 2025 (AdaFire, sensitivity against spikes); differs: greedy, by squared
    output distance, and the resolution is shared out, not the range.
    """

    spikes_per_neuron: float | None = None
    mean_count: float | None = None

    def __post_init__(self) -> None:
        for name, least in (("spikes_per_neuron", 0.0), ("mean_count", 1.0)):
            value = getattr(self, name)
            number = isinstance(value, int | float) and not isinstance(value, bool)
            if value is not None and not (number and 0 < value < float("inf") and value >= least):
                above = ">= 1" if least else "> 0"
                raise ArgumentError(f"{name}: needed a number {above}, got {value!r}.")
        if (self.spikes_per_neuron is None) == (self.mean_count is None):
            raise ArgumentError(
                "AllocateCounts: needed one budget, spikes_per_neuron or mean_count, got "
                f"{self.spikes_per_neuron!r} and {self.mean_count!r}."
            )

    @property
    def budget(self) -> float:
        """The budget that is given."""
        budget = self.mean_count if self.spikes_per_neuron is None else self.spikes_per_neuron
        assert budget is not None
        return budget


@dataclass(frozen=True)
class DelayedReadout:
    """Leave out the first timesteps of the readout, as many as bring the output closest.

    Tries the readout starts 0, T/8, T/4, 3T/8, T/2 and 3T/4 and keeps the one with the least
    squared distance of the output at T to the analog network's. Every timestep counts in T.

    Source: Bu et al. 2025 (delayed evaluation); differs: chosen on training inputs.
    """


CalibrationPass = (
    BiasCorrection
    | MembraneCorrection
    | SiteSearch
    | Distillation
    | AllocateCounts
    | DelayedReadout
)


def _check_rounds(rounds: int) -> None:
    if isinstance(rounds, bool) or not isinstance(rounds, int) or not 1 <= rounds <= 6:
        raise ArgumentError(f"rounds: needed an integer in 1..6, got {rounds!r}.")


def joined_inputs(batches: Iterable[Any]) -> Tensor:
    """All inputs of batches as one tensor (B, ...).

    Raises:
        DataError: no data.
    """
    parts = list(inputs_of(batches))
    if not parts:
        raise DataError("calibration: needed at least one batch of data, got none.")
    return torch.cat(parts)


def apply_pass(
    one: CalibrationPass, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    """A corrected copy of a spiking network.

    Args:
        one: what to do.
        snn: the network so far.
        images: training inputs (B, ...).
        timesteps: T, the number of timesteps it is to be best for.

    Raises:
        ArgumentError: the pass cannot be applied to this network.
    """
    match one:
        case AllocateCounts():
            corrected, used = _allocated(one, snn, images, timesteps), len(images)
        case Distillation():
            corrected, used = distilled(one, snn, images, timesteps), len(images)
        case DelayedReadout():
            corrected, used = _delayed(snn, images, timesteps), len(images)
        case _:
            images = images[: _swept_together(snn.network, timesteps, len(images))]
            corrected, used = _Sweep(snn, timesteps, _correction(one)).run(images), len(images)
    note = {"pass": type(one).__name__, **asdict(one), "timesteps": timesteps, "n": used}
    done = [*snn.settings.get("passes", []), note]
    return corrected.changed(settings={**snn.settings, "passes": done})


@dataclass(frozen=True)
class _Values:
    """What a correction may change of a site, one value per channel (C,)."""

    step: Tensor
    start: Tensor
    offset: Tensor


@dataclass(frozen=True)
class _Sampled:
    """Samples of one site.

    Attributes:
        neuron: settings.
        current: (T, P, C), or (1, P, C) where it is constant in time.
        target: (P, C) activations of the analog network.
        upper_bound: of the activation, or None.
        timesteps: T.
        scale: what a sum over time is divided by: T, or 1 in differential coding.
    """

    neuron: Neuron
    current: Tensor
    target: Tensor
    upper_bound: float | None
    timesteps: int
    scale: int

    def error(self, values: _Values) -> Tensor:
        """Spiking output minus activation, (P, C)."""
        counts = _run(self.neuron, values, self.current, self.upper_bound, self.timesteps)
        return counts.sum(dim=0) / self.scale - self.target


_Correction = Callable[[_Sampled, _Values], _Values]


def _run(
    neuron: Neuron, values: _Values, current: Tensor, upper_bound: float | None, timesteps: int
) -> Tensor:
    """Counts times step (T, P, N) of a population with values per neuron (N,)."""
    bound = None if upper_bound is None else upper_bound / values.step
    constants = Constants(neuron, values.step, values.start, values.offset, bound)
    shape = current.shape[1:]
    out = torch.empty(timesteps, *shape, dtype=current.dtype, device=current.device)
    population = Population.at_rest(constants, len(current[0]))
    # In differential coding the offset comes at t = 1 only.
    cuts = [0, timesteps] if neuron.levels is None or timesteps == 1 else [0, 1, timesteps]
    for first, end in pairwise(cuts):
        part = current if len(current) == 1 else current[first:end]
        offset = neuron.levels is None or first == 0
        scan(constants, population, Chunk(part, None, out[first:end], None, first, offset))
    return out


def _correction(one: CalibrationPass) -> _Correction:
    match one:
        case BiasCorrection():
            return lambda site, values: _bias(site, values, one.rounds)
        case MembraneCorrection():
            return lambda site, values: _membrane(site, values, one.rounds)
        case SiteSearch():
            return lambda site, values: _searched(site, values, one)
    raise ArgumentError(f"passes: needed a calibration pass, got {one!r}.")


def _bias(site: _Sampled, values: _Values, rounds: int) -> _Values:
    for _ in range(rounds):
        shift = site.error(values).mean(dim=0) / values.step
        values = replace(values, offset=values.offset - shift)
    return values


def _membrane(site: _Sampled, values: _Values, rounds: int) -> _Values:
    for _ in range(rounds):
        shift = site.scale * site.error(values).mean(dim=0) / values.step
        values = replace(values, start=values.start - shift)
    return values


def _searched(site: _Sampled, values: _Values, one: SiteSearch) -> _Values:
    def cost(candidate: _Values) -> Tensor:
        error = site.error(candidate)
        return error.square().mean(dim=0) + one.weight * error.mean(dim=0).square()

    least = cost(values)
    points = [x / (_POINTS // 2) for x in range(-_POINTS // 2, _POINTS // 2 + 1) if x != 0]
    for turn in range(one.rounds):
        for quantity in ("step", "start", "offset"):
            centre = values
            for point in points:
                candidate = _moved(centre, quantity, point / 2**turn, site.scale)
                found = cost(candidate)
                better = found < least
                least = torch.where(better, found, least)
                values = _where(better, candidate, values)
    return values


def _moved(values: _Values, quantity: str, amount: float, scale: int) -> _Values:
    if quantity == "step":
        return replace(values, step=values.step * 2 ** (_STEP_OCTAVES * amount))
    if quantity == "start":
        return replace(values, start=values.start + _START_STEPS * amount)
    return replace(values, offset=values.offset + _OFFSET_LEVELS * amount / scale)


def _where(choose: Tensor, one: _Values, other: _Values) -> _Values:
    return _Values(*(torch.where(choose, getattr(one, f), getattr(other, f)) for f in vars(one)))


def _swept_together(network: Network, timesteps: int, available: int) -> int:
    """Inputs whose largest value over all timesteps fits a sweep; at least one."""
    sizes = [1]
    for node in network.nodes:
        if node.shape is not None:
            size = max(1, -node.shape[0]) if node.shape else 1
            for extent in node.shape[1:]:
                size *= abs(extent)
            sizes.append(size)
    itemsize = torch.empty(0, dtype=network.dtype).element_size()
    return max(1, min(available, _SWEEP_VALUE // (max(sizes) * timesteps * itemsize)))


class _Sweep:
    """Both networks side by side; spiking values are (T, B, ...), or (1, B, ...) if constant."""

    def __init__(self, snn: SpikingNetwork, timesteps: int, correct: _Correction) -> None:
        self.snn, self.network, self.timesteps = snn, snn.network, timesteps
        self.correct = correct
        self.differential = snn.coding == "differential"
        self.later = increments(self.network) if self.differential else self.network
        self.later_nodes = {node.name: node for node in self.later.nodes}
        steps, starts, offsets = snn.steps, snn.starts, snn.offsets
        self.values = {n: _Values(steps[n], starts[n], offsets[n]) for n in steps}

    def run(self, images: Tensor) -> SpikingNetwork:
        """Correct all sites, in order of execution."""
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
        """Compute a node in both networks, correct it if it is a site, and drop what is done."""
        site = self.network.site_of.get(node.name)
        if site is not None:
            current = spiking[node.reads[0]]
            analog[node.name] = site.activate(analog[node.reads[0]])
            spiking[node.name] = self.site(site, current, analog[node.name])
        else:
            analog[node.name] = self.network.compute(node, analog, n)
            if node.kind == "cumulative":
                spiking[node.name] = self.cumulative(node, spiking[node.reads[0]])
            else:
                spiking[node.name] = self.linear(node, spiking, n)
        for name in node.reads:
            if self.network.last_reader.get(name) == node.name:
                analog.pop(name, None)
                spiking.pop(name, None)

    def site(self, site: Site, current: Tensor, target: Tensor) -> Tensor:
        """Correct a site on samples of its channels; what it then sends, (T, B, ...)."""
        neuron, scale = self.snn.neurons[site.name], 1 if self.differential else self.timesteps
        rows, wanted = _samples(site, current, target)
        bound = site.upper_bound
        sampled = _Sampled(neuron, rows, wanted, bound, self.timesteps, scale)
        values = self.values[site.name] = self.correct(sampled, self.values[site.name])

        def spread(per_channel: Tensor) -> Tensor:
            return site.along_channels(per_channel).expand(1, *site.shape).reshape(-1).contiguous()

        every = _Values(spread(values.step), spread(values.start), spread(values.offset))
        flat = current.flatten(2).contiguous()
        return _run(neuron, every, flat, bound, self.timesteps).reshape(
            self.timesteps, *current.shape[1:]
        )

    def cumulative(self, node: Node, source: Tensor) -> Tensor:
        """f(S_t) - f(S_{t-1}), as the reference does it."""
        if len(source) == 1:
            source = source.expand(self.timesteps, *source.shape[1:])
        total, before, out = None, None, []
        for value in source:
            total = value if total is None else total + value
            reached = pooled(self.network, node, total)
            out.append(reached if before is None else reached - before)
            before = reached
        return torch.stack(out)

    def linear(self, node: Node, spiking: dict[str, Any], n: int) -> Any:
        """A linear operation at every timestep, or once where its inputs are constant."""
        length = max((_length(spiking[name]) for name in node.reads), default=1)
        rows = _ROWS if self.by_input(node) else n
        series = [
            _joined(
                [self.at(node, spiking, t, low, min(low + rows, n)) for low in range(0, n, rows)]
            )
            for t in range(length)
        ]
        return pytree.tree_map(lambda *leaves: torch.stack(leaves), *series)

    def by_input(self, node: Node) -> bool:
        """Whether inputs can be computed one after the other: all have them as first axis."""
        nodes = [node, *(self.network.by_name[n] for n in node.reads if n != INPUT)]
        return all(n.shape is None or n.shape[:1] == (-1,) for n in nodes)

    def at(self, node: Node, spiking: dict[str, Any], t: int, low: int, high: int) -> Any:
        """A node at one timestep (0-based) for some inputs."""
        cut = self.by_input(node)

        def now(value: Tensor) -> Tensor:
            found = value[t if len(value) > 1 else 0]
            return found[low:high] if cut else found

        network, wanted = self.network, node
        if self.differential and t:
            network, wanted = self.later, self.later_nodes[node.name]
        read = {n: pytree.tree_map(now, self.constant(n, spiking)) for n in wanted.reads}
        return network.compute(wanted, read, high - low)

    def constant(self, name: str, spiking: dict[str, Any]) -> Any:
        """A value, or the zeros that stand for a constant in the network of increments."""
        if name in spiking:
            return spiking[name]
        return torch.zeros_like(spiking[self.later_nodes[name].reads[0]])


def _length(value: Any) -> int:
    return max(len(leaf) for leaf in pytree.tree_leaves(value))


def _joined(parts: list[Any]) -> Any:
    if len(parts) == 1:
        return parts[0]
    return pytree.tree_map(lambda *leaves: torch.cat(leaves), *parts)


def _samples(site: Site, current: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """(T, P, C) and (P, C): the same samples of every channel."""
    rows = current.movedim(site.channel_axis + 1, -1).reshape(len(current), -1, site.channels)
    wanted = target.movedim(site.channel_axis, -1).reshape(-1, site.channels)
    most = min(_SAMPLES, _SAMPLES_PER_INPUT * len(target))
    if rows.shape[1] > most:
        generator = torch.Generator().manual_seed(0)
        drawn = torch.randperm(rows.shape[1], generator=generator)[:most].to(rows.device)
        rows, wanted = rows[:, drawn], wanted[drawn]
    return rows.contiguous(), wanted.contiguous()


def output_distance(snn: SpikingNetwork, images: Tensor, timesteps: int) -> tuple[float, float]:
    """Squared distance of the output at T to the analog network's, relative; spikes per neuron."""
    run = simulate(snn, images, timesteps, output_at=[timesteps])
    with torch.inference_mode():
        analog = pytree.tree_leaves(snn.network(images))
    found = [leaf[0] for leaf in pytree.tree_leaves(run.output)]
    gap = sum(float((a - b).double().square().sum()) for a, b in zip(found, analog, strict=True))
    size = sum(float(a.double().square().sum()) for a in analog)
    return gap / max(size, torch.finfo(torch.float64).tiny), float(run.spikes_per_neuron[-1])


def _delayed(snn: SpikingNetwork, images: Tensor, timesteps: int) -> SpikingNetwork:
    if snn.coding == "differential":
        raise ArgumentError(
            "DelayedReadout: differential coding reads a running sum, from which no timestep can "
            "be left out. Leave this pass out, or use a rate-coded neuron such as Signed(1)."
        )
    starts = sorted({timesteps * eighths // 8 for eighths in (0, 1, 2, 3, 4, 6)})
    distances = {
        start: output_distance(snn.changed(readout_start=start), images, timesteps)[0]
        for start in starts
    }
    return snn.changed(readout_start=min(starts, key=lambda start: distances[start]))


def _allocated(
    one: AllocateCounts, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    _check_allocatable(snn)

    def measured(network: SpikingNetwork) -> tuple[float, float]:
        """Output distance, and what the budget is about."""
        distance, spikes = output_distance(network, images, timesteps)
        return distance, spikes if one.mean_count is None else mean_count(network)

    base, used = measured(snn)
    options = []
    for site in snn.network.sites:
        count = snn.neurons[site.name].max_count // 2
        while count >= 1:
            distance, fewer = measured(_with_count(snn, {site.name: count}))
            options.append((site.name, count, distance - base, used - fewer))
            count //= 2
    chosen: dict[str, int] = {}
    network = snn
    while used > one.budget:
        pick = _cheapest(options, chosen)
        if pick is None:
            # Of spikes: one count per timestep everywhere keeps every budget of levels.
            raise ArgumentError(
                f"AllocateCounts: {used:.3f} spikes per neuron are left with one count per "
                f"timestep at every site that saves any, the budget is {one.budget}. "
                "Raise the budget, or lower timesteps."
            )
        chosen[pick[0]] = pick[1]
        network = _with_count(snn, chosen)
        _, used = measured(network)
    return network


def mean_count(snn: SpikingNetwork) -> float:
    """Largest count per timestep, mean over all neurons."""
    counts = [snn.neurons[site.name].max_count * site.neurons for site in snn.network.sites]
    return sum(counts) / snn.network.neurons


def _check_allocatable(snn: SpikingNetwork) -> None:
    if snn.coding != "rate" or any(neuron.step != "fraction" for neuron in snn.neurons.values()):
        raise ArgumentError(
            "AllocateCounts: needed rate coding with step = threshold / max_count at every site. "
            "Use Signed(K) or Burst(K, mode='resolution')."
        )
    moved = any(
        bool((snn.starts[name] != neuron.initial_membrane).any() | snn.offsets[name].any())
        for name, neuron in snn.neurons.items()
    )
    if moved:
        raise ArgumentError(
            "AllocateCounts: starts and offsets are in units of the step, which it changes. Put it "
            "before the corrections."
        )


def _cheapest(
    options: list[tuple[str, int, float, float]], chosen: dict[str, int]
) -> tuple[str, int] | None:
    """The next halving with the least output change for what it saves, beyond what is chosen."""
    best, least = None, float("inf")
    known = {(name, count): (change, saved) for name, count, change, saved in options}
    for name, count, change, saved in options:
        if count >= chosen.get(name, 2**31):
            continue
        before = known.get((name, chosen.get(name, 0)), (0.0, 0.0))
        gain = saved - before[1]
        if gain <= 0:
            continue
        price = max(0.0, change - before[0]) / gain
        if price < least:
            best, least = (name, count), price
    return best


def _with_count(snn: SpikingNetwork, counts: dict[str, int]) -> SpikingNetwork:
    """The network with other max counts, and steps so that the thresholds stay."""
    neurons, steps = dict(snn.neurons), snn.steps
    for name, count in counts.items():
        steps[name] = steps[name] * (neurons[name].max_count / count)
        neurons[name] = replace(neurons[name], max_count=count)
    return snn.changed(neurons=neurons, steps=steps)

"""Give every site its own max count, so that the network keeps a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from transpike.errors import ArgumentError
from transpike.simulation.fidelity import output_distance
from transpike.spiking.spiking_network import SpikingNetwork


@dataclass(frozen=True)
class AllocateCounts:
    """Give every site its own max count, within a budget of spikes or of levels.

    The pass halves the max count K of a site (step = threshold / K), and measures how much the
    output changes and how much of the budget this saves. It does so for every site and every
    halving. It then takes the halving with the smallest change per saving, again and again, until
    the network keeps the budget. It must come before the corrections, which depend on the step.

    Attributes:
        spikes_per_neuron: budget of spikes per neuron, over all T timesteps, as a mean over the
            inputs, > 0.
        mean_count: budget of K, the levels per timestep, as a mean over all neurons, >= 1. Exactly
            one of the two budgets is given.

    Raises:
        ArgumentError: a budget is out of range, or none or both are given.

    Source: Wang et al. 2025 (AdaFire, sensitivity against spikes); differs: it is greedy, uses
    the squared distance of the outputs, and allocates the resolution, not the range.
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
                f"{self.spikes_per_neuron!r} and {self.mean_count!r}. Give exactly one of them."
            )

    @property
    def budget(self) -> float:
        """The budget that was given."""
        budget = self.mean_count if self.spikes_per_neuron is None else self.spikes_per_neuron
        assert budget is not None
        return budget


def allocated(
    one: AllocateCounts, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    """The network with max counts halved, site by site, until it keeps the budget.

    Args:
        one: the settings.
        snn: the network.
        images: training inputs (B, ...).
        timesteps: T, >= 1.

    Raises:
        ArgumentError: the pass does not fit the neurons, or the budget cannot be reached.
    """
    _check_allocatable(snn)

    def measured(network: SpikingNetwork) -> tuple[float, float]:
        """Output distance, and the quantity that the budget limits."""
        distance, spikes = output_distance(network, images, timesteps)
        return distance, spikes if one.mean_count is None else mean_count(network)

    base, used = measured(snn)
    options = []
    for site in snn.network.sites:
        count = snn.neurons[site.name].max_count // 2
        while count >= 1:
            distance, fewer = measured(with_count(snn, {site.name: count}))
            options.append((site.name, count, distance - base, used - fewer))
            count //= 2
    chosen: dict[str, int] = {}
    network = snn
    while used > one.budget:
        pick = _cheapest(options, chosen)
        if pick is None:
            # Only spikes can be left over: K = 1 at every site keeps every budget of levels.
            raise ArgumentError(
                f"AllocateCounts: needed at most {one.budget} spikes per neuron, got {used:.3f} "
                "after every halving that saves spikes. Raise the budget, or lower timesteps."
            )
        chosen[pick[0]] = pick[1]
        network = with_count(snn, chosen)
        _, used = measured(network)
    return network


def mean_count(snn: SpikingNetwork) -> float:
    """Max count per timestep, as a mean over all neurons."""
    counts = [snn.neurons[site.name].max_count * site.neurons for site in snn.network.sites]
    return sum(counts) / snn.network.neurons


def _check_allocatable(snn: SpikingNetwork) -> None:
    if snn.coding != "rate" or any(neuron.step != "fraction" for neuron in snn.neurons.values()):
        raise ArgumentError(
            "AllocateCounts: needed rate coding and step = threshold / max_count at every site, "
            "got other neurons. Use Signed(K) or Burst(K, mode='resolution')."
        )
    moved = any(
        bool((snn.starts[name] != neuron.initial_membrane).any() | snn.offsets[name].any())
        for name, neuron in snn.neurons.items()
    )
    if moved:
        raise ArgumentError(
            "AllocateCounts: needed a network without corrections, got corrected starts or "
            "offsets, which depend on the step that this pass changes. Put it before the "
            "corrections."
        )


def _cheapest(
    options: list[tuple[str, int, float, float]], chosen: dict[str, int]
) -> tuple[str, int] | None:
    """The next halving, with the smallest change of the output per saving.

    Args:
        options: site name, max count, change of the output and saving of every halving.
        chosen: max count by site name, as chosen so far.

    Returns:
        Site name and max count, or None if no halving saves anything more.
    """
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


def with_count(snn: SpikingNetwork, counts: dict[str, int]) -> SpikingNetwork:
    """The network with new max counts by site name. The steps change so that thresholds stay."""
    neurons, steps = dict(snn.neurons), snn.steps
    for name, count in counts.items():
        steps[name] = steps[name] * (neurons[name].max_count / count)
        neurons[name] = replace(neurons[name], max_count=count)
    return snn.changed(neurons=neurons, steps=steps)

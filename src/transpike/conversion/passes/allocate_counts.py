"""Give every site the largest count that keeps a budget."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from transpike.errors import ArgumentError
from transpike.simulation.fidelity import output_distance
from transpike.spiking.spiking_network import SpikingNetwork


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


def allocated(
    one: AllocateCounts, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    """The network with counts halved, site by site, until it keeps the budget.

    Raises:
        ArgumentError: the pass does not fit the neurons, or the budget is out of reach.
    """
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
            distance, fewer = measured(with_count(snn, {site.name: count}))
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
        network = with_count(snn, chosen)
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


def with_count(snn: SpikingNetwork, counts: dict[str, int]) -> SpikingNetwork:
    """The network with other max counts, and steps so that the thresholds stay."""
    neurons, steps = dict(snn.neurons), snn.steps
    for name, count in counts.items():
        steps[name] = steps[name] * (neurons[name].max_count / count)
        neurons[name] = replace(neurons[name], max_count=count)
    return snn.changed(neurons=neurons, steps=steps)

"""The engine of a spiking network: its plans, its calls and the constants of its sites."""

from __future__ import annotations

from torch import Tensor

from transpike.graph.network import Network, Node
from transpike.graph.without_constants import increments
from transpike.simulation.engine.convolve import Call
from transpike.simulation.engine.plan import Plan, dense, flat, plan
from transpike.simulation.engine.precision import Arithmetic, arithmetic
from transpike.simulation.engine.scan import Constants
from transpike.spiking.spiking_network import (
    SpikingNetwork,
    site_bounds,
    site_lowers,
    site_offsets,
    site_starts,
)


class Engine:
    """A spiking network that is prepared to run. It keeps nothing from one run to the next.

    In differential coding the network of the first timestep has biases, and the network of all
    later timesteps has none.
    """

    def __init__(self, snn: SpikingNetwork, precision: str) -> None:
        # An engine must not hold its network: it is kept only as long as the network lives.
        self.neurons, self.steps = dict(snn.neurons), dict(snn.steps)
        self.first_output, self.readout_start = snn.first_output, snn.readout_start
        self.differential = snn.coding == "differential"
        network = snn.network
        self.arithmetic = arithmetic(precision, network)
        self.constants = _constants(snn, network)
        # Layers that fire in some timesteps only leave nothing to compute in the others.
        self.windows = any(
            n.schedule.window is not None or n.schedule.delay for n in snn.neurons.values()
        )
        self.first = Phase(network, self.arithmetic)
        self.later = (
            Phase(increments(network), self.arithmetic) if self.differential else self.first
        )

    @property
    def network(self) -> Network:
        """The folded analog network."""
        return self.first.network


class Phase:
    """The network of some timesteps, with its plans and calls."""

    def __init__(self, network: Network, arithmetic: Arithmetic) -> None:
        self.network, self.arithmetic = network, arithmetic
        self.weights = arithmetic.weights(network)
        self.joins = arithmetic.joins(network)
        self._plans: dict[bool, Plan] = {}
        self._calls: dict[str, Call] = {}

    def plan(self, moving_input: bool) -> Plan:
        """The plan for an input that changes in time, or for one that does not."""
        if moving_input not in self._plans:
            self._plans[moving_input] = plan(
                self.network, constant_input=not moving_input, joins=self.joins
            )
        return self._plans[moving_input]

    def call(self, node: Node) -> Call:
        """The function that computes a node that is not a site."""
        if node.name not in self._calls:
            joined = self.joins.get(node.name)
            call = self.arithmetic.call(self.network, self.weights, node, joined)
            self._calls[node.name] = call
        return self._calls[node.name]


def _constants(snn: SpikingNetwork, network: Network) -> dict[str, Constants]:
    """Step, start, offset and bound of every neuron of a sample, by site and in memory order."""
    bounds, lowers, starts = site_bounds(snn), site_lowers(snn), site_starts(snn)
    offsets, steps = site_offsets(snn), snn.steps
    result = {}
    for site in network.sites:

        def spread(values: Tensor | None, shape: tuple[int, ...] = site.shape) -> Tensor | None:
            if values is None:
                return None
            return flat(dense(values.expand(1, *shape)), 1).reshape(-1)

        step, start = spread(site.along_channels(steps[site.name])), spread(starts[site.name])
        assert step is not None and start is not None
        bound, offset = spread(bounds[site.name]), spread(offsets[site.name])
        lower = spread(lowers[site.name])
        if lower is not None and not bool(lower.any()):
            lower = None  # 0 is the bound without one, and all kernels know it.
        neuron = snn.neurons[site.name]
        result[site.name] = Constants(neuron, step, start, offset, bound, lower)
    return result

"""The memory that a spiking network needs for its state."""

from __future__ import annotations

from math import prod

from transpike.graph.network import INPUT, Network
from transpike.simulation.readout import frontier
from transpike.spiking.spiking_network import SpikingNetwork


def state_memory(snn: SpikingNetwork) -> dict[str, int]:
    """Bytes of state of one sample by kind, in the network's own type."""
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
    regions = {region.name: region for region in network.regions.values()}.values()
    kept = sum(elements(name) for one in regions for name in (*one.signals, *one.outputs))
    return {
        "membranes": size * network.neurons,
        "running totals of counts": size * counted,
        "running sums of max-pools": size * sum(elements(node.reads[0]) for node in pools),
        **({"running sums and values of regions": size * kept} if regions else {}),
        "constant currents": size * sum(elements(name) for name in _cached(network)),
        "readout sums": size * sum(elements(name) for name in frontier(network)),
    }


def _cached(network: Network) -> set[str]:
    """Names of values that follow from the static input alone and are read at every timestep."""
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


__all__ = ["state_memory"]

"""A deliberate fault: sites that share one module also share one membrane and one threshold.

A converter that replaces modules instead of calls has this fault. The tests show that the fault
ruins a residual block, and that the library does not have it.
"""

import torch

import transpike as tp
from transpike.graph.network import INPUT
from transpike.simulation.result import SiteRecord


def simulate_by_module(snn, x, timesteps, *, share=True):
    """Return the mean readout at T of a converted network.

    With share=True, every module has one neuron state. Two sites belong to one module if their
    names differ only in the number of the call ("relu" and "relu_1"). In each channel, shared
    sites use the larger of their steps, as a calibration by module would. Neurons are unsigned
    and send at most `max_count` counts per timestep.
    """
    network = snn.network
    key = {s.node: _module_of(s.name) if share else s.name for s in network.sites}
    steps, membranes, cumulated, total = {}, {}, {}, None
    for site in network.sites:
        step = site.along_channels(snn.steps[site.name])
        shared = steps.get(key[site.node])
        steps[key[site.node]] = step if shared is None else torch.maximum(step, shared)
    for _ in range(timesteps):
        values = {INPUT: x}
        for node in network.nodes:
            if node.name in key:
                name = key[node.name]
                site = network.site_of[node.name]
                neuron = snn.neurons[site.name]
                step = steps[name]
                current = values[node.reads[0]]
                v = membranes.get(name, neuron.initial_membrane * step) + current
                n = torch.floor(v / step).clamp(0, neuron.max_count)
                membranes[name] = v - n * step
                values[node.name] = n * step
            elif node.kind == "cumulative":
                source = node.reads[0]
                before, pooled = cumulated.get(node.name, (0, 0))
                now = before + values[source]
                after = network.compute(node, {**values, source: now}, len(x))
                cumulated[node.name] = (now, after)
                values[node.name] = after - pooled
            else:
                values[node.name] = network.compute(node, values, len(x))
        out = values[network.outputs[0].name]
        total = out if total is None else total + out
    return total / timesteps


def _module_of(site_name):
    stem, _, number = site_name.rpartition("_")
    return stem if number.isdigit() else site_name


def simulate_shared(snn, x, timesteps, *, record):
    """Return what `transpike.simulate` would record of a network with this fault.

    Sites of one module share one membrane. Each site keeps its own step, and it records the shared
    membrane after its own update. Neurons must be unsigned, and the output must be one tensor.
    """
    network = snn.network
    key = {s.node: _module_of(s.name) for s in network.sites}
    membranes, cumulated, total = {}, {}, None
    currents, counts, kept = ({s.name: [] for s in network.sites} for _ in range(3))
    for _ in range(timesteps):
        values = {INPUT: x}
        for node in network.nodes:
            site = network.site_of.get(node.name)
            if site is not None:
                step = site.along_channels(snn.steps[site.name])
                current = values[node.reads[0]]
                start = site.along_channels(snn.starts[site.name]) * step
                v = membranes.get(key[node.name], start) + current
                n = torch.floor(v / step).clamp(0, snn.neurons[site.name].max_count)
                membranes[key[node.name]] = v - n * step
                values[node.name] = n * step
                currents[site.name].append(current)
                counts[site.name].append(n)
                kept[site.name].append(v - n * step)
            elif node.kind == "cumulative":
                before, pooled = cumulated.get(node.name, (0, 0))
                now = before + values[node.reads[0]]
                after = network.compute(node, {node.reads[0]: now}, len(x))
                cumulated[node.name] = (now, after)
                values[node.name] = after - pooled
            else:
                values[node.name] = network.compute(node, values, len(x))
        out = values[network.outputs[0].name]
        total = out if total is None else total + out
    sums = {name: torch.stack(series).sum(dim=0) for name, series in counts.items()}
    return tp.Simulation(
        output=(total / timesteps).unsqueeze(0),
        output_at=tuple(record.output_at or (timesteps,)),
        timesteps=timesteps,
        counts_per_timestep={},
        neurons=network.neurons,
        precision="shared",
        records={n: SiteRecord(torch.stack(counts[n]), torch.stack(kept[n])) for n in record.sites},
        totals={
            name: tp.Totals(torch.stack(currents[name]).sum(dim=0), net, net, net)
            for name, net in sums.items()
        },
    )

"""The distance of a spiking output to the analog one."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.spiking_network import SpikingNetwork


def output_distance(snn: SpikingNetwork, images: Tensor, timesteps: int) -> tuple[float, float]:
    """Squared distance of the output at T to the analog network's, relative; spikes per neuron."""
    run = simulate(snn, images, timesteps, record=Record(output_at=[timesteps]))
    with torch.inference_mode():
        analog = pytree.tree_leaves(snn.network(images))
    found = [leaf[0] for leaf in pytree.tree_leaves(run.output)]
    gap = sum(float((a - b).double().square().sum()) for a, b in zip(found, analog, strict=True))
    size = sum(float(a.double().square().sum()) for a in analog)
    return gap / max(size, torch.finfo(torch.float64).tiny), float(run.spikes_per_neuron[-1])

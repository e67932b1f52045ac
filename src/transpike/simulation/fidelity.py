"""The distance of a spiking output to the analog one."""

from __future__ import annotations

import torch
from torch import Tensor

from transpike.graph.structure import flat_values
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.spiking_network import SpikingNetwork


def squared_distance(
    spiking: Tensor, analog: Tensor, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """Compute the squared distance of two outputs, and the squared size of the analog one.

    Both are sums over all elements, so batches can be added up. `relative` makes a relative
    distance of the sums.

    Args:
        spiking: output of the spiking network, any shape.
        analog: output of the analog network, the same shape.
        dtype: in which the difference is squared and summed, by default its own.

    Returns:
        Two tensors of shape (), which carry gradients where the outputs do.
    """
    gap, size = spiking - analog, analog
    if dtype is not None:
        gap, size = gap.to(dtype), size.to(dtype)
    return gap.square().sum(), size.square().sum()


def relative(gap: float, size: float) -> float:
    """Divide a gap by a size; a size of zero counts as the smallest positive number."""
    return gap / max(size, torch.finfo(torch.float64).tiny)


def output_distance(snn: SpikingNetwork, images: Tensor, timesteps: int) -> tuple[float, float]:
    """Simulate a network and compare its output at T with the analog network's.

    Args:
        snn: the converted network.
        images: inputs (N, ...).
        timesteps: T.

    Returns:
        The squared distance relative to the analog output, over all output tensors, and the spikes
        per neuron over all T timesteps.
    """
    run = simulate(snn, images, timesteps, record=Record(output_at=[timesteps]))
    with torch.inference_mode():
        analog = flat_values(snn.network(images))
    found = [leaf[0] for leaf in flat_values(run.output)]
    gap = size = 0.0
    for spiking, wanted in zip(found, analog, strict=True):
        one_gap, one_size = squared_distance(spiking, wanted, torch.float64)
        gap, size = gap + float(one_gap), size + float(one_size)
    return relative(gap, size), float(run.spikes_per_neuron[-1])


__all__ = ["output_distance", "relative", "squared_distance"]

"""Leave the first timesteps out of the readout."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from transpike.errors import ArgumentError
from transpike.simulation.fidelity import output_distance
from transpike.spiking.spiking_network import SpikingNetwork


@dataclass(frozen=True)
class DelayedReadout:
    """Leave the first timesteps out of the readout.

    The pass tries the readout starts 0, T/8, T/4, 3T/8, T/2 and 3T/4. It keeps the start that
    gives the smallest squared distance between the output at T and the output of the analog
    network. All timesteps still count in T. The pass needs rate coding.

    Source: Bu et al. 2025 (delayed evaluation); differs: the start is chosen on training inputs.
    """


def delayed(snn: SpikingNetwork, images: Tensor, timesteps: int) -> SpikingNetwork:
    """The network with the readout start that brings its output closest to the analog output.

    Args:
        snn: the network.
        images: training inputs (B, ...).
        timesteps: T, >= 1.

    Raises:
        ArgumentError: the network uses differential coding.
    """
    if snn.coding == "differential":
        raise ArgumentError(
            "DelayedReadout: needed rate coding, got differential coding, whose output is a "
            "running sum over all timesteps. Leave this pass out, or use a rate-coded neuron such "
            "as Signed(1)."
        )
    starts = sorted({timesteps * eighths // 8 for eighths in (0, 1, 2, 3, 4, 6)})
    distances = {
        start: output_distance(snn.changed(readout_start=start), images, timesteps)[0]
        for start in starts
    }
    return snn.changed(readout_start=min(starts, key=lambda start: distances[start]))

"""Apply a calibration pass to a spiking network."""

from __future__ import annotations

from dataclasses import asdict

from torch import Tensor

from transpike.conversion.passes.allocate_counts import AllocateCounts, allocated
from transpike.conversion.passes.bias_correction import BiasCorrection, corrected_bias
from transpike.conversion.passes.delayed_readout import DelayedReadout, delayed
from transpike.conversion.passes.distillation import Distillation, distilled
from transpike.conversion.passes.membrane_correction import MembraneCorrection, corrected_membrane
from transpike.conversion.passes.site_search import SiteSearch, searched
from transpike.conversion.passes.sweep import Correction, Sweep, inputs_at_once
from transpike.errors import ArgumentError
from transpike.spiking.spiking_network import SpikingNetwork

CalibrationPass = (
    BiasCorrection
    | MembraneCorrection
    | SiteSearch
    | Distillation
    | AllocateCounts
    | DelayedReadout
)


def apply_pass(
    one: CalibrationPass, snn: SpikingNetwork, images: Tensor, timesteps: int
) -> SpikingNetwork:
    """Apply a calibration pass.

    Args:
        one: the pass.
        snn: the network, which does not change.
        images: training inputs (B, ...).
        timesteps: T, the number of timesteps to optimize for, >= 1.

    Returns:
        A corrected copy. Its settings record the pass, T and the number of inputs used.

    Raises:
        ArgumentError: the pass does not fit this network.
    """
    whole, snn = snn, snn.sized_for(images)
    match one:
        case AllocateCounts():
            corrected, used = allocated(one, snn, images, timesteps), len(images)
        case Distillation():
            corrected, used = distilled(one, snn, images, timesteps), len(images)
        case DelayedReadout():
            corrected, used = delayed(snn, images, timesteps), len(images)
        case _:
            images = images[: inputs_at_once(snn.network, timesteps, len(images))]
            corrected, used = Sweep(snn, timesteps, _correction(one)).run(images), len(images)
    note = {"pass": type(one).__name__, **asdict(one), "timesteps": timesteps, "n": used}
    done = [*snn.settings.get("passes", []), note]
    changed = corrected.changed(settings={**snn.settings, "passes": done})
    return changed.at(whole.network.input_shape[1:])


def _correction(one: CalibrationPass) -> Correction:
    match one:
        case BiasCorrection():
            return lambda site, values: corrected_bias(site, values, one.rounds)
        case MembraneCorrection():
            return lambda site, values: corrected_membrane(site, values, one.rounds)
        case SiteSearch():
            return lambda site, values: searched(site, values, one)
    raise ArgumentError(f"passes: needed a calibration pass, got {one!r}.")

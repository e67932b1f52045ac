"""Correct the mean output of every channel by its initial membrane."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transpike.conversion.passes.sweep import Sampled, Values, check_rounds


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
        check_rounds(self.rounds)


def corrected_membrane(site: Sampled, values: Values, rounds: int) -> Values:
    """Initial membranes of a site that make the mean error of every channel zero."""
    for _ in range(rounds):
        shift = site.scale * site.error(values).mean(dim=0) / values.step
        values = replace(values, start=values.start - shift)
    return values

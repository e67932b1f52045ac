"""Correct the mean output of every channel with its initial membrane."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transpike.conversion.passes.sweep import Sampled, Values, check_rounds


@dataclass(frozen=True)
class MembraneCorrection:
    """Correct the mean output of every channel with its initial membrane.

    Each round sets start <- start - T (E[spiking output] - E[activation]) / step. In differential
    coding the factor T is missing. The correction acts from the first timestep, and its effect on
    the mean output fades as 1/t in rate coding. The effect of `BiasCorrection` does not fade.

    Attributes:
        rounds: number of rounds per site, 1 to 6.

    Raises:
        ArgumentError: `rounds` is out of range.

    Source: Li et al. 2021 (SNN calibration, advanced); differs: it has one value per channel, not
    per neuron, so the network does not depend on the size of the input.
    """

    rounds: int = 1

    def __post_init__(self) -> None:
        check_rounds(self.rounds)


def corrected_membrane(site: Sampled, values: Values, rounds: int) -> Values:
    """The values of a site with starts that bring the mean error of every channel to zero."""
    for _ in range(rounds):
        shift = site.scale * site.error(values).mean(dim=0) / values.step
        values = replace(values, start=values.start - shift)
    return values

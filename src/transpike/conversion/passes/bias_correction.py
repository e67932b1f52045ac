"""Correct the mean output of every channel with a constant current."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transpike.conversion.passes.sweep import Sampled, Values, check_rounds


@dataclass(frozen=True)
class BiasCorrection:
    """Correct the mean output of every channel with a constant current.

    The pass goes through the sites in order, with the currents of the corrected spiking network.
    Each round sets offset <- offset - (E[spiking output] - E[activation]) / step. Several rounds
    are needed because the output does not change exactly as the current does.

    Attributes:
        rounds: number of rounds per site, 1 to 6.

    Raises:
        ArgumentError: `rounds` is out of range.

    Source: Li et al. 2021 (SNN calibration, light); differs: it corrects at the site and in
    several rounds, so the inputs of a site can also be sums and concatenations.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        check_rounds(self.rounds)


def corrected_bias(site: Sampled, values: Values, rounds: int) -> Values:
    """The values of a site with offsets that bring the mean error of every channel to zero."""
    for _ in range(rounds):
        shift = site.error(values).mean(dim=0) / values.step
        values = replace(values, offset=values.offset - shift)
    return values

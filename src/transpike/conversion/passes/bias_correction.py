"""Correct the mean output of every channel by a constant current."""

from __future__ import annotations

from dataclasses import dataclass, replace

from transpike.conversion.passes.sweep import Sampled, Values, check_rounds


@dataclass(frozen=True)
class BiasCorrection:
    """Correct the mean output of every channel by a constant current.

    offset <- offset - (E[spiking output] - E[activation]) / step, site by site on the spiking
    network's own currents; repeated, as the output does not follow the current exactly.

    Attributes:
        rounds: repetitions per site, >= 1.

    Source: Li et al. 2021 (SNN calibration, light); differs: at the site, in several rounds, so
    that sums and concatenations are corrected too.
    """

    rounds: int = 3

    def __post_init__(self) -> None:
        check_rounds(self.rounds)


def corrected_bias(site: Sampled, values: Values, rounds: int) -> Values:
    """Offsets of a site that make the mean error of every channel zero."""
    for _ in range(rounds):
        shift = site.error(values).mean(dim=0) / values.step
        values = replace(values, offset=values.offset - shift)
    return values

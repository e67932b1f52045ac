"""Threshold rules: from calibration statistics to the firing threshold of every channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transpike.conversion.calibrate import Histogram, Moments
from transpike.errors import ArgumentError

Granularity = Literal["channel", "layer"]

# Candidate thresholds of LeastSquares: a grid of fractions of the maximum, from _SMALLEST to 1.
_CANDIDATES = 128
_SMALLEST = 0.02
# Rounds of GaussianIteration; its factor is then 1 to six digits.
_GAUSSIAN_ROUNDS = 200


def _check_granularity(granularity: str) -> None:
    if granularity not in ("channel", "layer"):
        raise ArgumentError(f"granularity: needed 'channel' or 'layer', got {granularity!r}.")


def _check_levels(levels: int | None) -> None:
    if levels is not None and not (isinstance(levels, int) and levels >= 1):
        raise ArgumentError(f"levels: needed an integer >= 1, got {levels!r}.")


@dataclass(frozen=True)
class MaxAbs:
    """The largest activation seen.

    Source: Diehl et al. 2015 (max-norm).
    """

    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)


@dataclass(frozen=True)
class Percentile:
    """A percentile of all activations, zeros included.

    Source: Rueckauer et al. 2017; differs: over all values (theirs: non-zero ones only).
    """

    percentile: float = 99.9
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        if not 0 < self.percentile <= 100:
            raise ArgumentError(f"percentile: needed 0 < p <= 100, got {self.percentile!r}.")


@dataclass(frozen=True)
class LeastSquares:
    """The threshold with the least squared error of quantizing activations to `levels` levels.

    Minimizes the sum of (a - Q(a))^2 with Q(a) = s clamp(floor(a/s + v0), 0, levels),
    s = threshold / levels, over a grid of fractions of the largest activation.

    Attributes:
        levels: positive levels up to the threshold; None means max_count * timesteps, which
            `convert` then has to be given.
        granularity: one threshold per channel, or per layer.

    Source: Li et al. 2021 (SNN calibration); differs: quantizes with the neuron's own initial
    membrane instead of a plain floor.
    """

    levels: int | None = None
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        _check_levels(self.levels)


@dataclass(frozen=True)
class LocalThresholdBalancing:
    """Local threshold balancing: ascent from zero towards the maximum, stopped early.

    Iterates theta += 2 rate E[(z - theta) 1(z > theta)], the gradient step on the clipping error.
    Published with a random batch per step; here the expectation over the whole histogram, which is
    what the random steps follow on average. Its limit is the maximum, whatever the data: the
    number of iterations is the regularizer. It aims at clipping only, at no number of levels.

    Attributes:
        iterations: steps taken, >= 1 (published: 1000 to 5000 batches).
        rate: eta, 0 < rate <= 1.
        granularity: one threshold per channel, or per layer.

    Source: Bu et al. 2025 (CVPR), inference-scale conversion; differs: deterministic.
    """

    iterations: int = 1000
    rate: float = 0.5
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        if not (isinstance(self.iterations, int) and self.iterations >= 1):
            raise ArgumentError(f"iterations: needed an integer >= 1, got {self.iterations!r}.")
        if not 0 < self.rate <= 1:
            raise ArgumentError(f"rate: needed 0 < rate <= 1, got {self.rate!r}.")


@dataclass(frozen=True)
class GaussianIteration:
    """The threshold that quantizes a Gaussian current with least error, from mean and variance.

    With z ~ N(mean, variance) and Q the quantizer of `LeastSquares`, iterates theta <- k theta,
    k = E[relu(z) Q(z)] / E[Q(z)^2]: for fixed levels, the scale with the least squared error. Both
    are sums over the level borders t_j = (j - v0) theta / levels, j = 1..levels, of
    P(z >= t_j) and E[z 1(z >= t_j)], which erf and exp give.

    Attributes:
        levels: as in `LeastSquares`.
        granularity: one threshold per channel, or per layer.

    Source: Huang et al. 2025 (ICML, threshold iteration); differs: derived here for the neuron's
    own initial membrane.
    """

    levels: int | None = None
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        _check_levels(self.levels)


ThresholdRule = MaxAbs | Percentile | LeastSquares | LocalThresholdBalancing | GaussianIteration


@dataclass(frozen=True)
class _Aim:
    """What a rule may use of the neuron: levels, initial membrane, thresholds per timestep."""

    levels: int | None
    initial_membrane: float
    range_factor: int

    def levels_for(self, rule: LeastSquares | GaussianIteration) -> int:
        wanted = rule.levels or self.levels
        if wanted is None:
            name = type(rule).__name__
            raise ArgumentError(
                f"{name}: needed the number of levels; give {name}(levels=...) or "
                "convert(..., timesteps=...)."
            )
        return wanted


def threshold(
    rule: ThresholdRule,
    histogram: Histogram,
    *,
    moments: Moments | None = None,
    levels: int | None = None,
    initial_membrane: float = 0.5,
    range_factor: int = 1,
) -> Tensor:
    """Thresholds of one site, shape (C,), activation units, all > 0.

    A channel that is active too rarely for the rule gets its own maximum; one that was silent gets
    the threshold of the whole site; a silent site gets 1.

    Args:
        rule: how to choose.
        histogram: of the site's activations.
        moments: of the site's currents; only GaussianIteration uses them.
        levels: levels of a rule with `levels=None`.
        initial_membrane: of the neuron, as a fraction of its step.
        range_factor: the neuron reaches this many thresholds per timestep (max_count for
            range burst, else 1); only rules with levels use it.
    """
    aim = _Aim(levels, initial_membrane, range_factor)
    whole, all_moments = histogram.merged(), None if moments is None else moments.merged()
    per_layer = rule.granularity == "layer"
    source, currents = (whole, all_moments) if per_layer else (histogram, moments)
    chosen = _chosen(rule, source, currents, aim)
    chosen = torch.where(chosen > 0, chosen, source.maximum)
    if bool((chosen <= 0).any()):
        fallback = _chosen(rule, whole, all_moments, aim)
        fallback = torch.where(fallback > 0, fallback, whole.maximum)
        fallback = torch.where(fallback > 0, fallback, torch.ones_like(fallback))
        chosen = torch.where(chosen > 0, chosen, fallback)
    return chosen.expand(histogram.channels).clone()


def _chosen(
    rule: ThresholdRule, histogram: Histogram, moments: Moments | None, aim: _Aim
) -> Tensor:
    match rule:
        case MaxAbs():
            return histogram.maximum.clone()
        case Percentile():
            return histogram.quantile(rule.percentile / 100)
        case LeastSquares():
            return _least_squares(
                histogram, aim.levels_for(rule), aim.initial_membrane, aim.range_factor
            )
        case LocalThresholdBalancing():
            return _balanced(histogram, rule.iterations, rule.rate)
        case GaussianIteration():
            if moments is None:
                raise ArgumentError(
                    "GaussianIteration: needed the moments of the currents. Calibrate again with "
                    "transpike.calibrate."
                )
            top = _gaussian(moments, aim.levels_for(rule), aim.initial_membrane)
            return torch.minimum(top, histogram.maximum) / aim.range_factor
    raise ArgumentError(f"threshold: needed a threshold rule, got {rule!r}.")


def _balanced(histogram: Histogram, iterations: int, rate: float) -> Tensor:
    """Local threshold balancing on the histogram; E[(z - theta)+] from sums over the tail."""
    edges = histogram.edges()
    values = (edges[:, :-1] + edges[:, 1:]) / 2
    counts = histogram.counts.double() / max(1, histogram.total)
    # Sums over the bins from i on, and nothing behind the last.
    mass = torch.nn.functional.pad(counts.flip(1).cumsum(1).flip(1), (0, 1))
    moment = torch.nn.functional.pad((counts * values).flip(1).cumsum(1).flip(1), (0, 1))
    theta = torch.zeros_like(histogram.maximum)
    for _ in range(iterations):
        place = torch.searchsorted(values, theta.unsqueeze(1), right=True)
        excess = moment.gather(1, place) - theta.unsqueeze(1) * mass.gather(1, place)
        theta = theta + 2 * rate * excess.squeeze(1).clamp(min=0)
    return torch.minimum(theta, histogram.maximum)


def _gaussian(moments: Moments, levels: int, initial_membrane: float) -> Tensor:
    """Fixed point of the threshold iteration for Gaussian currents, 0 where none is found."""
    mean, deviation = moments.mean, moments.variance.sqrt()
    tiny = torch.finfo(torch.float64).tiny
    index = torch.arange(1, levels + 1, dtype=torch.float64)
    # From above: three deviations over the mean, or what a rarely active channel reaches.
    theta = torch.maximum(mean + 3 * deviation, deviation)
    for _ in range(_GAUSSIAN_ROUNDS):
        border = (index - initial_membrane) * theta.unsqueeze(1) / levels
        x = (border - mean.unsqueeze(1)) / deviation.unsqueeze(1).clamp(min=tiny)
        above = torch.special.erfc(x / math.sqrt(2)) / 2
        density = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)
        product = (mean.unsqueeze(1) * above + deviation.unsqueeze(1) * density).sum(dim=1)
        square = ((2 * index - 1) * above).sum(dim=1) * theta / levels
        factor = torch.where(square > tiny, product / square.clamp(min=tiny), 0.0)
        theta = theta * factor
    return torch.where(torch.isfinite(theta) & (deviation > 0), theta, 0.0)


def _least_squares(
    histogram: Histogram, levels: int, initial_membrane: float, range_factor: int
) -> Tensor:
    """Grid search on the histogram, all channels at once, one candidate at a time."""
    edges = histogram.edges()
    values = (edges[:, :-1] + edges[:, 1:]) / 2
    counts = histogram.counts.double()
    best = histogram.maximum.clone()
    least = torch.full_like(best, torch.inf)
    for fraction in torch.linspace(_SMALLEST, 1.0, _CANDIDATES, dtype=torch.float64):
        # Range burst: the top level lies at range_factor thresholds.
        candidate = histogram.maximum * fraction / range_factor
        step = (candidate * range_factor / levels).clamp(min=torch.finfo(torch.float64).tiny)
        count = torch.floor(values / step.unsqueeze(1) + initial_membrane).clamp(0, levels)
        error = (counts * (values - count * step.unsqueeze(1)) ** 2).sum(dim=1)
        better = error < least
        best = torch.where(better, candidate, best)
        least = torch.where(better, error, least)
    return best

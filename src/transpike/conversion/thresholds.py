"""Threshold rules: how calibration statistics give the firing threshold of every channel."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transpike.conversion.calibrate import Histogram, Moments
from transpike.errors import ArgumentError
from transpike.graph.limits import check_count

Granularity = Literal["channel", "layer"]

# LeastSquares tries this number of thresholds: fractions of the maximum from _SMALLEST to 1.
_CANDIDATES = 128
_SMALLEST = 0.02
# Rounds of GaussianIteration. After them its factor equals 1 to six digits.
_GAUSSIAN_ROUNDS = 200
_MOST_GAUSSIAN_LEVELS = 2**16


def _check_granularity(granularity: str) -> None:
    if granularity not in ("channel", "layer"):
        raise ArgumentError(f"granularity: needed 'channel' or 'layer', got {granularity!r}.")


def _check_levels(levels: int | None) -> None:
    if levels is not None:
        check_count("levels", levels)


def _check_gaussian_levels(levels: int | None) -> None:
    if levels is not None and levels > _MOST_GAUSSIAN_LEVELS:
        raise ArgumentError(
            f"GaussianIteration: needed at most {_MOST_GAUSSIAN_LEVELS} levels, which it holds in "
            f"memory for every channel, got {levels}. Use "
            f"GaussianIteration(levels={_MOST_GAUSSIAN_LEVELS}); more levels hardly move the "
            "threshold."
        )


@dataclass(frozen=True)
class MaxAbs:
    """The threshold is the largest activation in the calibration data.

    Attributes:
        granularity: one threshold per channel, or per layer.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Diehl et al. 2015 (max-norm).
    """

    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)


@dataclass(frozen=True)
class UpperBound:
    """The threshold is the upper bound of the activation, such as 6 for ReLU6.

    No input can then be clipped, and no level lies above the bound. The largest activation of a
    channel in few calibration inputs is often far below what other inputs reach. In a deep network
    these clipped peaks add up. The rule needs many levels, because channels with a small range get
    few of them. A site without a bound, such as ReLU, gets the threshold of `MaxAbs`.

    Attributes:
        granularity: one threshold per channel, or per layer, at sites without a bound.

    Raises:
        ArgumentError: a setting is out of range.

    Source: this library, after quantization of networks with ReLU6, whose range is known.
    """

    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)


@dataclass(frozen=True)
class Percentile:
    """The threshold is a percentile of all activations, zeros included.

    Attributes:
        percentile: in percent, 0 < p <= 100.
        granularity: one threshold per channel, or per layer.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Rueckauer et al. 2017; differs: it counts all values, theirs only nonzero values.
    """

    percentile: float = 99.9
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        if not 0 < self.percentile <= 100:
            raise ArgumentError(f"percentile: needed 0 < p <= 100, got {self.percentile!r}.")


@dataclass(frozen=True)
class LeastSquares:
    """The threshold quantizes the activations with the least squared error.

    It minimizes the sum of (a - Q(a))^2 over the activations a, where
    Q(a) = s clamp(floor(a/s + v0), 0, levels), s = threshold / levels, and v0 is the initial
    membrane of the neuron. The search tries a grid of fractions of the largest activation.

    Attributes:
        levels: number of levels up to the threshold, >= 1. None means the levels of the neuron,
            which are max_count * timesteps in rate coding. `convert` then needs `timesteps`,
            except for differential coding with a constant step.
        granularity: one threshold per channel, or per layer.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Li et al. 2021 (SNN calibration); differs: it quantizes with the initial membrane of
    the neuron, theirs with a plain floor.
    """

    levels: int | None = None
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        _check_levels(self.levels)


@dataclass(frozen=True)
class LocalThresholdBalancing:
    """Local threshold balancing: the threshold rises from zero and stops before the maximum.

    Each iteration is a gradient step on the clipping error:
    theta += 2 rate E[(z - theta) 1(z > theta)], over the activations z. The limit of theta is the
    maximum for all data, so the number of iterations acts as the regularizer. The rule considers
    clipping only and uses no number of levels.

    Attributes:
        iterations: number of iterations, >= 1. The paper takes 1000 to 5000, with one batch each.
        rate: eta, the step size, 0 < rate <= 1.
        granularity: one threshold per channel, or per layer.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Bu et al. 2025 (CVPR), inference-scale conversion; differs: the expectation is over
    the whole histogram, theirs over a random batch, so the result is deterministic.
    """

    iterations: int = 1000
    rate: float = 0.5
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        check_count("iterations", self.iterations)
        if not 0 < self.rate <= 1:
            raise ArgumentError(f"rate: needed 0 < rate <= 1, got {self.rate!r}.")


@dataclass(frozen=True)
class GaussianIteration:
    """The threshold quantizes a Gaussian current with the least squared error.

    The current z of a channel is taken as Gaussian, with the mean and variance of the calibration
    data. With the quantizer Q of `LeastSquares`, the rule iterates theta <- k theta, where
    k = E[relu(z) Q(z)] / E[Q(z)^2] is the scale with the least squared error for fixed counts.
    Both expectations are sums over the level borders t_j = (j - v0) theta / levels, for j from 1
    to levels, of P(z >= t_j) and E[z 1(z >= t_j)]. These follow from erfc and exp.

    Attributes:
        levels: as in `LeastSquares`.
        granularity: one threshold per channel, or per layer.

    Raises:
        ArgumentError: a setting is out of range.

    Source: Huang et al. 2025 (ICML, threshold iteration); differs: derived here for the initial
    membrane of the neuron.
    """

    levels: int | None = None
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        _check_levels(self.levels)
        _check_gaussian_levels(self.levels)


ThresholdRule = (
    MaxAbs | UpperBound | Percentile | LeastSquares | LocalThresholdBalancing | GaussianIteration
)


@dataclass(frozen=True)
class _Aim:
    """What a rule may use of the neuron. `threshold` explains the fields."""

    levels: int | None
    initial_membrane: float
    range_factor: int
    bound: float | None

    def levels_for(self, rule: LeastSquares | GaussianIteration) -> int:
        wanted = rule.levels or self.levels
        if wanted is None:
            name = type(rule).__name__
            raise ArgumentError(
                f"{name}: needed the number of levels, got levels=None without timesteps. Give "
                f"{name}(levels=...) or convert(..., timesteps=...)."
            )
        if isinstance(rule, GaussianIteration):
            _check_gaussian_levels(wanted)
        return wanted


def threshold(
    rule: ThresholdRule,
    histogram: Histogram,
    *,
    moments: Moments | None = None,
    levels: int | None = None,
    initial_membrane: float = 0.5,
    range_factor: int = 1,
    bound: float | None = None,
) -> Tensor:
    """Thresholds of one site.

    If the rule gives 0 because a channel is rarely active, the channel gets its own maximum. A
    silent channel gets the threshold of the whole site. A silent site gets 1.

    Args:
        rule: the threshold rule.
        histogram: histogram of the activations of the site.
        moments: moments of the currents of the site. Only GaussianIteration uses them.
        levels: number of levels for a rule with `levels=None`.
        initial_membrane: initial membrane of the neuron, as a fraction of its step.
        range_factor: upper end of the range of the neuron, in units of the threshold (max_count
            for range burst, else 1). Only rules with levels use it.
        bound: upper bound of the activation, in activation units, or None. No threshold is above
            it, because the levels above it could never be used.

    Returns:
        (C,), in activation units, all > 0.

    Raises:
        ArgumentError: the rule needs levels or moments that are missing.
    """
    aim = _Aim(levels, initial_membrane, range_factor, bound)
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
    chosen = chosen if bound is None else chosen.clamp(max=bound)
    return chosen.expand(histogram.channels).clone()


def _chosen(
    rule: ThresholdRule, histogram: Histogram, moments: Moments | None, aim: _Aim
) -> Tensor:
    match rule:
        case MaxAbs():
            return histogram.maximum.clone()
        case UpperBound():
            if aim.bound is None:
                return histogram.maximum.clone()
            return torch.full_like(histogram.maximum, aim.bound)
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
                    "GaussianIteration: needed the moments of the currents, got none. Calibrate "
                    "again with transpike.calibrate."
                )
            top = _gaussian(moments, aim.levels_for(rule), aim.initial_membrane)
            return torch.minimum(top, histogram.maximum) / aim.range_factor
    raise ArgumentError(f"threshold: needed a threshold rule, got {rule!r}.")


def _balanced(histogram: Histogram, iterations: int, rate: float) -> Tensor:
    """Local threshold balancing. Sums over the tail of the histogram give E[(z - theta)+]."""
    edges = histogram.edges()
    values = (edges[:, :-1] + edges[:, 1:]) / 2
    counts = histogram.counts.double() / max(1, histogram.total)
    # Sums over bin i and all bins above it, with a zero after the last bin.
    mass = torch.nn.functional.pad(counts.flip(1).cumsum(1).flip(1), (0, 1))
    moment = torch.nn.functional.pad((counts * values).flip(1).cumsum(1).flip(1), (0, 1))
    theta = torch.zeros_like(histogram.maximum)
    for _ in range(iterations):
        place = torch.searchsorted(values, theta.unsqueeze(1), right=True)
        excess = moment.gather(1, place) - theta.unsqueeze(1) * mass.gather(1, place)
        theta = theta + 2 * rate * excess.squeeze(1).clamp(min=0)
    return torch.minimum(theta, histogram.maximum)


def _gaussian(moments: Moments, levels: int, initial_membrane: float) -> Tensor:
    """Fixed point of the threshold iteration for Gaussian currents, or 0 if there is none."""
    mean, deviation = moments.mean, moments.variance.sqrt()
    tiny = torch.finfo(torch.float64).tiny
    index = torch.arange(1, levels + 1, dtype=torch.float64)
    # Start from above: three deviations over the mean, but at least one deviation.
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
    """Grid search on the histogram, for all channels at once."""
    edges = histogram.edges()
    values = (edges[:, :-1] + edges[:, 1:]) / 2
    counts = histogram.counts.double()
    best = histogram.maximum.clone()
    least = torch.full_like(best, torch.inf)
    for fraction in torch.linspace(_SMALLEST, 1.0, _CANDIDATES, dtype=torch.float64):
        # With range burst, the highest level is worth range_factor thresholds.
        candidate = histogram.maximum * fraction / range_factor
        step = (candidate * range_factor / levels).clamp(min=torch.finfo(torch.float64).tiny)
        count = torch.floor(values / step.unsqueeze(1) + initial_membrane).clamp(0, levels)
        error = (counts * (values - count * step.unsqueeze(1)) ** 2).sum(dim=1)
        better = error < least
        best = torch.where(better, candidate, best)
        least = torch.where(better, error, least)
    return best

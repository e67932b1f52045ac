"""Threshold rules: from calibration statistics to the firing threshold of every channel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transpike.calibrate import Histogram
from transpike.errors import ArgumentError

Granularity = Literal["channel", "layer"]

# Candidate thresholds of LeastSquares: a grid of fractions of the maximum, from _SMALLEST to 1.
_CANDIDATES = 128
_SMALLEST = 0.02


def _check_granularity(granularity: str) -> None:
    if granularity not in ("channel", "layer"):
        raise ArgumentError(f"granularity: needed 'channel' or 'layer', got {granularity!r}.")


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
    """The threshold with the least squared error of quantising activations to `levels` levels.

    Minimises the sum of (a - Q(a))^2 with Q(a) = s clamp(floor(a/s + v0), 0, levels),
    s = threshold / levels, over a grid of fractions of the largest activation.

    Attributes:
        levels: positive levels up to the threshold; None means max_count * timesteps, which
            `convert` then has to be given.
        granularity: one threshold per channel, or per layer.

    Source: Li et al. 2021 (SNN calibration); differs: quantises with the neuron's own initial
    membrane instead of a plain floor.
    """

    levels: int | None = None
    granularity: Granularity = "channel"

    def __post_init__(self) -> None:
        _check_granularity(self.granularity)
        if self.levels is not None and not (isinstance(self.levels, int) and self.levels >= 1):
            raise ArgumentError(f"levels: needed an integer >= 1, got {self.levels!r}.")


ThresholdRule = MaxAbs | Percentile | LeastSquares


def threshold(
    rule: ThresholdRule,
    histogram: Histogram,
    *,
    levels: int | None = None,
    initial_membrane: float = 0.5,
    range_factor: int = 1,
) -> Tensor:
    """Thresholds of one site, shape (C,), activation units, all > 0.

    A channel that is active too rarely for the rule gets its own maximum; one that was silent gets
    the threshold of the whole site; a silent site gets 1.

    Args:
        rule: how to choose.
        histogram: statistics of the site.
        levels: levels of `LeastSquares(levels=None)`.
        initial_membrane: of the neuron, as a fraction of its step.
        range_factor: the neuron reaches this many thresholds per timestep (max_count for
            range burst, else 1); only LeastSquares uses it.
    """
    whole = histogram.merged()
    source = whole if rule.granularity == "layer" else histogram
    chosen = _chosen(rule, source, levels, initial_membrane, range_factor)
    chosen = torch.where(chosen > 0, chosen, source.maximum)
    if bool((chosen <= 0).any()):
        fallback = _chosen(rule, whole, levels, initial_membrane, range_factor)
        fallback = torch.where(fallback > 0, fallback, whole.maximum)
        fallback = torch.where(fallback > 0, fallback, torch.ones_like(fallback))
        chosen = torch.where(chosen > 0, chosen, fallback)
    return chosen.expand(histogram.channels).clone()


def _chosen(
    rule: ThresholdRule,
    histogram: Histogram,
    levels: int | None,
    initial_membrane: float,
    range_factor: int,
) -> Tensor:
    match rule:
        case MaxAbs():
            return histogram.maximum.clone()
        case Percentile():
            return histogram.quantile(rule.percentile / 100)
        case LeastSquares():
            wanted = rule.levels or levels
            if wanted is None:
                raise ArgumentError(
                    "LeastSquares: needed the number of levels; give LeastSquares(levels=...) or "
                    "convert(..., timesteps=...)."
                )
            return _least_squares(histogram, wanted, initial_membrane, range_factor)
    raise ArgumentError(f"threshold: needed a threshold rule, got {rule!r}.")


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

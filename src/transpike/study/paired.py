"""Which images a network got right, and what a difference over the same images is worth."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transpike.measure.intervals import Interval

Flags = NDArray[np.bool_]
_RESAMPLES = 10_000
_LOW, _HIGH = 2.5, 97.5  # percentiles of a 95 % interval


def packed(flags: Flags) -> str:
    """Flags (N,) as hexadecimal digits, four flags to a digit."""
    return np.packbits(flags).tobytes().hex()


def unpacked(text: str, n: int) -> Flags:
    """The n flags (N,) of a text that `packed` made."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:n].astype(bool)


def paired_error(one: Flags, other: Flags) -> float:
    """Standard error of the difference of two accuracies on the same images (N,)."""
    return float(np.std(one.astype(float) - other, ddof=1)) / math.sqrt(len(one))


def bootstrap_interval(differences: NDArray[np.float64], seed: int = 0) -> Interval:
    """95 % bootstrap interval of the mean of differences, with images drawn anew.

    The mean of a drawn sample depends only on how often each value is drawn. These numbers are
    drawn from their multinomial distribution, which gives the same interval as drawing images.

    Args:
        differences: one value per image, (N,), for example whether the ANN is right minus whether
            the spiking network is right.
        seed: seed of NumPy's RandomState.

    Returns:
        The 2.5 % and 97.5 % percentiles of 10,000 means. Both are the mean itself where all
        values are equal: then the images say nothing about the spread.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
    """
    values, counts = np.unique(differences, return_counts=True)
    n = len(differences)
    drawn = np.random.RandomState(seed).multinomial(n, counts / n, _RESAMPLES)
    low, high = np.percentile(drawn @ values / n, [_LOW, _HIGH])
    return float(low), float(high)


class Right:
    """A metric for `transpike.evaluate`: which predictions are right, in the order of the images.

    `evaluate` copies a metric often. The flags are immutable bytes, so that a copy costs nothing.
    """

    def __init__(self) -> None:
        self._flags = b""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Add class scores (B, C) and their labels (B,)."""
        self._flags += (preds.argmax(dim=1) == target).to(torch.uint8).cpu().numpy().tobytes()

    def compute(self) -> str:
        """All flags as text."""
        return packed(np.frombuffer(self._flags, np.uint8).astype(bool))


__all__ = ["Flags", "Right", "bootstrap_interval", "packed", "paired_error", "unpacked"]

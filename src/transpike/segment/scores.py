"""Scores of a mask against a reference mask."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class PixelCounts:
    """Number of pixels in a mask, in a reference mask, in both and in neither.

    The counts of several masks can be added.

    Attributes:
        true_positive: pixels in both masks.
        false_positive: pixels in the mask only.
        false_negative: pixels in the reference only.
        true_negative: pixels in neither mask.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, mask: Mask, reference: Mask) -> PixelCounts:
        """Count the pixels of one mask.

        Args:
            mask: the mask, bool, any shape.
            reference: the reference mask, bool, same shape.
        """
        return cls(
            int((mask & reference).sum()),
            int((mask & ~reference).sum()),
            int((~mask & reference).sum()),
            int((~mask & ~reference).sum()),
        )

    def __add__(self, other: PixelCounts) -> PixelCounts:
        return PixelCounts(
            self.true_positive + other.true_positive,
            self.false_positive + other.false_positive,
            self.false_negative + other.false_negative,
            self.true_negative + other.true_negative,
        )

    @property
    def n(self) -> int:
        """Number of all pixels."""
        wrong = self.false_positive + self.false_negative
        return self.true_positive + self.true_negative + wrong

    def scores(self) -> dict[str, float]:
        """F1, Jaccard index and pixel accuracy.

        F1 and Jaccard index are 0 if both masks are empty.
        """
        right, wrong = self.true_positive, self.false_positive + self.false_negative
        return {
            "f1": 2 * right / max(1, 2 * right + wrong),
            "jaccard": right / max(1, right + wrong),
            "accuracy": (right + self.true_negative) / max(1, self.n),
        }


__all__ = ["Mask", "PixelCounts"]

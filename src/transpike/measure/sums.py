"""Sums that do not depend on the number of threads."""

from __future__ import annotations

import torch
from torch import Tensor

_AT_ONCE = 16_384  # PyTorch adds up to 32,768 values in one thread, and splits more among threads


def ordered_sum(values: Tensor) -> float:
    """Add all values in the same order, whatever the number of threads.

    Args:
        values: any shape, in float64.
    """
    return sum((float(part.sum()) for part in torch.split(values.flatten(), _AT_ONCE)), 0.0)


__all__ = ["ordered_sum"]

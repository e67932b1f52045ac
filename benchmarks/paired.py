"""Which images a network got right, and the error of a difference over the same images."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Flags = NDArray[np.bool_]


def packed(flags: Flags) -> str:
    """Flags (N,) as hexadecimal digits, four flags to a digit."""
    return np.packbits(flags).tobytes().hex()


def unpacked(text: str, n: int) -> Flags:
    """The n flags (N,) of a text that `packed` made."""
    return np.unpackbits(np.frombuffer(bytes.fromhex(text), np.uint8))[:n].astype(bool)


def paired_error(one: Flags, other: Flags) -> float:
    """Standard error of the difference of two accuracies on the same images (N,)."""
    return float(np.std(one.astype(float) - other, ddof=1)) / math.sqrt(len(one))


class Right:
    """A metric for `transpike.evaluate`: which predictions are right, in the order of the images.

    `evaluate` copies a metric often. The flags are immutable bytes, so that a copy costs nothing.
    """

    def __init__(self) -> None:
        self._flags = b""

    def update(self, output: Tensor, target: Tensor) -> None:
        """Add class scores (B, C) and their labels (B,)."""
        self._flags += (output.argmax(dim=1) == target).to(torch.uint8).cpu().numpy().tobytes()

    def compute(self) -> str:
        """All flags as text."""
        return packed(np.frombuffer(self._flags, np.uint8).astype(bool))

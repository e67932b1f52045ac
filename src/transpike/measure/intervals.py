"""95 % confidence intervals of measured fractions."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

Interval = tuple[float, float]
Z95 = 1.959963984540054
"""Two-sided 95 % quantile of the normal distribution."""
_T95 = (12.7062, 4.3027, 3.1824, 2.7764, 2.5706)  # of Student's t with 1 to 5 degrees of freedom


def wilson_interval(successes: float, n: int) -> Interval:
    """Wilson's 95 % score interval of a fraction.

    Args:
        successes: number of successes, 0..n.
        n: number of independent trials, >= 1.

    Source: Wilson 1927.
    """
    p = successes / n
    center = p + Z95**2 / (2 * n)
    spread = Z95 * math.sqrt(p * (1 - p) / n + Z95**2 / (4 * n**2))
    scale = 1 + Z95**2 / n
    return max(0.0, (center - spread) / scale), min(1.0, (center + spread) / scale)


def paired_interval(lost: int, won: int, n: int) -> Interval:
    """95 % interval of a paired difference of two fractions, (lost - won) / n.

    Args:
        lost: pairs where only the first is right.
        won: pairs where only the second is right.
        n: all pairs.

    Source: Agresti & Min 2005: half a pair is added to each of the four cells, so that the interval
    does not vanish where the two never differ.
    """
    b, c, m = lost + 0.5, won + 0.5, n + 2
    difference = (b - c) / m
    spread = Z95 * math.sqrt((b + c) / m - difference**2) / math.sqrt(m)
    return difference - spread, difference + spread


def image_interval(sums: Tensor, pixels: Tensor, lowest: float = 0.0) -> Interval:
    """95 % interval of a mean over pixels, from the spread of the images.

    Pixels of one image resemble each other. An interval that takes them for independent trials is
    far too narrow, so this one takes the images for independent. With a single image nothing is
    known about the spread, and the interval is everything from `lowest` to 1.

    Args:
        sums: sum over the pixels of each image, (images,).
        pixels: number of pixels of each image, (images,).
        lowest: smallest possible mean: 0 for a fraction, -1 for a difference of two fractions.

    Source: Cochran 1977, section 9.8 (ratio estimate for clusters), with Student's t of one degree
    of freedom less than there are images.
    """
    images, n = len(sums), int(pixels.sum())
    if images < 2:
        return lowest, 1.0
    mean = float(sums.sum()) / n
    residuals = sums.double() - mean * pixels.double()
    variance = images / (images - 1) * float((residuals**2).sum()) / n**2
    spread = _t95(images - 1) * math.sqrt(variance)
    return max(lowest, mean - spread), min(1.0, mean + spread)


@dataclass
class ImageCounts:
    """Right pixels of every image, for intervals over images.

    Attributes:
        pixels: number of pixels of each image, (images,).
        ann: right pixels of the analog network, (images,).
        right: right pixels of the spiking network after t = 1..T, (images, T).
    """

    pixels: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    ann: Tensor = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    right: Tensor | None = None

    @classmethod
    def of(cls, ann_right: Tensor, timesteps: int) -> ImageCounts:
        """The images of one batch, before any timestep.

        Args:
            ann_right: whether the analog network is right, (B, ...).
            timesteps: T.
        """
        ann = ann_right.reshape(len(ann_right), -1)
        pixels = torch.full((len(ann),), ann.shape[1])
        right = torch.zeros((len(ann), timesteps), dtype=torch.int64, device=ann.device)
        return cls(pixels, ann.sum(dim=1), right)

    def count(self, rows: slice | Tensor, t: int, right: Tensor) -> None:
        """Take in which pixels of some images are right after t timesteps."""
        assert self.right is not None
        self.right[rows, t - 1] = right.reshape(len(right), -1).sum(dim=1)

    def extend(self, batch: ImageCounts) -> None:
        """Append the images of a finished batch."""
        assert batch.right is not None
        right = batch.right.cpu()
        self.pixels = torch.cat([self.pixels, batch.pixels])
        self.ann = torch.cat([self.ann, batch.ann.cpu()])
        self.right = right if self.right is None else torch.cat([self.right, right])

    def ann_interval(self) -> Interval:
        """Interval of the accuracy of the analog network."""
        return image_interval(self.ann, self.pixels)

    def accuracy_intervals(self) -> list[Interval]:
        """Interval of the accuracy at t = 1..T."""
        assert self.right is not None
        return [image_interval(right, self.pixels) for right in self.right.unbind(dim=1)]

    def loss_intervals(self) -> list[Interval]:
        """Interval of the loss at t = 1..T."""
        assert self.right is not None
        lost = self.ann[:, None] - self.right
        return [image_interval(one, self.pixels, -1.0) for one in lost.unbind(dim=1)]


def _t95(freedom: int) -> float:
    """Two-sided 95 % quantile of Student's t, to 3e-4.

    Source: Abramowitz & Stegun 1964, 26.7.5.
    """
    if freedom <= len(_T95):
        return _T95[freedom - 1]
    z, v = Z95, freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )


__all__ = ["Z95", "ImageCounts", "Interval", "image_interval", "paired_interval", "wilson_interval"]

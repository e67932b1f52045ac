"""Random deformations and intensities for images with masks. One generator draws all numbers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_ZOOM = 1.25  # largest factor by which an image is enlarged or reduced
_KNOTS = 4  # knots along a side of the elastic displacement, which is interpolated between them
_ELASTIC = 0.04  # standard deviation of the displacement of a knot, relative to the crop's side
# Largest change of normalized intensities; of the noise, the largest standard deviation.
_GAIN, _OFFSET, NOISE = 0.2, 0.15, 0.05


def deform(
    images: Tensor, masks: Tensor, size: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Turn, flip, zoom and bend every image, and cut out its middle.

    Args:
        images: (B, C, H, W), H and W at least `size`. Pixels outside of an image are mirrored.
        masks: (B, 1, H, W), 0 or 1. They are deformed in the same way and stay 0 or 1.
        size: side of the result in pixels.
        generator: source of all random numbers.

    Returns:
        images (B, C, size, size) and masks (B, 1, size, size).
    """
    grid = _grid(len(images), size, generator)  # in pixels from the middle
    height, width = images.shape[2:]
    scaled = grid / torch.tensor([width / 2, height / 2])
    moved = F.grid_sample(images, scaled, "bilinear", "reflection", align_corners=False)
    labels = F.grid_sample(masks, scaled, "nearest", "reflection", align_corners=False)
    return moved, labels


def vary_intensity(images: Tensor, generator: torch.Generator) -> Tensor:
    """Change the contrast and brightness of every image, and add noise.

    Args:
        images: normalized images, (B, C, H, W).
        generator: source of all random numbers.
    """
    gain, offset, noise = _uniform((3, len(images), 1, 1, 1), generator)
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    changed = (images - middle) * (1 + _GAIN * gain) + middle + _OFFSET * offset
    grain = torch.randn(images.shape, generator=generator)
    noisy: Tensor = changed + NOISE * noise.abs() * grain
    return noisy


def _grid(batch: int, size: int, generator: torch.Generator) -> Tensor:
    """The place in the image of every pixel of the result, (B, size, size, 2), x before y."""
    axis = torch.arange(size) - (size - 1) / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    points = torch.stack([x, y], dim=-1).view(1, size * size, 2).expand(batch, -1, -1)
    angle = math.pi * _uniform((batch,), generator)
    zoom = _ZOOM ** _uniform((batch,), generator)
    mirror = torch.where(torch.rand(batch, generator=generator) < 0.5, 1.0, -1.0)
    cosine, sine = zoom * angle.cos(), zoom * angle.sin()
    rows = torch.stack([mirror * cosine, mirror * sine, -sine, cosine], dim=1)
    turned = (points @ rows.view(batch, 2, 2)).view(batch, size, size, 2)
    knots = torch.randn(batch, 2, _KNOTS, _KNOTS, generator=generator) * _ELASTIC * size
    bend = F.interpolate(knots, size=(size, size), mode="bicubic", align_corners=True)
    return turned + bend.permute(0, 2, 3, 1)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Uniform random numbers between -1 and 1."""
    return 2 * torch.rand(shape, generator=generator) - 1


__all__ = ["deform", "vary_intensity"]

"""The size of tiles, and networks for tiles of that size."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from transpike.errors import ArgumentError
from transpike.graph.capture import capture
from transpike.graph.network import Network
from transpike.graph.receptive_field import receptive_field
from transpike.spiking.spiking_network import SpikingNetwork

_SMALL_SLICES = ("slices", "Crop or pad them to")


def resized(snn: SpikingNetwork, model: nn.Module, size: Sequence[int]) -> SpikingNetwork:
    """The same spiking network for images of another size.

    Thresholds, initial membranes and offsets have one value per channel, so they are valid for
    every size.

    Args:
        snn: spiking network that was converted from `model`.
        model: the model, on the device of the network. Its weights are captured again.
        size: height and width in pixels; volumes have more axes.

    Raises:
        ArgumentError: the model has other sites than the spiking network.
        DataError: the model does not take images of this size.
    """
    network = snn.network
    shape = (2, network.input_shape[0], *size)
    example = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=network.dtype)
    other = capture(model, example.to(network.device))
    if _populations(other) != _populations(network):
        raise ArgumentError(
            "resized: the model has other sites than the spiking network. Give the model it was "
            "converted from."
        )
    return SpikingNetwork(
        other,
        snn.neurons,
        snn.steps,
        snn.settings,
        starts=snn.starts,
        offsets=snn.offsets,
        readout_start=snn.readout_start,
        coding=snn.coding,
    )


def fitting_tile(
    network: Network, size: Sequence[int], tile: int, overlap: int | None = None
) -> tuple[int, ...]:
    """Size of the tiles for a slice: at most `tile`, and at most the size of the slice.

    Args:
        network: network with an output for every pixel.
        size: height and width of a slice in pixels.
        tile: wanted side of a tile in pixels.
        overlap: pixels that neighboring tiles share; None means the receptive field.

    Raises:
        ArgumentError: a side is not a multiple of the stride of the network, or a tile is too small
            for the overlap.
        UnsupportedError: the network has no output for every pixel.
    """
    seen = receptive_field(network)
    sides = tuple(min(tile, side) for side in size)
    for axis, (side, stride) in enumerate(zip(sides, seen.alignment, strict=True)):
        if side % stride:
            down, up = side - side % stride, -(-side // stride) * stride
            sizes = f"{down} or {up}" if down else f"{up}"
            whose, change = ("a tile", "Give a tile of") if side == tile else _SMALL_SLICES
            raise ArgumentError(
                f"{whose} of {side} pixels along axis {axis}: the network needs a multiple of "
                f"{stride}. {change} {sizes} pixels."
            )
    if overlap is None:
        _check_room(sides, size, seen.before, seen.after, seen.alignment)
    return sides


def _check_room(
    sides: Sequence[int],
    size: Sequence[int],
    before: Sequence[int],
    after: Sequence[int],
    strides: Sequence[int],
) -> None:
    """Refuse tiles that are too small to move on by one stride."""
    facts = zip(sides, size, before, after, strides, strict=True)
    for axis, (side, pixels, low, high, stride) in enumerate(facts):
        if side < pixels and side - (low + high) < stride:
            needed = -(-(low + high + stride) // stride) * stride
            raise ArgumentError(
                f"a tile of {side} pixels along axis {axis} is too small: the network sees {low} + "
                f"{high} pixels around each output pixel. Give a tile of at least {needed} pixels, "
                f"or an overlap of at most {side - stride} pixels, which gives an approximation."
            )


def _populations(network: Network) -> list[tuple[str, int, float | None]]:
    return [(site.name, site.channels, site.upper_bound) for site in network.sites]


__all__ = ["fitting_tile", "resized"]

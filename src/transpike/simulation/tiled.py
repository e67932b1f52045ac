"""Simulate large images and volumes tile by tile.

Tiles are read from disk and results are written to disk one by one, so memory does not grow with
the image. Neighboring tiles overlap. If the overlap is at least the receptive field, every pixel is
taken from a tile that contains all pixels it depends on. The result then equals that of the whole
image. If the overlap is smaller, every pixel is a weighted mean of the tiles that cover it. This is
an approximation without visible seams.

Along one axis, tile k has the weight u_k - u_{k+1}. Here u_k rises from 0 to 1 inside the overlap
of the tiles k-1 and k, and u_0 = 1. The weights are non-negative multiples of 1/256, and their sum
is one at every pixel.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.receptive_field import ReceptiveField, receptive_field
from transpike.graph.structure import flat_values
from transpike.simulation.record import Record
from transpike.simulation.result import readout_timesteps
from transpike.simulation.simulate import simulate
from transpike.spiking.spiking_network import SpikingNetwork

_WEIGHT_LEVELS = 256
Array = Any
"""Anything with `shape`, `dtype` and NumPy's basic indexing: ndarray, memmap, zarr, h5py."""


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles.

    Attributes:
        overlap: pixels that neighboring tiles share, per axis or one number for all axes. None
            means the receptive field, which makes the result equal to that of the whole image. A
            smaller overlap is faster and gives an approximation.
        memory_budget: bytes for the values and states of one tile, see `simulate`.
    """

    overlap: int | tuple[int, ...] | None = None
    memory_budget: int | None = None


WHOLE_FIELD = Tiling()
"""Tiles that overlap by the receptive field."""


@dataclass(frozen=True)
class TiledSimulation:
    """Result of a tiled simulation.

    Attributes:
        output: the mean output over the timesteps 1..T, (C, ...) or (N, C, ...). With `output_at`
            it has a first axis for its P timesteps, (P, C, ...) or (P, N, C, ...). It is the array
            that was given, or a new one.
        timesteps: T.
        tiles: number of tiles that were simulated, over all samples.
        tile: size of a tile along every spatial axis, in pixels.
        overlap: smallest overlap of neighboring tiles along every axis, in pixels. It is 0 if one
            tile covers the axis.
        field: receptive field of the network.
        exact: whether the result equals the simulation of the whole image. This needs an overlap
            of at least the receptive field and tiles that begin at multiples of the alignment.
        spikes_per_neuron: |count| summed over the timesteps, averaged over the neurons of all
            tiles. Neurons in an overlap are counted in each tile.
        precision: arithmetic used.
    """

    output: Array = field(repr=False)
    timesteps: int
    tiles: int
    tile: tuple[int, ...]
    overlap: tuple[int, ...]
    field: ReceptiveField
    exact: bool
    spikes_per_neuron: float
    precision: str


@dataclass(frozen=True)
class _Axis:
    """The tiles along one axis: the offset of each in pixels, and its weights."""

    offsets: tuple[int, ...]
    weights: tuple[np.ndarray[Any, Any], ...]
    overlap: int
    exact: bool


@isolated()
def simulate_tiled(
    snn: SpikingNetwork,
    image: Array,
    timesteps: int,
    *,
    tiling: Tiling = WHOLE_FIELD,
    output_at: Sequence[int] | None = None,
    output: Array | None = None,
    channels: bool = True,
    prepare: Callable[[Any], Tensor] | None = None,
    precision: str = "exact",
    progress: Callable[[int, int], None] | None = None,
) -> TiledSimulation:
    """Simulate an image or volume of any size in tiles, in memory that does not grow with it.

    The network has to be dense: its output has the size of its input. Tiles have the size of the
    network. For example, `snn.at((512, 512))` gives a network with tiles of 512 pixels. Larger
    tiles need more memory and waste less on the overlap.

    Args:
        snn: the converted network.
        image: (C, ...) or (N, C, ...), at least as large as a tile. Tiles are read one at a time.
        timesteps: T >= 1; every synchronous pass is counted.
        tiling: how the image is cut. By default the result equals that of the whole image.
        output_at: P timesteps at which the output is kept, in ascending order and each once. By
            default only T is kept, and the output has no axis for timesteps.
        output: a float32 or float64 array to write into, such as a memmap, with the shape of the
            result. By default a new array is made.
        channels: whether the image has a channel axis. Use False for images (...) or (N, ...) of
            one channel. The output has a channel axis in any case.
        prepare: a function that turns what was read of one tile into the network's input (C, ...).
            For example, it scales bytes to the range of the training data. By default the image
            has to be the input already.
        precision: see `simulate`.
        progress: called with (tiles done, tiles in all).

    Returns:
        The output and how it was made.

    Raises:
        UnsupportedError: the output is not dense, or depends on the whole image or on absolute
            positions, as behind a global pooling.
        ArgumentError: timesteps, tiling, output_at or output do not fit.
        DataError: the image does not fit the network.
    """
    asked = Record(output_at=[timesteps] if output_at is None else output_at)
    points = readout_timesteps(asked.output_at, timesteps)
    seen = receptive_field(snn.network)
    tile = snn.network.input_shape[1:]
    samples, size = _layout(snn, image, channels)
    overlaps = overlaps_of(tiling.overlap, seen, tile, size)
    sides = (seen.before, seen.after, seen.alignment)
    axes = [axis_of(*facts) for facts in zip(size, tile, overlaps, *sides, strict=True)]
    classes = _output_channels(snn)
    lead = (classes,) if samples is None else (samples, classes)
    kept = () if output_at is None else (len(points),)
    output = _checked_output(output, (*kept, *lead, *size))
    every = (slice(None),) * len(kept)
    total = (samples or 1) * len(list(places_of(axes)))
    done, spikes, name = 0, 0.0, precision
    for sample in [()] if samples is None else [(n,) for n in range(samples)]:
        here = (*every, *sample, ...)
        output[here] = 0
        for where, weight in places_of(axes):
            x = _read(snn, image, sample, where, channels, prepare)
            run = simulate(
                snn,
                x,
                timesteps,
                record=Record(output_at=points),
                memory_budget=tiling.memory_budget,
                precision=precision,
            )
            (result,) = flat_values(run.output)
            index = (*every, *sample, slice(None), *where)
            part = (result[:, 0] if kept else result[0, 0]).cpu().numpy() * weight
            output[index] = output[index] + part.astype(output.dtype, copy=False)
            done, spikes, name = done + 1, spikes + float(run.spikes_per_neuron[-1]), run.precision
            if progress is not None:
                progress(done, total)
    return TiledSimulation(
        output=output,
        timesteps=timesteps,
        tiles=total,
        tile=tile,
        overlap=tuple(axis.overlap for axis in axes),
        field=seen,
        exact=all(axis.exact for axis in axes),
        spikes_per_neuron=spikes / total,
        precision=name,
    )


def _layout(
    snn: SpikingNetwork, image: Array, channels: bool
) -> tuple[int | None, tuple[int, ...]]:
    """Number of samples (None if the image has no such axis), and the size in pixels."""
    if not hasattr(image, "shape") or not hasattr(image, "__getitem__"):
        raise DataError(f"image: needed an array with a shape, got {type(image).__name__}.")
    shape, needed = tuple(image.shape), snn.network.input_shape
    space = len(needed) - 1
    inner = space + 1 if channels else space
    fits = len(shape) in (inner, inner + 1) and (
        shape[-inner] == needed[0] if channels else needed[0] == 1
    )
    if not fits:
        pixels = ", ".join("ZYX"[-space:])
        wanted = f"({needed[0]}, {pixels})" if channels else f"({pixels}) for a one-channel network"
        raise DataError(
            f"image shape: needed {wanted} or the same behind a sample axis, got {shape} for a "
            f"network with {needed[0]} channels. For images without a channel axis pass "
            "channels=False."
        )
    size = shape[-space:]
    if any(have < tile for have, tile in zip(size, needed[1:], strict=True)) or 0 in shape:
        raise DataError(
            f"image size: needed at least one tile of {needed[1:]} pixels, got {size}. Give "
            "snn.at(size) with a smaller size, or pad the image."
        )
    return (shape[0] if len(shape) > inner else None), size


def overlaps_of(
    overlap: int | tuple[int, ...] | None,
    seen: ReceptiveField,
    tile: tuple[int, ...],
    size: tuple[int, ...],
) -> tuple[int, ...]:
    """Overlap along every axis, in pixels, checked against the size of a tile."""
    if overlap is None:
        wanted = tuple(b + a for b, a in zip(seen.before, seen.after, strict=True))
    elif isinstance(overlap, int) and not isinstance(overlap, bool):
        wanted = (overlap,) * len(tile)
    else:
        wanted = overlap if isinstance(overlap, tuple) else ()
    if len(wanted) != len(tile) or not all(isinstance(o, int) and o >= 0 for o in wanted):
        raise ArgumentError(
            f"overlap: needed pixels >= 0, or {len(tile)} of them, got {overlap!r}."
        )
    for axis, facts in enumerate(zip(wanted, tile, size, seen.alignment, strict=True)):
        shared, width, pixels, alignment = facts
        if pixels > width and width - shared < alignment:
            raise ArgumentError(
                f"overlap: {shared} pixels of a tile of {width} along axis {axis} leave no step of "
                f"{alignment} (the network's stride). The receptive field is {seen.before[axis]} + "
                f"{seen.after[axis]} pixels. Give snn.at(size) with tiles of at least "
                f"{_aligned(shared + alignment, alignment)} pixels, or overlap= at most "
                f"{width - alignment}, which is an approximation."
            )
    return wanted


def _aligned(pixels: int, alignment: int) -> int:
    return -(-pixels // alignment) * alignment


def axis_of(size: int, tile: int, overlap: int, before: int, after: int, alignment: int) -> _Axis:
    """Place the tiles along one axis, the last one flush with the border, and weight them."""
    if size == tile:
        return _Axis((0,), (np.ones(tile),), 0, True)
    step = (tile - overlap) // alignment * alignment
    offsets = (*range(0, size - tile, step), size - tile)
    pixels = np.arange(size)
    rises = [np.ones(size)]
    exact = all(offset % alignment == 0 for offset in offsets)
    for last, offset in itertools.pairwise(offsets):
        start, stop = offset + before, last + tile - after
        if start <= stop:  # Both tiles are exact in between, so a cut there is exact.
            start = stop = (start + stop) // 2
        else:
            start, stop, exact = offset, last + tile, False
        ramp = (pixels - start + 0.5) / max(stop - start, 1)
        ramp = np.where(pixels < start, 0, np.where(pixels >= stop, 1, ramp))
        rises.append(np.round(ramp * _WEIGHT_LEVELS) / _WEIGHT_LEVELS)
    rises.append(np.zeros(size))
    weights = [
        (up - down)[offset : offset + tile]
        for offset, (up, down) in zip(offsets, itertools.pairwise(rises), strict=True)
    ]
    smallest = min(last + tile - offset for last, offset in itertools.pairwise(offsets))
    return _Axis(offsets, tuple(weights), smallest, exact)


def places_of(axes: list[_Axis]) -> Iterator[tuple[tuple[slice, ...], np.ndarray[Any, Any]]]:
    """Slices and weights of every tile, in the order of the pixels in memory."""
    for numbers in itertools.product(*(range(len(axis.offsets)) for axis in axes)):
        weight: np.ndarray[Any, Any] = np.ones(())
        where = []
        for axis, number in zip(axes, numbers, strict=True):
            offset, along = axis.offsets[number], axis.weights[number]
            where.append(slice(offset, offset + len(along)))
            weight = weight[..., None] * along
        yield tuple(where), weight


def _output_channels(snn: SpikingNetwork) -> int:
    node = snn.network.by_name[snn.network.outputs[0].name]
    assert node.shape is not None
    return node.shape[1]


def _checked_output(output: Array | None, shape: tuple[int, ...]) -> Array:
    if output is None:
        return np.zeros(shape, dtype=np.float32)
    if tuple(getattr(output, "shape", ())) != shape:
        raise ArgumentError(
            f"output shape: needed {shape}, got {getattr(output, 'shape', type(output).__name__)}."
        )
    if output.dtype not in (np.dtype("float32"), np.dtype("float64")):
        raise ArgumentError(f"output dtype: needed float32 or float64, got {output.dtype}.")
    return output


def _read(
    snn: SpikingNetwork,
    image: Array,
    sample: tuple[int, ...],
    where: tuple[slice, ...],
    channels: bool,
    prepare: Callable[[Any], Tensor] | None,
) -> Tensor:
    """One tile as the network's input (1, C, ...)."""
    got = image[(*sample, slice(None), *where) if channels else (*sample, *where)]
    network = snn.network
    if prepare is not None:
        x = prepare(got)
        if not isinstance(x, Tensor) or tuple(x.shape) != network.input_shape:
            raise DataError(
                f"prepare: needed a tensor {network.input_shape}, got "
                f"{tuple(getattr(x, 'shape', ())) or type(x).__name__}."
            )
    else:
        x = torch.as_tensor(np.array(got) if not isinstance(got, Tensor) else got)
        if not channels:
            x = x[None]
        if x.dtype != network.dtype:
            raise DataError(
                f"image dtype: needed {network.dtype}, got {x.dtype}. Pass prepare=, a function "
                "that scales what was read as the training data was."
            )
    return x[None].to(network.device)

"""Masks of the slices of a volume, made by the spiking and by the analog network."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transpike.data.images import Normalization
from transpike.data.volumes import Volume, normalized
from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.network import Network

# `evaluate` uses the same rule to predict.
from transpike.graph.outputs import cut_of, prediction
from transpike.graph.receptive_field import receptive_field
from transpike.graph.structure import flat_values
from transpike.measure.evaluate import curve_points
from transpike.segment.scores import Mask

# Both networks work on the same tiles with the same weights.
from transpike.simulation.tiled import (
    TiledSimulation,
    Tiling,
    axis_of,
    overlaps_of,
    places_of,
    simulate_tiled,
)
from transpike.spiking.spiking_network import SpikingNetwork

_CLASSES = 2


@dataclass(frozen=True)
class Segmented:
    """The masks of one slice.

    Attributes:
        index: index of the slice in its volume.
        name: file name of the slice, or its number if all slices are in one file.
        pixels: pixels as they were read, (H, W).
        ann: mask of the analog network, (H, W), bool.
        masks: masks of the spiking network after t timesteps by t, (H, W), bool; T is always there.
        simulation: tiles, overlap and spikes of the run that made the mask at T.
        ann_seconds: time of the analog network in seconds.
        snn_seconds: time of the spiking network for T timesteps in seconds.
    """

    index: int
    name: str
    pixels: NDArray[Any] = field(repr=False)
    ann: Mask = field(repr=False)
    masks: dict[int, Mask] = field(repr=False)
    simulation: TiledSimulation
    ann_seconds: float
    snn_seconds: float


def segment(
    snn: SpikingNetwork,
    volume: Volume,
    timesteps: int,
    *,
    normalization: Normalization,
    slices: Sequence[int] | None = None,
    curve: Collection[int] = (),
    overlap: int | None = None,
    precision: str = "exact",
    memory_budget: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Iterator[Segmented]:
    """Segment a volume slice by slice. Only one slice is in memory at a time.

    The mask follows the rule of `evaluate`. With two output channels, a pixel is in the mask if the
    second channel is larger. With one channel of logits the output must be above 0, and behind a
    sigmoid above 0.5.

    Args:
        snn: network for images of one channel, with an output for every pixel. A slice is simulated
            in tiles of the network's size. `snn.at(size)` gives a network for another size.
        volume: the slices, from `transpike.data.open_stack`.
        timesteps: T.
        normalization: mean and std of pixel values in 0..1, as in training.
        slices: indices of the slices to segment, in this order; None means all.
        curve: indices of the slices for which masks after 1, 2, 4, ... timesteps are made too.
        overlap: pixels that neighboring tiles share. None means the receptive field, which makes
            the masks equal to those of whole slices.
        precision: see `simulate`.
        memory_budget: see `simulate`.
        progress: called with the tiles times timesteps that are done, and with all of them.

    Returns:
        The slices; each one is made when it is asked for.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: the slices are smaller than a tile.
        UnsupportedError: the network has no output for every pixel.
        FileError: a slice cannot be read.
    """
    snn.check_timesteps(timesteps)
    chosen = list(range(volume.shape[0]) if slices is None else slices)
    _check(snn, volume, chosen)
    if len(normalization.mean) != 1:
        raise ArgumentError(
            f"normalization: needed one channel, got {len(normalization.mean)}. Slices are "
            "grayscale, so give one mean and one std."
        )
    every = curve_points(timesteps, snn.first_output)
    points = [(index, every if index in curve else [timesteps]) for index in chosen]
    task = _Task(snn, volume.maximum, normalization, overlap, precision, memory_budget)
    tiles = len(list(places_of(task.axes(volume.shape[1:]))))
    return _segmented(task, volume, points, tiles, progress)


def _segmented(
    task: _Task,
    volume: Volume,
    points: Sequence[tuple[int, Sequence[int]]],
    tiles: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[Segmented]:
    """Make the slices of `points`, each with the timesteps after which it has a mask."""
    for number, (index, chosen) in enumerate(points):
        timesteps = chosen[-1]

        def report(done: int, _: int, before: int = number * tiles, t: int = timesteps) -> None:
            if progress is not None:
                progress((before + done) * t, tiles * t * len(points))

        pixels = volume.read(index, slice(None), slice(None))
        yield task.segmented(index, volume.name(index), pixels, chosen, report)


def _check(snn: SpikingNetwork, volume: Volume, slices: Iterable[int]) -> None:
    shape, (count, *size) = snn.network.input_shape, volume.shape
    if len(shape) != 3 or shape[0] != 1:
        raise ArgumentError(
            f"segment: needed a network for images (1, H, W), got one for {shape}. Use "
            "transpike.simulate_tiled for other inputs."
        )
    receptive_field(snn.network)
    classes = _channels(snn.network)
    if classes > _CLASSES:
        raise ArgumentError(
            f"segment: needed an output of one or two channels for a binary mask, got {classes}. "
            "Use transpike.simulate_tiled for more classes."
        )
    if any(side < tile for side, tile in zip(size, shape[1:], strict=True)):
        raise DataError(
            f"slices of {size[0]} x {size[1]} pixels are smaller than the network's tile of "
            f"{shape[1]} x {shape[2]}. Convert the network with a smaller tile, or pad the slices."
        )
    wrong = [index for index in slices if not 0 <= index < count]
    if wrong:
        raise ArgumentError(f"slices: needed 0..{count - 1}, got {wrong[0]}.")


def _channels(network: Network) -> int:
    node = network.by_name[network.outputs[0].name]
    assert node.shape is not None
    return node.shape[1]


@dataclass(frozen=True)
class _Task:
    """The part of the work that is the same for every slice."""

    snn: SpikingNetwork
    maximum: int
    normalization: Normalization
    overlap: int | None
    precision: str
    memory_budget: int | None

    def axes(self, size: Sequence[int]) -> list[Any]:
        """The tiles along each axis, the same as those of `simulate_tiled`."""
        network = self.snn.network
        seen, tile, pixels = receptive_field(network), network.input_shape[1:], tuple(size)
        overlaps = overlaps_of(self.overlap, seen, tile, pixels)
        facts = zip(pixels, tile, overlaps, seen.before, seen.after, seen.alignment, strict=True)
        return [axis_of(*fact) for fact in facts]

    @isolated()
    def segmented(
        self,
        index: int,
        name: str,
        pixels: NDArray[Any],
        points: Sequence[int],
        report: Callable[[int, int], None],
    ) -> Segmented:
        """One slice with its masks after each of `points` timesteps; the last one is T."""
        start = time.perf_counter()
        ann = self._mask(self._analog(pixels))
        ann_seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = self._simulated(pixels, points, report)
        snn_seconds = time.perf_counter() - start
        masks = {t: self._mask(output) for t, output in zip(points, found.output, strict=True)}
        # The readout is as large as the slice and is not needed any more.
        simulation = replace(found, output=None)
        return Segmented(index, name, pixels, ann, masks, simulation, ann_seconds, snn_seconds)

    def _prepared(self, pixels: Any) -> Tensor:
        """A tile as input of the network, (1, H, W)."""
        return torch.from_numpy(normalized(pixels, self.maximum, self.normalization))[None]

    def _simulated(
        self, pixels: NDArray[Any], points: Sequence[int], report: Callable[[int, int], None]
    ) -> TiledSimulation:
        return simulate_tiled(
            self.snn,
            pixels,
            points[-1],
            tiling=Tiling(overlap=self.overlap, memory_budget=self.memory_budget),
            output_at=points,
            channels=False,
            prepare=self._prepared,
            precision=self.precision,
            progress=report,
        )

    def _analog(self, pixels: NDArray[Any]) -> NDArray[np.float32]:
        """Output of the analog network, (C, H, W), from the tiles of `simulate_tiled`."""
        network = self.snn.network
        output = np.zeros((_channels(network), *pixels.shape), dtype=np.float32)
        for where, weight in places_of(self.axes(pixels.shape)):
            x = self._prepared(pixels[where])[None].to(network.device)
            with torch.inference_mode():
                (result,) = flat_values(network(x))
            part = result[0].cpu().numpy() * weight
            index = (slice(None), *where)
            output[index] += part.astype(np.float32, copy=False)
        return output

    def _mask(self, output: NDArray[Any]) -> Mask:
        guess = prediction(torch.from_numpy(output)[None], cut_of(self.snn.network))
        mask: Mask = guess[0].numpy() > 0
        return mask


__all__ = ["Segmented", "segment"]

"""Binary masks of a user's own slices, by the spiking and the analog network, slice by slice."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.data.images import Normalization
from transpike.data.volumes import Volume, normalized
from transpike.errors import ArgumentError, DataError
from transpike.graph.capture import capture
from transpike.graph.network import Network

# The rule by which `evaluate` predicts: a mask is the same wherever it is made.
from transpike.graph.outputs import cut_of, prediction
from transpike.graph.receptive_field import receptive_field
from transpike.measure.evaluate import curve_points

# Tiles and weights of the analog network are those of the spiking one.
from transpike.simulation.tiled import (
    TiledSimulation,
    Tiling,
    axis_of,
    overlaps_of,
    places_of,
    simulate_tiled,
)
from transpike.spiking.spiking_network import SpikingNetwork

Mask = NDArray[np.bool_]
_CLASSES = 2
_SMALL_SLICES = ("slices", "Crop or pad them to")


@dataclass(frozen=True)
class PixelCounts:
    """Pixels of a mask by what a reference mask says of them; counts of several masks add up.

    Attributes:
        true_positive: in both masks.
        false_positive: in the mask only.
        false_negative: in the reference only.
        true_negative: in neither.
    """

    true_positive: int = 0
    false_positive: int = 0
    false_negative: int = 0
    true_negative: int = 0

    @classmethod
    def of(cls, mask: Mask, reference: Mask) -> PixelCounts:
        """Counts of one mask.

        Args:
            mask: bool, any shape.
            reference: of the same shape.
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
        """Pixels."""
        wrong = self.false_positive + self.false_negative
        return self.true_positive + self.true_negative + wrong

    def scores(self) -> dict[str, float]:
        """F1, Jaccard index and pixel accuracy; F1 and Jaccard 0 without any positive pixel."""
        right, wrong = self.true_positive, self.false_positive + self.false_negative
        return {
            "f1": 2 * right / max(1, 2 * right + wrong),
            "jaccard": right / max(1, right + wrong),
            "accuracy": (right + self.true_negative) / max(1, self.n),
        }


@dataclass(frozen=True)
class Segmented:
    """One slice.

    Attributes:
        index: of the slice in its volume.
        name: file name of the slice, or its number where the slices share one file.
        pixels: as they were read, (H, W).
        ann: mask of the analog network, (H, W), bool.
        masks: of the spiking network after t timesteps, by t; T always.
        simulation: how the mask at T was made: tiles, overlap, spikes.
        ann_seconds: time of the analog network.
        snn_seconds: time of the spiking network for T timesteps.
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
    """Segment a volume slice by slice; one slice is in memory at a time.

    A mask is the rule of `evaluate`: output > 0 where there is one channel of logits, > 0.5 behind
    a sigmoid, and the larger of two channels.

    Args:
        snn: for one-channel images, its output dense; a slice is simulated in tiles of the size it
            was captured with, see `simulate_tiled` and `resized`.
        volume: from `transpike.data.open_stack`.
        timesteps: T.
        normalization: of values in 0..1, as in training.
        slices: which, in this order; all where None.
        curve: those of them whose masks after 1, 2, 4, ... timesteps are made too.
        overlap: pixels neighboring tiles share; the receptive field where None, which makes the
            masks those of the whole slice.
        precision: see `simulate`.
        memory_budget: see `simulate`.
        progress: called with (tiles x timesteps done, and in all).

    Returns:
        The slices, made as they are asked for.

    Raises:
        ArgumentError: an argument is out of range.
        DataError: slices are smaller than a tile.
        UnsupportedError: the network's output is not dense.
        FileError: a slice cannot be read.
    """
    snn.check_timesteps(timesteps)
    chosen = list(range(volume.shape[0]) if slices is None else slices)
    _check(snn, volume, chosen)
    if len(normalization.mean) != 1:
        raise ArgumentError(f"normalization: needed one channel, got {len(normalization.mean)}.")
    every = curve_points(timesteps, snn.first_output)
    points = {index: every if index in curve else [timesteps] for index in chosen}
    task = _Task(snn, volume.maximum, normalization, overlap, precision, memory_budget)
    tiles = len(list(places_of(task.axes(volume.shape[1:]))))
    total = tiles * timesteps * len(chosen)

    def made() -> Iterator[Segmented]:
        for number, index in enumerate(chosen):
            pixels = volume.read(index, slice(None), slice(None))

            def report(done: int, _: int, before: int = number * tiles) -> None:
                if progress is not None:
                    progress((before + done) * timesteps, total)

            yield task.segmented(index, volume.name(index), pixels, points[index], report)

    return made()


def resized(snn: SpikingNetwork, model: nn.Module, size: Sequence[int]) -> SpikingNetwork:
    """The same spiking network for images of another size.

    Thresholds, initial membranes and offsets lie along channels, so they hold for every size.

    Args:
        snn: made from `model`.
        model: that model, on the network's device; its weights are captured again.
        size: height and width (or more axes), pixels.

    Raises:
        ArgumentError: the model has other sites than the network.
        DataError: the model does not take this size.
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
    """Size of the tiles for a slice: at most `tile`, and no larger than the slice.

    Args:
        network: dense.
        size: height and width of a slice, pixels.
        tile: wanted side, pixels.
        overlap: of the tiles; the receptive field where None.

    Raises:
        ArgumentError: a side is no multiple of the network's stride where it has to be, or too
            small for the overlap.
        UnsupportedError: the network's output is not dense.
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
    """Refuse tiles that the receptive field leaves no step."""
    facts = zip(sides, size, before, after, strides, strict=True)
    for axis, (side, pixels, low, high, stride) in enumerate(facts):
        if side < pixels and side - (low + high) < stride:
            needed = -(-(low + high + stride) // stride) * stride
            raise ArgumentError(
                f"a tile of {side} pixels along axis {axis} is too small: the network sees {low} + "
                f"{high} pixels around each. Give a tile of at least {needed} pixels, or an "
                f"overlap of at most {side - stride}, which is an approximation."
            )


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
            f"{shape[1]} x {shape[2]}. Capture or convert it with a smaller one, or pad the slices."
        )
    wrong = [index for index in slices if not 0 <= index < count]
    if wrong:
        raise ArgumentError(f"slices: needed 0..{count - 1}, got {wrong[0]}.")


def _channels(network: Network) -> int:
    node = network.by_name[network.outputs[0].name]
    assert node.shape is not None
    return node.shape[1]


def _populations(network: Network) -> list[tuple[str, int, float | None]]:
    return [(site.name, site.channels, site.upper_bound) for site in network.sites]


@dataclass(frozen=True)
class _Task:
    """What is the same for every slice."""

    snn: SpikingNetwork
    maximum: int
    normalization: Normalization
    overlap: int | None
    precision: str
    memory_budget: int | None

    def axes(self, size: Sequence[int]) -> list[Any]:
        """The tiles along each axis, those of `simulate_tiled`."""
        network = self.snn.network
        seen, tile, pixels = receptive_field(network), network.input_shape[1:], tuple(size)
        overlaps = overlaps_of(self.overlap, seen, tile, pixels)
        facts = zip(pixels, tile, overlaps, seen.before, seen.after, seen.alignment, strict=True)
        return [axis_of(*fact) for fact in facts]

    def segmented(
        self,
        index: int,
        name: str,
        pixels: NDArray[Any],
        points: Sequence[int],
        report: Callable[[int, int], None],
    ) -> Segmented:
        """A slice, masks at every one of `points`, the last being T."""
        start = time.perf_counter()
        ann = self._mask(self._analog(pixels))
        ann_seconds = time.perf_counter() - start
        start = time.perf_counter()
        found = self._simulated(pixels, points, report)
        snn_seconds = time.perf_counter() - start
        masks = {t: self._mask(output) for t, output in zip(points, found.output, strict=True)}
        # The readout is as large as the slice, and no longer needed.
        simulation = replace(found, output=None)
        return Segmented(index, name, pixels, ann, masks, simulation, ann_seconds, snn_seconds)

    def _prepared(self, pixels: Any) -> Tensor:
        """A tile as the network's input, (1, H, W)."""
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
        """Readout of the analog network, (C, H, W), in the same tiles with the same weights."""
        network = self.snn.network
        output = np.zeros((_channels(network), *pixels.shape), dtype=np.float32)
        for where, weight in places_of(self.axes(pixels.shape)):
            x = self._prepared(pixels[where])[None].to(network.device)
            with torch.inference_mode():
                (result,) = pytree.tree_leaves(network(x))
            part = result[0].cpu().numpy() * weight
            index = (slice(None), *where)
            output[index] += part.astype(np.float32, copy=False)
        return output

    def _mask(self, output: NDArray[Any]) -> Mask:
        guess = prediction(torch.from_numpy(output)[None], cut_of(self.snn.network))
        mask: Mask = guess[0].numpy() > 0
        return mask


__all__ = ["PixelCounts", "Segmented", "fitting_tile", "resized", "segment"]

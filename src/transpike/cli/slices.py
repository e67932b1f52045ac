"""What `transpike segment` opens: the slices, their labels, and the spiking network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import transpike as tp
from transpike.cli.options import SEGMENT_TILE, Conversion, Machine, Source
from transpike.cli.run import is_volumes, load_saved, open_device, open_run
from transpike.cli.segment import Slices
from transpike.cli.untrained import is_saved
from transpike.data import Normalization
from transpike.data.volumes import Volume, open_stack
from transpike.data.voxel_size import VoxelSize
from transpike.segment import fitting_tile, resized

_MOST_SHOWN = 4  # slices in the overview


def open_network(
    model: str,
    source: Source,
    conversion: Conversion,
    machine: Machine,
    normalization: Normalization,
    timesteps: int,
    size: Sequence[int],
    overlap: int | None,
) -> tuple[tp.SpikingNetwork, dict[str, Any] | None]:
    """Opens the network for tiles of the slices.

    Args:
        model: a model's name, or the folder of a saved network.
        source: the options that name the weights, the data to calibrate on and the tile.
        conversion: the options of the conversion.
        machine: the options of the machine.
        normalization: of the slices, and of the calibration.
        timesteps: T.
        size: height and width of a slice, pixels.
        overlap: pixels that tiles share; the receptive field where None.

    Returns:
        The network, and what it was calibrated on; None where the folder says so.

    Raises:
        ArgumentError: an option does not go with the model or the data.
        FileError: a file is missing or damaged.
        DataError: the data or the slices do not fit the network.
    """
    if is_saved(model):
        return _saved(model, source, conversion, machine, size, overlap), None
    if source.data is None or not is_volumes(source.data):
        raise tp.ArgumentError(
            "segment: needed --data lucchi:PATH, whose training slices set the thresholds, or "
            f"a folder that transpike convert saved, got {source.data!r}."
        )
    run = open_run(replace(source, tile=None), machine, normalization=normalization)
    snn, built = run.convert(model, conversion, timesteps)
    sides = fitting_tile(snn.network, size, source.tile or SEGMENT_TILE, overlap)
    if sides != snn.network.input_shape[1:]:
        snn = snn.at(sides) if snn.network.sizes.vary else resized(snn, built, sides)
    return snn, run.record(model, snn.network)["calibration"]


def _saved(
    folder: str,
    source: Source,
    conversion: Conversion,
    machine: Machine,
    size: Sequence[int],
    overlap: int | None,
) -> tp.SpikingNetwork:
    if source.data is not None:
        raise tp.ArgumentError(
            f"--data: {folder!r} is a converted network and needs no calibration. Leave "
            "the option out."
        )
    snn = load_saved(folder, source, conversion, open_device(machine.device))
    shape, tile = snn.network.input_shape, source.tile
    if snn.network.sizes.vary:
        return snn.at(fitting_tile(snn.network, size, tile or SEGMENT_TILE, overlap))
    if tile is not None and shape[1:] != (tile, tile):
        raise tp.ArgumentError(
            f"--tile {tile}: the saved network takes inputs of {shape}. Leave the option out, "
            f"or convert again with --tile {tile}."
        )
    return snn


@dataclass(frozen=True)
class Opened:
    """The slices of a command.

    Attributes:
        volume: where they are.
        wanted: the options that choose slices.
        stack: all slices.
        truth: their true masks, or None.
        chosen: indices of the slices to segment.
        drawn: indices of the slices to draw.
        voxel_size: for masks.tif; None where it is unknown.
    """

    volume: Path
    wanted: Slices
    stack: Volume
    truth: Volume | None
    chosen: list[int]
    drawn: list[int]
    voxel_size: VoxelSize | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        labels = self.wanted.labels
        return {
            "volume": str(self.volume),
            "labels": None if labels is None else str(labels),
            "shape": list(self.stack.shape),
            "maximum": self.stack.maximum,
            "voxel_size_nm": None if self.voxel_size is None else self.voxel_size.to_list(),
        }


def open_slices(volume: Path, wanted: Slices) -> Opened:
    """Opens the volume and chooses its slices.

    Raises:
        ArgumentError: an option names no slice.
        DataError: the labels do not fit the slices.
        FileError: a file is missing or damaged.
    """
    stack = open_stack(volume)
    truth = _labels(wanted.labels, stack)
    chosen = _chosen(wanted.slices, wanted.limit, stack.shape[0])
    drawn = _shown(wanted.show, chosen)
    text = wanted.voxel_size
    size = stack.voxel_size if text is None else VoxelSize.parse(text)
    return Opened(volume, wanted, stack, truth, chosen, drawn, size)


def _labels(place: Path | None, stack: Volume) -> Volume | None:
    """Opens the true masks of `--labels`, one for every slice."""
    if place is None:
        return None
    truth = open_stack(place, masks=True)
    if truth.shape != stack.shape:
        raise tp.DataError(
            f"--labels {str(place)!r}: needed one mask for every slice, of the size of the "
            f"slice: (slices, height, width) = {stack.shape}, got {truth.shape}."
        )
    return truth


def _chosen(text: str | None, limit: int | None, count: int) -> list[int]:
    """The indices that `--slices` chooses, at most `limit` of them."""
    found = list(range(count))
    if text is not None:
        try:
            parts = [int(part) if part else None for part in text.split(":")]
        except ValueError:
            parts = []
        if not 1 <= len(parts) <= 3 or parts == [None]:
            raise tp.ArgumentError(f"--slices {text!r}: needed a form like 7, 0:10 or 0:100:10.")
        if len(parts) == 1 and parts[0] is not None:
            found = [index for index in found if index == parts[0]]
        elif 0 not in parts[2:]:
            found = found[slice(*parts)]
        else:
            found = []
    if not found:
        raise tp.ArgumentError(
            f"--slices {text!r}: needed at least one of the volume's slices 0..{count - 1}."
        )
    return found[:limit]


def _shown(text: str | None, chosen: Sequence[int]) -> list[int]:
    """The indices that `--show` chooses; by default some that are spread over the chosen ones."""
    if text is None:
        count = min(_MOST_SHOWN, len(chosen))
        places = np.linspace(0, len(chosen) - 1, count).round().astype(int)
        return [chosen[place] for place in places]
    try:
        wanted = sorted({int(part) for part in text.split(",")})
    except ValueError:
        wanted = []
    if not 1 <= len(wanted) <= _MOST_SHOWN or not set(wanted) <= set(chosen):
        raise tp.ArgumentError(
            f"--show {text!r}: needed one to {_MOST_SHOWN} of the slices that are segmented, such "
            f"as {chosen[0]}."
        )
    return wanted

"""What `transpike segment` opens: its slices, their labels, and the spiking network for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import transpike as tp
from transpike.cli.options import Choices
from transpike.cli.run import is_saved, is_volumes, load_saved, open_device, open_run
from transpike.data import Normalization
from transpike.data.volumes import Volume, open_stack
from transpike.segment import fitting_tile, resized

_TILE = 512  # pixels
_MOST_SHOWN = 4  # slices in the overview


@dataclass(frozen=True)
class Source:
    """Where the spiking network comes from."""

    model: str
    choices: Choices
    data: str | None
    normalization: Normalization
    device: str
    seed: int

    def network(
        self, timesteps: int, size: Sequence[int], tile: int | None, overlap: int | None
    ) -> tuple[tp.SpikingNetwork, dict[str, Any] | None]:
        """The network for tiles of slices of this size, and what it was calibrated on, if now."""
        if is_saved(self.model):
            return self._saved(tile), None
        if self.data is None or not is_volumes(self.data):
            raise tp.ArgumentError(
                "segment: needed --data lucchi:PATH, whose training slices set the thresholds, or "
                f"a folder that transpike convert saved, got {self.data!r}."
            )
        run = open_run(self.data, self.device, None, self.seed, normalization=self.normalization)
        snn, model = run.convert(self.model, self.choices, timesteps)
        sides = fitting_tile(snn.network, size, tile or _TILE, overlap)
        if sides != snn.network.input_shape[1:]:
            snn = resized(snn, model, sides)
        calibration = run.record(self.model, self.data, self.choices, snn.network)["calibration"]
        return snn, calibration

    def _saved(self, tile: int | None) -> tp.SpikingNetwork:
        if self.data is not None:
            raise tp.ArgumentError(
                f"--data: {self.model!r} is a converted network and needs no calibration. Leave "
                "the option out."
            )
        snn = load_saved(self.model, self.choices, open_device(self.device))
        shape = snn.network.input_shape
        if tile is not None and shape[1:] != (tile, tile):
            raise tp.ArgumentError(
                f"--tile {tile}: the saved network takes inputs of {shape}. Leave the option out, "
                f"or convert again with --tile {tile}."
            )
        return snn


def open_labels(place: Path | None, stack: Volume) -> Volume | None:
    """The true masks of `--labels`, one for every slice; None where there are none."""
    if place is None:
        return None
    truth = open_stack(place)
    if truth.shape != stack.shape:
        raise tp.DataError(
            f"--labels {str(place)!r}: needed a mask of its own size for every slice, (slices, "
            f"height, width) = {stack.shape}, got {truth.shape}."
        )
    return truth


def chosen_slices(text: str | None, limit: int | None, count: int) -> list[int]:
    """The slices of `--slices`, at most `limit` of them."""
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


def shown_slices(text: str | None, chosen: Sequence[int]) -> list[int]:
    """The slices of `--show`, or some spread over those chosen."""
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

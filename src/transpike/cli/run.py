"""What a command opens: the data, the machine, the network and its conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transpike as tp
from transpike.cli.options import Choices
from transpike.cli.output import progress_bar, provenance
from transpike.conversion.specs import (
    parse_early_stopping,
    parse_neuron,
    parse_passes,
    parse_threshold,
)
from transpike.data import Normalization, Split, VolumeSplit, open_data, open_volumes
from transpike.graph.receptive_field import receptive_field
from transpike.segment import resized
from transpike.zoo.demo import CALIBRATION_SIZE
from transpike.zoo.models import build_model

_CONFIG_FILE = "config.json"  # what a saved network is recognized by
_TIMESTEPS = 32  # of a run where neither the user nor a recipe says
_TOGETHER = 128  # images in a batch
_CALIBRATION_TILES = 64
_CALIBRATION_SIDE = 256  # pixels of a tile of a training slice, at most
_PIXELS_TOGETHER = 2**20  # in a batch of tiles or slices


def run_length(timesteps: int | None, recipe: Path | None) -> int:
    """T of a run: what the user says, else what the recipe is for, else 32."""
    if timesteps is not None:
        return timesteps
    return _TIMESTEPS if recipe is None else tp.Recipe.load(recipe).timesteps


@dataclass(frozen=True)
class Run:
    """The data and the machine of one command.

    Args:
        train: what calibration draws from.
        test: what is measured on.
        classes: their names, in label order.
        device: of the network.
        batch_size: images or tiles at a time; None for tiles of a megapixel together.
        seed: of every random choice.
        tile: side of the tiles that the user wants of volumes, pixels.
        part: of volumes, that `test` is: test or val.
    """

    train: Split | VolumeSplit
    test: Split | VolumeSplit
    classes: tuple[str, ...]
    device: torch.device
    batch_size: int | None
    seed: int
    tile: int | None = None
    part: str = "test"

    @property
    def normalization(self) -> Normalization:
        """Of the input."""
        return self.test.normalization

    def at_once(self, split: Split | VolumeSplit) -> int:
        """Images or tiles in a batch."""
        if self.batch_size is not None:
            return self.batch_size
        assert isinstance(split, VolumeSplit)
        height, width = split.tile_shape
        return max(1, _PIXELS_TOGETHER // (height * width))

    def batches(self, split: Split | VolumeSplit) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's batches, on the device."""
        for images, labels in split.batches(self.at_once(split)):
            yield images.to(self.device), labels.to(self.device)

    def convert(
        self, name: str, choices: Choices, timesteps: int | None
    ) -> tuple[tp.SpikingNetwork, nn.Module]:
        """Builds, captures, calibrates and converts the model `name`; also returns the model."""
        recipe = self.recipe(choices, timesteps)
        model = build_model(name, choices.weights, choices.num_classes).to(self.device)
        images = self.calibration_images(choices)
        example, _ = next(self.batches(images))
        network = tp.capture(model, example)
        count = -(-len(images) // self.at_once(images))
        with progress_bar("calibrate", count) as progress:
            calibration = tp.calibrate(network, self.batches(images), progress=progress)
        inputs = [x for x, _ in self.batches(images)] if recipe.passes else None
        snn = tp.convert(
            network,
            calibration,
            neuron=recipe.neuron,
            threshold=recipe.threshold,
            timesteps=recipe.timesteps if choices.recipe or timesteps else None,
            passes=recipe.passes,
            batches=inputs,
        )
        return snn, model

    def recipe(self, choices: Choices, timesteps: int | None) -> tp.Recipe:
        """The recipe of `--recipe`, or what the other options say."""
        if choices.recipe is not None:
            fixed = "neuron threshold granularity initial_membrane passes".split()
            clash = [f"--{n.replace('_', '-')}" for n in fixed if getattr(choices, n) is not None]
            if clash:
                raise tp.ArgumentError(
                    f"--recipe: {', '.join(clash)} cannot change a recipe. Leave these options out."
                )
            return tp.Recipe.load(choices.recipe)
        membrane = 0.5 if choices.initial_membrane is None else choices.initial_membrane
        passes = () if choices.passes is None else parse_passes(choices.passes)
        if passes and timesteps is None:
            raise tp.ArgumentError("--passes: a pass is for one T. Give --timesteps.")
        return tp.Recipe(
            timesteps or 1,
            parse_neuron(choices.neuron or "if", membrane),
            parse_threshold(
                choices.threshold or "percentile:99.9", choices.granularity or "channel"
            ),
            passes,
        )

    def captured(self, name: str, choices: Choices) -> tuple[tp.Network, list[Tensor]]:
        """The captured model `name`, and batches of calibration images."""
        model = build_model(name, choices.weights, choices.num_classes).to(self.device)
        images = [x for x, _ in self.batches(self.calibration_images(choices))]
        return tp.capture(model, images[0]), images

    def loaded_or_converted(
        self, model: str, choices: Choices, timesteps: int, *, whole: bool = False
    ) -> tuple[tp.SpikingNetwork, Choices | None]:
        """A saved network, or the model converted now with these choices.

        With `whole` a network converted now takes whole slices of volumes, where it can and no
        tile is given.
        """
        if not is_saved(model):
            snn, built = self.convert(model, choices, timesteps)
            if whole and self.tile is None and isinstance(self.test, VolumeSplit):
                snn = _for_whole_slices(snn, built, self.test.slice_shape)
            return snn, choices
        return load_saved(model, choices, self.device), None

    def test_images(
        self, network: tp.Network, limit: int | None, *, strict: bool = False
    ) -> Split | VolumeSplit:
        """A random part of the test images, or of the tiles or slices the network takes.

        Args:
            network: its input decides between tiles and slices.
            limit: at most so many; all where None.
            strict: refuse a limit above what there is.
        """
        found = self.test
        if isinstance(found, VolumeSplit):
            found = found.with_tile(self._tile_of(network, found))
        if limit is None:
            return found
        return found.subset(limit if strict else min(limit, len(found)), self.seed)

    def _tile_of(self, network: tp.Network, split: VolumeSplit) -> int | None:
        """Side of the tiles that fit the network's input; None for whole slices."""
        shape = network.input_shape
        if self.tile is not None and shape != (1, self.tile, self.tile):
            raise tp.ArgumentError(
                f"--tile {self.tile}: the saved network takes inputs of {shape}. Leave the option "
                f"out, or convert again with --tile {self.tile}."
            )
        if shape == (1, *split.slice_shape):
            return None
        if len(shape) != 3 or shape[0] != 1 or shape[1] != shape[2]:
            raise tp.ArgumentError(
                f"volumes are cut into square tiles (1, N, N), and the network takes {shape}. "
                "Convert it with --data lucchi:PATH."
            )
        return shape[1]

    def calibration_images(self, choices: Choices) -> Split | VolumeSplit:
        """A random part of the training images, or of tiles of the training slices."""
        wanted = choices.calibration_size
        if wanted is None and isinstance(self.train, VolumeSplit):
            wanted = min(_CALIBRATION_TILES, len(self.train))
        return self.train.subset(wanted or CALIBRATION_SIZE, self.seed)

    def stopping_rule(
        self, snn: tp.SpikingNetwork, text: str | None, timesteps: int, choices: Choices
    ) -> tp.EarlyStopping | None:
        """The rule of `--early-stopping`, with a threshold from training images by default."""
        if text is None:
            return None
        if isinstance(self.train, VolumeSplit):
            raise tp.ArgumentError(
                "--early-stopping: early stopping is for classification, and these data are "
                "volumes. Leave the option out."
            )
        rule, threshold = parse_early_stopping(text)
        if threshold is not None:
            return tp.EarlyStopping(rule, threshold)
        images = self.batches(self.calibration_images(choices))
        return tp.fit_early_stopping(snn, images, timesteps, rule=rule)

    def record(
        self, model: str, data: str, choices: Choices | None, network: tp.Network
    ) -> dict[str, Any]:
        """What a result needs to be repeated; a saved network keeps its own calibration."""
        calibration: dict[str, Any] | None = None
        if choices is not None:
            used = self.calibration_images(choices)
            calibration = {"data": data, "split": "train", "n": len(used), "seed": self.seed}
            if isinstance(used, VolumeSplit):
                calibration["tile"] = list(used.tile_shape)
        volumes: dict[str, Any] = {}
        if isinstance(self.test, VolumeSplit):
            volumes = {"split": self.part, "tile": list(network.input_shape[1:])}
        return {
            "model": model,
            "data": data,
            **volumes,
            "normalization": self.normalization.to_dict(),
            "calibration": calibration,
            "batch_size": self.batch_size,
            "device": str(self.device),
            **provenance(self.seed),
        }


def open_run(
    data: str,
    device: str,
    batch_size: int | None,
    seed: int,
    *,
    together: int = _TOGETHER,
    tile: int | None = None,
    split: str | None = None,
    normalization: Normalization | None = None,
) -> Run:
    """Opens the data and the device of a command.

    Args:
        data: what `open_data` or `open_volumes` takes.
        device: of the network.
        batch_size: of `--batch-size`.
        seed: of `--seed`.
        together: images in a batch where no batch size is given.
        tile: of `--tile`.
        split: of `--split`.
        normalization: of the input; the data's own where None.

    Raises:
        ArgumentError: an option is unknown or does not go with the data.
        FileError: the data are missing or damaged.
        DataError: the data are unusable.
    """
    if not is_volumes(data):
        options = {"--tile": tile, "--split": split}
        given = [name for name, value in options.items() if value is not None]
        if given:
            raise tp.ArgumentError(
                f"{', '.join(given)}: for volumes only, as --data lucchi:PATH. Leave it out."
            )
        images = open_data(data, normalization)
        size = batch_size or together
        return Run(images.train, images.test, images.classes, open_device(device), size, seed)
    volumes = open_volumes(data, normalization)
    parts = {"test": volumes.test, "val": volumes.validation}
    part = split or "test"
    if part not in parts:
        raise tp.ArgumentError(f"--split: needed test or val, got {split!r}.")
    chosen = volumes.train.tile if tile is None else tile
    train = volumes.train.with_tile(chosen or _default_side(volumes.train.slice_shape))
    test = parts[part].with_tile(chosen)
    classes = volumes.classes
    return Run(train, test, classes, open_device(device), batch_size, seed, chosen, part)


def data_shape(data: str, tile: int | None) -> tuple[int, ...]:
    """Shape of one input: an image, or the tile of volumes that calibration sees.

    Raises:
        ArgumentError: see `open_run`.
        FileError: see `open_run`.
        DataError: see `open_run`.
    """
    if not is_volumes(data) and tile is None:
        return open_data(data).input_shape
    train = open_run(data, "cpu", None, 0, tile=tile).train
    assert isinstance(train, VolumeSplit)
    return (1, *train.tile_shape)


def is_volumes(data: str) -> bool:
    """Whether these are volumes with masks."""
    return data.partition(":")[0] == "lucchi"


def is_saved(model: str) -> bool:
    """Whether this is a folder that holds a converted network."""
    return (Path(model) / _CONFIG_FILE).is_file()


def load_saved(model: str, choices: Choices, device: torch.device) -> tp.SpikingNetwork:
    """A converted network from its folder.

    Raises:
        ArgumentError: options were given that decide a conversion.
        FileError: the folder is damaged.
    """
    if choices.given():
        raise tp.ArgumentError(
            f"{model!r} is a converted network: {', '.join(choices.given())} cannot change it. "
            "Leave these options out, or convert again."
        )
    return tp.load(model).to(device)


def _default_side(shape: tuple[int, int]) -> int:
    """The largest power of two that fits, which suits networks that halve the size; at most 256."""
    side = min(_CALIBRATION_SIDE, *shape)
    return 1 << (side.bit_length() - 1)


def _for_whole_slices(
    snn: tp.SpikingNetwork, model: nn.Module, shape: tuple[int, int]
) -> tp.SpikingNetwork:
    """The network for whole slices, or as it is where it is not fully convolutional."""
    try:
        strides = receptive_field(snn.network).alignment
    except tp.UnsupportedError:
        return snn
    if any(side % stride for side, stride in zip(shape, strides, strict=True)):
        raise tp.ArgumentError(
            f"slices of {shape[0]} x {shape[1]} pixels: the network needs multiples of "
            f"{strides[0]} x {strides[1]}. Cut them into tiles, with --tile N."
        )
    return snn if shape == snn.network.input_shape[1:] else resized(snn, model, shape)


def open_device(name: str) -> torch.device:
    """The device of `--device`.

    Raises:
        ArgumentError: it cannot be used.
    """
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise tp.ArgumentError(
            f"--device {name!r} cannot be used: {reason}. Use --device cpu."
        ) from error
    return device

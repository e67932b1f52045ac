"""What a command opens: the data, the machine, the network and its conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import transpike as tp
from transpike.cli.completion import DATA
from transpike.cli.options import CALIBRATION_TILE, Conversion, Machine, Part, Source, option_names
from transpike.cli.output import progress_bar, provenance
from transpike.cli.untrained import (
    UNTRAINED,
    heading,
    is_saved,
    is_untrained,
    trained_weights,
    untrained_seed,
    warn_untrained,
)
from transpike.conversion.specs import (
    parse_early_stopping,
    parse_neuron,
    parse_passes,
    parse_threshold,
)
from transpike.data import Normalization, Split, VolumeSplit, open_data, open_volumes
from transpike.graph.network import Value
from transpike.graph.receptive_field import receptive_field
from transpike.segment import resized
from transpike.zoo.demo import CALIBRATION_SIZE
from transpike.zoo.models import build_model

_TIMESTEPS = 32  # of a run where neither the user nor a recipe says
_TOGETHER = 128  # images in a batch
_CALIBRATION_TILES = 64
_PIXELS_TOGETHER = 2**20  # in a batch of tiles or slices


def run_length(timesteps: int | None, recipe: Path | None) -> int:
    """T of a run: what the user says, or what the recipe is for, or 32."""
    if timesteps is not None:
        return timesteps
    return _TIMESTEPS if recipe is None else tp.Recipe.load(recipe).timesteps


@dataclass(frozen=True)
class Run:
    """The data and the machine of one command.

    Args:
        source: the options that name the model and the data.
        seed: seed of every random choice.
        train: the data that calibration draws from.
        test: the data that a network is measured on.
        classes: names of the classes, in label order.
        device: device of the network.
        batch_size: images or tiles that run together; None for as many tiles as have a megapixel.
        tile: side in pixels of the tiles that the user wants for volumes.
        part: which part of the volumes `test` is: test or val.
    """

    source: Source
    seed: int
    train: Split | VolumeSplit
    test: Split | VolumeSplit
    classes: tuple[str, ...]
    device: torch.device
    batch_size: int | None
    tile: int | None = None
    part: str = "test"

    @property
    def normalization(self) -> Normalization:
        """Normalization of the input."""
        return self.test.normalization

    def at_once(self, split: Split | VolumeSplit) -> int:
        """How many images or tiles a batch has."""
        if self.batch_size is not None:
            return self.batch_size
        assert isinstance(split, VolumeSplit)
        height, width = split.tile_shape
        return max(1, _PIXELS_TOGETHER // (height * width))

    def batches(self, split: Split | VolumeSplit) -> Iterator[tuple[Tensor, Tensor]]:
        """The batches of the split, on the device."""
        for images, labels in split.batches(self.at_once(split)):
            yield images.to(self.device), labels.to(self.device)

    def model(self, name: str) -> nn.Module:
        """Builds the model `name`, on the device; warns where its weights are untrained."""
        if is_untrained(name, self.source):
            warn_untrained(name, self.seed, trained_weights(name))
        source = self.source
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)
            model = build_model(
                name, source.weights, source.num_classes, pretrained=bool(source.pretrained)
            )
        return model.to(self.device)

    def untrained(self, name: str, snn: tp.SpikingNetwork | None = None) -> int | None:
        """The seed of untrained weights; None for other weights."""
        if snn is not None:
            return untrained_seed(snn)
        return self.seed if is_untrained(name, self.source) else None

    def heading(self, name: str, snn: tp.SpikingNetwork | None = None) -> str:
        """What stands above the results; empty where there is nothing to say."""
        return heading(self.untrained(name, snn))

    def convert(
        self, name: str, conversion: Conversion, timesteps: int | None
    ) -> tuple[tp.SpikingNetwork, nn.Module]:
        """Builds, captures, calibrates and converts the model `name`; returns the model too."""
        recipe = recipe_of(conversion, timesteps)
        model = self.model(name)
        images = self.calibration_images()
        example, _ = next(self.batches(images))
        network = self.capture(model, example)
        count = -(-len(images) // self.at_once(images))
        with progress_bar("calibrate", count) as progress:
            calibration = tp.calibrate(network, self.batches(images), progress=progress)
        inputs = [x for x, _ in self.batches(images)] if recipe.passes else None
        snn = tp.convert(
            network,
            calibration,
            neuron=recipe.neuron,
            threshold=recipe.threshold,
            timesteps=recipe.timesteps if conversion.recipe or timesteps else None,
            passes=recipe.passes,
            batches=inputs,
        )
        if is_untrained(name, self.source):
            snn = snn.changed(settings={**snn.settings, UNTRAINED: self.seed})
        return snn, model

    def captured(self, name: str) -> tuple[tp.Network, list[Tensor]]:
        """The captured model `name`, and batches of calibration images."""
        images = [x for x, _ in self.batches(self.calibration_images())]
        return self.capture(self.model(name), images[0]), images

    def capture(self, model: nn.Module, example: Tensor) -> tp.Network:
        """Captures the model; where it does not take the data, the error names `--data`."""
        try:
            return tp.capture(model, example)
        except tp.DataError as error:
            raise tp.DataError(f"--data {self.source.data}: {error}") from error

    def loaded_or_converted(
        self, name: str, conversion: Conversion, timesteps: int, *, whole: bool = False
    ) -> tuple[tp.SpikingNetwork, nn.Module | None]:
        """Loads a saved network, or converts a model now.

        Args:
            name: the folder of a saved network, or the name of a model.
            conversion: the options of the conversion.
            timesteps: T.
            whole: make the network take whole slices of volumes, if it can and the user gives no
                tile. With a tile it takes that tile in any case, if it can.

        Returns:
            The spiking network, and the model if it was converted now.
        """
        model: nn.Module | None = None
        if is_saved(name):
            snn = load_saved(name, self.source, conversion, self.device)
        else:
            snn, model = self.convert(name, conversion, timesteps)
        if isinstance(self.test, VolumeSplit):
            if self.tile is not None and snn.network.sizes.vary:
                snn = snn.at((self.tile, self.tile))
            elif self.tile is None and whole:
                snn = _for_whole_slices(snn, model, self.test.slice_shape)
        return snn, model

    def test_images(
        self, network: tp.Network, limit: int | None, *, strict: bool = False
    ) -> Split | VolumeSplit:
        """A random part of the test images, or of the tiles or slices the network takes.

        Args:
            network: the shape of its input decides between tiles and slices.
            limit: largest number of images; all where None.
            strict: refuse a limit that is larger than the data set.
        """
        found = self.test
        if isinstance(found, VolumeSplit):
            found = found.with_tile(self._tile_of(network, found))
        else:
            _check_classes(network, len(self.classes))
        if limit is None:
            return found
        if not strict:
            limit = min(limit, len(found))
        return _part(found, limit, self.seed, "--limit", "test")

    def _tile_of(self, network: tp.Network, split: VolumeSplit) -> int | None:
        """Side of the tiles that fit the input of the network; None for whole slices."""
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

    def calibration_images(self) -> Split | VolumeSplit:
        """A random part of the training images, or of tiles of the training slices."""
        wanted = self.source.calibration_size
        if wanted is None and isinstance(self.train, VolumeSplit):
            wanted = min(_CALIBRATION_TILES, len(self.train))
        if wanted is None:
            wanted = CALIBRATION_SIZE
        return _part(self.train, wanted, self.seed, "--calibration-size", "training")

    def stopping_rule(
        self, snn: tp.SpikingNetwork, text: str | None, timesteps: int
    ) -> tp.EarlyStopping | None:
        """The rule of `--early-stopping`; a missing threshold is fitted on training images."""
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
        images = self.batches(self.calibration_images())
        return tp.fit_early_stopping(snn, images, timesteps, rule=rule)

    def record(self, model: str, made: tp.SpikingNetwork | tp.Network) -> dict[str, Any]:
        """What a result needs to be repeated.

        Args:
            model: what the user named; a saved network keeps its own calibration.
            made: the spiking network, or the captured network where there are several.
        """
        snn = made if isinstance(made, tp.SpikingNetwork) else None
        network = made.network if isinstance(made, tp.SpikingNetwork) else made
        data = self.source.data
        calibration: dict[str, Any] | None = None
        if not is_saved(model):
            used = self.calibration_images()
            calibration = {"data": data, "split": "train", "n": len(used), "seed": self.seed}
            if isinstance(used, VolumeSplit):
                calibration["tile"] = list(used.tile_shape)
        volumes: dict[str, Any] = {}
        if isinstance(self.test, VolumeSplit):
            volumes = {"split": self.part, "tile": list(network.input_shape[1:])}
        return {
            "model": model,
            "untrained": self.untrained(model, snn) is not None,
            "data": data,
            **volumes,
            "normalization": self.normalization.to_dict(),
            "calibration": calibration,
            "batch_size": self.batch_size,
            "device": str(self.device),
            **provenance(self.seed),
        }


def open_run(
    source: Source,
    machine: Machine,
    part: Part | None = None,
    *,
    together: int = _TOGETHER,
    normalization: Normalization | None = None,
) -> Run:
    """Opens the data and the device of a command.

    Args:
        source: the options that name the model and the data.
        machine: the options of the machine.
        part: the options that choose what is measured on.
        together: images in a batch if the user gives no batch size.
        normalization: normalization of the input; None for that of the data set.

    Raises:
        ArgumentError: an option is unknown or does not go with the data.
        FileError: the data are missing or damaged.
        DataError: the data are unusable.
    """
    split = None if part is None else part.split
    device = open_device(machine.device)
    data = required_data(source)
    if not is_volumes(data):
        given = option_names({"tile": source.tile, "split": split})
        if given:
            raise tp.ArgumentError(
                f"{', '.join(given)}: for volumes only, as in --data lucchi:PATH. Leave it out."
            )
        images = open_data(data, normalization)
        size = machine.batch_size or together
        return Run(source, machine.seed, images.train, images.test, images.classes, device, size)
    volumes = open_volumes(data, normalization)
    parts = {"test": volumes.test, "val": volumes.validation}
    chosen_part = split or "test"
    if chosen_part not in parts:
        raise tp.ArgumentError(f"--split: needed test or val, got {split!r}.")
    chosen = volumes.train.tile if source.tile is None else source.tile
    return Run(
        source,
        machine.seed,
        volumes.train.with_tile(chosen or _default_side(volumes.train.slice_shape)),
        parts[chosen_part].with_tile(chosen),
        volumes.classes,
        device,
        machine.batch_size,
        chosen,
        chosen_part,
    )


def required_data(source: Source) -> str:
    """The data set of `--data`.

    Raises:
        ArgumentError: the user gave none.
    """
    if source.data is None:
        forms = ", ".join(f"{name}PATH" if name.endswith(":") else name for name in DATA)
        raise tp.ArgumentError(f"--data: needed one of {forms}, got none. Give --data.")
    return source.data


def data_shape(source: Source) -> tuple[int, ...]:
    """Shape of one input: an image, or the tile of volumes that calibration sees.

    Raises:
        ArgumentError: see `open_run`.
        FileError: see `open_run`.
        DataError: see `open_run`.
    """
    data = required_data(source)
    if not is_volumes(data) and source.tile is None:
        return open_data(data).input_shape
    train = open_run(source, Machine()).train
    assert isinstance(train, VolumeSplit)
    return (1, *train.tile_shape)


def is_volumes(data: str) -> bool:
    """Whether these are volumes with masks."""
    return data.partition(":")[0] == "lucchi"


def load_saved(
    folder: str, source: Source, conversion: Conversion, device: torch.device
) -> tp.SpikingNetwork:
    """Loads a converted network from its folder.

    Raises:
        ArgumentError: options were given that decide a conversion.
        FileError: the folder is damaged.
    """
    given = option_names(
        {
            "weights": source.weights,
            "pretrained": source.pretrained,
            "num_classes": source.num_classes,
            **vars(conversion),
            "calibration_size": source.calibration_size,
        }
    )
    if given:
        raise tp.ArgumentError(
            f"{folder!r} is a converted network: {', '.join(given)} cannot change it. "
            "Leave these options out, or convert again."
        )
    snn = tp.load(folder).to(device)
    seed = untrained_seed(snn)
    if seed is not None:
        warn_untrained(folder, seed, "Convert the model again with trained weights.")
    return snn


def recipe_of(conversion: Conversion, timesteps: int | None) -> tp.Recipe:
    """The recipe of `--recipe`, or the recipe that the other options describe.

    Raises:
        ArgumentError: an option is unknown, or does not go with another.
        FileError: the recipe cannot be read.
    """
    if conversion.recipe is not None:
        clash = option_names({**vars(conversion), "recipe": None})
        if clash:
            raise tp.ArgumentError(
                f"--recipe: {', '.join(clash)} cannot change a recipe. Leave these options out."
            )
        return tp.Recipe.load(conversion.recipe)
    membrane = 0.5 if conversion.initial_membrane is None else conversion.initial_membrane
    passes = () if conversion.passes is None else parse_passes(conversion.passes)
    if passes and timesteps is None:
        raise tp.ArgumentError(
            "--passes: needed the number of timesteps, got none. Give --timesteps."
        )
    rule, granularity = conversion.threshold, conversion.granularity
    return tp.Recipe(
        timesteps or 1,
        parse_neuron(conversion.neuron or "if", membrane),
        parse_threshold(rule or "percentile:99.9", granularity or "channel"),
        passes,
    )


def _part(
    split: Split | VolumeSplit, n: int, seed: int, option: str, kind: str
) -> Split | VolumeSplit:
    """A random part of `n` images, of the size that this option asks for."""
    if not 1 <= n <= len(split):
        unit = "tiles" if isinstance(split, VolumeSplit) else "images"
        raise tp.ArgumentError(
            f"{option}: needed 1..{len(split)} {unit}, got {n}. The data set has {len(split)} "
            f"{kind} {unit}: give {option} {len(split)} or less."
        )
    return split.subset(n, seed)


def _check_classes(network: tp.Network, classes: int) -> None:
    """Refuse labels that are no classes of the network."""
    output = network.outputs[0]
    node = network.by_name.get(output.name) if isinstance(output, Value) else None
    if node is None or node.shape is None or node.shape[1:] == (classes,):
        return
    shape = node.shape[1:]
    outputs = f"{shape[0]} outputs" if len(shape) == 1 else f"outputs of shape {shape}"
    raise tp.ArgumentError(
        f"cannot measure an accuracy: the data set has {classes} classes, and the network has "
        f"{outputs}. Give --num-classes {classes} and weights for them, or other data."
    )


def _default_side(shape: tuple[int, int]) -> int:
    """The largest power of two up to CALIBRATION_TILE that fits; many networks halve the size."""
    side = min(CALIBRATION_TILE, *shape)
    return 1 << (side.bit_length() - 1)


def _for_whole_slices(
    snn: tp.SpikingNetwork, model: nn.Module | None, shape: tuple[int, int]
) -> tp.SpikingNetwork:
    """The network for whole slices; unchanged if it is not fully convolutional."""
    try:
        strides = receptive_field(snn.network).alignment
    except tp.UnsupportedError:
        return snn
    if any(side % stride for side, stride in zip(shape, strides, strict=True)):
        raise tp.ArgumentError(
            f"slices of {shape[0]} x {shape[1]} pixels: the network needs multiples of "
            f"{strides[0]} x {strides[1]}. Cut them into tiles, with --tile N."
        )
    if snn.network.sizes.vary:
        return snn.at(shape)
    if model is None or shape == snn.network.input_shape[1:]:
        return snn
    return resized(snn, model, shape)


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

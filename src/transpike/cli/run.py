"""What a command opens: the data, the machine, the network and its conversion."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import transpike as tp
from transpike.cli.options import Choices
from transpike.cli.output import progress_bar, provenance
from transpike.data import Dataset, Split
from transpike.demo import CALIBRATION_SIZE
from transpike.models import build_model
from transpike.specs import parse_neuron, parse_passes, parse_threshold, parse_until

_CONFIG_FILE = "config.json"  # what a saved network is recognised by


@dataclass(frozen=True)
class Run:
    """The data and the machine of one command."""

    data: Dataset
    device: torch.device
    batch_size: int
    seed: int

    def batches(self, split: Split) -> Iterator[tuple[Tensor, Tensor]]:
        """The split's batches, on the device."""
        for images, labels in split.batches(self.batch_size):
            yield images.to(self.device), labels.to(self.device)

    def count(self, images: int) -> int:
        """Number of batches."""
        return -(-images // self.batch_size)

    def convert(self, name: str, choices: Choices, timesteps: int | None) -> tp.SpikingNetwork:
        """Builds, captures, calibrates and converts the model `name`."""
        recipe = self.recipe(choices, timesteps)
        model = build_model(name, choices.weights, choices.num_classes).to(self.device)
        images = self.calibration_images(choices)
        example, _ = next(self.batches(images))
        network = tp.capture(model, example)
        with progress_bar("calibrate", self.count(len(images))) as progress:
            calibration = tp.calibrate(network, self.batches(images), progress=progress)
        inputs = [x for x, _ in self.batches(images)] if recipe.calibrate else None
        return tp.convert(
            network,
            calibration,
            neuron=recipe.neuron,
            threshold=recipe.threshold,
            timesteps=recipe.timesteps if choices.recipe or timesteps else None,
            calibrate=recipe.calibrate,
            batches=inputs,
        )

    def recipe(self, choices: Choices, timesteps: int | None) -> tp.Recipe:
        """The recipe of `--recipe`, or what the other options say."""
        if choices.recipe is not None:
            fixed = "neuron threshold granularity initial_membrane calibrate".split()
            clash = [f"--{n.replace('_', '-')}" for n in fixed if getattr(choices, n) is not None]
            if clash:
                raise tp.ArgumentError(
                    f"--recipe: {', '.join(clash)} cannot change a recipe. Leave these options out."
                )
            return tp.Recipe.load(choices.recipe)
        membrane = 0.5 if choices.initial_membrane is None else choices.initial_membrane
        passes = () if choices.calibrate is None else parse_passes(choices.calibrate)
        if passes and timesteps is None:
            raise tp.ArgumentError("--calibrate: a pass is for one T. Give --timesteps.")
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
        self, model: str, choices: Choices, timesteps: int
    ) -> tuple[tp.SpikingNetwork, Choices | None]:
        """A saved network, or the model converted now with these choices."""
        if not (Path(model) / _CONFIG_FILE).is_file():
            return self.convert(model, choices, timesteps), choices
        if choices.given():
            raise tp.ArgumentError(
                f"{model!r} is a converted network: {', '.join(choices.given())} cannot change it. "
                "Leave these options out, or convert again."
            )
        return tp.load(model).to(self.device), None

    def test_images(self, limit: int | None) -> Split:
        """A random part of the test images, at most `limit`."""
        count = len(self.data.test)
        return (
            self.data.test if limit is None else self.data.test.subset(min(limit, count), self.seed)
        )

    def calibration_images(self, choices: Choices) -> Split:
        """A random part of the training images."""
        wanted = choices.calibration_size or CALIBRATION_SIZE
        return self.data.train.subset(wanted, self.seed)

    def stopping_rule(
        self, snn: tp.SpikingNetwork, text: str | None, timesteps: int, choices: Choices
    ) -> tp.Until | None:
        """The rule of `--until`, its threshold taken from training images where none is given."""
        if text is None:
            return None
        rule, threshold = parse_until(text)
        if threshold is not None:
            return tp.Until(rule, threshold)
        images = self.batches(self.calibration_images(choices))
        return tp.fit_until(snn, images, timesteps, rule=rule)

    def record(
        self, model: str, data: str, choices: Choices | None, snn: tp.SpikingNetwork | None
    ) -> dict[str, Any]:
        """What a result needs to be repeated; a saved network keeps its own calibration."""
        calibration: dict[str, Any] | None = None
        if choices is not None:
            used = self.calibration_images(choices)
            calibration = {"data": data, "split": "train", "n": len(used), "seed": self.seed}
        return {
            "model": model,
            "data": data,
            "normalisation": self.data.normalisation.to_dict(),
            "calibration": calibration,
            "batch_size": self.batch_size,
            "device": str(self.device),
            **provenance(self.seed),
        }


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

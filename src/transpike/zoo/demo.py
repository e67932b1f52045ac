"""The demo: a small network for the digits of scikit-learn, converted with four neurons."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from transpike.conversion.calibrate import calibrate
from transpike.conversion.convert import convert as convert_network
from transpike.data import Dataset, open_data
from transpike.errors import FileError
from transpike.graph.capture import capture
from transpike.measure.evaluate import Evaluation
from transpike.report.figures import accuracy_figure, save_figure
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import IF, Burst, Signed
from transpike.spiking.spiking_network import SpikingNetwork
from transpike.zoo.models import digits_cnn
from transpike.zoo.train import train_classifier

CALIBRATION_SIZE = 512  # training images; with more of them the quantiles do not change
DEFAULT_LABEL = "IF"
_EPOCHS = 8
_BATCH_SIZE = 64


def neurons() -> dict[str, Neuron]:
    """The compared neurons by label. The default comes first."""
    return {
        DEFAULT_LABEL: IF(),
        "signed K=1": Signed(max_count=1),
        "burst K=5": Burst(max_count=5),
        "burst K=4, resolution": Burst(max_count=4, mode="resolution"),
    }


def train(
    seed: int, progress: Callable[[int, int | None], None] | None = None
) -> tuple[nn.Module, Dataset]:
    """Train the network of the demo.

    Args:
        seed: seed of the initial weights and of the order of the images.
        progress: called with the number of finished epochs and of all epochs.

    Returns:
        The network in evaluation mode, and the digits.
    """
    data = open_data("digits")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = digits_cnn()

    def batches(epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = np.random.RandomState([seed, epoch]).permutation(len(data.train))
        return data.train.batches(_BATCH_SIZE, order)

    train_classifier(model, batches, epochs=_EPOCHS, seed=seed, progress=progress)
    return model, data


def convert(model: nn.Module, data: Dataset, neuron: Neuron, seed: int) -> SpikingNetwork:
    """Convert the network with default thresholds, which are calibrated on training images.

    Args:
        model: trained network.
        data: the digits.
        neuron: neuron to use at every site.
        seed: seed of the choice of training images.
    """
    images = data.train.subset(CALIBRATION_SIZE, seed)
    example, _ = next(images.batches(_BATCH_SIZE))
    network = capture(model, example)
    calibration = calibrate(network, images.batches(_BATCH_SIZE))
    return convert_network(network, calibration, neuron=neuron)


def evaluation_batches(data: Dataset) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of all test images with their labels."""
    return data.test.batches(_BATCH_SIZE)


def table(results: Mapping[str, Evaluation]) -> str:
    """A text table with the accuracy of every result at every timestep.

    Args:
        results: results by label, all on the same images.
    """
    first = next(iter(results.values()))
    low, high = first.ann_accuracy_interval
    width = max(len("accuracy"), *(len(label) for label in results)) + 2
    lines = [
        f"ANN {first.ann_accuracy:.2%}, 95 % interval {low:.2%}..{high:.2%}, n = {first.n}",
        "",
        "timesteps" + "".join(label.rjust(width) for label in results),
    ]
    for index in range(first.timesteps):
        row = "".join(f"{result.accuracy[index]:.2%}".rjust(width) for result in results.values())
        lines.append(f"{index + 1:9d}{row}")
    return "\n".join(lines)


def draw(results: Mapping[str, Evaluation], file: Path) -> Path:
    """Draw the results into a PNG file and return its path.

    Args:
        results: results by label.
        file: file to write; its folders are made.

    Raises:
        FileError: the file cannot be written.
    """
    figure = accuracy_figure(results)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, file)
    except OSError as error:
        raise FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error
    return file


__all__ = ["CALIBRATION_SIZE", "DEFAULT_LABEL", "convert", "draw", "neurons", "table", "train"]

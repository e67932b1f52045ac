"""The recipe for the networks of the study on CIFAR-10, such as `resnet18:16`.

Muon moves the convolutions, which all have a BatchNorm behind them, and Nesterov momentum moves
everything else. Both rates rise for a short time and then fall to 0 in a straight line.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from transpike.data import Dataset
from transpike.zoo.models.backbones import backbone, width_of
from transpike.zoo.train.cifar import CifarSettings, CifarTask, Product, train_cifar
from transpike.zoo.train.fit import Progress, Report
from transpike.zoo.train.muon import Muon, linear_decay

# A 1x1 convolution with stride 2 and fewer channels writes past its memory in the backward pass of
# torch 2.14 on x86, if the memory format is channels_last.
_VECTOR = 8
_WARM_UP = 0.05  # share of the steps in which the learning rate rises from 0


@dataclass(frozen=True)
class BackboneSettings(CifarSettings):
    """Settings of the recipe.

    Args:
        rate: learning rate of the classifier and of BatchNorm.
        momentum: their momentum.
        decay: their weight decay.
    """

    epochs: int = 16
    batch_size: int = 256
    muon_rate: float = 0.08
    rate: float = 0.1
    momentum: float = 0.9
    decay: float = 5e-4


class BackboneTask(CifarTask):
    """Trains one of the networks.

    Args:
        name: name of the network, see `backbone`.
        data: images of 32 x 32 pixels with three channels.
        settings: see `BackboneSettings`.

    Raises:
        ArgumentError: the name is unknown, the images have another shape, or there are too few for
            one batch.
    """

    smoothing = 0.1
    settings: BackboneSettings

    def __init__(self, name: str, data: Dataset, settings: BackboneSettings) -> None:
        if width_of(name) % _VECTOR:
            self.memory = torch.contiguous_format
        super().__init__(name, data, settings, lambda: backbone(name, len(data.classes)))

    def configure_optimizers(self) -> Any:
        """Muon for convolutions and Nesterov momentum for the rest; all rates fall to 0."""
        convolutions: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for weight in self.network.parameters():
            (convolutions if weight.dim() == 4 else others).append(weight)
        settings = self.settings
        optimizer = Muon(
            [
                {
                    "params": convolutions,
                    "lr": settings.muon_rate,
                    "momentum": settings.muon_momentum,
                    "orthogonal": True,
                },
                {
                    "params": others,
                    "lr": settings.rate,
                    "momentum": settings.momentum,
                    "weight_decay": settings.decay,
                },
            ]
        )
        return linear_decay(optimizer, self.steps, _WARM_UP)


def train_backbone(
    name: str,
    data: Dataset,
    folder: Path,
    settings: BackboneSettings,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train, write the weights with a card, and score them on the test images once.

    The file of the weights has the name of the network with the width and the seed, for example
    `resnet18-w16-s0.safetensors`.

    Args:
        name: name of the network, see `backbone`.
        data: CIFAR-10, or another data set with images of its shape.
        folder: folder for checkpoints and results.
        settings: see `BackboneSettings`.
        resume: continue from the last checkpoint in `folder`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its scores.

    Returns:
        Settings, scores with n, and the history, ready for JSON.

    Raises:
        ArgumentError: see `BackboneTask` and `fit`.
        FileError: there is nothing to resume, or a file cannot be written.
        DataError: the loss is not finite.
    """
    task = BackboneTask(name, data, settings)
    kind = name.partition(":")[0]
    parameters = sum(weight.numel() for weight in task.network.parameters())
    product = Product(
        f"{kind}-w{width_of(name)}-s{settings.seed}",
        lambda: backbone(name, len(data.classes)),
        f"`{name}`, {parameters / 1e6:.2f} M parameters",
        name,
        f"transpike train {name} --epochs {settings.epochs} --seed {settings.seed}",
        f"Muon and Nesterov momentum, linear decay, lookahead, label smoothing {task.smoothing}",
    )
    return train_cifar(task, folder, product, resume=resume, progress=progress, report=report)


__all__ = ["BackboneSettings", "BackboneTask", "train_backbone"]

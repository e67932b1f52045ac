"""The recipe of `zoo/vgg-cifar.safetensors`. It trains a small VGG on CIFAR-10.

The training takes about an hour on two cores.

Source: Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (whitening stem, identity
start, label smoothing 0.2, alternating flip, translation by 2 pixels, lookahead, large learning
rates for biases), and Muon of the same author. It differs in three points: the network is made for
conversion (ReLU, pooling after the ReLU), there is a validation part, and no number uses test-time
augmentation.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from transpike.data import Dataset
from transpike.zoo.models.vgg_cifar import STEM_KERNEL, WIDTHS, VGGCifar
from transpike.zoo.train.cifar import CifarSettings, CifarTask, Product, all_images, train_cifar
from transpike.zoo.train.fit import Progress, Report
from transpike.zoo.train.muon import Muon, linear_decay

NAME = "vgg-cifar"
_WHITENING_IMAGES = 5000
_WHITENING_EPSILON = 5e-4  # added to the variances. Source: Jordan 2024
_REFERENCE_BATCH = 1024  # images per batch of the rates below, which are scaled linearly
_RATE = 1.5  # learning rate of the classifier. Source: Jordan 2024
_DECAY = 1.33e-3  # weight decay of the classifier and of biases. Source: Jordan 2024
_NORM_MOMENTUM = 0.4  # weight of the newest batch in BatchNorm. Source: Jordan 2024


@dataclass(frozen=True)
class VGGSettings(CifarSettings):
    """Settings of the recipe.

    Args:
        widths: channels of each stage.
        bias_scale: learning rate of biases, divided by that of the classifier.
    """

    widths: tuple[int, ...] = WIDTHS
    bias_scale: float = 8.0


class VGGTask(CifarTask):
    """The small VGG with a whitening stem.

    Args:
        data: images of 32 x 32 pixels with three channels.
        settings: see `VGGSettings`.

    Raises:
        ArgumentError: the images have another shape, or there are too few for one batch.
    """

    logit_scale = 1 / 9  # folded into the classifier at the end. Source: Jordan 2024
    settings: VGGSettings
    network: VGGCifar

    def __init__(self, data: Dataset, settings: VGGSettings) -> None:
        super().__init__(NAME, data, settings, lambda: VGGCifar(len(data.classes), settings.widths))
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _NORM_MOMENTUM
                module.weight.requires_grad = False
        train = len(data.train) - settings.validation
        images = all_images(data.train, np.arange(min(_WHITENING_IMAGES, train)))[0]
        stem: nn.Conv2d = self.network.stem[0]  # type: ignore[assignment]
        whiten(stem, images)

    def configure_optimizers(self) -> Any:
        """Muon for convolutions and Nesterov momentum for the rest; all rates fall to 0."""
        scale = self.settings.batch_size / _REFERENCE_BATCH
        convolutions, biases = [], []
        for name, weight in self.network.named_parameters():
            if name.endswith("bias"):
                biases.append(weight)
            elif weight.dim() == 4 and weight.requires_grad:
                convolutions.append(weight)
        rate, bias_scale = _RATE * scale, self.settings.bias_scale
        optimizer = Muon(
            [
                {
                    "params": convolutions,
                    "lr": self.settings.muon_rate,
                    "momentum": self.settings.muon_momentum,
                    "orthogonal": True,
                },
                {
                    "params": [self.network.classifier.weight],
                    "lr": rate,
                    "weight_decay": _DECAY,
                },
                {"params": biases, "lr": rate * bias_scale, "weight_decay": _DECAY / bias_scale},
            ]
        )
        return linear_decay(optimizer, self.steps)

    def finished(self) -> VGGCifar:
        """The network in evaluation mode, with the logit scale folded into the classifier."""
        with torch.no_grad():
            self.network.classifier.weight.mul_(self.logit_scale)
        return self.network.eval()


def train_vgg_cifar(
    data: Dataset,
    folder: Path,
    settings: VGGSettings,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train, write `vgg-cifar.safetensors` with a card, and score it on the test images once.

    The test images are read after the last epoch, for the written network in half precision. No
    choice depends on them.

    Args:
        data: CIFAR-10, or another data set with images of its shape.
        folder: folder for checkpoints and results.
        settings: see `VGGSettings`.
        resume: continue from the last checkpoint in `folder`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its scores.

    Returns:
        Settings, scores with n, and the history, ready for JSON.

    Raises:
        ArgumentError: see `VGGTask` and `fit`.
        FileError: there is nothing to resume, or a file cannot be written.
        DataError: the loss is not finite.
    """
    product = Product(
        NAME,
        lambda: VGGCifar(len(data.classes), settings.widths),
        f"whitening stem, conv-BatchNorm-ReLU, max-pooling, widths {settings.widths}",
        NAME,
        f"transpike train {NAME}",
        "Muon and Nesterov momentum, linear decay, lookahead, label smoothing 0.2",
    )
    return train_cifar(
        VGGTask(data, settings), folder, product, resume=resume, progress=progress, report=report
    )


def whiten(convolution: nn.Conv2d, images: Tensor) -> None:
    """Fill the stem with the principal directions of patches.

    Each direction has both signs and is scaled to variance 1. The weight is frozen.

    Args:
        convolution: stem with 2 x (C k k) output channels for k x k patches.
        images: normalized images, (N, C, H, W).

    Source: Jordan, 2024, section 3.1, after Page, 2019, "How to train your ResNet".
    """
    k = STEM_KERNEL
    patches = images.unfold(2, k, 1).unfold(3, k, 1)  # (N, C, H-k+1, W-k+1, k, k)
    rows = patches.permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(0, 2).double()
    variances, directions = torch.linalg.eigh(rows.T @ rows / len(rows))
    scaled = (directions / (variances + _WHITENING_EPSILON).sqrt()).T
    filters = scaled.view(-1, images.shape[1], k, k).to(convolution.weight)
    with torch.no_grad():
        convolution.weight.copy_(torch.cat([filters, -filters]))
        if convolution.bias is not None:
            convolution.bias.zero_()
    convolution.weight.requires_grad = False


__all__ = ["NAME", "VGGSettings", "VGGTask", "train_vgg_cifar", "whiten"]

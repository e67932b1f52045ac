"""The recipe of `zoo/vgg-cifar.safetensors`. It trains a small VGG on CIFAR-10.

The training takes about an hour on two cores.

Source: Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU" (whitening stem, identity
start, label smoothing 0.2, alternating flip, translation by 2 pixels, lookahead, large learning
rates for biases), and Muon of the same author. It differs in three points: the network is made for
conversion (ReLU, pooling after the ReLU), there is a validation part, and no number uses test-time
augmentation.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import lightning
import lightning.pytorch as pl
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from transpike.data import Dataset, Split
from transpike.errors import ArgumentError
from transpike.zoo.models.vgg_cifar import STEM_KERNEL, WIDTHS, VGGCifar
from transpike.zoo.models.weights import load_weights
from transpike.zoo.train.card import save_weights, write_card
from transpike.zoo.train.fit import Batches, Progress, Report, finite, fit, load_checkpoint
from transpike.zoo.train.muon import Muon

NAME = "vgg-cifar"
_WHITENING_IMAGES = 5000
_WHITENING_EPSILON = 5e-4  # added to the variances. Source: Jordan 2024
_LOGIT_SCALE = 1 / 9  # folded into the classifier at the end. Source: Jordan 2024
_LOOKAHEAD_STEPS = 5
_LOOKAHEAD_DECAY = 0.95  # per step, at the end of training
_REFERENCE_BATCH = 1024  # images per batch of the rates below, which are scaled linearly
_RATE = 1.5  # learning rate of the classifier. Source: Jordan 2024
_DECAY = 1.33e-3  # weight decay of the classifier and of biases. Source: Jordan 2024
_NORM_MOMENTUM = 0.4  # weight of the newest batch in BatchNorm. Source: Jordan 2024
_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class VGGSettings:
    """Settings of the recipe.

    Args:
        epochs: passes over the training images.
        batch_size: images per step.
        validation: number of training images for validation, taken from the end.
        seed: seed of weights, order and augmentation.
        widths: channels of each stage.
        muon_rate: size of a step of the convolutions, relative to their weights.
        muon_momentum: momentum of the convolutions.
        bias_scale: learning rate of biases, divided by that of the classifier.
        translation: largest translation in each direction in pixels.
    """

    epochs: int = 12
    batch_size: int = 512
    validation: int = 2000
    seed: int = 0
    widths: tuple[int, ...] = WIDTHS
    muon_rate: float = 0.12
    muon_momentum: float = 0.6
    bias_scale: float = 8.0
    translation: int = 2


class VGGTask(pl.LightningModule):
    """Trains the network, and scores it on the validation images after every epoch.

    Args:
        data: images of 32 x 32 pixels with three channels.
        settings: see `VGGSettings`.

    Raises:
        ArgumentError: the images have another shape, or there are too few for one batch.
    """

    def __init__(self, data: Dataset, settings: VGGSettings) -> None:
        super().__init__()
        if data.input_shape != (3, 32, 32):
            raise ArgumentError(
                f"vgg-cifar: needed images of shape (3, 32, 32), got {data.input_shape}. Use "
                "--data cifar10:PATH."
            )
        train = len(data.train) - settings.validation
        if settings.validation < 1 or train < settings.batch_size:
            raise ArgumentError(
                f"vgg-cifar: needed at least one validation image and one batch of "
                f"{settings.batch_size} training images, got {settings.validation} and {train}."
            )
        self.settings = settings
        self.dataset = data
        self.history: list[dict[str, float]] = []
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = VGGCifar(len(data.classes), settings.widths)
        self.network.to(memory_format=torch.channels_last)
        for module in self.network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = _NORM_MOMENTUM
                module.weight.requires_grad = False
        images = _all_images(data.train, np.arange(min(_WHITENING_IMAGES, train)))[0]
        stem: nn.Conv2d = self.network.stem[0]  # type: ignore[assignment]
        whiten(stem, images)
        self.steps = settings.epochs * (train // settings.batch_size)
        self._lookahead: dict[str, Tensor] = {}
        self._losses: list[float] = []

    def train_dataloader(self) -> Any:
        """The batches of the epoch that starts now."""
        return _TrainBatches(self.dataset.train, self.settings, self.current_epoch)

    def val_dataloader(self) -> Any:
        """The held-out training images."""
        first = len(self.dataset.train) - self.settings.validation
        held_out = np.arange(first, len(self.dataset.train))
        count = -(-len(held_out) // _EVALUATION_BATCH)
        return Batches(lambda: self.dataset.train.batches(_EVALUATION_BATCH, held_out), count)

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The cross-entropy of one batch with label smoothing."""
        images, labels = batch
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = finite(F.cross_entropy(logits * _LOGIT_SCALE, labels, label_smoothing=0.2))
        self._losses.append(loss.item())
        return loss

    def on_train_batch_end(self, *_: Any) -> None:
        """Lookahead: move the weights to their own slow average every few steps."""
        if self.global_step % _LOOKAHEAD_STEPS:
            return
        progress = self.global_step / self.steps
        keep = _LOOKAHEAD_DECAY**_LOOKAHEAD_STEPS * progress**3
        with torch.no_grad():
            for name, value in self._averaged():
                slow = self._lookahead.setdefault(name, value.clone())
                slow.lerp_(value, 1 - keep)
                value.copy_(slow)

    def _averaged(self) -> Iterator[tuple[str, Tensor]]:
        for name, value in self.network.state_dict().items():
            if value.is_floating_point():
                yield name, value

    def on_validation_epoch_start(self) -> None:
        """Start to count from 0."""
        self._right = 0

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Count right predictions."""
        images, labels = batch
        self._right += int((self.network(images).argmax(1) == labels).sum())

    def on_validation_epoch_end(self) -> None:
        """Append the epoch to `history`."""
        accuracy = self._right / self.settings.validation
        loss = float(np.mean(self._losses)) if self._losses else float("nan")
        self._losses = []
        self.history.append(
            {"epoch": self.current_epoch + 1, "loss": loss, "validation_accuracy": accuracy}
        )

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
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: max(0.0, 1 - step / self.steps)
        )
        return [optimizer], [{"scheduler": schedule, "interval": "step"}]

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the values that lightning does not store."""
        checkpoint["history"] = self.history
        checkpoint["lookahead"] = self._lookahead

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read these values."""
        self.history = checkpoint["history"]
        self._lookahead = checkpoint["lookahead"]

    def finished(self) -> VGGCifar:
        """The network in evaluation mode, with the logit scale folded into the classifier."""
        with torch.no_grad():
            self.network.classifier.weight.mul_(_LOGIT_SCALE)
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
    task = VGGTask(data, settings)
    last = fit(
        task,
        folder,
        epochs=settings.epochs,
        resume=resume,
        progress=progress,
        report=report,
    )
    load_checkpoint(task, last)
    weights = folder / f"{NAME}.safetensors"
    save_weights(task.finished(), weights)
    written = VGGCifar(len(data.classes), settings.widths)
    load_weights(written, weights)
    test = accuracy(written, data.test.batches(_EVALUATION_BATCH))
    result = {
        "data": data.name,
        "normalization": data.normalization.to_dict(),
        "settings": asdict(settings),
        "n_train": len(data.train) - settings.validation,
        "n_validation": settings.validation,
        "validation_accuracy": task.history[-1]["validation_accuracy"],
        "n_test": len(data.test),
        "test_accuracy": test,
        "history": task.history,
    }
    write_card(folder / f"{NAME}.md", NAME, _facts(data, settings, result))
    return result


def accuracy(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> float:
    """Share of right predictions without augmentation. The model is left in evaluation mode."""
    model.eval()
    right = total = 0
    with torch.inference_mode():
        for images, labels in batches:
            right += int((model(images).argmax(1) == labels).sum())
            total += len(labels)
    return right / total


def _facts(data: Dataset, settings: VGGSettings, result: dict[str, Any]) -> dict[str, str]:
    mean, std = data.normalization.mean, data.normalization.std
    return {
        "network": f"whitening stem, conv-BatchNorm-ReLU, max-pooling, widths {settings.widths}",
        "build": f'`build_model("{NAME}", weights="zoo/{NAME}.safetensors")`',
        "input": f"(B, 3, 32, 32), values in 0..1, mean {mean}, std {std}",
        "data": f"{data.name}; {result['n_train']} training images, the last "
        f"{settings.validation} training images held out for validation",
        "recipe": "`transpike train vgg-cifar`; Muon and Nesterov momentum, linear decay, "
        "lookahead, label smoothing 0.2, alternating flip, translation by "
        f"{settings.translation} pixels",
        "epochs, batch size, seed": f"{settings.epochs}, {settings.batch_size}, {settings.seed}",
        "validation accuracy": f"{result['validation_accuracy']:.2%}, n = {settings.validation}",
        "test accuracy": f"{result['test_accuracy']:.2%}, n = {result['n_test']}, of these half "
        "precision weights run in single precision; no test-time augmentation",
        "versions": f"torch {torch.__version__}, lightning {lightning.__version__}",
        "license": "Apache-2.0",
    }


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


@dataclass(frozen=True, eq=False)
class _TrainBatches:
    """The augmented batches of one epoch. They depend on the seed and the epoch alone."""

    split: Split
    settings: VGGSettings
    epoch: int

    def __len__(self) -> int:
        return (len(self.split) - self.settings.validation) // self.settings.batch_size

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        settings = self.settings
        train = len(self.split) - settings.validation
        random = np.random.RandomState([settings.seed, self.epoch])
        order = random.permutation(train)[: len(self) * settings.batch_size]
        shifts = random.randint(0, 2 * settings.translation + 1, (train, 2))
        # Alternating flip: the mirrored images are drawn once, and the choice is inverted every
        # epoch.
        flips = np.random.RandomState([settings.seed]).rand(train) < 0.5
        flips = flips ^ bool(self.epoch % 2)
        for start in range(0, len(order), settings.batch_size):
            chosen = order[start : start + settings.batch_size]
            images, labels = _all_images(self.split, chosen)
            moved = translate(images, shifts[chosen], settings.translation)
            mirrored = torch.from_numpy(flips[chosen])
            yield torch.where(mirrored.view(-1, 1, 1, 1), moved.flip(3), moved), labels


def translate(images: Tensor, shifts: NDArray[np.int64], reach: int) -> Tensor:
    """Move every image by whole pixels, and fill the border with its mirror image.

    Args:
        images: (B, C, H, W).
        shifts: (B, 2), 0..2 * reach; the shift `reach` does not move an image.
        reach: largest movement in pixels.
    """
    height, width = images.shape[2:]
    padded = F.pad(images, (reach,) * 4, mode="reflect")
    rows = torch.from_numpy(shifts[:, 0])[:, None] + torch.arange(height)  # (B, H)
    columns = torch.from_numpy(shifts[:, 1])[:, None] + torch.arange(width)  # (B, W)
    index = torch.arange(len(images))[:, None, None, None]
    channels = torch.arange(images.shape[1])[None, :, None, None]
    moved: Tensor = padded[index, channels, rows[:, None, :, None], columns[:, None, None, :]]
    return moved


def _all_images(split: Split, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    return next(split.batches(len(indices), indices))


__all__ = ["NAME", "VGGSettings", "VGGTask", "accuracy", "train_vgg_cifar", "translate", "whiten"]

"""What all recipes for classifiers on CIFAR-10 share: data, validation, lookahead and the card.

Source: Jordan, 2024, "94% on CIFAR-10 in 3.29 Seconds on a Single GPU", for alternating flip,
translation with mirrored borders, and lookahead.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
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
from transpike.zoo.models.weights import load_weights
from transpike.zoo.train.card import save_weights, write_card
from transpike.zoo.train.fit import Batches, Progress, Report, finite, fit, load_checkpoint

_LOOKAHEAD_STEPS = 5
_LOOKAHEAD_DECAY = 0.95  # per step, at the end of training
_EVALUATION_BATCH = 250


@dataclass(frozen=True)
class CifarSettings:
    """Settings that every recipe for CIFAR-10 has.

    Args:
        epochs: passes over the training images.
        batch_size: images per step.
        validation: number of training images for validation, taken from the end.
        seed: seed of weights, order and augmentation.
        muon_rate: size of a step of the convolutions, relative to their weights.
        muon_momentum: momentum of the convolutions.
        translation: largest translation in each direction in pixels.
    """

    epochs: int = 12
    batch_size: int = 512
    validation: int = 2000
    seed: int = 0
    muon_rate: float = 0.12
    muon_momentum: float = 0.6
    translation: int = 2


class CifarTask(pl.LightningModule):
    """Trains a classifier, and scores it on the validation images after every epoch.

    A recipe adds `configure_optimizers`.

    Args:
        name: name of the recipe, for error messages.
        data: images of 32 x 32 pixels with three channels.
        settings: see `CifarSettings`.
        build: makes the untrained network. It is called with the seed set.

    Raises:
        ArgumentError: the images have another shape, or there are too few for one batch.
    """

    smoothing = 0.2
    """Label smoothing of the loss."""
    logit_scale = 1.0
    """Factor of the logits in the loss."""
    memory: torch.memory_format = torch.channels_last
    """Order of images and weights in memory."""

    def __init__(
        self, name: str, data: Dataset, settings: CifarSettings, build: Callable[[], nn.Module]
    ) -> None:
        super().__init__()
        if data.input_shape != (3, 32, 32):
            raise ArgumentError(
                f"{name}: needed images of shape (3, 32, 32), got {data.input_shape}. Use "
                "--data cifar10:PATH."
            )
        train = len(data.train) - settings.validation
        if settings.validation < 1 or train < settings.batch_size:
            raise ArgumentError(
                f"{name}: needed at least one validation image and one batch of "
                f"{settings.batch_size} training images, got {settings.validation} and {train}."
            )
        self.settings = settings
        self.dataset = data
        self.history: list[dict[str, float]] = []
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = build()
        self.network.to(memory_format=self.memory)
        self.steps = settings.epochs * (train // settings.batch_size)
        self._lookahead: dict[str, Tensor] = {}
        self._losses: list[float] = []
        self.seconds = 0.0  # of the finished epochs, with those before an interruption

    def train_dataloader(self) -> Any:
        """The batches of the epoch that starts now."""
        self._started = time.monotonic()
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
        logits = self.network(images.contiguous(memory_format=self.memory))
        scaled = logits * self.logit_scale
        loss = finite(F.cross_entropy(scaled, labels, label_smoothing=self.smoothing))
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
        self.seconds += time.monotonic() - self._started
        self.history.append(
            {"epoch": self.current_epoch + 1, "loss": loss, "validation_accuracy": accuracy}
        )

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the values that lightning does not store."""
        checkpoint["history"] = self.history
        checkpoint["lookahead"] = self._lookahead
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read these values."""
        self.history = checkpoint["history"]
        self._lookahead = checkpoint["lookahead"]
        self.seconds = checkpoint["seconds"]

    def finished(self) -> nn.Module:
        """The network in evaluation mode, as it is written."""
        return self.network.eval()


@dataclass(frozen=True)
class Product:
    """What a recipe writes.

    Args:
        name: name of the weights and of the card, without the suffix.
        build: makes a network that the weights fit.
        network: what the card says of the network.
        model: name of the network for `build_model`.
        command: the command of the recipe.
        recipe: what the card says of the training.
    """

    name: str
    build: Callable[[], nn.Module]
    network: str
    model: str
    command: str
    recipe: str


def train_cifar(
    task: CifarTask,
    folder: Path,
    product: Product,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train, write the weights with a card, and score them on the test images once.

    The test images are read after the last epoch, for the written network in half precision. No
    choice depends on them.

    Args:
        task: the network with its data.
        folder: folder for checkpoints and results.
        product: what is written.
        resume: continue from the last checkpoint in `folder`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its scores.

    Returns:
        Settings, scores with n, and the history, ready for JSON.

    Raises:
        ArgumentError: see `fit`.
        FileError: there is nothing to resume, or a file cannot be written.
        DataError: the loss is not finite.
    """
    data, settings = task.dataset, task.settings
    last = fit(
        task, folder, epochs=settings.epochs, resume=resume, progress=progress, report=report
    )
    load_checkpoint(task, last)
    weights = folder / f"{product.name}.safetensors"
    save_weights(task.finished(), weights)
    written = product.build()
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
    facts = _facts(product, data, result, task.seconds)
    write_card(folder / f"{product.name}.md", product.name, facts)
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


def _facts(
    product: Product, data: Dataset, result: dict[str, Any], seconds: float
) -> dict[str, str]:
    mean, std = data.normalization.mean, data.normalization.std
    settings = result["settings"]
    return {
        "network": product.network,
        "build": f'`build_model("{product.model}", weights="zoo/{product.name}.safetensors")`',
        "input": f"(B, 3, 32, 32), values in 0..1, mean {mean}, std {std}",
        "data": f"{data.name}; {result['n_train']} training images, the last "
        f"{settings['validation']} training images held out for validation",
        "recipe": f"`{product.command}`; {product.recipe}, alternating flip, translation by "
        f"{settings['translation']} pixels",
        "epochs, batch size, seed": f"{settings['epochs']}, {settings['batch_size']}, "
        f"{settings['seed']}",
        "validation accuracy": f"{result['validation_accuracy']:.2%}, n = {settings['validation']}",
        "test accuracy": f"{result['test_accuracy']:.2%}, n = {result['n_test']}, of these half "
        "precision weights run in single precision; no test-time augmentation",
        "time": f"{seconds / 60:.0f} minutes of training, threads: {torch.get_num_threads()}",
        "versions": f"torch {torch.__version__}, lightning {lightning.__version__}",
        "license": "Apache-2.0",
    }


@dataclass(frozen=True, eq=False)
class _TrainBatches:
    """The augmented batches of one epoch. They depend on the seed and the epoch alone."""

    split: Split
    settings: CifarSettings
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
            images, labels = all_images(self.split, chosen)
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


def all_images(split: Split, indices: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The chosen images and labels in one batch."""
    return next(split.batches(len(indices), indices))


__all__ = [
    "CifarSettings",
    "CifarTask",
    "Product",
    "accuracy",
    "all_images",
    "train_cifar",
    "translate",
]

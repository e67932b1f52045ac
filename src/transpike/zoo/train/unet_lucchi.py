"""The recipe of the U-Nets in the zoo: mitochondria in the Lucchi stacks."""

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
from torch import Tensor, nn

from transpike.data.lucchi import VolumeDataset, VolumeSplit
from transpike.errors import ArgumentError
from transpike.segment import PixelCounts
from transpike.zoo.models.unet import DIVISOR, UNet
from transpike.zoo.models.weights import load_weights
from transpike.zoo.train.augment import deform, vary_intensity
from transpike.zoo.train.card import save_weights, write_card
from transpike.zoo.train.fit import Batches, Progress, Report, finite, fit, load_checkpoint
from transpike.zoo.train.muon import Muon, linear_decay

_MARGIN = 1.4  # a read part is this much larger than a crop, so a turned crop has real corners
_CROPS_PER_SLICE = 4  # crops from every decoded slice
_DICE_SMOOTHING = 1.0  # pixels; keeps the loss defined on crops without foreground
_WARM_UP = 0.05  # share of the steps in which the learning rate rises from 0


@dataclass(frozen=True)
class UNetSettings:
    """Settings of the recipe.

    Args:
        epochs: number of epochs; a validation follows each of them.
        steps: steps per epoch.
        batch_size: crops per step.
        crop: side of a crop in pixels.
        width: channels of the first stage.
        seed: seed of weights, crops and augmentation.
        muon_rate: size of a step of the convolutions, relative to their weights.
        rate: learning rate of all other parameters.
        precision: precision as lightning names it. None means bf16-mixed on CUDA and 32-true
            elsewhere.
    """

    epochs: int = 20
    steps: int = 60
    batch_size: int = 8
    crop: int = 192
    width: int = 16
    seed: int = 0
    muon_rate: float = 0.1
    rate: float = 0.1
    precision: str | None = None


class UNetTask(pl.LightningModule):
    """Trains the network on random crops, and scores it on validation slices after every epoch.

    Args:
        data: the stacks.
        settings: see `UNetSettings`.

    Raises:
        ArgumentError: the poolings of the network do not divide a crop, a crop is larger than a
            slice, or the batch size is not a multiple of 4.
    """

    def __init__(self, data: VolumeDataset, settings: UNetSettings) -> None:
        super().__init__()
        height, width = data.train.slice_shape
        if settings.crop % DIVISOR or not DIVISOR <= settings.crop <= min(height, width):
            raise ArgumentError(
                f"unet-lucchi: needed crops of a multiple of {DIVISOR} pixels, at most "
                f"{min(height, width)} because the slices are {height} x {width}, got "
                f"{settings.crop}."
            )
        if settings.batch_size % _CROPS_PER_SLICE:
            raise ArgumentError(
                f"unet-lucchi: needed a batch size that is a multiple of {_CROPS_PER_SLICE}, got "
                f"{settings.batch_size}."
            )
        self.settings = settings
        self.dataset = data
        self.history: list[dict[str, float]] = []
        with torch.random.fork_rng():
            torch.manual_seed(settings.seed)
            self.network = UNet(settings.width)
            for module in self.network.modules():
                if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
                    nn.init.kaiming_normal_(module.weight)
                    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.network.to(memory_format=torch.channels_last)
        self._losses: list[float] = []

    def train_dataloader(self) -> Any:
        """The crops of the epoch that starts now."""
        epoch = self.current_epoch
        return Batches(lambda: crops(self.dataset.train, self.settings, epoch), self.settings.steps)

    def val_dataloader(self) -> Any:
        """The whole validation slices."""
        return Batches(lambda: whole_slices(self.dataset.validation), len(self.dataset.validation))

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        """The class-balanced loss of one batch."""
        images, masks = batch
        logits = self.network(images.contiguous(memory_format=torch.channels_last))
        loss = finite(balanced_loss(logits.float(), masks))
        self._losses.append(loss.item())
        return loss

    def on_validation_epoch_start(self) -> None:
        """Start to count from 0."""
        self._counts = PixelCounts()

    def validation_step(self, batch: tuple[Tensor, Tensor], index: int) -> None:
        """Counts pixels."""
        images, masks = batch
        self._counts += _pixels(self.network(images), masks)

    def on_validation_epoch_end(self) -> None:
        """Append the epoch to `history`."""
        scores = {f"validation_{name}": value for name, value in self._counts.scores().items()}
        loss = float(np.mean(self._losses)) if self._losses else float("nan")
        self._losses = []
        self.history.append({"epoch": self.current_epoch + 1, "loss": loss, **scores})
        self.log("validation_f1", scores["validation_f1"])

    def configure_optimizers(self) -> Any:
        """Muon for convolutions with a BatchNorm behind them, Nesterov momentum for the rest."""
        convolutions: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, weight in self.network.named_parameters():
            # The last convolution has no BatchNorm behind it, which Muon needs.
            inner = name.startswith("conv") and not name.startswith("conv10")
            (convolutions if inner and weight.dim() == 4 else others).append(weight)
        settings = self.settings
        optimizer = Muon(
            [
                {
                    "params": convolutions,
                    "lr": settings.muon_rate,
                    "momentum": 0.6,
                    "orthogonal": True,
                },
                {"params": others, "lr": settings.rate, "momentum": 0.9},
            ]
        )
        steps = settings.epochs * settings.steps
        return linear_decay(optimizer, steps, _WARM_UP)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the values that lightning does not store."""
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Read these values."""
        self.history = checkpoint["history"]


def balanced_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """Cross-entropy per pixel plus one minus the soft Dice score of the batch.

    Dice gives the few pixels of the class as much weight as the many pixels of the background.

    Args:
        logits: (B, 1, H, W).
        masks: (B, 1, H, W), 0 or 1.

    Source: Milletari, Navab, Ahmadi, 2016, "V-Net", for Dice. It differs: the sums are plain and
    not of squares.
    """
    entropy = F.binary_cross_entropy_with_logits(logits, masks)
    probabilities = torch.sigmoid(logits)
    shared = 2 * (probabilities * masks).sum() + _DICE_SMOOTHING
    dice = shared / (probabilities.sum() + masks.sum() + _DICE_SMOOTHING)
    return entropy + 1 - dice


def crops(
    split: VolumeSplit, settings: UNetSettings, epoch: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """The augmented crops of one epoch. They depend on the seed and the epoch alone.

    Yields:
        images (B, 1, crop, crop) and masks of the same shape.
    """
    whole = split.with_tile(None)
    height, width = split.slice_shape
    side = min(int(_MARGIN * settings.crop), height, width)
    random = np.random.RandomState([settings.seed, epoch])
    generator = torch.Generator().manual_seed(int(random.randint(2**31)))
    for _ in range(settings.steps):
        slices = random.choice(len(whole), settings.batch_size // _CROPS_PER_SLICE)
        images, masks = [], []
        for image, mask in whole.batches(1, slices):
            for _ in range(_CROPS_PER_SLICE):
                row, column = random.randint(height - side + 1), random.randint(width - side + 1)
                images.append(image[..., row : row + side, column : column + side])
                masks.append(mask[..., row : row + side, column : column + side])
        moved, labels = deform(torch.cat(images), torch.cat(masks), settings.crop, generator)
        yield vary_intensity(moved, generator), labels


def whole_slices(split: VolumeSplit) -> Iterator[tuple[Tensor, Tensor]]:
    """All slices, cut at the bottom and right so that the poolings divide their size."""
    height, width = (side - side % DIVISOR for side in split.slice_shape)
    for images, masks in split.with_tile(None).batches(1):
        yield images[..., :height, :width], masks[..., :height, :width]


def _pixels(logits: Tensor, masks: Tensor) -> PixelCounts:
    """Counts of the mask of positive logits against the labels."""
    return PixelCounts.of((logits > 0).cpu().numpy(), (masks > 0).cpu().numpy())


def segmentation_scores(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]
) -> dict[str, float]:
    """F1, Jaccard index and pixel accuracy over all pixels of the batches.

    A pixel with a positive logit is in the mask. The model is left in evaluation mode.
    """
    model.eval()
    counts = PixelCounts()
    with torch.inference_mode():
        for images, masks in batches:
            counts += _pixels(model(images), masks)
    return counts.scores()


def train_unet_lucchi(
    data: VolumeDataset,
    folder: Path,
    settings: UNetSettings,
    *,
    resume: bool = False,
    progress: Progress | None = None,
    report: Report | None = None,
) -> dict[str, Any]:
    """Train, write the weights of the best epoch with a card, and test them once.

    The best epoch has the highest F1 on the validation slices. The test slices are read after that,
    for the written network in half precision.

    Args:
        data: the stacks.
        folder: folder for checkpoints and results.
        settings: see `UNetSettings`.
        resume: continue from the last checkpoint in `folder`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its scores.

    Returns:
        Settings, scores with n, and the history, ready for JSON.

    Raises:
        ArgumentError: see `UNetTask` and `fit`.
        FileError: there is nothing to resume, or a file cannot be read or written.
        DataError: the loss is not finite, or a mask is not binary.
    """
    task = UNetTask(data, settings)
    automatic = "bf16-mixed" if torch.cuda.is_available() else "32-true"
    best = fit(
        task,
        folder,
        epochs=settings.epochs,
        resume=resume,
        monitor="validation_f1",
        precision=settings.precision or automatic,
        progress=progress,
        report=report,
    )
    load_checkpoint(task, best)
    name = f"unet-lucchi-w{settings.width}"
    weights = folder / f"{name}.safetensors"
    save_weights(task.network, weights)
    written = UNet(settings.width)
    load_weights(written, weights)
    result = _result(task, written)
    write_card(folder / f"{name}.md", name, _facts(name, data, settings, result))
    return result


def _result(task: UNetTask, written: UNet) -> dict[str, Any]:
    """Settings, scores of the written network, and the history."""
    data = task.dataset
    validation = segmentation_scores(written, whole_slices(data.validation))
    test = segmentation_scores(written, whole_slices(data.test))
    return {
        "data": data.name,
        "normalization": data.normalization.to_dict(),
        "settings": asdict(task.settings),
        "best_epoch": max(task.history, key=lambda entry: entry["validation_f1"])["epoch"],
        "n_train_slices": len(data.train.slices),
        "n_validation_slices": len(data.validation.slices),
        "n_test_slices": len(data.test.slices),
        **{f"validation_{key}": value for key, value in validation.items()},
        **{f"test_{key}": value for key, value in test.items()},
        "history": task.history,
    }


def _facts(
    name: str, data: VolumeDataset, settings: UNetSettings, result: dict[str, Any]
) -> dict[str, str]:
    height, width = data.test.slice_shape
    mean, std = data.normalization.mean, data.normalization.std
    scores = {
        part: ", ".join(
            f"{label} {result[f'{part}_{key}']:.4f}"
            for label, key in (
                ("F1", "f1"),
                ("Jaccard", "jaccard"),
                ("pixel accuracy", "accuracy"),
            )
        )
        for part in ("validation", "test")
    }
    used, held_out = data.train.slices, data.validation.slices
    return {
        "network": f"U-Net, width {settings.width}, logits outside of the sigmoid",
        "build": f'`build_model("unet:{settings.width}", weights="zoo/{name}.safetensors")`; '
        f"`unet-sigmoid:{settings.width}` for probabilities",
        "input": f"(B, 1, H, W), H and W multiples of {DIVISOR}, values in 0..1, mean {mean}, std "
        f"{std}",
        "data": f"Lucchi stacks, slices of {height} x {width}; training slices "
        f"{used[0]}..{used[-1]}, validation {held_out[0]}..{held_out[-1]} of the training stack, "
        "counted from 0",
        "recipe": "`transpike train unet-lucchi`; Muon and Nesterov momentum, linear decay, "
        "cross-entropy plus soft Dice, crops turned, flipped, zoomed, bent and varied in intensity",
        "epochs, steps, batch size, crop, seed": f"{settings.epochs}, {settings.steps} each, "
        f"{settings.batch_size}, {settings.crop}, {settings.seed}; epoch {result['best_epoch']} "
        "is the best one on the validation slices",
        "validation": f"{scores['validation']}, n = {len(held_out)} slices",
        "test": f"{scores['test']}, n = {len(data.test.slices)} slices, over all pixels at logit "
        "> 0, of these half precision weights run in single precision; read once",
        "versions": f"torch {torch.__version__}, lightning {lightning.__version__}",
        "license": "Apache-2.0",
    }


__all__ = [
    "UNetSettings",
    "UNetTask",
    "balanced_loss",
    "crops",
    "segmentation_scores",
    "train_unet_lucchi",
    "whole_slices",
]

"""The training loop of all recipes. A resumed run gives the same weights bit by bit."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from transpike.errors import ArgumentError, DataError, FileError

_LAST = "last"
_BEST = "best"
_SUFFIX = ".ckpt"

Report = Callable[[dict[str, float]], None]
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Batches:
    """Batches for several passes, without the loaders and workers of lightning.

    Args:
        start: called at the beginning of a pass; returns its batches.
        count: number of batches in a pass.
    """

    start: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.start()


class Recipe(Protocol):
    """A lightning module that keeps a history of its epochs."""

    history: list[dict[str, float]]
    """One entry per finished epoch with its number, loss and validation scores."""


def fit(
    task: LightningModule,
    folder: Path,
    *,
    epochs: int,
    resume: bool = False,
    monitor: str | None = None,
    precision: Any = "32-true",
    progress: Progress | None = None,
    report: Report | None = None,
) -> Path:
    """Train for a number of epochs, with a checkpoint after each epoch.

    The random numbers of an epoch must depend on its number alone, for example from one generator
    per epoch. Then a run that was interrupted and resumed gives the same weights as another one.

    Args:
        task: lightning module with its data. It keeps its epochs in `history`.
        folder: folder of `last.ckpt` and, with `monitor`, of `best.ckpt`.
        epochs: number of all epochs, with those before an interruption, >= 1.
        resume: continue from `last.ckpt`.
        monitor: score in `history`; the epoch with its highest value becomes `best.ckpt`.
        precision: precision as lightning names it, for example `32-true` or `bf16-mixed`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its entry in `history`.

    Returns:
        The best checkpoint, or the last one without `monitor`.

    Raises:
        ArgumentError: `epochs` is below 1, or the folder holds a run and `resume` is not set.
        FileError: there is nothing to resume.
        DataError: the loss is not finite.
    """
    if epochs < 1:
        raise ArgumentError(f"epochs: needed at least 1, got {epochs}.")
    last = folder / (_LAST + _SUFFIX)
    if resume and not last.is_file():
        raise FileError(f"nothing to resume: no file {str(last)!r}. Start without --resume.")
    if not resume and last.exists():
        raise ArgumentError(
            f"{str(folder)!r} holds a training run: needed an empty folder. Add --resume to "
            "continue it, or choose another folder."
        )
    callbacks: list[Callback] = [_checkpoint(folder, _LAST, None)]
    if monitor is not None:
        # It comes first, so that the last checkpoint knows the best score of its own epoch.
        callbacks.insert(0, _checkpoint(folder, _BEST, monitor))
    callbacks.append(_Watch(progress, report))
    with _quiet():
        trainer = _trainer(epochs, precision, callbacks)
        trainer.fit(task, ckpt_path=str(last) if resume else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return last if monitor is None else folder / (_BEST + _SUFFIX)


def _trainer(epochs: int, precision: Any, callbacks: list[Callback]) -> Trainer:
    return Trainer(
        accelerator="auto",
        devices=1,
        max_epochs=epochs,
        precision=precision,
        callbacks=callbacks,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        reload_dataloaders_every_n_epochs=1,
    )


def load_checkpoint(task: LightningModule, file: Path) -> None:
    """Load the weights of a checkpoint that `fit` wrote into the module."""
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    task.load_state_dict(state)


def finite(loss: Tensor) -> Tensor:
    """The loss itself.

    Raises:
        DataError: the loss is not finite.
    """
    if not torch.isfinite(loss):
        raise DataError(
            f"training: needed a finite loss, got {loss.item()}. Check the input for values that "
            "are not finite, or lower the learning rate."
        )
    return loss


def _checkpoint(folder: Path, name: str, monitor: str | None) -> ModelCheckpoint:
    return ModelCheckpoint(
        dirpath=folder,
        filename=name,
        monitor=monitor,
        mode="max",
        save_top_k=1,
        enable_version_counter=False,
        save_on_train_epoch_end=True,
    )


class _Watch(Callback):
    """Reports the progress of the training to the caller."""

    def __init__(self, progress: Progress | None, report: Report | None) -> None:
        self.progress = progress
        self.report = report

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if self.progress is not None:
            batches = trainer.num_training_batches
            self.progress(trainer.global_step, int(batches) * int(trainer.max_epochs or 1))

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        history: list[dict[str, float]] = pl_module.history  # type: ignore[assignment]
        if self.report is not None and history:
            self.report(history[-1])


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the advice of lightning inside the block."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"lightning\..*")
            yield
    finally:
        logger.setLevel(level)


__all__ = ["Batches", "Recipe", "finite", "fit", "load_checkpoint"]

"""The one training loop of the recipes: lightning, resumable to the bit, one line per epoch."""

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
    """Batches that can be gone through again, without lightning's loaders and workers.

    Args:
        start: begins a pass.
        count: number of batches in a pass.
    """

    start: Callable[[], Iterator[tuple[Tensor, Tensor]]]
    count: int

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return self.start()


class Recipe(Protocol):
    """What a lightning module needs besides lightning's own hooks."""

    history: list[dict[str, float]]
    """One entry per finished epoch: epoch, loss, validation scores."""


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
    """Trains until `epochs` are done, with a checkpoint after each of them.

    The random numbers of an epoch must depend on its number alone (a generator per epoch): then a
    run that was interrupted and resumed gives the weights of one that was not.

    Args:
        task: the lightning module with its data; keeps its epochs in `history`.
        folder: holds `last.ckpt` and, with `monitor`, `best.ckpt`.
        epochs: in all, those before an interruption included, >= 1.
        resume: go on from `last.ckpt`.
        monitor: score in `history` whose highest value decides what `best.ckpt` is.
        precision: lightning's name for it, as `32-true` or `bf16-mixed`.
        progress: called with the batches done and their total.
        report: called after every epoch with its entry in `history`.

    Returns:
        The checkpoint to take: the best one, or the last one without `monitor`.

    Raises:
        ArgumentError: `epochs` < 1, or the folder holds a run and `resume` is not given.
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
            f"{str(folder)!r} holds a training run: needed an empty folder. Add --resume to go on "
            "with it, or choose another folder."
        )
    callbacks: list[Callback] = [_checkpoint(folder, _LAST, None)]
    if monitor is not None:
        callbacks.append(_checkpoint(folder, _BEST, monitor))
    callbacks.append(_Watch(progress, report))
    with _quiet():
        trainer = Trainer(
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
        trainer.fit(task, ckpt_path=str(last) if resume else None, weights_only=True)
    if trainer.interrupted:
        raise KeyboardInterrupt
    return last if monitor is None else folder / (_BEST + _SUFFIX)


def load_checkpoint(task: LightningModule, file: Path) -> None:
    """Puts the weights of a checkpoint that `fit` wrote into the module."""
    state = torch.load(file, map_location="cpu", weights_only=True)["state_dict"]
    task.load_state_dict(state)


def finite(loss: Tensor) -> Tensor:
    """The loss itself.

    Raises:
        DataError: it is not finite.
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
    """Tells the caller how far the training is."""

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
    """Hides lightning's advice inside the block; what matters is reported by us."""
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

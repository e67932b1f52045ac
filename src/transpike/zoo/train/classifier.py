"""Trains the small classifier of the demo."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from transpike.errors import ArgumentError, DataError

_PEAK_LEARNING_RATE = 0.01  # peak of the one-cycle schedule. Source: Smith & Topin 2018

Batches = Iterable[tuple[Tensor, Tensor]]


def train_classifier(
    model: nn.Module,
    batches: Callable[[int], Batches],
    *,
    epochs: int,
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> None:
    """Train a model in place with Adam, cross-entropy and a one-cycle learning rate.

    The same seed, batches and machine give the same weights. The caller seeds the initial weights.

    Args:
        model: model that maps images to logits (B, classes). It is left in evaluation mode.
        batches: called with the number of the epoch, which begins at 0; yields images and labels
            (B,), int64. Every epoch needs the same number of batches.
        epochs: passes over the data, >= 1.
        seed: seed of random numbers inside the model, for example those of dropout.
        progress: called with the number of finished epochs and of all epochs.

    Raises:
        ArgumentError: `epochs` is below 1.
        DataError: there are no batches, or the loss is not finite.
    """
    if epochs < 1:
        raise ArgumentError(f"epochs: needed at least 1, got {epochs}.")
    steps = sum(1 for _ in batches(0))
    if steps == 0:
        raise DataError("train_classifier: needed at least one batch, got none.")
    optimizer = torch.optim.Adam(model.parameters(), lr=_PEAK_LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=_PEAK_LEARNING_RATE, total_steps=epochs * steps
    )
    with _seeded(seed):
        for epoch in range(epochs):
            model.train()
            for images, labels in batches(epoch):
                _step(model, images, labels, optimizer)
                schedule.step()
            if progress is not None:
                progress(epoch + 1, epochs)
    model.eval()


def _step(
    model: nn.Module, images: Tensor, labels: Tensor, optimizer: torch.optim.Optimizer
) -> None:
    loss = F.cross_entropy(model(images), labels)
    if not torch.isfinite(loss):
        raise DataError(
            f"train_classifier: needed a finite loss, got {loss.item()}. Check the images for "
            "values that are not finite."
        )
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed torch inside the block, and restore the random state of the caller after it."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


__all__ = ["train_classifier"]

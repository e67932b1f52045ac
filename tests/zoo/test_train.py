from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from transpike.data import open_digits
from transpike.errors import ArgumentError, DataError
from transpike.zoo.models import digits_cnn
from transpike.zoo.train import train_classifier


def _batches(_: int) -> Iterator[tuple[Tensor, Tensor]]:
    return open_digits().train.subset(256, 0).batches(64)


def _trained(seed: int) -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(digits_cnn(), nn.Dropout(0.2))
    train_classifier(model, _batches, epochs=2, seed=seed)
    return model


def test_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    first, second, other = (_trained(seed).state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


def test_the_callers_random_state_is_kept() -> None:
    model = digits_cnn()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train_classifier(model, _batches, epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_training_lowers_the_loss_and_reports_every_epoch() -> None:
    torch.manual_seed(0)
    model = digits_cnn()
    done: list[tuple[int, int | None]] = []
    train_classifier(
        model,
        lambda _: open_digits().train.batches(64),
        epochs=4,
        progress=lambda epoch, total: done.append((epoch, total)),
    )
    images, labels = next(open_digits().test.batches(500))
    assert (model(images).argmax(1) == labels).float().mean() > 0.9
    assert done == [(1, 4), (2, 4), (3, 4), (4, 4)] and not model.training


def test_bad_input() -> None:
    with pytest.raises(ArgumentError, match="epochs: needed at least 1, got 0"):
        train_classifier(digits_cnn(), _batches, epochs=0)
    with pytest.raises(DataError, match="needed at least one batch"):
        train_classifier(digits_cnn(), lambda _: [], epochs=1)
    broken = [(torch.full((2, 1, 8, 8), torch.nan), torch.zeros(2, dtype=torch.int64))]
    with pytest.raises(DataError, match="needed a finite loss, got nan"):
        train_classifier(digits_cnn(), lambda _: broken, epochs=1)

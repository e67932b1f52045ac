"""Targets of every type that holds class indices give the same numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import transpike as tp
from transpike.report import record_samples

CHANNELS = {"one": 1, "two": 2}
TYPES = [
    torch.bool,
    torch.uint8,
    torch.uint16,
    torch.uint32,
    torch.uint64,
    torch.int8,
    torch.int16,
    torch.int32,
    torch.float16,
    torch.float32,
    torch.float64,
]


def _dense(channels: int) -> tuple[tp.SpikingNetwork, Tensor, Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, channels, 1))
    x = torch.rand(6, 1, 8, 8)
    return tp.convert(model.eval(), [x]), x, torch.randint(0, 2, (6, 8, 8))


def _metrics(channels: int) -> list[Any]:
    classification = pytest.importorskip("torchmetrics.classification")
    if channels == 1:
        names = ("BinaryF1Score", "BinaryJaccardIndex", "BinaryAUROC")
        return [getattr(classification, name)() for name in names]
    names = ("MulticlassAccuracy", "MulticlassJaccardIndex", "MulticlassAUROC")
    return [getattr(classification, name)(2) for name in names]


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_masks_of_every_type_are_scored_alike(channels: str, dtype: torch.dtype) -> None:
    snn, x, masks = _dense(CHANNELS[channels])
    given = masks.to(dtype)
    wanted, got = (tp.evaluate(snn, [(x, one)], 3).to_dict() for one in (masks, given))
    assert got == wanted
    costs = [tp.measure_cost(snn, [(x, one)], 3).quality for one in (masks, given)]
    assert costs[0] == costs[1] is not None
    samples = [record_samples(snn, x, one, 3, mean=[0.0], std=[1.0]) for one in (masks, given)]
    assert np.array_equal(samples[0].label, samples[1].label)
    assert np.array_equal(samples[0].snn, samples[1].snn)


@pytest.mark.parametrize("channels", CHANNELS)
def test_a_mask_with_a_channel_axis_may_be_boolean(channels: str) -> None:
    snn, x, masks = _dense(CHANNELS[channels])
    given = masks.bool()[:, None] if channels == "one" else masks.bool()
    assert tp.evaluate(snn, [(x, given)], 3).accuracy == tp.evaluate(snn, [(x, masks)], 3).accuracy


@pytest.mark.parametrize("dtype", [torch.bool, torch.uint8, torch.uint16], ids=str)
@pytest.mark.parametrize("channels", CHANNELS)
def test_metrics_take_boolean_masks(channels: str, dtype: torch.dtype) -> None:
    snn, x, masks = _dense(CHANNELS[channels])
    for metric in _metrics(CHANNELS[channels]):
        wanted, got = (
            tp.evaluate(snn, [(x, one)], 3, metric=metric) for one in (masks, masks.to(dtype))
        )
        assert got.metric == wanted.metric and got.ann_metric == wanted.ann_metric


def test_labels_of_two_classes_may_be_boolean() -> None:
    torch.manual_seed(0)
    x, labels = torch.rand(12, 6), torch.arange(12) % 2
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).eval()
    snn = tp.convert(model, [x])
    wanted, got = (tp.evaluate(snn, [(x, one)], 3) for one in (labels, labels.bool()))
    assert got.to_dict() == wanted.to_dict()


def test_masks_of_0_and_255_are_refused_with_their_range() -> None:
    snn, x, masks = _dense(1)
    with pytest.raises(tp.DataError, match="needed class indices 0..1, got values from 0 to 255"):
        tp.evaluate(snn, [(x, masks * 255)], 3)
    assert tp.evaluate(snn, [(x, masks * 255 > 0)], 3).n == 6 * 64

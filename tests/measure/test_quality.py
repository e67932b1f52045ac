"""A cost states how well the network predicts at the same T."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import transpike as tp


def _snn() -> tuple[tp.SpikingNetwork, torch.Tensor]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 3)).eval()
    x = torch.randn(40, 6)
    return tp.convert(model, [x]), x


def test_labels_give_both_accuracies_beside_the_ratio() -> None:
    snn, x = _snn()
    labels = torch.randint(3, (40,))
    cost = tp.measure_cost(snn, [(x[:25], labels[:25]), (x[25:], labels[25:])], 3)
    guess = tp.simulate(snn, x, 3, record=tp.Record(output_at=[3])).output[0].argmax(1)
    analog = snn.network(x).argmax(1)
    assert cost.quality is not None
    assert cost.quality.predictions == 40
    assert cost.quality.snn_accuracy == pytest.approx(float((guess == labels).float().mean()))
    assert cost.quality.ann_accuracy == pytest.approx(float((analog == labels).float().mean()))
    assert cost.quality.agreement == pytest.approx(float((guess == analog).float().mean()))
    assert "at T=3: accuracy: SNN " in str(cost)
    assert cost.to_dict()["quality"]["predictions"] == 40


def test_without_labels_the_agreement_is_stated() -> None:
    snn, x = _snn()
    cost = tp.measure_cost(snn, [x], 3)
    assert cost.quality is not None
    assert cost.quality.snn_accuracy is None and cost.quality.ann_accuracy is None
    assert 0 < cost.quality.agreement <= 1
    assert "at T=3: the networks agree in " in str(cost)
    assert "40 predictions (no labels were given)" in str(cost)


@pytest.mark.parametrize("labels", [torch.full((40,), 255), torch.rand(40), torch.zeros(40, 2)])
def test_labels_that_are_no_classes_give_no_accuracy(labels: torch.Tensor) -> None:
    snn, x = _snn()
    quality = tp.measure_cost(snn, [(x, labels)], 3).quality
    assert quality is not None and quality.snn_accuracy is None
    assert "(the labels are not class indices of the output)" in str(quality)


def test_a_mask_is_read_as_evaluate_reads_it() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1)).eval()
    x, masks = torch.randn(6, 1, 5, 5), torch.rand(6, 1, 5, 5).round()
    snn = tp.convert(model, [x])
    quality = tp.measure_cost(snn, [(x, masks)], 3).quality
    result = tp.evaluate(snn, [(x, masks)], 3)
    assert quality is not None and quality.predictions == result.n == 150
    assert quality.snn_accuracy == result.accuracy[-1]
    assert quality.ann_accuracy == result.ann_accuracy
    assert quality.agreement == result.agreement[-1]
    # Without labels, the output may be a regression.
    assert tp.measure_cost(snn, [x], 3).quality is None
    assert tp.evaluate(snn, [(x, masks.bool())], 3).accuracy == result.accuracy


def test_a_single_output_holds_no_classes() -> None:
    model = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1)).eval()
    x = torch.randn(8, 6)
    assert tp.measure_cost(tp.convert(model, [x]), [x], 3).quality is None

from __future__ import annotations

import sys

import pytest
import torch

import transpike as tp
from transpike.data import open_digits
from transpike.report.figures import accuracy_figure, cost_figure, diagnosis_figure
from transpike.zoo.models import build_model


def _result() -> tp.Evaluation:
    data = open_digits()
    snn = tp.convert(build_model("digits_cnn"), data.train.subset(32, 0).batches(16))
    return tp.evaluate(snn, data.test.subset(20, 0).batches(10), timesteps=5)


def test_figure_holds_the_numbers_of_the_result() -> None:
    result = _result()
    axes = accuracy_figure({"IF": result}).axes[0]
    lines = {line.get_label(): line for line in axes.get_lines()}
    assert list(lines["IF"].get_xdata()) == [1, 2, 3, 4, 5]
    assert list(lines["IF"].get_ydata()) == [100 * value for value in result.accuracy]
    ann = next(line for label, line in lines.items() if label.startswith("ANN"))
    assert ann.get_ydata()[0] == 100 * result.ann_accuracy
    (quantized,) = [
        line for line in lines.values() if line.get_marker() == "o" and len(line.get_xdata())
    ]
    drawn = zip(quantized.get_xdata(), quantized.get_ydata(), strict=True)
    assert {str(t): value for t, value in drawn} == {
        t: 100 * value for t, value in result.quantized.items()
    }
    assert "n = 20" in axes.get_title()


def test_a_curve_begins_with_the_first_output() -> None:
    data = open_digits()
    network = build_model("digits_cnn")
    images = data.train.subset(32, 0).batches(16)
    snn = tp.convert(network, images, neuron=tp.Staggered(2))
    first = snn.first_output
    result = tp.evaluate(snn, data.test.subset(20, 0).batches(10), timesteps=first + 2)
    axes = accuracy_figure({"late": result}).axes[0]
    (line,) = [line for line in axes.get_lines() if line.get_label() == "late"]
    assert first > 1 and list(line.get_xdata()) == [first, first + 1, first + 2]
    assert list(line.get_ydata()) == [100 * value for value in result.accuracy[first - 1 :]]


def test_nothing_to_draw() -> None:
    with pytest.raises(tp.ArgumentError, match="needed at least one result"):
        accuracy_figure({})


def test_without_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    result = _result()
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(tp.ArgumentError, match="install it with pip install matplotlib"):
        accuracy_figure({"IF": result})


def _network() -> tuple[tp.SpikingNetwork, torch.Tensor]:
    data = open_digits()
    snn = tp.convert(build_model("digits_cnn"), data.train.subset(32, 0).batches(16))
    return snn, next(data.test.subset(20, 0).batches(20))[0]


def test_diagnosis_figure_holds_the_numbers_and_the_verdict() -> None:
    snn, x = _network()
    found = tp.diagnose(snn, [x], 8)
    upper, middle, lower = diagnosis_figure(found).axes[:3]
    whole = next(line for line in upper.get_lines() if line.get_label() == "whole error")
    assert list(whole.get_ydata()) == [site.relative_error for site in found.sites]
    (line,) = middle.get_lines()
    assert list(line.get_ydata()) == [site.correlation for site in found.sites]
    assert [label.get_text() for label in lower.get_xticklabels()] == [s.name for s in found.sites]
    title = upper.get_title()
    assert all(sentence in title for sentence in found.verdict)
    assert found.first is None or found.first.cause in title


def test_cost_figure_holds_the_numbers() -> None:
    snn, x = _network()
    cost = tp.measure_cost(snn, [x], 4)
    left, right = cost_figure(cost).axes
    heights = sum(bar.get_height() for bar in left.patches) * 1e6
    rows = [row.counts for row in cost.operations if row.counts.ann_macs > 0]
    macs = sum(row.macs_input + row.macs_readout + row.macs_current for row in rows)
    assert heights == pytest.approx(macs + sum(row.accumulates for row in rows))
    snn_bars = [bar.get_height() for bar in right.containers[0]]
    assert snn_bars == pytest.approx([row.snn_pj / row.ann_pj for row in cost.energy])
    assert right.get_title().startswith("at T = 4: the networks agree in ")

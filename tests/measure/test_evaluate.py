"""An evaluation has the accuracy at every timestep, with intervals and references."""

import json

import numpy as np
import pytest
import torch
from benchmarks import oracle
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nets
import transpike as tp


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    x = torch.randn(90, 2, 8, 8)
    model = nets.conv_net().eval()
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 5
    snn = tp.convert(model, [x[:32]], neuron=tp.Signed(max_count=2))
    return model, snn, x, y


def _loader(x, y, batch=40):
    return DataLoader(TensorDataset(x, y), batch_size=batch)


def test_curve_against_a_plain_loop(case):
    model, snn, x, y = case
    result = tp.evaluate(snn, _loader(x, y), timesteps=8)
    out = tp.simulate(snn, x, 8)
    right = (out.output.argmax(2) == y).double().mean(1)
    np.testing.assert_allclose(result.accuracy, right.numpy(), atol=1.01 / 90)
    with torch.no_grad():
        ann = model(x)
    assert result.ann_accuracy == pytest.approx(float((ann.argmax(1) == y).double().mean()))
    agreement = (out.output.argmax(2) == ann.argmax(1)).double().mean(1)
    np.testing.assert_allclose(result.agreement, agreement.numpy(), atol=1.01 / 90)
    np.testing.assert_allclose(
        result.spikes_per_neuron, np.asarray(out.spikes_per_neuron), rtol=1e-3
    )
    assert result.n == 90 and result.timesteps == 8 and result.max_count == 2


def test_wilson_intervals(case):
    _, snn, x, y = case
    result = tp.evaluate(snn, _loader(x, y), timesteps=3)
    for p, interval in zip(
        [*result.accuracy, result.ann_accuracy],
        [*result.accuracy_interval, result.ann_accuracy_interval],
        strict=True,
    ):
        np.testing.assert_allclose(interval, oracle.wilson(p * 90, 90), atol=1e-6)
        assert 0 <= interval[0] <= p <= interval[1] <= 1


def test_loss_is_the_difference_to_the_ann_with_a_paired_interval(case):
    model, snn, x, y = case
    result = tp.evaluate(snn, _loader(x, y), timesteps=3)
    with torch.no_grad():
        ann = (model(x).argmax(1) == y).double()
    out = tp.simulate(snn, x, 3).output
    for t in range(3):
        assert result.loss[t] == pytest.approx(result.ann_accuracy - result.accuracy[t])
        low, high = result.loss_interval[t]
        assert low <= result.loss[t] <= high
        difference = (ann - (out[t].argmax(1) == y).double()).numpy()
        half = 1.96 * difference.std() / np.sqrt(90)
        assert (high - low) / 2 == pytest.approx(half, rel=0.25, abs=0.02)


@pytest.mark.parametrize(
    ("timesteps", "keys"),
    [(1, ["1"]), (8, ["1", "2", "4", "8"]), (5, ["1", "2", "4", "5"])],
)
def test_quantized_keys(case, timesteps, keys):
    _, snn, x, y = case
    result = tp.evaluate(snn, _loader(x, y), timesteps=timesteps)
    assert [k for k in result.quantized if k in keys or int(k) & (int(k) - 1)] == [
        k for k in keys if k in result.quantized
    ]
    assert {"1", "2", "4"}.intersection(map(str, range(1, timesteps + 1))) <= set(result.quantized)
    for key, value in result.quantized.items():
        right = tp.quantized_ann(snn, x, int(key)).argmax(1) == y
        assert value == pytest.approx(float(right.double().mean()), abs=1.01 / 90)


def test_to_dict_is_json(case):
    _, snn, x, y = case
    result = tp.evaluate(snn, _loader(x, y), timesteps=4)
    found = json.loads(json.dumps(result.to_dict(), allow_nan=False))
    for key in (
        "ann_accuracy",
        "accuracy",
        "n",
        "max_count",
        "spikes_per_neuron",
        "quantized",
        "precision",
    ):
        assert key in found
    assert len(found["accuracy"]) == len(found["spikes_per_neuron"]) == 4
    assert found["spikes_per_neuron"] == sorted(found["spikes_per_neuron"])
    assert found["settings"]


def test_text_names_n_and_the_ann(case):
    _, snn, x, y = case
    text = str(tp.evaluate(snn, _loader(x, y), timesteps=2))
    assert "90" in text and "ANN" in text


def test_batch_size_does_not_matter(case):
    _, snn, x, y = case
    a = tp.evaluate(snn, _loader(x, y, 90), timesteps=4)
    b = tp.evaluate(snn, _loader(x, y, 17), timesteps=4)
    np.testing.assert_allclose(a.accuracy, b.accuracy, atol=1.01 / 90)
    np.testing.assert_allclose(a.spikes_per_neuron, b.spikes_per_neuron, rtol=1e-3)


class Hits:
    """A metric with the interface of torchmetrics and nothing else."""

    def __init__(self):
        self.reset()

    def reset(self):
        self.right = self.n = 0

    def update(self, preds, target):
        self.right += int((preds.argmax(1) == target).sum())
        self.n += len(target)

    def compute(self):
        return torch.tensor(self.right / self.n)


def test_custom_metric_equals_accuracy(case):
    _, snn, x, y = case
    plain = tp.evaluate(snn, _loader(x, y), timesteps=4)
    custom = tp.evaluate(snn, _loader(x, y), timesteps=4, metric=Hits())
    np.testing.assert_allclose(custom.metric, plain.accuracy, atol=1e-6)
    assert custom.ann_metric == pytest.approx(plain.ann_accuracy)


def test_torchmetrics(case):
    torchmetrics = pytest.importorskip("torchmetrics")
    _, snn, x, y = case
    metric = torchmetrics.classification.MulticlassAccuracy(5, average="micro")
    plain = tp.evaluate(snn, _loader(x, y), timesteps=4)
    found = tp.evaluate(snn, _loader(x, y), timesteps=4, metric=metric)
    np.testing.assert_allclose(found.metric, plain.accuracy, atol=1e-6)


def test_dense_metric_on_a_segmentation_network():
    torchmetrics = pytest.importorskip("torchmetrics")
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 1, 1))
    x = torch.randn(12, 2, 6, 6)
    with torch.no_grad():
        model[2].bias -= model(x).mean()
        y = (model(x) > 0).long()
    snn = tp.convert(model, [x], neuron=tp.Signed(max_count=8))
    metric = torchmetrics.classification.BinaryF1Score()
    result = tp.evaluate(snn, _loader(x, y, 5), timesteps=8, metric=metric)
    assert result.ann_accuracy == result.ann_metric == pytest.approx(1.0)
    assert result.accuracy[-1] > 0.9 and result.metric[-1] > 0.8
    assert result.n == 12 * 36


def test_progress_is_told(case):
    _, snn, x, y = case
    calls = []
    tp.evaluate(
        snn, _loader(x, y), timesteps=2, progress=lambda done, total: calls.append((done, total))
    )
    assert calls and calls[-1][0] == max(done for done, _ in calls)


def test_empty_data(case):
    with pytest.raises(tp.DataError, match="empty|at least one"):
        tp.evaluate(case[1], [], timesteps=2)


def test_data_without_labels(case):
    _, snn, x, _ = case
    with pytest.raises(tp.DataError, match="targets"):
        tp.evaluate(snn, [x], timesteps=2)

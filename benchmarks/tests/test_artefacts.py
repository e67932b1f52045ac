"""The experiment code has the losses of the early study with its faults, and none without."""

import pytest
import torch
from torch import nn

import transpike as tp
from benchmarks.study.artefacts import FAULTS, Pooling, Simulation, accuracy
from transpike.data import open_data
from transpike.zoo.models import build_model
from transpike.zoo.models.digits_cnn import DigitsCNN
from transpike.zoo.train import train_classifier

pytest.importorskip("sklearn")


class Deep(nn.Module):
    """The network of the demo with five residual blocks, each of which calls one ReLU twice."""

    def __init__(self):
        super().__init__()
        self.net = DigitsCNN(width=8)
        self.net.block = nn.Sequential(*(type(self.net.block)(16) for _ in range(5)))

    def forward(self, x):
        return self.net(x)


@pytest.fixture(scope="module")
def digits():
    return open_data("digits")


@pytest.fixture(scope="module")
def model(digits):
    torch.manual_seed(0)
    model = Deep()
    train_classifier(model, lambda epoch: digits.train.batches(64), epochs=4)
    return model


def _tested(digits):
    return list(digits.test.subset(200, 0).batches(50))


def _images(digits):
    return [x for x, _ in digits.train.subset(256, 0).batches(64)]


def test_without_a_fault_the_output_becomes_that_of_the_network(model, digits):
    x = _tested(digits)[0][0]
    with torch.inference_mode():
        wanted = model(x)
    right = Simulation(model, _images(digits), FAULTS["none"])
    errors = [float((right.output(x, t) - wanted).abs().mean()) for t in (16, 64, 256)]
    assert errors[1] < 0.5 * errors[0] and errors[2] < 0.5 * errors[1], errors
    assert (right.output(x, 256).argmax(1) == wanted.argmax(1)).float().mean() >= 0.98


def test_without_a_fault_the_simulation_is_that_of_transpike(model, digits):
    images, x = _images(digits), _tested(digits)[0][0]
    snn = tp.convert(
        model,
        images,
        neuron=tp.Burst(5, initial_membrane=0.0),
        threshold=tp.Percentile(99, granularity="layer"),
    )
    theirs = tp.simulate(snn, x, 64).output[-1]
    ours = Simulation(model, images, FAULTS["none"]).output(x, 64)
    # Thresholds differ by less than 1 %, because transpike takes percentiles from a histogram.
    assert (ours - theirs).abs().mean() < 0.05 * theirs.abs().mean()


def test_a_shared_neuron_loses_much_of_a_residual_network(model, digits):
    tested = _tested(digits)
    found = {
        name: accuracy(Simulation(model, _images(digits), FAULTS[name]), tested, 64)
        for name in ("none", "shared neuron")
    }
    assert found["none"] > 0.95
    assert found["shared neuron"] < found["none"] - 0.1, found


def test_without_a_reset_later_batches_suffer(model, digits):
    tested = _tested(digits)
    kept = Simulation(model, _images(digits), FAULTS["no reset"])
    fresh = Simulation(model, _images(digits), FAULTS["none"])
    first, last = tested[0][0], tested[-1][0]
    assert torch.equal(kept.output(first, 4), fresh.output(first, 4))
    assert not torch.equal(kept.output(last, 4), fresh.output(last, 4))
    fresh.reset()
    assert torch.equal(
        fresh.output(first, 4), Simulation(model, _images(digits), FAULTS["none"]).output(first, 4)
    )


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "exact"), [(2, 2, 0, True), (3, 2, 1, False)]
)
def test_only_windows_of_two_survive_pooling_for_two(kernel, stride, padding, exact):
    torch.manual_seed(0)
    pool = nn.MaxPool2d(kernel, stride, padding)
    inputs = torch.randint(0, 2, (16, 2, 3, 8, 8)).float()
    wanted = pool(inputs.sum(dim=0))
    right, wrong = Pooling(pool, two_by_two=False), Pooling(pool, two_by_two=True)
    for one in (right, wrong):
        one.calibrates = False
    assert torch.equal(sum(right(x) for x in inputs), wanted)
    assert torch.equal(sum(wrong(x) for x in inputs), wanted) == exact


def test_the_networks_of_the_study_have_these_faults(digits):
    """A basic block calls one ReLU twice, and the stem of ImageNet pools windows of 3x3."""
    network = build_model("resnet18-7x7:4")
    images = [torch.randn(2, 3, 32, 32)]
    found = Simulation(network, images, FAULTS["none"])
    assert sorted(len(neurons.thresholds) for neurons in found.neurons) == [1] + [2] * 8
    assert [pool.pool.kernel_size for pool in found.pools] == [3]

"""Distillation has the loss of the simulated network, right derivatives, and no worse results."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp
from transpike.conversion.passes.distillation import _analog, _Distance, _Student, distilled

NEURONS = [tp.IF(), tp.Signed(3), tp.Burst(4, mode="resolution"), tp.Differential(8, 2)]
NEURONS += [tp.Refining(4), tp.Refining(1, period=2), tp.Staggered(2, window=3)]


def _snn(name, neuron, dtype=torch.float64):
    network, calibration = nets.captured(name, dtype)
    return tp.convert(network, calibration, neuron=neuron)


def _images(count, dtype=torch.float64, shape=nets.IMAGE):
    draw = torch.Generator().manual_seed(3)
    return torch.randn(count, *shape, generator=draw, dtype=dtype)


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.name)
@pytest.mark.parametrize("name", ["max_pool_odd", "max_pool_signed", "average", "unet", "relu6"])
def test_loss_is_the_distance_of_the_simulated_output(name, neuron):
    snn = _snn(name, neuron)
    x = _images(5, shape=snn.network.input_shape)
    student = _Student(snn, 6)
    targets = _analog(snn.network, x)
    loss = student.loss(x, targets).item()
    assert loss == pytest.approx(student.distance(snn, x, targets), rel=1e-6)
    run = tp.simulate_reference(snn, x, 6)
    found = [leaf[-1] for leaf in nets.leaves(run.output)]
    wanted = sum(_by_hand(a, b, len(found) == 1) for a, b in zip(targets, found, strict=True))
    assert loss == pytest.approx(wanted, rel=1e-6)


def test_the_derivative_of_a_refining_site_is_where_its_staircase_rises():
    network, calibration = nets.one_site([6.0])
    snn = tp.convert(network, calibration, neuron=tp.Refining(4), threshold=tp.MaxAbs())
    student = _Student(snn, 8, "values")
    rises = []
    for value in (-0.4, -0.1, 0.4, 3.0, 5.6, 5.9, 6.4):
        x = torch.full((1, 1), value, dtype=torch.float64)
        loss = student.loss(x, [torch.full((1, 1), 20.0, dtype=torch.float64)])
        slopes = torch.autograd.grad(loss, list(student.levels.values()))
        rises.append(bool(slopes[0].any()))
    assert rises == [False, False, True, True, True, True, False]


def test_behind_a_sigmoid_the_loss_is_that_of_the_probabilities():
    losses = []
    for tail in ((), (nn.Sigmoid(),)):
        network, calibration = nets.captured("unet", tail=tail)
        snn = tp.convert(network, calibration, neuron=tp.Signed(2))
        x = _images(5, shape=network.input_shape)
        losses.append(_Student(snn, 6).loss(x, _analog(network, x)).item())
    assert losses[1] == pytest.approx(losses[0], rel=1e-4) and losses[0] > 0


@pytest.mark.parametrize("name", ["unet", "average"])
def test_the_distance_does_not_depend_on_the_batches(name, monkeypatch):
    snn = _snn(name, tp.Signed(2))
    x = _images(7, shape=snn.network.input_shape)
    targets, student = _analog(snn.network, x), _Student(snn, 4)
    whole = student.distance(snn, x, targets)
    monkeypatch.setattr("transpike.conversion.passes.distillation._BATCH", 2)
    assert student.distance(snn, x, targets) == pytest.approx(whole, rel=1e-9)


def _by_hand(analog, spiking, alone):
    """Compute the distance as the documentation defines it."""
    if analog.shape[1] == 1 and alone:
        p, q = analog.sigmoid(), spiking.sigmoid()
        return float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean())
    if analog.shape[1] > 1:
        analog, spiking = analog - analog.mean(1, True), spiking - spiking.mean(1, True)
    return float((spiking - analog).square().sum() / analog.square().sum())


def test_what_is_common_to_all_scores_counts_only_where_they_are_values():
    a = _images(5, shape=(3, 4))
    scores, values = (_Distance(reading, 0.0) for reading in ("scores", "values"))
    assert float(scores.between([a], [a + 2])) == pytest.approx(0)
    wanted = 4 / float(a.square().mean())
    assert float(values.between([a], [a + 2])) == pytest.approx(wanted)
    single = a[:, :1]
    wanted = 4 / float(single.square().mean())
    assert float(values.between([single], [single + 2])) == pytest.approx(wanted)
    # With two outputs, an output of one channel is not read as a mask.
    both = scores.between([single, a], [single + 2, a + 2])
    assert float(both) == pytest.approx(wanted)


@pytest.mark.parametrize("sigmoid", [False, True])
def test_a_mask_comes_closer_in_probability(sigmoid):
    torch.manual_seed(0)
    tail = [nn.Sigmoid()] if sigmoid else []
    model = nn.Sequential(nets.conv(2, 8), nn.ReLU(), nets.conv(8, 1), *tail).eval()
    x = _images(16, torch.float32, (2, 12, 12))
    network = tp.capture(model, x[:2])
    snn = tp.convert(network, [x], neuron=tp.Signed(1), threshold=tp.MaxAbs("layer"))
    trained = distilled(tp.Distillation(40, 0.05), snn, x, 4)

    def gap(one):
        p, q = network(x).double(), tp.simulate_reference(one, x, 4).output[-1].double()
        p, q = (p, q) if sigmoid else (p.sigmoid(), q.sigmoid())
        return float((p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).mean())

    assert 0 < gap(trained) < 0.6 * gap(snn)


def test_bad_settings_are_refused():
    for wrong in ({"epochs": 0}, {"rate": 0.0}, {"reading": "mask"}):
        with pytest.raises(tp.ArgumentError, match=f"{next(iter(wrong))}: needed"):
            tp.Distillation(**wrong)


def test_derivative_of_a_step_within_and_beyond_the_range():
    """For y = n d/T, the derivative dy/dd is n/T - z/d within the range of z, and K beyond it."""
    network, calibration = nets.one_site([1.0, 1.0])
    snn = tp.convert(network, calibration, neuron=tp.IF())
    student, step = _Student(snn, 4), snn.steps[network.sites[0].name]
    inside, beyond = 0.3 * float(step[0]), 5.0 * float(step[0])
    x = torch.tensor([[inside, beyond]], dtype=torch.float64)
    target = [torch.zeros(1, 2, dtype=torch.float64)]
    (octaves,) = student.octaves.values()
    target[0][0, 0] = 1.0
    counts = tp.simulate(snn, x, 4, record=tp.Record(totals=True)).totals[network.sites[0].name].net
    slopes = [(float(counts[0, 0]) - 4 * 0.3) / 4, 1.0]
    outputs, wanted = (v - v.mean() for v in (counts[0] * step / 4, target[0][0]))
    gap, size = outputs - wanted, float(wanted.square().mean())
    # d = step 2^octave, so dy/d octave = log(2) d dy/dd.
    expected = [float(gap[i] * slopes[i] * step[i]) * math.log(2) / size for i in range(2)]
    student.loss(x, target).backward()
    assert octaves.grad.tolist() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(2)], ids=lambda neuron: neuron.name)
def test_training_brings_the_output_closer_and_leaves_weights_alone(neuron):
    torch.manual_seed(0)
    model = nets.Fn(
        lambda m, x: m.b(F.relu(m.a(x)).mean([2, 3])), a=nets.conv(2, 8), b=nn.Linear(8, 4)
    ).eval()
    x = _images(96, torch.float32)
    network = tp.capture(model, x[:2])
    snn = tp.convert(network, [x], neuron=neuron, threshold=tp.MaxAbs("layer"))
    trained = distilled(tp.Distillation(8, 0.05), snn, x, 4)
    targets, student = _analog(network, x), _Student(snn, 4)
    before, after = (student.distance(one, x, targets) for one in (snn, trained))
    assert after < 0.75 * before
    for name, tensor in snn.network.tensors.items():
        assert torch.equal(tensor, trained.network.tensors[name])
    assert trained.neurons == snn.neurons


def test_where_training_finds_nothing_better_the_network_stays():
    snn, x = _snn("average", tp.IF()), _images(4)
    assert distilled(tp.Distillation(1, 50.0), snn, x, 4) is snn


def test_it_is_the_same_every_time():
    snn, x = _snn("average", tp.IF()), _images(70)
    one, other = (distilled(tp.Distillation(1), snn, x, 4) for _ in range(2))
    for name, step in one.steps.items():
        assert torch.equal(step, other.steps[name])


def test_a_delayed_readout_is_refused():
    snn = _snn("average", tp.IF()).changed(readout_start=2)
    with pytest.raises(tp.ArgumentError, match="Put it before DelayedReadout"):
        distilled(tp.Distillation(1), snn, _images(4), 4)


def test_a_bounded_neuron_at_its_bound_has_no_slope():
    """Its output is the bound, whatever the step is."""
    network, calibration = nets.one_site([6.0, 6.0], nn.ReLU6())
    snn = tp.convert(network, calibration, neuron=tp.Burst(4), threshold=tp.MaxAbs())
    student = _Student(snn, 4)
    x = torch.tensor([[9.0, 3.1]], dtype=torch.float64)
    target = [torch.tensor([[1.0, 0.0]], dtype=torch.float64)]
    (octaves,) = student.octaves.values()
    (slope,) = torch.autograd.grad(student.loss(x, target), [octaves])
    assert abs(float(slope[0])) < 1e-9 < abs(float(slope[1]))


def test_inference_mode_does_not_matter_and_inputs_stay_as_they_are():
    snn, x = _snn("average", tp.IF()), _images(6).requires_grad_()
    expected = distilled(tp.Distillation(1), snn, x, 4)
    assert x.grad is None
    with torch.inference_mode():
        found = distilled(tp.Distillation(1), snn.changed(steps=_copies(snn.steps)), x.clone(), 4)
    for name, step in expected.steps.items():
        assert torch.equal(step, found.steps[name])


def _copies(tensors):
    return {name: tensor.clone() for name, tensor in tensors.items()}

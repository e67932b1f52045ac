"""A conversion derives the steps from threshold and neuron, and returns an nn.Module."""

import pytest
import torch
from torch import nn

import nets
import transpike as tp


def test_one_liner_equals_the_three_steps():
    model, batch = nets.conv_net().eval(), torch.randn(8, 2, 8, 8)
    neuron, rule = tp.Burst(max_count=5), tp.Percentile(99.0)
    network = tp.capture(model, batch)
    long = tp.convert(network, tp.calibrate(network, [batch]), neuron=neuron, threshold=rule)
    short = tp.convert(model, [batch], neuron=neuron, threshold=rule)
    x = torch.randn(3, 2, 8, 8)
    nets.same_simulation(tp.simulate(long, x, 4), tp.simulate(short, x, 4))


def test_one_liner_takes_labeled_batches_and_generators():
    batches = ((torch.randn(4, 2, 8, 8), torch.zeros(4)) for _ in range(3))
    assert isinstance(tp.convert(nets.conv_net(), batches), nn.Module)


def test_defaults():
    batch = torch.randn(8, 2, 8, 8)
    model = nets.conv_net().eval()
    default = tp.convert(model, [batch])
    explicit = tp.convert(
        model,
        [batch],
        neuron=tp.IF(),
        threshold=tp.Percentile(99.9, granularity="channel"),
    )
    for name in default.steps:
        assert torch.equal(default.steps[name], explicit.steps[name])
    assert all(n.initial_membrane == 0.5 for n in default.neurons.values())


@pytest.mark.parametrize(
    ("neuron", "divisor"),
    [
        (tp.IF(), 1),
        (tp.Burst(max_count=5), 1),
        (tp.Burst(max_count=5, mode="resolution"), 5),
        (tp.Signed(max_count=2), 2),
        (tp.Telescoped(max_count=8), 8),
        (tp.Neuron(max_count=3, signed=True, step="threshold"), 1),
        (tp.Neuron(max_count=3, signed=False, step="fraction"), 3),
    ],
    ids=["if", "range", "resolution", "signed", "telescoped", "threshold", "fraction"],
)
def test_step_is_threshold_or_a_fraction_of_it(neuron, divisor):
    network, calibration = nets.one_site([1.0, 3.0])
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    (step,) = snn.steps.values()
    expected = torch.tensor([1.0, 3.0], dtype=torch.float64) / divisor
    torch.testing.assert_close(step.detach().ravel(), expected)


def test_presets_are_settings_of_the_general_neuron():
    x = torch.randn(3, 2, dtype=torch.float64)
    network, calibration = nets.one_site([1.0, 3.0])
    pairs = [
        (tp.IF(), tp.Neuron(max_count=1, signed=False, step="threshold")),
        (tp.Burst(max_count=5), tp.Neuron(max_count=5, signed=False, step="threshold")),
        (
            tp.Burst(max_count=5, mode="resolution"),
            tp.Neuron(max_count=5, signed=False, step="fraction"),
        ),
        (tp.Signed(max_count=2), tp.Neuron(max_count=2, signed=True, step="fraction")),
    ]
    for preset, general in pairs:
        runs = [
            tp.simulate(tp.convert(network, calibration, neuron=n), x, 6) for n in (preset, general)
        ]
        nets.same_simulation(*runs)


@pytest.mark.parametrize("bad", [0, -1, 1.5])
def test_max_count_must_be_a_positive_integer(bad):
    with pytest.raises(tp.ArgumentError, match="max_count"):
        tp.Burst(max_count=bad)


def test_unknown_burst_mode():
    with pytest.raises(tp.ArgumentError, match="mode"):
        tp.Burst(mode="wide")


@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan")])
def test_initial_membrane_out_of_range(bad):
    with pytest.raises(tp.ArgumentError, match="initial_membrane"):
        tp.IF(initial_membrane=bad)


def test_argument_errors_are_both_kinds():
    with pytest.raises(ValueError, match="mode"):
        tp.Burst(mode="wide")
    assert issubclass(tp.ArgumentError, tp.TranspikeError)


def test_is_a_module_that_moves():
    snn = tp.convert(nets.conv_net(), [torch.randn(4, 2, 8, 8)])
    assert isinstance(snn, nn.Module)
    assert snn.state_dict()
    double = snn.double()
    x = torch.randn(2, 2, 8, 8, dtype=torch.float64)
    assert tp.simulate(double, x, 2).output.dtype == torch.float64
    assert double.network.dtype == torch.float64


def test_calibration_of_another_network_is_refused():
    network, _ = nets.captured("conv2d")
    _, other = nets.captured("linear")
    with pytest.raises(tp.TranspikeError, match="calibrat"):
        tp.convert(network, other)


def test_settings_are_recorded():
    snn = tp.convert(nets.conv_net(), [torch.randn(4, 2, 8, 8)], neuron=tp.Signed(max_count=2))
    assert isinstance(snn.settings, dict) and snn.settings


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ({"neuron": tp.Signed}, r"tp\.Signed\(1\)"),
        ({"neuron": tp.IF}, r"tp\.IF\(\)"),
        ({"neuron": tp.MultiThreshold}, r"tp\.MultiThreshold\(2\)"),
        ({"threshold": tp.LeastSquares}, r"tp\.LeastSquares\(\)"),
        ({"passes": [tp.BiasCorrection], "timesteps": 4}, r"tp\.BiasCorrection\("),
    ],
)
def test_what_was_not_called_is_refused_with_the_call(settings, remedy):
    with pytest.raises(tp.ArgumentError, match=f"itself. Call it: {remedy}"):
        tp.convert(nets.conv_net(), [torch.rand(4, 3, 8, 8)], **settings)


def test_passes_from_an_iterator_are_applied():
    x = torch.randn(32, 3)
    network = tp.capture(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), x)
    calibration = tp.calibrate(network, [x])
    one = tp.BiasCorrection()
    settings = {"neuron": tp.Signed(1), "timesteps": 4, "batches": [x]}
    listed = tp.convert(network, calibration, passes=[one], **settings)
    found = tp.convert(network, calibration, passes=iter([one]), **settings)
    assert [note["pass"] for note in found.settings["passes"]] == ["BiasCorrection"]
    assert all(torch.equal(found.offsets[name], listed.offsets[name]) for name in listed.offsets)

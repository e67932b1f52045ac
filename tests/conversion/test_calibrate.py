"""Calibration reads the batches one by one, in any order, and keeps its promised precision."""

import numpy as np
import pytest
import torch
from benchmarks import oracle
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import nets
import transpike as tp


def _network(channels=3):
    return tp.capture(nets.OneSite(), torch.randn(2, channels))


def _thresholds(network, batches, rule):
    snn = tp.convert(network, tp.calibrate(network, batches), threshold=rule)
    (step,) = snn.steps.values()
    return step.detach().ravel()


SHAPES = {
    "normal": lambda: torch.randn(40_000, 3) * torch.tensor([1.0, 1e-5, 50.0]),
    "exponential": lambda: -torch.rand(40_000, 3).log(),
    "sparse": lambda: torch.relu(torch.randn(40_000, 3) - 1.0),
    "uniform": lambda: torch.rand(40_000, 3),
}


@pytest.mark.parametrize("kind", sorted(SHAPES))
@pytest.mark.parametrize("percent", [90.0, 99.0, 99.9])
def test_percentile_is_within_one_percent(kind, percent):
    values = SHAPES[kind]()
    network = _network()
    found = _thresholds(network, values.split(999), tp.Percentile(percent))
    for c in range(3):
        exact = oracle.percentile(values[:, c].clamp(min=0).numpy(), percent)
        assert abs(float(found[c]) / exact - 1) < 0.01


def test_percentile_of_the_whole_layer():
    values = torch.randn(20_000, 3) * torch.tensor([1.0, 2.0, 3.0])
    found = _thresholds(_network(), [values], tp.Percentile(99.0, granularity="layer"))
    exact = oracle.percentile(values.clamp(min=0).numpy(), 99.0)
    np.testing.assert_allclose(found.numpy(), exact, rtol=0.01)


def test_max_is_exact():
    values = torch.randn(1000, 3)
    network = _network()
    found = _thresholds(network, values.split(64), tp.MaxAbs())
    assert torch.equal(found, values.max(0).values)
    layer = _thresholds(network, [values], tp.MaxAbs(granularity="layer"))
    assert torch.equal(layer.max(), values.max())
    assert layer.unique().numel() == 1


@pytest.mark.parametrize(
    "rule",
    [
        tp.MaxAbs(),
        tp.Percentile(99.0),
        tp.Percentile(99.0, granularity="layer"),
        tp.LeastSquares(levels=8),
    ],
    ids=["max", "channel", "layer", "lsq"],
)
def test_order_of_batches_does_not_matter(rule):
    """The thresholds are bit-identical for any order and any size of the batches."""
    values = torch.randn(2000, 3)
    batches = list(values.split(130))
    network = _network()
    base = _thresholds(network, batches, rule)
    assert torch.equal(_thresholds(network, batches[::-1], rule), base)
    shuffled = values[torch.randperm(len(values))]
    assert torch.equal(_thresholds(network, shuffled.split(77), rule), base)


def test_silent_channels_get_a_usable_threshold():
    values = torch.rand(100, 3)
    values[:, 1] = -1.0
    for rule in (tp.MaxAbs(), tp.Percentile(99.9), tp.LeastSquares(levels=8)):
        step = _thresholds(_network(), [values], rule)
        assert bool((step > 0).all()) and bool(step.isfinite().all())


def test_all_channels_silent():
    network = _network()
    snn = tp.convert(network, tp.calibrate(network, [-torch.rand(10, 3)]))
    assert bool(tp.simulate(snn, torch.rand(2, 3), 4).output.isfinite().all())


def test_rarely_active_channel_is_not_silenced():
    """A channel that fires gets a threshold above 0, even if its percentile is 0."""
    values = -torch.ones(5000, 3)
    values[0] = 2.0
    step = _thresholds(_network(), [values], tp.Percentile(99.0))
    assert bool((step > 0).all())


def test_bounded_site_has_a_threshold_up_to_its_bound():
    network = tp.capture(nets.OneSite(nn.ReLU6()), torch.randn(2, 3))
    step = _thresholds(network, [torch.full((10, 3), 50.0)], tp.MaxAbs())
    torch.testing.assert_close(step, torch.full((3,), 6.0))


def test_batches_may_be_tensors_pairs_or_a_loader():
    x, y = torch.randn(60, 3), torch.zeros(60)
    network = _network()
    expected = tp.calibrate(network, [x])
    assert expected.n == 60
    base = tp.convert(network, expected).steps
    for batches in (
        list(x.split(7)),
        [(a, b) for a, b in zip(x.split(7), y.split(7), strict=True)],
        [[x, y]],
        DataLoader(TensorDataset(x, y), batch_size=11),
        (part for part in x.split(13)),
    ):
        calibration = tp.calibrate(network, batches)
        assert calibration.n == 60
        for name, step in tp.convert(network, calibration).steps.items():
            assert torch.equal(step, base[name])


def test_memory_does_not_grow_with_the_data():
    """The statistics of one batch and of fifty batches have the same size."""
    network = _network()

    def size(calibration):
        seen, total, stack = set(), 0, [calibration]
        while stack:
            item = stack.pop()
            if id(item) in seen:
                continue
            seen.add(id(item))
            if isinstance(item, torch.Tensor):
                total += item.numel()
            elif isinstance(item, dict):
                stack += list(item.values())
            elif isinstance(item, list | tuple):
                stack += list(item)
            elif hasattr(item, "__dict__") and "transpike" in type(item).__module__:
                stack += list(vars(item).values())
        return total

    one = tp.calibrate(network, [torch.randn(100, 3)])
    many = tp.calibrate(network, [torch.randn(100, 3) for _ in range(50)])
    assert size(many) <= 2 * size(one)


def test_empty_set_is_an_error():
    with pytest.raises(tp.DataError, match="empty|at least one"):
        tp.calibrate(_network(), [])


def test_least_squares_is_no_worse_than_the_maximum():
    values = torch.randn(4000, 1).abs() ** 3
    network = _network(1)
    levels = 4
    calibration = tp.calibrate(network, [values])

    def error(rule):
        snn = tp.convert(network, calibration, neuron=tp.IF(), threshold=rule)
        (step,) = snn.steps.values()
        q = oracle.quantized(values.numpy(), step.detach().numpy(), 1, levels)
        return float(((q - values.numpy()) ** 2).mean())

    found = error(tp.LeastSquares(levels=levels))
    assert found < error(tp.MaxAbs())
    best = min(
        float(((oracle.quantized(values.numpy(), s, 1, levels) - values.numpy()) ** 2).mean())
        for s in np.linspace(0.02, 1, 200) * float(values.max())
    )
    assert found < 1.1 * best


def test_least_squares_levels_default_to_max_count_times_timesteps():
    network = _network()
    calibration = tp.calibrate(network, [torch.randn(500, 3)])
    neuron = tp.Burst(max_count=4, mode="resolution")
    a = tp.convert(network, calibration, neuron=neuron, threshold=tp.LeastSquares(), timesteps=8)
    b = tp.convert(network, calibration, neuron=neuron, threshold=tp.LeastSquares(levels=32))
    for name in a.steps:
        assert torch.equal(a.steps[name], b.steps[name])
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        tp.convert(network, calibration, neuron=neuron, threshold=tp.LeastSquares())


@pytest.mark.parametrize("percent", [-1.0, 101.0, float("nan")])
def test_percentile_out_of_range(percent):
    with pytest.raises(tp.ArgumentError, match="percentile"):
        tp.Percentile(percent)


def test_unknown_granularity():
    with pytest.raises(tp.ArgumentError, match="granularity"):
        tp.MaxAbs(granularity="pixel")


def test_non_positive_levels():
    with pytest.raises(tp.ArgumentError, match="levels"):
        tp.LeastSquares(levels=0)

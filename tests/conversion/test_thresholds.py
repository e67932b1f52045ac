"""Threshold rules give the results of a brute-force search or iteration."""

import numpy as np
import pytest
import torch
from torch import nn

import nets
import transpike as tp
from transpike.conversion.calibrate import Histogram, Moments
from transpike.conversion.thresholds import threshold


def _gaussian(n=100_000):
    """Return normally distributed currents of three channels, with their statistics."""
    rng = np.random.default_rng(0)
    mean, deviation = np.array([0.0, -1.0, 1.0]), np.array([1.0, 2.0, 0.5])
    z = torch.from_numpy(rng.normal(mean[:, None], deviation[:, None], (3, n)))
    histogram, moments = Histogram(3), Moments(3)
    histogram.update(z.clamp(min=0))
    moments.update(z)
    return z, histogram, moments


def _error(z, theta, levels):
    step = theta / levels
    count = np.clip(np.floor(z / step + 0.5), 0, levels)
    return ((np.maximum(z, 0) - step * count) ** 2).mean()


@pytest.mark.parametrize("levels", [1, 4, 16])
def test_gaussian_iteration_is_the_best_threshold_of_a_gaussian(levels):
    """No threshold of a fine grid has a clearly smaller error on samples."""
    z, histogram, moments = _gaussian()
    found = threshold(tp.GaussianIteration(levels), histogram, moments=moments)
    for channel in range(3):
        samples = z[channel].numpy()
        grid = np.linspace(0.2, 1.2, 60) * float(histogram.maximum[channel])
        best = min(_error(samples, theta, levels) for theta in grid)
        assert _error(samples, float(found[channel]), levels) < 1.03 * best


def test_gaussian_iteration_needs_moments():
    _, histogram, _ = _gaussian(100)
    with pytest.raises(tp.ArgumentError, match="needed the moments of the currents"):
        threshold(tp.GaussianIteration(4), histogram)


def test_moments_are_mean_and_variance_of_the_currents_in_any_order():
    z, _, moments = _gaussian(1000)
    np.testing.assert_allclose(moments.mean, z.mean(1), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, z.var(1, unbiased=False), rtol=1e-10)
    other = Moments(3)
    for part in reversed(z.split(300, dim=1)):
        other.update(part)
    np.testing.assert_allclose(other.variance, moments.variance, rtol=1e-12)


def test_threshold_balancing_climbs_to_the_maximum():
    """The rule equals an iteration on the samples; more iterations raise the threshold."""
    z, histogram, _ = _gaussian(5000)
    activation = z.clamp(min=0).numpy()
    before = torch.zeros(3, dtype=torch.float64)
    for iterations in (1, 10, 100, 1000):
        rule = tp.LocalThresholdBalancing(iterations, rate=0.5)
        found = threshold(rule, histogram)
        theta = np.zeros(3)
        for _ in range(iterations):
            theta += np.maximum(activation - theta[:, None], 0).mean(1)
        np.testing.assert_allclose(found, theta, rtol=0.02)
        assert bool((found > before).all()) and bool((found <= histogram.maximum).all())
        before = found


@pytest.mark.parametrize("granularity", ["channel", "layer"])
@pytest.mark.parametrize("rule", [tp.GaussianIteration, tp.LocalThresholdBalancing])
@pytest.mark.parametrize("name", ["conv2d", "relu6", "permute"])
def test_rules_convert_networks(name, rule, granularity):
    network, calibration = nets.captured(name)
    snn = tp.convert(network, calibration, threshold=rule(granularity=granularity), timesteps=16)
    for site in network.sites:
        step, histogram = snn.steps[site.name], calibration.histograms[site.name]
        assert bool((step > 0).all())
        assert bool((step <= histogram.maximum.max() + 1e-9).all())
        assert granularity == "channel" or len(step.unique()) == 1


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tp.LocalThresholdBalancing(0), "iterations: needed an integer >= 1"),
        (lambda: tp.LocalThresholdBalancing(rate=0.0), "rate: needed 0 < rate <= 1"),
        (lambda: tp.GaussianIteration(0), "levels: needed an integer >= 1"),
        (lambda: tp.GaussianIteration(granularity="pixel"), "granularity: needed"),
    ],
)
def test_rules_out_of_range_are_refused(make, message):
    with pytest.raises(tp.ArgumentError, match=message):
        make()


@pytest.mark.parametrize(
    "rule",
    [
        tp.MaxAbs(),
        tp.UpperBound(),
        tp.UpperBound("layer"),
        tp.Percentile(99),
        tp.LeastSquares(levels=4),
        tp.LocalThresholdBalancing(10),
        tp.GaussianIteration(levels=4),
    ],
)
@pytest.mark.parametrize("activation", [nn.ReLU6(), nn.Hardtanh(0.0, 0.75), nn.ReLU()])
def test_no_threshold_is_above_the_bound_and_one_rule_takes_the_bound(rule, activation):
    """The first channel of the data exceeds every bound, the second none, the third is silent."""
    network, _ = nets.one_site([1.0, 1.0, 1.0], activation)
    x = torch.tensor([[9.0, 0.5, -1.0], [1.0, 0.25, -2.0], [3.0, 0.1, -0.5]], dtype=torch.float64)
    snn = tp.convert(network, [x], neuron=tp.Signed(1), threshold=rule)
    (site,) = network.sites
    (steps,) = snn.steps.values()
    if site.upper_bound is not None:
        assert float(steps.max()) <= site.upper_bound
        if isinstance(rule, tp.UpperBound):
            assert torch.equal(steps, torch.full_like(steps, site.upper_bound))
    elif rule == tp.UpperBound():
        assert torch.equal(steps, tp.convert(network, [x], threshold=tp.MaxAbs()).steps[site.name])

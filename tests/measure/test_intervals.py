"""Intervals are over images, because the pixels of one image depend on each other."""

import math

import pytest
import torch
from torch import nn

import transpike as tp
from transpike.measure.intervals import ImageCounts, _t95, image_interval, wilson_interval

# Student's t, 0.975 quantile; source: NIST/SEMATECH e-Handbook of Statistical Methods, 1.3.6.7.2.
T95 = {1: 12.706, 2: 4.303, 4: 2.776, 5: 2.571, 8: 2.306, 20: 2.086, 50: 2.009, 100: 1.984}


@pytest.mark.parametrize(("freedom", "quantile"), T95.items())
def test_quantiles_of_students_t(freedom, quantile):
    assert _t95(freedom) == pytest.approx(quantile, abs=6e-4)


def test_more_pixels_of_the_same_images_say_nothing_new():
    right, pixels = torch.tensor([60, 40, 65, 50]), torch.full((4,), 100)
    small, large = (image_interval(k * right, k * pixels) for k in (1, 1000))
    assert small == pytest.approx(large)
    narrow = wilson_interval(215_000, 400_000)
    assert small[0] < narrow[0] and narrow[1] < small[1]
    # For images of one size, this is the interval of their mean accuracy.
    accuracy = right.double() / 100
    half = 3.1824 * float(accuracy.std()) / math.sqrt(4)
    assert small == pytest.approx((0.5375 - half, 0.5375 + half), abs=1e-4)


def test_larger_images_weigh_more():
    low, high = image_interval(torch.tensor([11, 95, 100]), torch.tensor([20, 200, 200]))
    assert (low + high) / 2 == pytest.approx(206 / 420)


def test_one_image_says_nothing_about_the_spread():
    assert image_interval(torch.tensor([9]), torch.tensor([10])) == (0.0, 1.0)
    assert image_interval(torch.tensor([1]), torch.tensor([10]), -1.0) == (-1.0, 1.0)


def test_intervals_cover_the_mean_of_correlated_pixels():
    """The interval contains the truth in about 95 % of 400 experiments."""
    generator = torch.Generator().manual_seed(0)
    level = torch.rand((400, 20), generator=generator)  # The mean accuracy is 0.5.
    right = torch.binomial(torch.full_like(level, 100.0), level, generator=generator)
    pixels = torch.full((20,), 100)
    covered, naive = 0, 0
    for one in right:
        low, high = image_interval(one, pixels)
        covered += low <= 0.5 <= high
        low, high = wilson_interval(float(one.sum()), 2000)
        naive += low <= 0.5 <= high
    assert 0.92 <= covered / 400 <= 0.98 and naive / 400 < 0.5


def test_evaluate_takes_images_of_dense_outputs_for_independent():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 1)).eval()
    x = torch.randn(5, 1, 6, 7)
    target = torch.randint(0, 2, (5, 6, 7))
    snn = tp.convert(model, [x])
    result = tp.evaluate(snn, [(x[:3], target[:3]), (x[3:], target[3:])], timesteps=2)
    assert (result.n, result.samples, result.intervals_over) == (5 * 42, 5, "images")
    with torch.no_grad():
        ann = (model(x).argmax(1) == target).flatten(1).sum(1)
    pixels = torch.full((5,), 42)
    assert result.ann_accuracy_interval == pytest.approx(image_interval(ann, pixels))
    output = tp.simulate(snn, x, 2).output
    for t in range(2):
        right = (output[t].argmax(1) == target).flatten(1).sum(1)
        assert result.accuracy_interval[t] == pytest.approx(image_interval(right, pixels))
        lost = image_interval(ann - right, pixels, -1.0)
        assert result.loss_interval[t] == pytest.approx(lost)
    labels = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(60, 2)).eval()
    plain = tp.evaluate(tp.convert(labels, [x]), [(x, target[:, 0, 0])], timesteps=1)
    assert plain.intervals_over == "samples"


def test_an_unfinished_batch_leaves_no_trace():
    counts = ImageCounts()
    batch = ImageCounts.of(torch.ones(2, 4, 4, dtype=torch.bool), timesteps=1)
    batch.count(slice(0, 2), 1, torch.ones(2, 4, 4, dtype=torch.bool))
    assert counts.right is None and len(counts.pixels) == 0
    counts.extend(batch)
    assert counts.accuracy_intervals() == [(1.0, 1.0)] == [counts.ann_interval()]

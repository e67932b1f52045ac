"""Intervals of paired differences."""

from __future__ import annotations

import numpy as np
import pytest

from transpike.study.paired import bootstrap_interval, packed, unpacked


def test_flags_come_back() -> None:
    for n in (1, 7, 8, 9, 60):
        flags = np.random.RandomState(n).rand(n) < 0.5
        assert np.array_equal(unpacked(packed(flags), n), flags)


@pytest.mark.parametrize("values", [[-1.0, 0.0, 1.0], [-0.5, 0.0, 0.5, 1.0], [0.0, 1 / 3]])
def test_the_bootstrap_equals_drawing_the_images_themselves(values: list[float]) -> None:
    random = np.random.RandomState(1)
    weights = np.linspace(1, 2, len(values))
    differences = random.choice(values, 300, p=weights / weights.sum())
    means = [random.choice(differences, 300).mean() for _ in range(20_000)]
    expected = np.percentile(means, [2.5, 97.5])
    assert bootstrap_interval(differences) == pytest.approx(expected, abs=0.01)


def test_the_bootstrap_covers_the_true_difference_about_as_often_as_it_says() -> None:
    random = np.random.RandomState(2)
    truth, hits = 0.05, 0
    for _ in range(200):
        drawn = random.choice([-1.0, 0.0, 1.0], 400, p=[0.05, 0.85, 0.1])
        low, high = bootstrap_interval(drawn)
        hits += low <= truth <= high
    assert 0.9 < hits / 200 < 0.99


def test_equal_values_have_an_interval_without_width() -> None:
    assert bootstrap_interval(np.zeros(10)) == (0.0, 0.0)

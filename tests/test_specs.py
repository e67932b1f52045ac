from __future__ import annotations

import pytest

from transpike.errors import ArgumentError
from transpike.neuron import IF, Burst, Neuron, Signed, Telescoped
from transpike.specs import parse_neuron, parse_shape, parse_threshold
from transpike.thresholds import LeastSquares, MaxAbs, Percentile


@pytest.mark.parametrize(
    ("text", "neuron"),
    [
        ("if", IF()),
        ("burst", Burst(max_count=5)),
        ("burst:5", Burst(max_count=5, mode="range")),
        ("burst:8:range", Burst(max_count=8)),
        ("burst:8:resolution", Burst(max_count=8, mode="resolution")),
        ("signed", Signed(max_count=1)),
        ("signed:4", Signed(max_count=4)),
        ("telescoped:8", Telescoped(max_count=8)),
    ],
)
def test_neuron_forms(text: str, neuron: Neuron) -> None:
    assert parse_neuron(text) == neuron


def test_initial_membrane_reaches_every_neuron() -> None:
    for text in ("if", "burst:5", "burst:5:resolution", "signed:1", "telescoped:8"):
        assert parse_neuron(text, 0.0).initial_membrane == 0.0


@pytest.mark.parametrize("text", ["lif", "if:1", "burst:5:fast", "signed:1:2", "burst:5:"])
def test_unknown_neuron_shows_the_forms(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a form like if, burst:5"):
        parse_neuron(text)


@pytest.mark.parametrize("text", ["burst:x", "signed:1.5", "telescoped:"])
def test_neuron_count_must_be_whole(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a whole number"):
        parse_neuron(text)


@pytest.mark.parametrize("text", ["burst:0", "signed:-1"])
def test_neuron_count_must_be_positive(text: str) -> None:
    with pytest.raises(ArgumentError, match="max_count"):
        parse_neuron(text)


@pytest.mark.parametrize(
    ("text", "granularity", "rule"),
    [
        ("max", "channel", MaxAbs()),
        ("max", "layer", MaxAbs(granularity="layer")),
        ("percentile", "channel", Percentile(99.9)),
        ("percentile:99", "layer", Percentile(99.0, granularity="layer")),
        ("lsq", "channel", LeastSquares()),
        ("lsq:16", "layer", LeastSquares(levels=16, granularity="layer")),
    ],
)
def test_threshold_forms(text: str, granularity: str, rule: object) -> None:
    assert parse_threshold(text, granularity) == rule


@pytest.mark.parametrize("text", ["", "mean", "max:1", "lsq:1:2"])
def test_unknown_threshold_shows_the_forms(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a form like percentile:99.9"):
        parse_threshold(text)


def test_threshold_numbers() -> None:
    with pytest.raises(ArgumentError, match="needed a number in percent"):
        parse_threshold("percentile:high")
    with pytest.raises(ArgumentError, match="needed a whole number"):
        parse_threshold("lsq:many")


@pytest.mark.parametrize("text", ["percentile:0", "percentile:101", "percentile:nan", "lsq:0"])
def test_threshold_out_of_range(text: str) -> None:
    with pytest.raises(ArgumentError):
        parse_threshold(text)


def test_unknown_granularity() -> None:
    with pytest.raises(ArgumentError, match="needed channel or layer"):
        parse_threshold("max", "pixel")


def test_shapes() -> None:
    assert parse_shape("3x224x224") == (3, 224, 224)
    assert parse_shape("16") == (16,)


@pytest.mark.parametrize("text", ["", "3,32,32", "3x0x3", "3x-1", "axb"])
def test_bad_shape(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a form like 3x224x224"):
        parse_shape(text)

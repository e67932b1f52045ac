from __future__ import annotations

import pytest

from transpike.conversion.passes import (
    AllocateCounts,
    BiasCorrection,
    DelayedReadout,
    MembraneCorrection,
    SiteSearch,
)
from transpike.conversion.passes.distillation import Distillation
from transpike.conversion.specs import parse_neuron, parse_passes, parse_shape, parse_threshold
from transpike.conversion.thresholds import (
    GaussianIteration,
    LeastSquares,
    LocalThresholdBalancing,
    MaxAbs,
    Percentile,
    UpperBound,
)
from transpike.errors import ArgumentError
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import (
    IF,
    Burst,
    Cyclic,
    Differential,
    MultiThreshold,
    Refining,
    Signed,
    Staggered,
    Telescoped,
)


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
        ("multi", MultiThreshold(2)),
        ("multi:3", MultiThreshold(3)),
        ("multi:3:signed", MultiThreshold(3, signed=True)),
        ("differential", Differential(8)),
        ("differential:16", Differential(16)),
        ("differential:16:2", Differential(16, 2)),
        ("refining", Refining(4, 2)),
        ("refining:8:4", Refining(8, 4)),
        ("refining:2:2:4:3", Refining(2, 2, levels=4, period=3)),
        ("refining:1:2:2", Refining(1, 2, levels=2)),
        ("refining:8", Refining(8, 4, levels=10)),
        ("cyclic", Cyclic(8, (1, 4), levels=10)),
        ("cyclic:4", Cyclic(4, (1, 2), levels=6)),
        ("cyclic:8:1-4-16", Cyclic(8, (1, 4, 16), levels=10)),
        ("cyclic:8:1:8", Cyclic(8, (1,), levels=8)),
        ("cyclic:2:auto:4", Cyclic(2, (1, 2), levels=4)),
        ("cyclic:K=8,divisors=1-1-4", Cyclic(8, (1, 1, 4))),
        ("staggered", Staggered(2)),
        ("staggered:4:4", Staggered(4, 4)),
        ("staggered:2:2:5:3:2", Staggered(2, 2, window=5, lag=3, levels=2)),
    ],
)
def test_neuron_forms(text: str, neuron: Neuron) -> None:
    assert parse_neuron(text) == neuron


def test_initial_membrane_reaches_every_neuron() -> None:
    forms = ["if", "burst:5", "burst:5:resolution", "signed:1", "telescoped:8"]
    for text in [*forms, "multi:2", "differential:8", "refining"]:
        assert parse_neuron(text, 0.0).initial_membrane == 0.0
    with pytest.raises(ArgumentError, match="follows from its hysteresis"):
        parse_neuron("staggered:2", 0.0)


@pytest.mark.parametrize(
    "text", ["lif", "if:1", "burst:5:fast", "signed:1:2", "burst:5:", "multi:2:3"]
)
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
        ("bound", "channel", UpperBound()),
        ("bound", "layer", UpperBound(granularity="layer")),
        ("max", "layer", MaxAbs(granularity="layer")),
        ("percentile", "channel", Percentile(99.9)),
        ("percentile:99", "layer", Percentile(99.0, granularity="layer")),
        ("lsq", "channel", LeastSquares()),
        ("lsq:16", "layer", LeastSquares(levels=16, granularity="layer")),
        ("gauss", "channel", GaussianIteration()),
        ("gauss:8", "layer", GaussianIteration(8, granularity="layer")),
        ("ltb", "channel", LocalThresholdBalancing()),
        ("ltb:50", "layer", LocalThresholdBalancing(50, granularity="layer")),
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


def test_pass_forms() -> None:
    assert parse_passes("bias") == (BiasCorrection(),)
    assert parse_passes("distill,distill:values") == (
        Distillation(),
        Distillation(reading="values"),
    )
    assert parse_passes("allocate:counts:3") == (AllocateCounts(mean_count=3),)
    assert parse_passes("allocate:2.5, search,membrane,delay") == (
        AllocateCounts(2.5),
        SiteSearch(),
        MembraneCorrection(),
        DelayedReadout(),
    )


@pytest.mark.parametrize(
    "text", ["", "weights", "bias:2", "allocate", "allocate:2:3", "allocate:counts", "bias,,delay"]
)
def test_unknown_pass_shows_the_forms(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed forms like bias, membrane"):
        parse_passes(text)


def test_budget_of_a_pass() -> None:
    with pytest.raises(ArgumentError, match="needed a number, got 'few'"):
        parse_passes("allocate:few")
    with pytest.raises(ArgumentError, match="spikes_per_neuron: needed a number > 0"):
        parse_passes("allocate:0")


def test_shapes() -> None:
    assert parse_shape("3x224x224") == (3, 224, 224)
    assert parse_shape("16") == (16,)


@pytest.mark.parametrize("text", ["", "3,32,32", "3x0x3", "3x-1", "axb"])
def test_bad_shape(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a form like 3x224x224"):
        parse_shape(text)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("burst:mode=resolution", "burst:5:resolution"),
        ("signed:K=3", "signed:3"),
        ("telescoped:K=8", "telescoped:8"),
        ("multi:bits=3,signed=yes", "multi:3:signed"),
        ("multi:signed=no", "multi:2"),
        ("differential:K=2, levels=6", "differential:6:2"),
        ("refining:period=3,K=2", None),
        ("cyclic:divisors=1-2-4,K=2", "cyclic:2:1-2-4"),
        ("staggered:K=2,window=4,lag=1", "staggered:2:2:4:1"),
        ("staggered:levels=2,window=5", "staggered:2:2:5:1:2"),
    ],
)
def test_names_in_place_of_positions(text: str, short: str | None) -> None:
    expected = Refining(2, period=3) if short is None else parse_neuron(short)
    assert parse_neuron(text) == expected


def test_names_of_thresholds() -> None:
    assert parse_threshold("percentile:P=99") == parse_threshold("percentile:99")
    assert parse_threshold("lsq:levels=16") == parse_threshold("lsq:16")
    assert parse_threshold("ltb:iterations=50") == parse_threshold("ltb:50")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("staggered:k=2", "unknown name 'k'. Possible names: K, ratio, window, lag, levels"),
        ("staggered:K=2,K=3", "K is given twice"),
        ("staggered:K=2,3", "got '3'. Possible names: K, ratio"),
        ("staggered:K=", "got 'K='. Possible names"),
        ("cyclic:divisors=1-two", "needed a whole number, got 'two'"),
        ("cyclic:divisors=1-3", r"divisors: needed a tuple of powers of two, got \(1, 3\)"),
        ("staggered:K=two", "needed a whole number, got 'two'"),
        ("multi:signed=maybe", "signed: needed yes or no, got 'maybe'"),
        ("if:K=2", "'if' takes no names"),
    ],
)
def test_wrong_names_are_refused_with_the_possible_ones(text: str, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        parse_neuron(text)


@pytest.mark.parametrize(
    "text", ["refining:4:", "refining:4::6", "cyclic:8:1-", "cyclic:8:", "staggered:2:2:4:1:"]
)
def test_an_empty_setting_is_refused(text: str) -> None:
    with pytest.raises(ArgumentError, match="needed a whole number, got ''"):
        parse_neuron(text)

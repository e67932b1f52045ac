"""The diagnosis calls good conversions healthy, and it finds planted faults."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import faults
import transpike as tp
from nets import NETS, captured, deep, one_site
from transpike.measure.diagnose import Diagnosis, diagnose
from transpike.measure.findings import LOCAL, PARTS, output_is_close, verdict
from transpike.zoo import demo

NEURONS = [tp.IF(), tp.Signed(2), tp.Telescoped(2), tp.Differential(8), tp.Refining(4)]
NEURONS += [tp.Staggered(2)]


@functools.cache
def _trained() -> tuple[nn.Module, tp.Network, list[Tensor], list[Tensor]]:
    """Train the digits network; return (model, network, calibration inputs, test inputs)."""
    model, data = demo.train(0)
    calibration = [x for x, _ in data.train.subset(256, 0).batches(64)]
    test = [x for x, _ in data.test.subset(120, 0).batches(60)]
    return model, tp.capture(model, calibration[0]), calibration, test


@functools.cache
def _calibrated() -> tp.Calibration:
    _, network, calibration, _ = _trained()
    return tp.calibrate(network, calibration)


def _convert(neuron: tp.Neuron, **settings: object) -> tp.SpikingNetwork:
    return tp.convert(_trained()[1], _calibrated(), neuron=neuron, **settings)


def _diagnose(snn: tp.SpikingNetwork, timesteps: int, **settings: object) -> Diagnosis:
    return diagnose(snn, _trained()[3], timesteps, **settings)


def _with_step_times(snn: tp.SpikingNetwork, site: str, factor: float) -> tp.SpikingNetwork:
    steps = {name: step * (factor if name == site else 1) for name, step in snn.steps.items()}
    return tp.SpikingNetwork(snn.network, snn.neurons, steps, snn.settings, coding=snn.coding)


SITES = ("stem.2", "stem.5", "block.relu", "block.relu_1")
LAYER = tp.Percentile(99.9, granularity="layer")


@pytest.mark.parametrize(
    ("neuron", "timesteps", "settings"),
    [
        (tp.IF(), 8, {}),
        (tp.IF(), 64, {}),
        (tp.IF(initial_membrane=0.0), 32, {}),
        (tp.IF(), 32, {"threshold": LAYER}),
        (tp.IF(), 32, {"threshold": tp.MaxAbs()}),
        (tp.Signed(1), 8, {}),
        (tp.Signed(4), 2, {"threshold": tp.LeastSquares(), "timesteps": 2}),
        (tp.Burst(5), 8, {}),
        (tp.Burst(8, mode="resolution"), 4, {}),
        (tp.MultiThreshold(3), 4, {}),
        (tp.Telescoped(4), 4, {}),
        (tp.Differential(16), 32, {}),
    ],
)
def test_healthy(neuron: tp.Neuron, timesteps: int, settings: dict[str, object]) -> None:
    found = _diagnose(_convert(neuron, **settings), timesteps, model=_trained()[0])
    assert found.healthy and found.first is None, str(found)
    assert found.output.agreement is not None and found.output.agreement > 0.9
    assert all(site.charge_error < 0.01 for site in found.sites)
    assert all(site.parts["weights"].rms < 1e-4 for site in found.sites)
    assert found.verdict[0].startswith("The output is close to the ANN's: ")
    assert found.verdict[1] == "No single site stands out."
    assert all(sentence in str(found) for sentence in found.verdict)
    assert found.to_dict()["verdict"] == list(found.verdict)


@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(1)])
def test_a_bad_output_is_called_bad_where_no_site_stands_out(neuron: tp.Neuron) -> None:
    """With one timestep all sites have a large error, and none stands out."""
    found = _diagnose(_convert(neuron), 1)
    assert not found.findings and found.output.agreement is not None
    assert found.output.agreement < 0.7 and found.output.relative_error > 0.8
    assert not found.healthy and found.to_dict()["healthy"] is False
    text = str(found)
    assert "The output is far from the ANN's: 60.8 % of the predictions agree" in text
    assert "and the relative error is 0.86 (needed: 0.5 or less)." in text
    assert "No single site stands out." in text and "healthy" not in text
    assert found.advice in text and "what would help most" in found.advice


@pytest.mark.parametrize(
    ("agreement", "error", "close"),
    [
        (0.9, 0.5, True),
        (0.899, 0.1, False),
        (1.0, 0.501, False),
        (None, 0.5, True),  # A regression has no predictions.
        (None, 0.6, False),
        (0.95, math.nan, True),  # Class indices have no error.
        (0.95, None, True),
        (0.5, math.nan, False),
        (None, math.nan, False),
        (None, None, False),
    ],
)
def test_limits_of_the_verdict(agreement: float | None, error: float | None, close: bool) -> None:
    assert output_is_close(agreement, error) == close
    (sentence,) = verdict(agreement, error, found=True)
    assert ("close to" in sentence) == close
    assert ("cannot be judged" in sentence) == (
        agreement is None and (error is None or math.isnan(error))
    )


def test_a_verdict_on_class_indices_and_on_masks() -> None:
    class Classes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = _trained()[0]

        def forward(self, x: Tensor) -> Tensor:
            return self.inner(x).argmax(dim=1)

    scores = _diagnose(_convert(tp.Signed(1)), 2)
    snn = tp.convert(Classes().eval(), _trained()[2], neuron=tp.Signed(1))
    classes = _diagnose(snn, 2)
    assert classes.output.agreement == scores.output.agreement
    assert math.isnan(classes.output.relative_error) and classes.output.close
    network, calibration = captured("unet")
    x = torch.randn(4, *network.input_shape, dtype=torch.float64)
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    mask = tp.simulate(snn, x, 4).output[-1] > 0
    assert diagnose(snn, [x], 4).output.agreement == float(
        (mask == (network(x) > 0)).double().mean()
    )


@pytest.mark.parametrize(("neuron", "timesteps"), [(tp.IF(), 32), (tp.Signed(1), 8)])
@pytest.mark.parametrize(("factor", "cause"), [(0.2, "clipping"), (5.0, "quantization")])
@pytest.mark.parametrize("site", SITES)
def test_one_wrong_threshold(
    site: str, factor: float, cause: str, neuron: tp.Neuron, timesteps: int
) -> None:
    found = _diagnose(_with_step_times(_convert(neuron), site, factor), timesteps)
    assert [(f.site, f.cause) for f in found.findings] == [(site, cause)]
    assert f"first wrong at '{site}', {cause}" in str(found)
    rms = {s.name: s.parts[cause].rms for s in found.sites}
    assert max(rms, key=lambda name: rms[name]) == site


def test_a_shared_neuron() -> None:
    found = _diagnose(_convert(tp.IF()), 32, simulator=faults.simulate_shared)
    assert found.first is not None
    assert (found.first.site, found.first.cause) == ("block.relu", "charge")
    assert found.first.sites == ("block.relu", "block.relu_1")


def test_the_reference_simulator_can_be_diagnosed_too() -> None:
    snn = _convert(tp.Signed(2))
    fast = _diagnose(snn, 3)
    slow = _diagnose(snn, 3, simulator=tp.simulate_reference)
    assert slow.healthy
    for a, b in zip(fast.sites, slow.sites, strict=True):
        assert a.relative_error == pytest.approx(b.relative_error, rel=1e-3)


@pytest.mark.parametrize(
    ("tensor", "place"),
    [
        ("conv2d:bias", "stem.2"),
        ("conv2d_1:bias", "stem.5"),
        ("conv2d_2:bias", "block.relu"),
        ("conv2d_3:bias", "block.relu_1"),
        ("classifier.bias", "output"),
    ],
)
def test_a_dropped_bias(tensor: str, place: str) -> None:
    model, network, *_ = _trained()
    snn = _convert(tp.Signed(1))
    tensors = dict(network.tensors)
    tensors[tensor] = torch.zeros_like(tensors[tensor])
    damaged = replace(network, tensors=tensors)
    broken = tp.SpikingNetwork(damaged, snn.neurons, snn.steps, snn.settings)
    found = _diagnose(broken, 8, model=model)
    assert [(f.site, f.cause) for f in found.findings if f.cause == "weights"] == [
        (place, "weights")
    ]
    assert found.first is not None and found.first.cause == "weights"
    if place != "output":  # The weights of all other sites are right.
        assert [s.name for s in found.sites if s.parts["weights"].rms > 1e-4] == [place]


@pytest.mark.parametrize("scale", [1 / 255, 1 / 16, 4.0, 255.0])
def test_calibration_on_inputs_of_another_scale(scale: float) -> None:
    _, network, calibration, _ = _trained()
    wrong = tp.calibrate(network, [x * scale for x in calibration])
    found = _diagnose(tp.convert(network, wrong, neuron=tp.Signed(1)), 8)
    assert [(f.site, f.cause) for f in found.findings] == [("stem.2", "calibration")]
    assert ("too small" if scale < 1 else "too large") in found.findings[0].evidence
    # The remedy is a calibration on inputs of the right scale.
    assert _diagnose(_convert(tp.Signed(1)), 8).healthy


def test_calibration_on_inputs_that_were_not_normalized() -> None:
    _, network, calibration, _ = _trained()
    normalization = demo.open_data("digits").normalization
    std, mean = (torch.tensor(v).reshape(1, -1, 1, 1) for v in
                 (normalization.std, normalization.mean))  # fmt: skip
    wrong = tp.calibrate(network, [x * std + mean for x in calibration])
    found = _diagnose(tp.convert(network, wrong, neuron=tp.Signed(1)), 8)
    assert found.first is not None
    assert (found.first.site, found.first.cause) == ("stem.2", "calibration")


def test_parts_of_one_site_in_closed_form() -> None:
    """For constant currents into one neuron, every part is computed by hand in NumPy."""
    network, calibration = one_site([1.0])
    snn = tp.convert(network, calibration, threshold=tp.MaxAbs())
    z = np.array([-0.4, 0.1, 0.3, 0.77, 1.0, 1.5, 2.0])
    found = diagnose(snn, [torch.tensor(z).reshape(-1, 1)], 4)
    a = np.maximum(z, 0)
    rms = math.sqrt((a**2).mean())
    clipping = np.minimum(a, 1) - a
    quantization = np.clip(np.floor(4 * z + 0.5), 0, 4) / 4 - np.minimum(a, 1)
    (site,) = found.sites
    for name, error in (("clipping", clipping), ("quantization", quantization)):
        assert site.parts[name].rms == pytest.approx(math.sqrt((error**2).mean()) / rms)
        assert site.parts[name].bias == pytest.approx(error.mean() / rms)
    whole = clipping + quantization
    assert site.relative_error == pytest.approx(math.sqrt((whole**2).mean()) / rms)
    assert site.correlation == pytest.approx(np.corrcoef(a, a + whole)[0, 1])
    for name in set(PARTS) - {"clipping", "quantization"}:
        assert site.parts[name].rms == pytest.approx(0, abs=1e-12)
    # The seven inputs give the counts 0, 0, 1, 3, 4, 4 and 4; the largest count is 4.
    assert site.firing_rates == pytest.approx([2 / 7, 0, 0, 1 / 7, 0, 0, 0, 0, 1 / 7, 0, 3 / 7])
    assert (site.dead_channels, site.saturated_channels) == (0, 1)


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.name)
def test_signed_errors_add_up(name: str, neuron: tp.Neuron) -> None:
    network, calibration = captured(name)
    snn = tp.convert(network, calibration, neuron=neuron)
    torch.manual_seed(3)
    x = torch.randn(5, *network.input_shape, dtype=torch.float64)
    found = diagnose(snn, [x[:3], x[3:]], 5)
    scale = 5 if snn.coding == "rate" else 1
    run = tp.simulate_reference(snn, x, 5, record=tp.Record(totals=True))
    analog: dict[str, Tensor] = {}
    network.run(x, lambda s, z: analog.setdefault(s.name, s.activate(z)))
    for site, row in zip(network.sites, found.sites, strict=True):
        step = site.along_channels(snn.steps[site.name])
        error = run.totals[site.name].net * step / scale - analog[site.name]
        rms = float(analog[site.name].square().mean().sqrt()) or 1.0
        assert sum(part.bias for part in row.parts.values()) == pytest.approx(
            float(error.mean()) / rms, abs=1e-9
        )
        assert row.relative_error == pytest.approx(float(error.square().mean().sqrt()) / rms)
        assert row.charge_error < 1e-9
        if neuron.telescoped:
            assert row.parts["unevenness"].rms < 1e-9
    assert found.sites[0].parts["propagated"].rms < 1e-9


def test_range_and_saturation_of_a_refining_site_are_those_of_its_first_step() -> None:
    network, calibration = one_site([1.0, 1.0])
    snn = tp.convert(network, calibration, neuron=tp.Refining(4), threshold=tp.MaxAbs())
    x = torch.tensor([[1.0, 0.9], [2.0, 0.4], [2.0, 0.2]], dtype=torch.float64)
    (site,) = diagnose(snn, [x], 6).sites
    assert site.saturated_channels == 1
    error = math.sqrt(2 / 6) / math.sqrt(float(x.square().mean()))
    assert site.parts["clipping"].rms == pytest.approx(error)
    (inside,) = diagnose(snn, [x.clamp(max=1)], 6).sites
    assert inside.range_over_maximum == pytest.approx((1 / 1 + 1 / 0.9) / 2, rel=0.1)
    assert inside.parts["clipping"].rms == 0


@pytest.mark.parametrize(
    ("neuron", "late"),
    [
        (tp.Refining(8), True),
        (tp.Refining(2), True),
        (tp.Refining(256, 2, levels=256), False),
        (tp.Cyclic(8), False),
        (tp.Differential(8, 1), False),
        (tp.Signed(2), False),
    ],
)
def test_late_corrections_that_do_not_fit_are_named_with_a_remedy(
    neuron: tp.Neuron, late: bool
) -> None:
    network, calibration, x = deep()
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    found = diagnose(snn, [x], 6)
    named = [one for one in found.findings if one.cause == "late corrections"]
    assert bool(named) == late
    if late:
        assert "Cyclic(K), whose step becomes large again" in named[0].remedy
        assert f"at {len(named[0].sites)} of 12 sites more is missing at T" in named[0].evidence
        shares = {site.name: site.late_share for site in found.sites}
        assert all(shares[name] > 0.05 for name in named[0].sites)


def test_unevenness_of_one_site_alone() -> None:
    """Currents that arrive too late to be sent make unevenness and nothing else."""
    network, calibration = one_site([1.0])
    snn = tp.convert(network, calibration, threshold=tp.MaxAbs())

    def late(*args: object, **kwargs: object) -> tp.Simulation:
        run = tp.simulate(*args, **kwargs)  # type: ignore[arg-type]
        totals = {n: replace(t, net=t.net * 0, unit=t.unit * 0) for n, t in run.totals.items()}
        return replace(run, totals=totals)

    found = diagnose(snn, [torch.full((4, 1), 0.5, dtype=torch.float64)], 4, simulator=late)
    assert "unevenness" in [f.cause for f in found.findings]
    parts = found.sites[0].parts
    assert parts["unevenness"].rms == pytest.approx(1.0)
    assert all(parts[name].rms == pytest.approx(0) for name in LOCAL[:2])
    assert found.sites[0].dead_channels == 1


def test_advice_names_the_largest_part() -> None:
    few = _diagnose(_convert(tp.Signed(1)), 2)
    assert "what would help most: more levels" in few.advice
    uneven = _diagnose(_convert(tp.IF(), threshold=tp.MaxAbs()), 64)
    parts = {name: sum(s.parts[name].rms ** 2 for s in uneven.sites) for name in LOCAL}
    assert max(parts, key=lambda name: parts[name]) == "unevenness"
    assert "what would help most: Signed(K)" in uneven.advice
    hasty = _diagnose(_convert(tp.Refining(2, 16, levels=2)), 4)
    assert "what would help most: a larger K, or a step that shrinks later" in hasty.advice
    coarse = _diagnose(_convert(tp.Staggered(2, window=2)), 8)
    assert "what would help most: a longer window" in coarse.advice
    cut = _convert(tp.Staggered(2, window=6))
    last = cut.first_output - 1 + 6
    wanted = f"more timesteps: the last window ends at {last}."
    assert wanted in _diagnose(cut, cut.first_output).advice
    assert "timesteps" not in _diagnose(cut, last).advice
    late = _diagnose(_convert(tp.Staggered(2, lag=0, window=6), threshold=tp.MaxAbs()), 6)
    assert "what would help most: a larger lag" in late.advice
    helped = _diagnose(_convert(tp.Signed(1), threshold=tp.MaxAbs()), 64)
    assert sum(s.parts["unevenness"].rms ** 2 for s in helped.sites) < parts["unevenness"]


def test_json_and_text() -> None:
    found = _diagnose(_with_step_times(_convert(tp.Signed(1)), "stem.5", 0.2), 8)
    content = json.loads(json.dumps(found.to_dict()))
    assert content["healthy"] is False and content["n"] == 120 and content["timesteps"] == 8
    assert [site["name"] for site in content["sites"]] == list(SITES)
    assert set(content["sites"][0]["parts"]) == set(PARTS)
    assert content["findings"][0]["site"] == "stem.5"
    text = str(found)
    assert "  try: a larger threshold here" in text and found.advice in text


def test_the_remedies_for_a_wrong_threshold_work() -> None:
    """Each remedy of the finding makes the network healthy."""
    assert not _diagnose(_with_step_times(_convert(tp.Signed(1)), "stem.5", 0.2), 8).healthy
    for rule in (tp.Percentile(99.99), tp.MaxAbs(), tp.LeastSquares(levels=8)):
        assert _diagnose(_convert(tp.Signed(1), threshold=rule), 8).healthy


def test_refusals_and_their_remedies() -> None:
    snn = _convert(tp.IF())
    with pytest.raises(tp.DataError, match="diagnose: needed at least one batch"):
        diagnose(snn, [], 4)
    with pytest.raises(tp.ArgumentError, match="timesteps: needed an integer >= 1"):
        _diagnose(snn, 0)
    other = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU())
    with pytest.raises(tp.ArgumentError, match="with 4 sites; this one has 1.* leave model out"):
        _diagnose(snn, 4, model=other.eval())
    assert _diagnose(snn, 8, model=_trained()[1]).healthy


def test_progress_is_told_the_samples() -> None:
    seen: list[int] = []
    _diagnose(_convert(tp.IF()), 1, progress=lambda done, _: seen.append(done))
    assert seen == [60, 120]

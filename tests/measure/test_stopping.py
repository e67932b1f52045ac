"""Stopped samples hold their output, and a fitted rule changes as few predictions as promised."""

import pytest
import torch
from torch import nn

import nets
import transpike as tp
from transpike.simulation.early_stopping import clearness


def _until(rule, snn, x):
    """Return a rule that stops about half of the samples before T."""
    clear = clearness(rule, tp.simulate(snn, x, 6).output[-1]).median().item()
    return tp.EarlyStopping(rule, clear if rule == "margin" else 1 - clear)


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_stopped_samples_hold_the_output_of_their_decision(rule, chunk):
    snn, x = nets.classifier()
    full = tp.simulate(snn, x, 12)
    early_stopping = _until(rule, snn, x)
    run = tp.simulate(snn, x, 12, early_stopping=early_stopping, chunk=chunk)
    settled = torch.stack([early_stopping.settled(out, t) for t, out in enumerate(full.output, 1)])
    expected = torch.where(settled.any(0), settled.int().argmax(0) + 1, 12)
    assert torch.equal(run.decided_at, expected)
    assert 1 < len(expected.unique())
    assert torch.equal(run.computed, ((expected + chunk - 1) // chunk * chunk).clamp(max=12))
    for t in range(1, 13):
        held = torch.minimum(expected, torch.tensor(t)) - 1
        samples = torch.arange(len(x))
        torch.testing.assert_close(run.output[t - 1], full.output[held, samples])
    for name, counts in run.counts_per_timestep.items():
        every = torch.arange(1, 13)[:, None] <= run.computed
        assert torch.equal(counts, full.counts_per_timestep[name] * every)


def test_early_stopping_reads_only_what_is_asked_for():
    snn, x = nets.classifier()
    early_stopping = _until("margin", snn, x)
    every = tp.simulate(snn, x, 12, early_stopping=early_stopping)
    record = tp.Record(output_at=[2, 12])
    some = tp.simulate(snn, x, 12, early_stopping=early_stopping, record=record)
    assert torch.equal(some.decided_at, every.decided_at)
    torch.testing.assert_close(some.output, every.output[[1, 11]])


def test_early_stopping_settings_are_checked():
    for settings_ in (("loudness", 0.5), ("margin", 1.5), ("entropy", float("nan"))):
        with pytest.raises(tp.ArgumentError):
            tp.EarlyStopping(*settings_)
    with pytest.raises(tp.ArgumentError, match="least"):
        tp.EarlyStopping("margin", 0.5, least=0)
    snn, x = nets.classifier()
    with pytest.raises(tp.ArgumentError, match="early_stopping"):
        stopping, record = tp.EarlyStopping("margin", 0.5), tp.Record(totals=True)
        tp.simulate(snn, x, 3, early_stopping=stopping, record=record)
    dense = tp.convert(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), [torch.randn(2, 2, 8, 8)])
    with pytest.raises(tp.DataError, match="class scores"):
        tp.simulate(
            dense, torch.randn(2, 2, 8, 8), 3, early_stopping=tp.EarlyStopping("margin", 0.5)
        )


@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_fitted_rule_changes_no_more_than_allowed_and_a_laxer_one_does(rule):
    snn, x = nets.classifier()
    final = tp.simulate(snn, x, 12).output[-1].argmax(1)

    def changed(early_stopping):
        run = tp.simulate(snn, x, 12, early_stopping=early_stopping, chunk=1)
        return float((run.output[-1].argmax(1) != final).double().mean())

    fitted = tp.fit_early_stopping(snn, [x], 12, rule=rule, most_changed=0.05)
    assert changed(fitted) <= 0.05
    laxer = tp.EarlyStopping(rule, 0.0 if rule == "margin" else 1.0)
    assert changed(laxer) > 0.05
    strict = tp.fit_early_stopping(snn, [x], 12, rule=rule, most_changed=0.0)
    assert changed(strict) == 0


def test_evaluation_with_early_stopping_counts_mean_timesteps():
    snn, x = nets.classifier()
    target = snn.network(x).argmax(1)
    early_stopping = _until("margin", snn, x)
    plain = tp.evaluate(snn, [(x, target)], 12)
    found = tp.evaluate(
        snn, [(x[:10], target[:10]), (x[10:], target[10:])], 12, early_stopping=early_stopping
    )
    run = tp.simulate(snn, x, 12, early_stopping=early_stopping)
    mean = [float(run.decided_at.clamp(max=t).double().mean()) for t in range(1, 13)]
    assert found.decided_timesteps == pytest.approx(mean)
    assert found.computed_timesteps == pytest.approx(float(run.computed.double().mean()))
    assert found.spikes_per_neuron[-1] < plain.spikes_per_neuron[-1]
    right = run.output.argmax(2) == target
    assert found.accuracy == pytest.approx(right.double().mean(1).tolist())
    assert "early stopping" in str(found)
    assert plain.decided_timesteps is None

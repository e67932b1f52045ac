"""Laws of one neuron population, compared with the NumPy oracle."""

import math

import numpy as np
import pytest
import torch
from benchmarks import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp

THETA = [1.0, 0.6, 2.5]


def _presets(max_count, v0):
    return {
        "if": tp.IF(initial_membrane=v0),
        "range": tp.Burst(max_count=max_count, mode="range", initial_membrane=v0),
        "resolution": tp.Burst(max_count=max_count, mode="resolution", initial_membrane=v0),
        "signed": tp.Signed(max_count=max_count, initial_membrane=v0),
        "telescoped": tp.Telescoped(max_count=max_count, initial_membrane=v0),
    }


def _expected_step(kind, max_count):
    return np.array(THETA) / (max_count if kind in ("resolution", "signed", "telescoped") else 1)


KINDS = ["if", "range", "resolution", "signed", "telescoped"]
ACTIVATIONS = {"unbounded": (None, None), "bounded": (nn.Hardtanh(0.0, 1.3137), 1.3137)}
_CAPTURED = {}


def _snn(kind, max_count, v0, bound="unbounded"):
    if bound not in _CAPTURED:
        theta = THETA if bound == "unbounded" else [min(t, 1.27) for t in THETA]
        _CAPTURED[bound] = nets.one_site(theta, ACTIVATIONS[bound][0])
    network, calibration = _CAPTURED[bound]
    neuron = _presets(max_count, v0)[kind]
    return tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())


def _run(snn, x, **kw):
    (site,) = snn.network.sites
    record = tp.Record(sites=[site.name], **kw)
    run = tp.simulate_reference(snn, x, len(x), time_axis=True, record=record)
    return run, run.records[site.name]


@pytest.mark.parametrize("kind", KINDS)
def test_step_follows_the_preset(kind):
    snn = _snn(kind, 4, 0.5)
    (step,) = snn.steps.values()
    expected = _expected_step(kind, 4)
    np.testing.assert_allclose(step.detach().numpy().ravel(), expected, rtol=1e-12)


@pytest.mark.parametrize("bound", list(ACTIVATIONS))
@pytest.mark.parametrize("kind", KINDS)
@given(
    max_count=st.integers(1, 6),
    v0=st.sampled_from([0.0, 0.5, 0.25]),
    timesteps=st.integers(1, 12),
    seed=st.integers(0, 10**6),
)
def test_counts_match_the_oracle(kind, bound, max_count, v0, timesteps, seed):
    snn = _snn(kind, max_count, v0, bound)
    max_count = 1 if kind == "if" else max_count
    x = np.random.default_rng(seed).normal(0.3, 1.5, (timesteps, 2, 3))
    run, record = _run(snn, torch.from_numpy(x))
    (step,) = snn.steps.values()
    counts, membranes = oracle.neuron(
        x,
        step.detach().numpy().ravel(),
        max_count,
        signed=kind == "signed",
        initial_membrane=v0,
        upper_bound=ACTIVATIONS[bound][1],
        telescoped=kind == "telescoped",
    )
    np.testing.assert_array_equal(_counts(record, step), counts)
    if kind == "telescoped":  # This neuron records its cumulative input.
        membranes = membranes + np.cumsum(counts, 0) * step.detach().numpy().ravel()
    np.testing.assert_allclose(record.membrane.numpy(), membranes, atol=1e-9)
    (total,) = run.spike_counts.values()
    np.testing.assert_array_equal(total.numpy(), np.abs(counts).sum((0, 2)))
    mean = np.cumsum(counts * step.detach().numpy().ravel(), 0)
    mean /= np.arange(1, timesteps + 1)[:, None, None]
    np.testing.assert_allclose(run.output.numpy(), mean, atol=1e-9)


def _counts(record, step):
    """Return the recorded spikes as integers; a record may hold them in activation units."""
    spikes = record.counts.double().numpy()
    if np.array_equal(spikes, np.round(spikes)):
        return spikes
    return np.round(spikes / step.detach().numpy().ravel())


@given(
    kind=st.sampled_from(KINDS),
    max_count=st.integers(1, 5),
    v0=st.sampled_from([0.0, 0.5]),
    timesteps=st.integers(1, 20),
    seed=st.integers(0, 10**6),
)
def test_charge_is_conserved(kind, max_count, v0, timesteps, seed):
    """The sum of the inputs equals step * count + final membrane - initial membrane."""
    snn = _snn(kind, max_count, v0)
    x = torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.5, (timesteps, 3, 3)))
    run, record = _run(snn, x)
    (step,) = snn.steps.values()
    step = step.detach().reshape(-1)
    emitted = run.output[-1] * timesteps
    end = record.membrane[-1] - (emitted if kind == "telescoped" else 0)
    gap = x.sum(0) - (emitted + end - v0 * step)
    assert gap.abs().max() < 1e-10


@pytest.mark.parametrize("timesteps", [1, 2, 3, 5, 8, 13, 21, 34, 64])
@pytest.mark.parametrize("kind", KINDS)
def test_constant_input_gives_the_staircase(kind, timesteps):
    """A constant current is quantized with K*T levels, clipped at K steps per timestep."""
    snn = _snn(kind, 4, 0.5)
    max_count = 1 if kind == "if" else 4
    (step,) = snn.steps.values()
    step = step.detach().numpy().ravel()
    z = np.linspace(-1, 3, 57)[:, None] * np.array(THETA)[None] + 1e-4
    run = tp.simulate_reference(snn, torch.from_numpy(z), timesteps)
    expected = np.stack([oracle.quantized(z, step, max_count, t) for t in range(1, timesteps + 1)])
    np.testing.assert_allclose(run.output.numpy(), expected, atol=1e-9)


@given(size=st.integers(1, 8), seed=st.integers(0, 10**6))
def test_group_neuron_is_resolution_burst(size, seed):
    snn = _snn("resolution", size, 0.5)
    x = np.random.default_rng(seed).normal(0.3, 1.0, (15, 1, 3))
    _, record = _run(snn, torch.from_numpy(x))
    (step,) = snn.steps.values()
    counts = _counts(record, step)
    for c, theta in enumerate(THETA):
        assert oracle.group_neuron(x[:, 0, c], theta, size) == counts[:, 0, c].tolist()


@given(bits=st.integers(1, 4), seed=st.integers(0, 10**6))
def test_binary_cascade_is_resolution_burst(bits, seed):
    levels = 2**bits - 1
    snn = _snn("resolution", levels, 0.5)
    x = np.random.default_rng(seed).normal(0.3, 1.0, (15, 1, 3))
    _, record = _run(snn, torch.from_numpy(x))
    (step,) = snn.steps.values()
    counts = _counts(record, step)
    for c, theta in enumerate(THETA):
        top = theta / levels * 2 ** (bits - 1)
        assert oracle.cascade_neuron(x[:, 0, c], top, bits) == counts[:, 0, c].tolist()


def test_signed_fires_as_soon_as_the_membrane_is_negative():
    """After a spike, it sends -1 as soon as V < 0; it does not wait until V <= -theta."""
    network, calibration = nets.one_site([1.0])
    snn = tp.convert(network, calibration, neuron=tp.Signed(), threshold=tp.MaxAbs())
    x = torch.tensor([0.75, -0.5, -0.5]).double().reshape(3, 1, 1)
    run, _ = _run(snn, x)
    assert [round(float(v)) for v in run.output.ravel() * torch.arange(1, 4)] == [1, 0, 0]


def test_bounded_site_never_exceeds_its_bound():
    snn = _snn("signed", 3, 0.5, "bounded")
    x = torch.randn(40, 2, 3, dtype=torch.float64) * 3 + 2
    run = tp.simulate_reference(snn, x, 40, time_axis=True)
    (step,) = snn.steps.values()
    step = step.detach().numpy().ravel()
    for t in range(1, 41):
        limit = [math.floor(1.3137 * t / s + 0.5) * s / t for s in step]
        assert np.all(run.output[t - 1].numpy() <= np.array(limit) + 1e-9)


@settings(max_examples=15)
@given(factor=st.sampled_from([0.25, 0.5, 2.0, 8.0]), seed=st.integers(0, 10**6))
def test_scaling_current_and_threshold_changes_no_spike(factor, seed):
    x = torch.from_numpy(np.random.default_rng(seed).normal(0.3, 1.0, (12, 2, 3)))
    snn = _snn("signed", 2, 0.5)
    base, _ = _run(snn, x)
    network, calibration = nets.one_site([t * factor for t in THETA])
    scaled = tp.convert(network, calibration, neuron=tp.Signed(max_count=2), threshold=tp.MaxAbs())
    run, _ = _run(scaled, x * factor)
    assert torch.equal(run.output, base.output * factor)
    for name in base.spike_counts:
        assert torch.equal(run.spike_counts[name], base.spike_counts[name])

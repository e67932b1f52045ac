"""Laws of whole networks: calls keep no state, samples do not mix, and models stay unchanged."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp

NEURONS = {
    "if": tp.IF(),
    "if_v0_0": tp.IF(initial_membrane=0.0),
    "range": tp.Burst(max_count=5),
    "resolution": tp.Burst(max_count=4, mode="resolution"),
    "signed": tp.Signed(max_count=1),
    "signed_4": tp.Signed(max_count=4),
    "telescoped": tp.Telescoped(max_count=4),
}
_DYADIC = {}


def _net(kind):
    return {
        "conv": nets.conv_net,
        "bounded": lambda: nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU6(),
            nn.AvgPool2d(2),
            nn.Conv2d(4, 4, 3),
            nn.Hardtanh(0.0, 0.5),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(4, 5),
        ),
    }[kind]()


def _dyadic(neuron, kind="conv"):
    if (neuron, kind) not in _DYADIC:
        torch.manual_seed(3)
        _DYADIC[neuron, kind] = nets.dyadic_snn(_net(kind), (2, 8, 8), NEURONS[neuron])
    return _DYADIC[neuron, kind]


@pytest.mark.parametrize("kind", ["conv", "bounded"])
@pytest.mark.parametrize("neuron", sorted(NEURONS))
@settings(max_examples=6)
@given(
    timesteps=st.integers(1, 9),
    chunk=st.sampled_from([1, 2, 3, 4, 9, 100]),
    time_axis=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_engine_equals_reference(neuron, kind, timesteps, chunk, time_axis, seed):
    """Every spike is the same, for every neuron, chunk length and kind of input."""
    snn = _dyadic(neuron, kind)
    torch.manual_seed(seed)
    shape = (timesteps, 3, 2, 8, 8) if time_axis else (3, 2, 8, 8)
    x = nets.dyadic_input(*shape)
    names = [s.name for s in snn.network.sites]
    kw = {"time_axis": time_axis, "record": tp.Record(sites=names)}
    slow = tp.simulate_reference(snn, x, timesteps, **kw)
    fast = tp.simulate(snn, x, timesteps, chunk=chunk, **kw)
    nets.same_counts(slow, fast)
    for name in names:
        assert torch.equal(slow.records[name].counts, fast.records[name].counts), name
        assert torch.equal(slow.records[name].membrane, fast.records[name].membrane), name
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("simulate", [tp.simulate, tp.simulate_reference])
@pytest.mark.parametrize("neuron", sorted(NEURONS))
def test_batch_independence_with_uneven_last_batch(neuron, simulate):
    snn = _dyadic(neuron)
    x = nets.dyadic_input(7, 2, 8, 8)
    whole = simulate(snn, x, 6)
    parts = [simulate(snn, part, 6) for part in x.split(3)]
    joined = torch.cat([p.output for p in parts], 1)
    torch.testing.assert_close(whole.output, joined, rtol=1e-6, atol=1e-7)
    for t in (1, 2, 4):  # Division by a power of two does not round.
        assert torch.equal(whole.output[t - 1], joined[t - 1])
    for name, counts in whole.counts_per_timestep.items():
        assert torch.equal(counts, torch.cat([p.counts_per_timestep[name] for p in parts], 1))


@pytest.mark.parametrize("simulate", [tp.simulate, tp.simulate_reference])
@pytest.mark.parametrize("neuron", sorted(NEURONS))
def test_two_calls_are_identical(neuron, simulate):
    network, calibration = nets.captured("conv2d", torch.float32)
    snn = tp.convert(network, calibration, neuron=NEURONS[neuron])
    x = torch.randn(3, 2, 8, 8)
    first = simulate(snn, x, 5)
    simulate(snn, torch.randn(2, 2, 8, 8), 3)
    nets.same_simulation(first, simulate(snn, x, 5))


def test_shorter_run_is_a_prefix_of_a_longer_one():
    snn = _dyadic("signed")
    x = nets.dyadic_input(3, 2, 8, 8)
    long, short = tp.simulate(snn, x, 9), tp.simulate(snn, x, 4)
    torch.testing.assert_close(long.output[:4], short.output, rtol=1e-6, atol=1e-7)
    for name, counts in short.counts_per_timestep.items():
        assert torch.equal(long.counts_per_timestep[name][:4], counts)


def test_users_model_is_unchanged():
    model = nets.settle_batchnorm(_with_dropout(), torch.randn(8, 2, 8, 8))
    model[3].train()
    calls = []
    handle = model[0].register_forward_hook(lambda *a: calls.append(1))
    hooks = {n: list(m._forward_hooks) for n, m in model.named_modules()}
    modes = {n: m.training for n, m in model.named_modules()}
    before = nets.state_hash(model)
    grads = {n: p.requires_grad for n, p in model.named_parameters()}
    snn = tp.convert(model, [torch.randn(4, 2, 8, 8)])
    tp.simulate(snn, torch.randn(2, 2, 8, 8), 3)
    snn.double()
    assert nets.state_hash(model) == before
    assert {n: m.training for n, m in model.named_modules()} == modes
    assert {n: list(m._forward_hooks) for n, m in model.named_modules()} == hooks
    assert {n: p.requires_grad for n, p in model.named_parameters()} == grads
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    handle.remove()


def _with_dropout():
    """Return a model whose BatchNorm and dropout behave differently in training mode."""
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.5),
        nn.Conv2d(4, 2, 3),
    )


def test_dropout_left_in_training_mode_does_not_leak_into_the_network():
    model = nets.settle_batchnorm(_with_dropout(), torch.randn(8, 2, 8, 8))
    model.train()
    network = tp.capture(model, torch.randn(2, 2, 8, 8))
    assert model.training and model[3].training
    x = torch.randn(3, 2, 8, 8)
    torch.testing.assert_close(network(x), model.eval()(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_folding_leaves_the_ann_unchanged(name):
    model = nets.build(name)
    network, _ = nets.captured(name)
    for batch in (1, 2, 5):
        x = torch.randn(batch, *nets.NETS[name][1], dtype=torch.float64)
        with torch.no_grad():
            expected = model(x)
        found = network(x)
        assert type(found) is type(expected)
        for a, b in zip(nets.leaves(found), nets.leaves(expected), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


@given(factor=st.sampled_from([0.25, 0.5, 2.0, 4.0]))
@settings(max_examples=4)
def test_scaling_weights_and_thresholds_changes_no_spike(factor):
    """If the weights and biases of a layer are scaled, its threshold follows."""
    torch.manual_seed(5)
    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 4), nn.ReLU())
    batch, x = torch.randn(16, 6), torch.randn(5, 6)
    base = tp.simulate_reference(tp.convert(model, [batch], threshold=tp.MaxAbs()), x, 8)
    with torch.no_grad():
        model[0].weight.mul_(factor)
        model[0].bias.mul_(factor)
        model[2].bias.mul_(factor)
    run = tp.simulate_reference(tp.convert(model, [batch], threshold=tp.MaxAbs()), x, 8)
    assert torch.equal(run.output, base.output * factor)
    for name in base.spike_counts:
        assert torch.equal(run.spike_counts[name], base.spike_counts[name])


def _relative_error(model, neuron, timesteps, x):
    snn = tp.convert(model, [x], neuron=neuron, threshold=tp.MaxAbs())
    with torch.no_grad():
        ann = model(x)
    out = tp.simulate(snn, x, max(timesteps)).output
    return [float((out[t - 1] - ann).abs().mean() / ann.std()) for t in timesteps]


@pytest.mark.parametrize("neuron", ["if", "resolution", "signed", "telescoped"])
def test_error_falls_like_one_over_t(neuron):
    torch.manual_seed(2)
    model = nn.Sequential(nn.Linear(20, 60), nn.ReLU(), nn.Linear(60, 10)).double()
    timesteps = [4, 8, 16, 32, 64, 128, 256]
    errors = _relative_error(model, NEURONS[neuron], timesteps, torch.randn(64, 20).double())
    slope = np.polyfit(np.log(timesteps), np.log(errors), 1)[0]
    assert -1.2 < slope < -0.8


@pytest.mark.parametrize("neuron", sorted(NEURONS))
def test_large_t_approaches_the_ann(neuron):
    torch.manual_seed(2)
    model = nets.conv_net().double()
    x = torch.randn(16, 2, 8, 8).double()
    (error,) = _relative_error(model, NEURONS[neuron], [1000], x)
    assert error < 0.02

"""The telescoped spiking network equals the quantized ANN in float64 at every timestep."""

import numpy as np
import pytest
import torch
from benchmarks import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp


@pytest.mark.parametrize("name", sorted(nets.NETS))
@settings(max_examples=5)
@given(
    timesteps=st.integers(1, 7),
    max_count=st.integers(1, 5),
    granularity=st.sampled_from(["channel", "layer"]),
    seed=st.integers(0, 10**6),
)
def test_telescoped_equals_quantized_ann(name, timesteps, max_count, granularity, seed):
    network, calibration = nets.captured(name)
    snn = tp.convert(
        network,
        calibration,
        neuron=tp.Telescoped(max_count=max_count),
        threshold=tp.Percentile(99.0, granularity=granularity),
    ).double()
    torch.manual_seed(seed)
    x = torch.randn(timesteps, 3, *nets.NETS[name][1], dtype=torch.float64)
    run = tp.simulate_reference(snn, x, timesteps, time_axis=True)
    for t in {1, timesteps}:
        found = _at(run.output, t - 1)
        assert nets.error(found, tp.quantized_ann(snn, x[:t].mean(0), t)) < 1e-9


def _at(output, index):
    if isinstance(output, torch.Tensor):
        return output[index]
    if isinstance(output, dict):
        return {k: _at(v, index) for k, v in output.items()}
    return [_at(v, index) for v in output]


@given(
    channels=st.integers(1, 4),
    kernel=st.integers(1, 3),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    pool=st.sampled_from(["none", "max", "avg"]),
    seed=st.integers(0, 10**6),
)
def test_random_networks(channels, kernel, stride, dilation, groups, pool, seed):
    torch.manual_seed(seed)
    width = 2 * channels
    pools = {"none": nn.Identity(), "max": nn.MaxPool2d(3, 2, 1), "avg": nn.AvgPool2d(3, 1)}
    model = nn.Sequential(
        nn.Conv2d(2, width, kernel, stride, 1, dilation, groups),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        pools[pool],
        nn.Conv2d(width, width, 3, padding=1, groups=width),
        nn.ReLU6(),
        nn.Flatten(),
    )
    model.append(nn.Linear(model(torch.randn(2, 2, 9, 9)).shape[1], 4))
    nets.settle_batchnorm(model, torch.randn(8, 2, 9, 9))
    model = model.double().eval()
    network = tp.capture(model, torch.randn(2, 2, 9, 9).double())
    calibration = tp.calibrate(network, [torch.randn(6, 2, 9, 9).double()])
    snn = tp.convert(network, calibration, neuron=tp.Telescoped(max_count=3))
    x = torch.randn(5, 3, 2, 9, 9, dtype=torch.float64)
    run = tp.simulate_reference(snn, x, 5, time_axis=True)
    assert nets.error(run.output[-1], tp.quantized_ann(snn, x.mean(0), 5)) < 1e-9


@pytest.mark.parametrize("kind", ["if", "range", "resolution", "signed", "telescoped"])
def test_whole_network_against_the_oracle(kind):
    """The oracle computes every layer of a small convolutional network in plain loops."""
    neuron, max_count = {
        "if": (tp.IF(), 1),
        "range": (tp.Burst(max_count=3), 3),
        "resolution": (tp.Burst(max_count=3, mode="resolution"), 3),
        "signed": (tp.Signed(max_count=2), 2),
        "telescoped": (tp.Telescoped(max_count=3), 3),
    }[kind]
    model = nets.build("conv2d")
    network, calibration = nets.captured("conv2d")
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    timesteps = 6
    x = torch.randn(timesteps, 2, *nets.CONV_NET_INPUT, dtype=torch.float64)
    steps = [snn.steps[s.name].detach().numpy().ravel().reshape(-1, 1, 1) for s in network.sites]
    c1, c2, head = ([p.detach().numpy() for p in model[i].parameters()] for i in (0, 3, 6))
    setting = {"signed": kind == "signed", "telescoped": kind == "telescoped"}

    a, _ = oracle.neuron(
        [oracle.conv(f, *c1, padding=1) for f in x.numpy()], steps[0], max_count, **setting
    )
    total = np.cumsum(a * steps[0], 0)
    pooled = np.stack([oracle.max_pool(s, 2) for s in total])
    emitted = np.diff(pooled, axis=0, prepend=0)
    b, _ = oracle.neuron([oracle.conv(f, *c2) for f in emitted], steps[1], max_count, **setting)
    logits = np.stack([oracle.linear(f.reshape(2, -1), *head) for f in b * steps[1]])
    mean = np.cumsum(logits, 0) / np.arange(1, timesteps + 1)[:, None, None]

    run = tp.simulate_reference(snn, x, timesteps, time_axis=True)
    np.testing.assert_allclose(run.output.numpy(), mean, atol=1e-9)
    for site, counts in zip(network.sites, (a, b), strict=True):
        np.testing.assert_array_equal(
            run.spike_counts[site.name].numpy(), np.abs(counts).sum((0, 2, 3, 4))
        )


@pytest.mark.parametrize("mode", ["range", "resolution"])
def test_quantized_ann_against_the_oracle(mode):
    model = nets.build("conv2d")
    network, calibration = nets.captured("conv2d")
    neuron = tp.Burst(max_count=3, mode=mode)
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    x = torch.randn(3, *nets.CONV_NET_INPUT, dtype=torch.float64)
    steps = [snn.steps[s.name].detach().numpy().ravel().reshape(-1, 1, 1) for s in network.sites]
    c1, c2, head = ([p.detach().numpy() for p in model[i].parameters()] for i in (0, 3, 6))
    a = oracle.quantized(oracle.conv(x.numpy(), *c1, padding=1), steps[0], 3, 4)
    b = oracle.quantized(oracle.conv(oracle.max_pool(a, 2), *c2), steps[1], 3, 4)
    expected = oracle.linear(b.reshape(3, -1), *head)
    np.testing.assert_allclose(tp.quantized_ann(snn, x, 4).numpy(), expected, atol=1e-9)

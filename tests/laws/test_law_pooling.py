"""At every timestep, the sum of a max-pool's outputs is the max-pool of the sum of its inputs."""

import numpy as np
import torch
from benchmarks import oracle
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp


@st.composite
def _pool(draw, rank):
    kernel = tuple(draw(st.integers(1, 3)) for _ in range(rank))
    return {
        "kernel": kernel,
        "stride": tuple(draw(st.integers(1, 3)) for _ in range(rank)),
        "padding": tuple(draw(st.integers(0, k // 2)) for k in kernel),
        "dilation": tuple(draw(st.integers(1, 2)) for _ in range(rank)),
        "ceil_mode": draw(st.booleans()),
    }


def _check(rank, pool, size, seed):
    torch.manual_seed(seed)
    layers = [nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d]
    conv = [nn.Conv1d, nn.Conv2d, nn.Conv3d][rank - 1]
    layer = layers[rank - 1](
        pool["kernel"],
        pool["stride"],
        pool["padding"],
        pool["dilation"],
        ceil_mode=pool["ceil_mode"],
    )
    # The convolution after the site makes the input signed, which shows a wrong padding value.
    model = nn.Sequential(nn.ReLU(), conv(2, 2, 1), layer).double().eval()
    shape = (2, *size)
    network = tp.capture(model, torch.randn(2, *shape).double())
    calibration = tp.calibrate(network, [torch.randn(4, *shape).double()])
    snn = tp.convert(network, calibration, neuron=tp.Signed(max_count=2))
    x = torch.randn(5, 2, *shape, dtype=torch.float64)
    (site,) = network.sites
    run = tp.simulate_reference(snn, x, 5, time_axis=True)
    step = snn.steps[site.name].detach().numpy().ravel().reshape(-1, *[1] * rank)
    counts, _ = oracle.neuron(x.numpy(), step, 2, signed=True)
    weight, bias = (p.detach().numpy() for p in model[1].parameters())
    total = np.cumsum([oracle.conv(f, weight, bias) for f in counts * step], 0)
    for t in range(5):
        expected = oracle.max_pool(total[t], **pool) / (t + 1)
        np.testing.assert_allclose(run.output[t].numpy(), expected, atol=1e-9)
    fast = tp.simulate(snn, x, 5, time_axis=True, chunk=2)
    assert nets.error(fast.output[-1], run.output[-1]) < 1e-9


@settings(max_examples=12)
@given(pool=_pool(1), size=st.tuples(st.integers(6, 9)), seed=st.integers(0, 10**6))
def test_1d(pool, size, seed):
    _check(1, pool, size, seed)


@settings(max_examples=15)
@given(pool=_pool(2), size=st.tuples(*[st.integers(6, 9)] * 2), seed=st.integers(0, 10**6))
def test_2d(pool, size, seed):
    _check(2, pool, size, seed)


@settings(max_examples=5)
@given(pool=_pool(3), size=st.tuples(*[st.integers(6, 7)] * 3), seed=st.integers(0, 10**6))
def test_3d(pool, size, seed):
    _check(3, pool, size, seed)

"""Convolutions of sparse signals equal those of torch, and torch computes all others."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp
from transpike.simulation.engine import convolve, native
from transpike.simulation.engine.precision import arithmetic
from transpike.simulation.engine.run import Engine

needs_gathering = pytest.mark.skipif(native.convolution() is None, reason="no C compiler")


@needs_gathering
@settings(max_examples=40)
@given(
    images=st.integers(1, 5),
    size=st.tuples(st.integers(3, 12), st.integers(3, 40)),
    channels=st.integers(1, 20),
    lanes=st.integers(1, 19),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=st.integers(1, 3),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    density=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_gathered_convolution_equals_torch(
    images, size, channels, lanes, kernel, stride, padding, density, bias, seed
):
    """The values are dyadic, so every order of summation gives the same result bit for bit."""
    torch.manual_seed(seed)
    if size[0] + 2 * padding[0] < kernel[0] or size[1] + 2 * padding[1] < kernel[1]:
        return
    convolution = nn.Conv2d(channels, 8 * lanes, kernel, stride, padding, bias=bias)
    _check_sparse(convolution, torch.randn(images, channels, *size), density)


@needs_gathering
@settings(max_examples=40)
@given(
    images=st.integers(1, 5),
    size=st.tuples(st.integers(1, 80), st.integers(1, 12)),
    channels=st.integers(1, 70),
    lanes=st.integers(1, 8),
    padding=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    density=st.sampled_from([0.0, 0.05, 0.2, 1.0]),
    bias=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_held_convolution_equals_torch(images, size, channels, lanes, padding, density, bias, seed):
    """Kernels of 3 x 3 are computed by blocks of channels, strips of outputs and bands of rows."""
    torch.manual_seed(seed)
    convolution = nn.Conv2d(channels, 8 * lanes, 3, padding=padding, bias=bias)
    _check_sparse(convolution, torch.randn(images, channels, *size), density)


def _check_sparse(convolution, x, density):
    with torch.no_grad():
        for parameter in convolution.parameters():
            parameter.copy_(torch.round(parameter * 64) / 64)
    x = torch.round(x * 4) / 4 * (torch.rand_like(x) < density)
    network = tp.capture(nn.Sequential(convolution, nn.ReLU()), torch.randn(2, *x.shape[1:]))
    node = next(n for n in network.nodes if "conv2d" in n.op)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(convolve, "_LEAST_PRODUCTS", 0)
        patch.setattr(convolve, "_LEAST_POSITIONS", 0)
        patch.setattr(convolve, "densest", lambda *_: 1.0)
        call = arithmetic("exact", network).call(network, network, node)
        assert isinstance(call, convolve.SparseConvolution)
        call.fallback = _never
        found = call({node.reads[0]: x}, len(x))
    with torch.no_grad():
        assert torch.equal(found, convolution(x))


def _never(values, rows):
    raise AssertionError("computed densely")


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(32, 32, 3, groups=2),
        nn.Conv2d(32, 32, 3, dilation=2),
        nn.Conv2d(32, 32, 3, stride=(1, 2)),
        nn.Conv2d(32, 36, 3),
        nn.Conv2d(32, 32, 1),
        nn.Conv2d(32, 4, 3),
        nn.Conv2d(32, 32, 3, padding="same"),
        nn.ConvTranspose2d(32, 32, 3),
    ],
)
def test_what_cannot_be_gathered_is_left_to_torch(layer):
    network = tp.capture(nn.Sequential(layer, nn.ReLU()), torch.randn(2, 32, 9, 9))
    node = next(n for n in network.nodes if n.kind == "linear")
    assert convolve.geometry(network, node) is None


@needs_gathering
def test_dense_signals_go_to_the_dense_convolution():
    network = tp.capture(nn.Sequential(nn.Conv2d(32, 32, 3), nn.ReLU()), torch.randn(2, 32, 9, 9))
    node = next(n for n in network.nodes if "conv2d" in n.op)
    calls = []

    def fallback(values, rows):
        calls.append(rows)
        return network.compute(node, values, rows)

    call = arithmetic("exact", network).call(network, network, node)
    call.fallback = fallback
    x = torch.randn(4, 32, 9, 9)
    sparse = x * (torch.rand_like(x) < 0.1)
    name = node.reads[0]
    torch.testing.assert_close(call({name: x}, 4), network.compute(node, {name: x}, 4))
    assert calls == [4]
    found = call({name: sparse}, 4)
    assert calls == [4]
    torch.testing.assert_close(found, network.compute(node, {name: sparse}, 4))


@needs_gathering
def test_the_faster_the_rival_the_sparser_a_signal_has_to_be():
    shares = [
        convolve.densest("held", 16, rival) for rival in ("tiles", "vectors", "float", "none")
    ]
    assert shares == sorted(set(shares))


@needs_gathering
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("sparse", [0.0, 0.3, 1.0])
def test_convolution_of_a_concatenation_equals_torch(sparse, precision, monkeypatch):
    """At the skips of a U-Net nothing is concatenated, whether the values are sparse or dense."""
    monkeypatch.setattr(convolve, "densest", lambda *_: sparse)
    torch.manual_seed(0)

    def forward(m, x):
        skip = F.relu(m.first(x))
        up = m.up(F.relu(m.down(skip)))
        return m.last(F.relu(m.second(torch.cat([up, skip, x], 1))))

    parts = {
        "first": nets.conv(3, 16),
        "down": nn.Conv2d(16, 8, 2, 2),
        "up": nn.ConvTranspose2d(8, 8, 2, 2),
        "second": nets.conv(27, 32),
        "last": nn.Conv2d(32, 2, 1),
    }
    snn = nets.dyadic_snn(nets.Fn(forward, **parts), (3, 12, 16), tp.Signed(2))
    engine = Engine(snn, precision)
    assert list(engine.first.joins)
    assert not [step for step in engine.first.plan(False).steps if "cat" in step.node.op]
    x = nets.dyadic_input(2, 3, 12, 16)
    found = tp.simulate(snn, x, 6, precision=precision)
    wanted = tp.simulate_reference(snn, x, 6)
    if precision == "exact":
        nets.same_counts(found, wanted)
        torch.testing.assert_close(found.output, wanted.output, rtol=1e-5, atol=1e-5)
    else:
        error = (found.output - wanted.output)[-1].norm() / wanted.output[-1].norm()
        assert error < 0.1


@needs_gathering
@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(2), tp.Telescoped(2)])
def test_gathering_engine_equals_reference_spike_for_spike(neuron, monkeypatch):
    """Every convolution of a residual network with max-pooling is gathered."""
    monkeypatch.setattr(convolve, "densest", lambda *_: 1.0)
    monkeypatch.setattr(convolve, "_LEAST_PRODUCTS", 0)

    snn = nets.dyadic_snn(nets.pooled_residual(), (2, 12, 12), neuron)
    engine = Engine(snn, "exact")
    gathered = [
        node.name
        for node in snn.network.nodes
        if isinstance(engine.first.call(node), convolve.SparseConvolution)
    ]
    assert len(gathered) == 4
    x = nets.dyadic_input(3, 2, 12, 12)
    nets.same_counts(tp.simulate_reference(snn, x, 7), tp.simulate(snn, x, 7, chunk=3))


@needs_gathering
def test_sparse_convolutions_of_fast_keep_float32():
    """A sparse convolution gives the same result with the precisions 'exact' and 'fast'."""
    conv = nn.Conv2d(16, 16, 3, padding=1).eval()
    x = torch.randn(4, 16, 8, 8).to(memory_format=torch.channels_last)
    x[torch.rand_like(x) < 0.97] = 0
    network = tp.capture(nn.Sequential(conv, nn.ReLU()), x)
    node = next(node for node in network.nodes if node.op == "aten.conv2d.default")
    called = []
    for precision in ("exact", "fast"):
        chosen = arithmetic(precision, network)
        call = chosen.call(network, chosen.weights(network), node)
        called.append(call({node.reads[0]: x}, 4))
    assert called[0].dtype == called[1].dtype == torch.float32
    assert torch.equal(*called)
    torch.testing.assert_close(called[0], conv(x).detach(), rtol=1e-5, atol=1e-5)


@needs_gathering
def test_fast_reads_products_of_products():
    """A convolution behind an upsampling gets bfloat16, and searches it for zeros as float32."""

    def forward(m, x):
        return m.last(F.relu(m.second(m.up(F.relu(m.first(x))))))

    parts = {
        "first": nets.conv(3, 16),
        "up": nn.ConvTranspose2d(16, 16, 2, 2),
        "second": nets.conv(16, 32),
        "last": nn.Conv2d(32, 2, 1),
    }
    snn = nets.dyadic_snn(nets.Fn(forward, **parts), (3, 12, 16), tp.Signed(2))
    x = nets.dyadic_input(2, 3, 12, 16)
    found, wanted = (tp.simulate(snn, x, 6, precision=p).output[-1] for p in ("fast", "exact"))
    assert (found - wanted).norm() < 0.05 * wanted.norm()

"""Functions on running means: the identity, the engine and the reference agree for all of them."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils import _pytree as pytree

import function_nets
import nets
import transpike as tp


def _captured(build, shape, seed=0, samples=24):
    """Return the captured network in float64 and its calibration."""
    torch.manual_seed(seed)
    model = build().double().eval()
    network = tp.capture(model, torch.randn(3, *shape, dtype=torch.float64))
    data = torch.randn(samples, *shape, dtype=torch.float64)
    return network, tp.calibrate(network, [data])


def _identity(network, calibration, shape, timesteps=5):
    """Check the telescoped network against the quantized one at every timestep."""
    snn = tp.convert(
        network, calibration, neuron=tp.Telescoped(max_count=3), threshold=tp.Percentile(99.0)
    )
    x = torch.randn(timesteps, 2, *shape, dtype=torch.float64)
    run = tp.simulate_reference(snn, x, timesteps, time_axis=True)
    for t in range(1, timesteps + 1):
        found = pytree.tree_map(lambda output, t=t: output[t - 1], run.output)
        assert nets.error(found, tp.quantized_ann(snn, x[:t].mean(0), t)) < 1e-9


_ROWS = sorted(name for name, (_, shape) in function_nets.FUNCTIONS.items() if shape == (6, 8))
_GROUPS = [*(_ROWS[first::5] for first in range(5)), ["gate"], ["transformer"]]


@pytest.mark.parametrize("names", _GROUPS, ids=", ".join)
def test_every_function(names):
    """Telescoped equals quantized, and the engine fires like the reference in both codings."""
    model, shape = function_nets.side_by_side(names)
    network, calibration = _captured(lambda: model, shape)
    places = {region.nodes[-1].place.split(".")[1] for region in network.regions.values()}
    assert places == set(names)  # Every function became a region.
    _identity(network, calibration, shape)
    timesteps = 4
    x = torch.randn(timesteps, 2, *shape, dtype=torch.float64)
    for neuron in (tp.Signed(2), tp.Differential(8, 3)):
        snn = tp.convert(network, calibration, neuron=neuron)
        expected = tp.simulate_reference(snn, x, timesteps, time_axis=True)
        run = tp.simulate(snn, x, timesteps, time_axis=True, chunk=3)
        for site, counts in expected.counts_per_timestep.items():
            torch.testing.assert_close(run.counts_per_timestep[site], counts, rtol=0, atol=0)
        assert nets.error(run.output, expected.output) < 1e-9


@pytest.mark.parametrize(
    "neuron",
    [tp.Signed(1), tp.Signed(4), tp.Differential(8, 2), tp.Refining(4), tp.Staggered(2, window=4)],
    ids=lambda neuron: neuron.name,
)
def test_relu_as_a_function_is_the_signed_neuron(neuron):
    build = function_nets.between
    x = torch.randn(3, *function_nets.ROW, dtype=torch.float64)
    runs = []
    for function in (lambda m, x: F.relu(x), lambda m, x: x * (x > 0)):
        network, calibration = _captured(lambda f=function: build(f), function_nets.ROW)
        snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
        runs.append(tp.simulate_reference(snn, x, snn.first_output + 8))
    pairs = zip(*(run.counts_per_timestep.values() for run in runs), strict=True)
    assert all(torch.equal(counts, expected) for counts, expected in pairs)
    assert nets.error(*(run.output for run in runs)) < 1e-9


_UNARY = {
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "square": lambda x: x.square() / 4,
    "norm": lambda x: F.layer_norm(x, x.shape[-1:]),
    "softmax": lambda x: x.softmax(-1),
    "mean": lambda x: x + x.mean(1, keepdim=True),
    "relu": F.relu,
    "flip": lambda x: x.flip(2),
}
_BINARY = {
    "add": torch.add,
    "mul": torch.mul,
    "max": torch.maximum,
    "div": lambda a, b: a / (1 + b * b),
}


@settings(max_examples=6)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from([*_UNARY, *_BINARY, "layer"]), st.integers(0, 20), st.integers(0, 20)
        ),
        min_size=3,
        max_size=9,
    ),
    seed=st.integers(0, 10**6),
)
def test_random_regions(steps, seed):
    """Any graph of functions and layers keeps the identity, whatever fuses with whatever."""

    def forward(m, x):
        values = [m.first(x)]
        for number, (name, left, right) in enumerate(steps):
            a, b = values[left % len(values)], values[right % len(values)]
            if name == "layer":
                values.append(m.layers[number](a))
            else:
                values.append(_UNARY[name](a) if name in _UNARY else _BINARY[name](a, b))
        return m.last(torch.tanh(values[-1]) + values[-2])

    def build():
        layers = nn.ModuleList(nn.Linear(5, 5) for _ in steps)
        return nets.Fn(forward, first=nn.Linear(5, 5), layers=layers, last=nn.Linear(5, 2))

    shape = (3, 5)
    network, calibration = _captured(build, shape, seed, samples=6)
    _identity(network, calibration, shape, timesteps=3)
    x = torch.randn(2, *shape, dtype=torch.float64)
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    expected = tp.simulate_reference(snn, x, 3).output
    assert nets.error(tp.simulate(snn, x, 3, chunk=2).output, expected) < 1e-9


@pytest.mark.parametrize("name", sorted(function_nets.MOVED))
def test_the_batch_may_move_and_merge(name):
    """Neurons and running sums have one row per sample, wherever the model has the batch."""
    build, shape = function_nets.MOVED[name]
    network, calibration = _captured(build, shape)
    assert len(network.sites) >= 3 and network.regions
    _identity(network, calibration, shape)
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = torch.randn(3, *shape, dtype=torch.float64)
    expected = tp.simulate_reference(snn, x, 4).output
    assert nets.error(tp.simulate(snn, x, 4, chunk=3).output, expected) < 1e-9
    alone = torch.cat([tp.simulate(snn, x[i : i + 1], 4).output for i in range(3)], dim=1)
    assert nets.error(alone, expected) < 1e-9


def test_a_model_that_exchanges_samples_twice_is_refused():
    """The outputs are right, but the neurons would belong to other samples."""

    def forward(m, x):
        y = m.a(x)
        y = F.gelu(torch.cat([y[1:], y[:1]]))
        return m.b(torch.cat([y[-1:], y[:-1]]))

    model = nets.Fn(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 2)).double()
    with pytest.raises(tp.UnsupportedError, match="batch"):
        tp.capture(model, torch.randn(3, 4, dtype=torch.float64))


@pytest.mark.parametrize("name", ["gate", "transformer"])
def test_a_saved_network_with_regions_is_the_same(name, tmp_path):
    build, shape = function_nets.FUNCTIONS[name]
    network, calibration = _captured(build, shape)
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    tp.save(snn, tmp_path / "snn")
    loaded = tp.load(tmp_path / "snn")
    x = torch.randn(2, *shape, dtype=torch.float64)
    assert torch.equal(tp.simulate(loaded, x, 4).output, tp.simulate(snn, x, 4).output)
    assert loaded.network.sites == network.sites
    assert all(torch.equal(loaded.lowers[name], lower) for name, lower in snn.lowers.items())


def test_unsigned_neurons_take_only_functions_without_negative_values():
    network, calibration = _captured(lambda: function_nets.FUNCTIONS["sigmoid"][0](), (6, 8))
    _ = tp.convert(network, calibration, neuron=tp.IF())
    network, calibration = _captured(lambda: function_nets.FUNCTIONS["gelu"][0](), (6, 8))
    with pytest.raises(tp.ArgumentError, match="needed a signed neuron at 'module'.*got IF"):
        tp.convert(network, calibration, neuron=tp.IF())


@pytest.mark.parametrize(
    "one", [tp.BiasCorrection(), tp.MembraneCorrection(), tp.SiteSearch(), tp.Distillation()]
)
def test_calibration_passes_lower_the_error(one):
    build, shape = function_nets.FUNCTIONS["gate"]
    network, _ = _captured(build, shape)
    data = torch.randn(48, *shape, dtype=torch.float64)
    analog = network(data)
    plain, passed = (
        tp.convert(network, [data], neuron=tp.Signed(2), timesteps=4, passes=passes)
        for passes in ((), (one,))
    )
    errors = [
        float((tp.simulate(snn, data, 4).output[-1] - analog).norm()) for snn in (plain, passed)
    ]
    assert errors[1] <= errors[0]


@pytest.mark.parametrize("name", ["gate", "transformer"])
@pytest.mark.parametrize("neuron", [tp.Signed(2), tp.Refining(4)], ids=lambda one: one.name)
def test_chunks_portions_and_batches_change_nothing(name, neuron):
    build, shape = function_nets.FUNCTIONS[name]
    network, calibration = _captured(build, shape)
    snn = tp.convert(network, calibration, neuron=neuron)
    x = torch.randn(5, *shape, dtype=torch.float64)
    whole = tp.simulate(snn, x, 6)
    for setting in ({"chunk": 1}, {"chunk": 4}, {"memory_budget": 200_000}):
        run = tp.simulate(snn, x, 6, **setting)
        assert nets.error(run.output, whole.output) < 1e-9
    alone = torch.cat([tp.simulate(snn, x[i : i + 1], 6).output for i in range(5)], dim=1)
    assert nets.error(alone, whole.output) < 1e-9


def test_error_falls_as_in_the_prototype():
    """The error against the analog network falls with T in all codings."""
    network, calibration = _captured(function_nets.transformer, (2, 8, 8), samples=64)
    x = torch.randn(8, 2, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    analog = network(x)
    for neuron, times in ((tp.Signed(8), (1, 4, 16)), (tp.Signed(1), (8, 32, 128))):
        snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
        run = tp.simulate(snn, x, times[-1])
        errors = [nets.error(run.output[t - 1], analog) for t in times]
        assert errors[2] < errors[1] < errors[0]

"""The engine: kernels against each other, fused sums, portions, early stopping, precision."""

import copy
import logging
import pickle

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp
from transpike.engine import convolve, native
from transpike.engine import scan as scans
from transpike.engine.memory import portion
from transpike.engine.plan import plan
from transpike.engine.precision import arithmetic, tf32_terms
from transpike.engine.run import Engine
from transpike.engine.scan import Chunk, Constants, Population
from transpike.until import clearness

needs_kernel = pytest.mark.skipif(native.kernel() is None, reason="no C compiler")

NEURONS = st.one_of(
    st.builds(tp.Burst, st.integers(1, 9), mode=st.sampled_from(["range", "resolution"])),
    st.builds(tp.Signed, st.integers(1, 9)),
    st.builds(tp.Telescoped, st.integers(1, 9)),
    st.builds(tp.Differential, st.integers(1, 9), st.integers(1, 3)),
    st.builds(tp.MultiThreshold, st.integers(1, 5), signed=st.booleans()),
)


def _problem(neuron, seed, length, batch, neurons, *, other, bounded, offset, constant):
    """One population with real-valued constants, and the currents of a chunk."""
    draw = torch.Generator().manual_seed(seed)

    def values(*shape):
        return torch.randn(*shape, generator=draw)

    step = values(neurons).abs() + 0.1
    constants = Constants(
        neuron,
        step,
        torch.rand(neurons, generator=draw),
        values(neurons) / 4 if offset else None,
        values(neurons).abs() * 2 if bounded else None,
    )
    current = values(1 if constant else length, batch, neurons)
    second = values(length, batch, neurons) if other else None
    return constants, current, second


def _run(function, constants, current, second, length, first, *extra):
    batch, neurons = current.shape[1:]
    population = Population.at_rest(constants, batch)
    out = torch.empty(length, batch, neurons)
    membranes = torch.empty_like(out)
    for done in (first, first + length):  # the second from a state that is not at rest
        chunk = Chunk(current, second, out, membranes, done)
        counts = function(constants, population, chunk, *extra)
    return population, out, membranes, counts


def _identical(a, b):
    for one, two in (
        (a[0].membrane, b[0].membrane),
        (a[0].total, b[0].total),
        *zip(a[1:], b[1:], strict=True),
    ):
        assert (one is None) == (two is None)
        assert one is None or torch.equal(one, two)


@needs_kernel
@settings(max_examples=60)
@given(
    neuron=NEURONS,
    seed=st.integers(0, 10**6),
    length=st.integers(1, 9),
    shape=st.sampled_from([(1, 1), (3, 5), (2, 1023), (1, 1024), (2, 2500)]),
    first=st.sampled_from([0, 1, 7, 100]),
    flags=st.tuples(*[st.booleans()] * 4),
)
def test_kernel_equals_torch_bit_for_bit(neuron, seed, length, shape, first, flags):
    """On real-valued data: the same operations in the same order."""
    names = ("other", "bounded", "offset", "constant")
    problem = _problem(neuron, seed, length, *shape, **dict(zip(names, flags, strict=True)))
    mine = _run(scans._native, *problem, length, first)
    _identical(mine, _run(scans._eager, *problem, length, first))


@needs_kernel
def test_kernel_in_place_and_in_bfloat16():
    constants, current, _ = _problem(
        tp.Signed(2), 1, 5, 3, 1500, other=False, bounded=False, offset=False, constant=False
    )
    apart = _run(scans._native, constants, current, None, 5, 0)
    population, memory = Population.at_rest(constants, 3), current.clone()
    for done in (0, 5):
        memory.copy_(current)
        scans._native(constants, population, Chunk(memory, None, memory, None, done))
    assert torch.equal(memory, apart[1])
    half = current.bfloat16()
    wide = _run(scans._native, constants, half.float(), None, 5, 0)
    population, out = Population.at_rest(constants, 3), torch.empty_like(half)
    for done in (0, 5):
        scans._native(constants, population, Chunk(half, None, out, None, done))
    assert torch.equal(population.membrane, wide[0].membrane)
    assert torch.equal(out, wide[1].bfloat16())


def test_without_a_compiler_the_results_are_the_same_and_a_message_says_so(monkeypatch, caplog):
    snn = tp.convert(nets.conv_net(), [torch.randn(4, 2, 8, 8)], neuron=tp.Signed(2))
    x = torch.randn(3, 2, 8, 8)
    with_kernel = tp.simulate(snn, x, 6)
    monkeypatch.setenv("TRANSPIKE_NATIVE", "0")
    native.kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="transpike"):
            without = [tp.simulate(snn, x, 6) for _ in range(2)]
    finally:
        native.kernel.cache_clear()
    assert [r.message for r in caplog.records if r.name == "transpike"] == [
        "neurons are updated by slower torch code, with the same results: TRANSPIKE_NATIVE=0"
    ]
    nets.same_simulation(with_kernel, without[0])
    nets.same_simulation(without[0], without[1])


def test_a_broken_compiler_is_named(monkeypatch, caplog, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CC", "/bin/false")
    native.kernel.cache_clear()
    try:
        with caplog.at_level(logging.WARNING, logger="transpike"):
            assert native.kernel() is None
    finally:
        native.kernel.cache_clear()
    assert "/bin/false failed" in caplog.text


def _residual(m, x):
    a = F.relu(m.c(x))
    return m.d(F.relu(m.e(a) + a)).mean([2, 3])


def _constant_branch(m, x):
    """A site fed by a value in time and one that is constant."""
    return m.d(F.relu(m.e(F.relu(m.c(x))) + m.f(x))).mean([2, 3])


@pytest.mark.parametrize("function", [_residual, _constant_branch])
def test_a_sum_before_a_site_is_added_in_the_update(function):
    parts = {"c": nets.conv(), "d": nets.conv(4, 3), "e": nets.conv(4, 4), "f": nets.conv()}
    snn = nets.dyadic_snn(nets.Fn(function, **parts), (2, 6, 6), tp.Signed(2))
    made = plan(snn.network, constant_input=True)
    assert [len(step.reads) for step in made.steps if step.site is not None][-1] == 2
    assert not any(step.node.op == "aten.add.Tensor" for step in made.steps)
    x = nets.dyadic_input(5, 2, 6, 6)
    slow, fast = tp.simulate_reference(snn, x, 7), tp.simulate(snn, x, 7, chunk=3)
    nets.same_counts(slow, fast)
    torch.testing.assert_close(fast.output, slow.output)


def test_portions_do_not_change_results():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.Signed(2))
    x = nets.dyadic_input(7, 2, 8, 8)
    names = [s.name for s in snn.network.sites]
    whole = tp.simulate(snn, x, 6, record=names, totals=True)
    least = plan(snn.network, constant_input=True)
    one = least.bytes_per_sample(4) + least.bytes_per_timestep(4)
    for budget in (one, 2 * one, 10**9):
        run = tp.simulate(snn, x, 6, record=names, totals=True, memory_budget=budget)
        nets.same_counts(whole, run)
        torch.testing.assert_close(run.output, whole.output, rtol=1e-6, atol=1e-7)
        for name in names:
            assert torch.equal(run.records[name].membrane, whole.records[name].membrane)
            assert torch.equal(run.totals[name].net, whole.totals[name].net)


def test_a_budget_below_one_sample_is_refused_with_the_number_needed():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.Signed(2))
    with pytest.raises(tp.ArgumentError, match=r"memory_budget: .* needs [\d,]+ bytes"):
        tp.simulate(snn, nets.dyadic_input(2, 2, 8, 8), 4, memory_budget=100)


def test_budget_lowers_the_chunk_first_and_raises_it_when_there_is_room():
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=True)
    state, value = made.bytes_per_sample(4), made.bytes_per_timestep(4)
    options = {"itemsize": 4, "chunk": None}
    cpu = torch.device("cpu")
    tight = portion(made, 64, 10, cpu, budget=state + 3 * value, **options)
    assert (tight.samples, tight.timesteps) == (1, 2)
    roomy = portion(made, 64, 10, cpu, budget=10 * (state + 64 * value), **options)
    assert (roomy.samples, roomy.timesteps) == (10, 64)
    assert portion(made, 64, 10, cpu, budget=None, **options).timesteps == 8
    assert portion(made, 3, 10, cpu, budget=None, **options).timesteps == 3


@pytest.mark.parametrize("bad", [0, -1, 1.5, True, "8"])
@pytest.mark.parametrize("name", ["chunk", "memory_budget"])
def test_bad_portions_are_refused(name, bad):
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.IF())
    with pytest.raises(tp.ArgumentError, match=f"{name}: needed an integer"):
        tp.simulate(snn, nets.dyadic_input(2, 2, 8, 8), 2, **{name: bad})


def test_progress_counts_every_timestep_of_every_sample():
    snn = nets.dyadic_snn(nets.conv_net(), (2, 8, 8), tp.IF())
    seen = []
    tp.simulate(
        snn,
        nets.dyadic_input(5, 2, 8, 8),
        7,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert [d for d, _ in seen] == sorted(d for d, _ in seen)
    assert seen[-1] == (35, 35)


def _classifier():
    torch.manual_seed(4)
    model = nets.conv_net()
    x = torch.randn(24, 2, 8, 8)
    return tp.convert(model, [x], neuron=tp.Signed(2)), x


def _until(rule, snn, x):
    """A rule that stops about half of the samples on the way."""
    clear = clearness(rule, tp.simulate(snn, x, 6).output[-1]).median().item()
    return tp.Until(rule, clear if rule == "margin" else 1 - clear)


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_stopped_samples_hold_the_output_of_their_decision(rule, chunk):
    snn, x = _classifier()
    full = tp.simulate(snn, x, 12)
    until = _until(rule, snn, x)
    run = tp.simulate(snn, x, 12, until=until, chunk=chunk)
    settled = torch.stack([until.settled(out, t) for t, out in enumerate(full.output, 1)])
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


def test_until_reads_only_what_is_asked_for():
    snn, x = _classifier()
    until = _until("margin", snn, x)
    every = tp.simulate(snn, x, 12, until=until)
    some = tp.simulate(snn, x, 12, until=until, output_at=[2, 12])
    assert torch.equal(some.decided_at, every.decided_at)
    torch.testing.assert_close(some.output, every.output[[1, 11]])


def test_until_settings_are_checked():
    for settings_ in (("loudness", 0.5), ("margin", 1.5), ("entropy", float("nan"))):
        with pytest.raises(tp.ArgumentError):
            tp.Until(*settings_)
    with pytest.raises(tp.ArgumentError, match="least"):
        tp.Until("margin", 0.5, least=0)
    snn, x = _classifier()
    with pytest.raises(tp.ArgumentError, match="until"):
        tp.simulate(snn, x, 3, until=tp.Until("margin", 0.5), totals=True)
    dense = tp.convert(nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU()), [torch.randn(2, 2, 8, 8)])
    with pytest.raises(tp.DataError, match="class scores"):
        tp.simulate(dense, torch.randn(2, 2, 8, 8), 3, until=tp.Until("margin", 0.5))


@pytest.mark.parametrize("rule", ["margin", "entropy"])
def test_fitted_rule_changes_no_more_than_allowed_and_a_laxer_one_does(rule):
    snn, x = _classifier()
    final = tp.simulate(snn, x, 12).output[-1].argmax(1)

    def changed(until):
        run = tp.simulate(snn, x, 12, until=until, chunk=1)
        return float((run.output[-1].argmax(1) != final).double().mean())

    fitted = tp.fit_until(snn, [x], 12, rule=rule, most_changed=0.05)
    assert changed(fitted) <= 0.05
    laxer = tp.Until(rule, 0.0 if rule == "margin" else 1.0)
    assert changed(laxer) > 0.05
    strict = tp.fit_until(snn, [x], 12, rule=rule, most_changed=0.0)
    assert changed(strict) == 0


def test_evaluation_with_early_stopping_counts_mean_timesteps():
    snn, x = _classifier()
    target = snn.network(x).argmax(1)
    until = _until("margin", snn, x)
    plain = tp.evaluate(snn, [(x, target)], 12)
    found = tp.evaluate(snn, [(x[:10], target[:10]), (x[10:], target[10:])], 12, until=until)
    run = tp.simulate(snn, x, 12, until=until)
    mean = [float(run.decided_at.clamp(max=t).double().mean()) for t in range(1, 13)]
    assert found.decided_timesteps == pytest.approx(mean)
    assert found.computed_timesteps == pytest.approx(float(run.computed.double().mean()))
    assert found.spikes_per_neuron[-1] < plain.spikes_per_neuron[-1]
    right = run.output.argmax(2) == target
    assert found.accuracy == pytest.approx(right.double().mean(1).tolist())
    assert "early stopping" in str(found)
    assert plain.decided_timesteps is None


def test_an_interrupt_leaves_the_finished_batches():
    snn, x = _classifier()
    target = snn.network(x).argmax(1)

    def batches(stop):
        for index in range(3):
            if index == stop:
                raise KeyboardInterrupt
            yield x[8 * index : 8 * index + 8], target[8 * index : 8 * index + 8]

    found = tp.evaluate(snn, batches(2), 5)
    assert found.interrupted and found.samples == found.n == 16
    whole = tp.evaluate(snn, [(x[:16], target[:16])], 5)
    assert not whole.interrupted
    assert found.accuracy == whole.accuracy
    assert "interrupted" in str(found)
    with pytest.raises(KeyboardInterrupt):
        tp.evaluate(snn, batches(0), 5)


def test_an_interrupt_within_a_batch_counts_none_of_it():
    snn, x = _classifier()
    target = snn.network(x).argmax(1)
    calls = []

    def stop(done, total):
        calls.append(done)
        if len(calls) == 2:
            raise KeyboardInterrupt

    half = [(x[:12], target[:12]), (x[12:], target[12:])]
    found = tp.evaluate(snn, half, 5, progress=stop)
    assert found.samples == 12
    assert found.accuracy == tp.evaluate(snn, half[:1], 5).accuracy


def test_fast_is_close_to_exact_and_says_how_close():
    snn, x = _classifier()
    target = snn.network(x).argmax(1)
    exact, fast = (tp.simulate(snn, x, 8, precision=p) for p in ("exact", "fast"))
    assert (exact.precision, fast.precision) == ("exact", "fast")
    assert not torch.equal(exact.output, fast.output)
    error = (exact.output[-1] - fast.output[-1]).std() / exact.output[-1].std()
    assert error < 0.2
    assert fast.output.dtype == torch.float32
    found = tp.evaluate(snn, [(x, target)], 8, precision="fast", compare_exact=True)
    equal = exact.output.argmax(2) == fast.output.argmax(2)
    assert found.exact_agreement == pytest.approx(equal.double().mean(1).tolist())
    assert found.precision == "fast"


def test_precision_is_refused_where_it_cannot_be_had():
    snn, x = _classifier()
    with pytest.raises(tp.ArgumentError, match="precision: needed one of"):
        tp.simulate(snn, x, 2, precision="half")
    with pytest.raises(tp.ArgumentError, match="needs the tensor cores of a CUDA device"):
        tp.simulate(snn, x, 2, precision="split")
    with pytest.raises(tp.ArgumentError, match="needs a network in float32"):
        tp.simulate(snn.double(), x.double(), 2, precision="fast")


def test_tf32_terms_add_up_and_have_few_bits():
    x = torch.randn(1000) * torch.logspace(-6, 6, 1000)
    high, low = tf32_terms(x)
    for term in (high, low):
        assert torch.equal(term.view(torch.int32) & 0x1FFF, torch.zeros(1000, dtype=torch.int32))
    assert float(((high.double() + low.double() - x.double()) / x.double()).abs().max()) < 2**-21


def test_three_tf32_products_restore_a_float32_convolution():
    """The arithmetic of precision 'split', with the products done in float32."""
    torch.manual_seed(0)
    network = tp.capture(nets.conv_net(), torch.randn(2, 2, 8, 8))
    node = next(n for n in network.nodes if "conv2d" in n.op)
    split = arithmetic("exact", network)
    split = type(split)("split", split.kept, split.product, split.signal)
    values = {node.reads[0]: torch.randn(3, 2, 8, 8)}
    found = split.call(network, network, node)(values, 3)
    exact = network.to(dtype=torch.float64)
    doubled = {name: value.double() for name, value in values.items()}
    wanted = exact.compute(node, doubled, 3)
    torch.testing.assert_close(found.double(), wanted, rtol=2e-6, atol=2e-6)


def test_memory_does_not_grow_with_timesteps():
    """Values alive at once, counted by the planner and bounded by the portion."""
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=True)
    sizes = {
        portion(made, t, 100, torch.device("cpu"), itemsize=4, chunk=None, budget=None)
        for t in (8, 64, 256, 1000)
    }
    assert len(sizes) == 1


def test_a_plan_names_every_dead_value_once():
    network, _ = nets.captured("conv2d", torch.float32)
    made = plan(network, constant_input=False)
    dead = [name for step in made.steps for name in step.dead]
    assert len(dead) == len(set(dead))
    assert not set(dead) & set(made.readout)
    read = {name for step in made.steps for name in step.reads}
    assert read - set(made.readout) <= set(dead) | made.kept


@pytest.mark.parametrize("time_axis", [False, True])
@pytest.mark.parametrize("name", ["conv2d", "conv1d", "grouped"])
def test_one_pass_of_telescoped_neurons_equals_the_stepwise_reference(name, time_axis):
    network, calibration = nets.captured(name, torch.float64)
    snn = tp.convert(network, calibration, neuron=tp.Telescoped(3))
    lead = (6, 3) if time_axis else (3,)
    x = torch.randn(*lead, *nets.NETS[name][1], dtype=torch.float64)
    at = {"time_axis": time_axis, "output_at": [1, 2, 5, 6]}
    slow = tp.simulate_reference(snn, x, 6, **at)
    fast = tp.simulate(snn, x, 6, spikes=False, **at)
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-9, atol=1e-11)
    assert fast.output_at == slow.output_at and not fast.counts_per_timestep
    with pytest.raises(tp.DataError, match="spikes=True"):
        _ = fast.spikes_per_neuron


def test_neurons_that_depend_on_the_way_are_simulated_even_without_spikes():
    snn, x = _classifier()
    nets.same_simulation(tp.simulate(snn, x, 5, spikes=False), tp.simulate(snn, x, 5))


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
    """On dyadic values every order of summation gives the same result, bit for bit."""
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
    """Kernels of 3 x 3: blocks of channels, strips of outputs, bands of rows."""
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
@pytest.mark.parametrize("neuron", [tp.IF(), tp.Signed(2), tp.Telescoped(2)])
def test_gathering_engine_equals_reference_spike_for_spike(neuron, monkeypatch):
    """A residual network with max-pooling whose every convolution is gathered."""
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


@pytest.mark.parametrize("part", ["weight", "step", "start", "neuron"])
def test_a_changed_network_is_prepared_anew(part):
    snn, x = _classifier()
    before = tp.simulate(snn, x, 4)
    nets.same_simulation(before, tp.simulate(snn, x, 4))
    name = snn.network.sites[0].name
    if part == "weight":
        next(iter(snn.network.tensors.values())).data.mul_(0.5)
    elif part == "step":
        snn.steps[name].data[0] *= 2
    elif part == "start":
        snn.starts[name].data[0] += 0.25
    else:
        snn.neurons[name] = tp.Signed(1)
    found = tp.simulate(snn, x, 4)
    assert not torch.equal(found.output, before.output)
    torch.testing.assert_close(found.output, tp.simulate_reference(snn, x, 4).output)


def test_a_simulated_network_can_be_copied_pickled_and_moved():
    snn, x = _classifier()
    run = tp.simulate(snn, x, 4)
    for other in (copy.deepcopy(snn), pickle.loads(pickle.dumps(snn))):
        nets.same_simulation(run, tp.simulate(other, x, 4))
    assert tp.simulate(snn.double(), x.double(), 4).output.dtype == torch.float64


@needs_gathering
def test_the_faster_the_rival_the_sparser_a_signal_has_to_be():
    shares = [
        convolve.densest("held", 16, rival) for rival in ("tiles", "vectors", "float", "none")
    ]
    assert shares == sorted(set(shares))


@needs_gathering
def test_sparse_convolutions_of_fast_keep_float32():
    """A convolution computed sparsely is the same in both precisions."""
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


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.add_(1),
        lambda weight: weight[0].mul_(2),
        lambda weight: weight.data.mul_(1.5),
        lambda weight: weight.copy_(weight + 1),
    ],
)
def test_a_changed_weight_is_noticed(change):
    snn, x = _classifier()
    before = tp.simulate(snn, x, 4).output
    assert torch.equal(before, tp.simulate(snn, x, 4).output)
    buffers = [buffer for buffer in snn.buffers() if buffer.numel() > 8 and buffer.ndim > 1]
    with torch.no_grad():
        change(max(buffers, key=torch.numel))
    after = tp.simulate(snn, x, 4).output
    assert not torch.equal(before, after)
    torch.testing.assert_close(after, tp.simulate_reference(snn, x, 4).output)


@needs_gathering
@pytest.mark.parametrize("precision", ["exact", "fast"])
@pytest.mark.parametrize("sparse", [0.0, 0.3, 1.0])
def test_convolution_of_a_concatenation_equals_torch(sparse, precision, monkeypatch):
    """Skips of a U-Net: nothing is concatenated, whichever of the values are dense."""
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
def test_fast_reads_products_of_products():
    """A convolution behind an upsampling gets bfloat16, and looks at it as float32."""

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

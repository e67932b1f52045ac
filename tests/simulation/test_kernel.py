"""The update of neurons: the kernel equals torch, and sums before a site are fused into it."""

import logging

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import nets
import transpike as tp
from transpike.simulation.engine import native
from transpike.simulation.engine import scan as scans
from transpike.simulation.engine.plan import plan
from transpike.simulation.engine.scan import Chunk, Constants, Population

needs_kernel = pytest.mark.skipif(native.kernel() is None, reason="no C compiler")

NEURONS = st.one_of(
    st.builds(tp.Burst, st.integers(1, 9), mode=st.sampled_from(["range", "resolution"])),
    st.builds(tp.Signed, st.integers(1, 9)),
    st.builds(tp.Telescoped, st.integers(1, 9)),
    st.builds(tp.Differential, st.integers(1, 9), st.integers(1, 3)),
    st.builds(tp.MultiThreshold, st.integers(1, 5), signed=st.booleans()),
)


def _problem(neuron, seed, length, batch, neurons, *, other, bounded, offset, constant):
    """Return the real-valued constants of a population, and the currents of a chunk."""
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
    for done in (first, first + length):  # The second chunk does not start at rest.
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
    """Both do the same operations in the same order, so real-valued results are equal, too."""
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
    """Compute a site whose input is the sum of a changing value and a constant one."""
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

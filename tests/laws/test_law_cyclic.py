"""Laws of neurons whose step returns, compared with a slow model and the quantized ANN."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import nets
import transpike as tp
from transpike.measure.activity import ActivityTally
from transpike.spiking.neuron import fire, initial_state, refine

POWERS = st.sampled_from([1, 2, 4, 8, 16])
SCHEDULES = st.builds(
    tp.Schedule, divisors=st.lists(POWERS, min_size=1, max_size=5), cyclic=st.booleans()
)
NEURONS = st.builds(
    tp.Neuron,
    max_count=st.integers(1, 8),
    signed=st.just(True),
    step=st.just("fraction"),
    initial_membrane=st.sampled_from([0.0, 0.25, 0.5, 0.75]),
    levels=st.integers(1, 12),
    schedule=SCHEDULES,
    hysteresis=st.sampled_from([0.0, 0.0, 0.5]),
)
CONVERGING = {
    "cyclic, 8 counts": tp.Cyclic(8),
    "cyclic, 8 counts, three divisors": tp.Cyclic(8, (1, 4, 16)),
    "cyclic, 1 count": tp.Cyclic(1),
    "cyclic, 1 count, small steps first": tp.Cyclic(1, (8, 1, 2), levels=3),
    "cyclic, start at 0": tp.Cyclic(4, (1, 1, 8), initial_membrane=0.0),
    "cyclic, start at 3/4": tp.Cyclic(2, initial_membrane=0.75),
    "step that stays": tp.Differential(8, 1),
    "step that stays, 4 counts": tp.Differential(16, 4),
}


def _by_hand(neuron, currents, d, bound):
    """Follow the definition of one neuron; return (counts, membranes, steps).

    Membranes and steps are in activation units.
    """
    k, v0, h = neuron.max_count, neuron.initial_membrane, neuron.hysteresis
    divisors, cyclic = neuron.schedule.divisors, neuron.schedule.cyclic
    left, sent, counts, membranes, steps = 0.0, 0.0, [], [], []
    for t, current in enumerate(currents):
        step = d / divisors[t % len(divisors) if cyclic else min(t, len(divisors) - 1)]
        smallest = d / max(divisors[: t + 1])
        left += current
        rest = left / step + v0
        n = math.floor(rest) if rest >= 0 else min(0, math.floor(rest + h))
        n = max(-k, min(n, k))
        most = neuron.levels * d
        if bound is not None:
            most = min(most, smallest * math.floor(bound / smallest + v0))
        n = min(n, math.floor((most - sent) / step))
        n = max(n, -math.floor(sent / step))
        left -= n * step
        sent += n * step
        counts.append(n)
        membranes.append(left + v0 * d)
        steps.append(step)
    return counts, membranes, steps


@settings(max_examples=150)
@given(
    neuron=NEURONS,
    currents=st.lists(st.integers(-200, 200), min_size=1, max_size=24),
    d=st.sampled_from([0.5, 1.0, 2.0]),
    bound=st.sampled_from([None, 0.75, 3.0]),
    chunk=st.integers(1, 9),
)
def test_population_equals_the_definition(neuron, currents, d, bound, chunk):
    """This holds for any divisors, currents and chunk lengths, with and without a bound."""
    values = [current / 64 for current in currents]
    counts, membranes, steps = _by_hand(neuron, values, d, bound)
    out, kept, spikes = nets.scanned(neuron, values, d, bound, chunk)
    assert out.tolist() == [n * step for n, step in zip(counts, steps, strict=True)]
    assert (kept * d).tolist() == membranes
    assert spikes.tolist() == [abs(n) for n in counts]


@settings(max_examples=60)
@given(neuron=NEURONS, seed=st.integers(0, 10**6))
def test_nothing_is_rounded_in_float32(neuron, seed):
    """With whole currents, what was sent and the rest add up to the input exactly."""
    torch.manual_seed(seed)
    state = initial_state(neuron, False, torch.zeros(64))
    came, sent = torch.zeros(64), torch.zeros(64)
    for t in range(1, 12):
        current = torch.randint(-40, 40, (64,)).float()
        refine(neuron, state, t)
        state.membrane = state.membrane + current * neuron.finer_at(t)
        sent += fire(neuron, state, t, None) / neuron.divisor_at(t)
        came += current
    finer, v0 = neuron.finer_at(11), neuron.initial_membrane
    assert torch.equal(state.total, sent * finer)
    assert torch.equal(state.membrane, (came - sent) * finer + v0)


def test_the_schedule_may_equal_a_step_that_shrinks():
    """Divisors that only grow give the counts of `Refining`, bit for bit."""
    network, calibration = nets.captured("residual", torch.float32)
    refining = tp.Refining(4)
    schedule = tp.Schedule(divisors=tuple(refining.divisor_at(t) for t in range(1, 9)))
    x = torch.randn(6, *network.input_shape)
    found = []
    for neuron in (
        refining,
        tp.Neuron.from_dict(
            refining.to_dict()
            | {"ratio": 1}
            | {"divisors": list(schedule.divisors), "cyclic": False}
        ),
    ):
        snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
        found.append(tp.simulate(snn, x, 8))
    nets.same_simulation(*found)


@pytest.mark.parametrize("kind", sorted(nets.SMALL))
@pytest.mark.parametrize(
    "neuron",
    [
        tp.Cyclic(4),
        tp.Cyclic(8, (1, 4, 16), initial_membrane=0.25),
        tp.Cyclic(1, (2, 1, 1), levels=3),
        tp.Neuron(
            max_count=2,
            signed=True,
            step="fraction",
            levels=3,
            schedule=tp.Schedule(divisors=(1, 4, 1, 8), window=4, lag=1),
            hysteresis=0.5,
        ),
    ],
    ids=lambda neuron: neuron.name,
)
@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_engine_equals_reference(kind, neuron, chunk):
    """Every spike is the same; membranes and totals agree up to rounding."""
    snn, x = nets.corrected_dyadic_snn(kind, neuron)
    names = [site.name for site in snn.network.sites]
    slow = tp.simulate_reference(snn, x, 7, record=tp.Record(sites=names, totals=True))
    fast = tp.simulate(snn, x, 7, record=tp.Record(sites=names, totals=True), chunk=chunk)
    nets.same_counts(slow, fast)
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-9, atol=1e-9)
    nets.same_observations(slow, fast)


@pytest.mark.parametrize("code", sorted(CONVERGING))
def test_kernel_equals_torch_in_float32(monkeypatch, code):
    """The compiled update and the update in torch agree bit for bit on real-valued data."""
    torch.manual_seed(3)
    snn = tp.convert(nets.conv_net(), [torch.randn(8, 2, 8, 8)], neuron=CONVERGING[code])
    x = torch.randn(3, 2, 8, 8)
    compiled = tp.simulate(snn, x, 9)
    monkeypatch.setattr("transpike.simulation.engine.native.kernel", lambda: None)
    nets.same_simulation(compiled, tp.simulate(snn.changed(), x, 9))


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_the_output_reaches_the_quantized_ann_and_stays(name):
    """With a static input, every kind of graph comes to rest at its quantized network."""
    network, calibration = nets.captured(name)
    torch.manual_seed(7)
    x = torch.randn(2, *nets.NETS[name][1], dtype=torch.float64)
    for code in CONVERGING.values():
        snn = tp.convert(network, calibration, neuron=code, threshold=tp.Percentile(95))
        run = tp.simulate(snn, x, 48, record=tp.Record(output_at=[40, 48]))
        assert all(not bool(counts[40:].any()) for counts in run.counts_per_timestep.values())
        for at in (0, 1):
            reached = [leaf[at] for leaf in nets.leaves(run.output)]
            assert nets.error(reached, nets.leaves(tp.quantized_ann(snn, x, 48))) < 1e-9


@pytest.mark.parametrize("seed", range(2))
def test_deep_random_networks_come_to_rest_where_refining_is_stuck(seed):
    network, calibration, x = nets.deep(seed)
    gaps = {}
    for code in (tp.Cyclic(4), tp.Cyclic(8), tp.Cyclic(1), tp.Differential(8, 1), tp.Refining(4)):
        snn = tp.convert(network, calibration, neuron=code, threshold=tp.MaxAbs())
        run = tp.simulate(snn, x, 80, record=tp.Record(output_at=[80]))
        wanted = tp.quantized_ann(snn, x, 80)
        gaps[code.name] = float((run.output[0] - wanted).norm() / wanted.norm())
    assert gaps.pop(tp.Refining(4).name) > 0.01
    assert max(gaps.values()) < 1e-9


def test_small_steps_first_keep_what_a_pass_has_corrected():
    """Calibrated starts and offsets are in units of the step d, also where a smaller step is first.

    A single layer then rests at the quantized network, and the engine equals the reference.
    """
    snn, x = nets.corrected_dyadic_snn("bounded", tp.Cyclic(4, (4, 1, 2)))
    for neuron in (
        tp.Cyclic(4, (4, 1, 2)),
        tp.Cyclic(2, (2, 2, 1), initial_membrane=0.0),
        tp.Neuron.from_dict({**tp.Cyclic(8, (2, 1)).to_dict(), "hysteresis": 0.25}),
    ):
        changed = snn.changed(neurons=dict.fromkeys(snn.neurons, neuron))
        slow, fast = (run(changed, x, 12) for run in (tp.simulate_reference, tp.simulate))
        nets.same_counts(slow, fast)
        assert torch.equal(slow.output, fast.output)
        assert torch.equal(slow.output[-1], tp.quantized_ann(changed, x, 12))


def test_a_cyclic_network_follows_an_input_that_changes():
    network, calibration = nets.captured("unet")
    snn = tp.convert(network, calibration, neuron=tp.Cyclic(4), threshold=tp.MaxAbs())
    x = torch.randn(2, 2, *network.input_shape, dtype=torch.float64)
    series = torch.cat([x[:1].expand(30, *x.shape[1:]), x[1:].expand(30, *x.shape[1:])])
    for simulate in (tp.simulate, tp.simulate_reference):
        run = simulate(snn, series, 60, time_axis=True, record=tp.Record(output_at=[30, 60]))
        for at in (0, 1):
            wanted = tp.quantized_ann(snn, x[at], 30)
            torch.testing.assert_close(run.output[at], wanted, rtol=0, atol=1e-9)


def test_defaults_follow_the_count():
    found = [tp.Cyclic(count) for count in (1, 2, 4, 8)]
    assert [(one.schedule.divisors, one.levels) for one in found] == [
        ((1, 2), 1),
        ((1, 2), 3),
        ((1, 2), 6),
        ((1, 4), 10),
    ]
    assert tp.Cyclic(8, (1, 1, 4, 1, 16)).levels == 10  # Every divisor counts once.
    assert tp.Cyclic(8, (1, 4, 16)).name == "cyclic K=8, divisors=1-4-16, L=10"


def test_a_max_pool_sends_whole_steps_and_smaller_ones_for_the_rest():
    """A change of 7 small steps, where the step is 4 of them, is one large and three small."""
    snn, x = nets.corrected_dyadic_snn("pooled", tp.Cyclic(4, (1, 4)))
    tally = ActivityTally(snn, 9)
    tally.add(x)
    (pool,) = [node.name for node in snn.network.nodes if node.kind == "cumulative"]
    first = snn.network.sites[0].name
    counts = tp.simulate(snn, x, 9, record=tp.Record(sites=[first])).records[first].counts
    units = torch.tensor([1, 1, 4, 1, 4, 1, 4, 1, 4])
    finer = torch.tensor([1, 4, 4, 4, 4, 4, 4, 4, 4])
    sums = (counts * (units / finer).view(-1, 1, 1, 1, 1)).cumsum(0)
    pooled = F.max_pool2d(sums.flatten(0, 1), 2).unflatten(0, (9, -1))
    expected = 0
    for t, change in enumerate(pooled.diff(dim=0, prepend=torch.zeros_like(pooled[:1])).abs()):
        whole, rest = (change * finer[t]) // units[t], (change * finer[t]) % units[t]
        expected = expected + (whole + rest).sum(0).double()
    assert float(expected.sum()) > 0
    assert torch.equal(tally.activity().pools[pool][1], expected)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tp.Cyclic(8, (1, 3)), r"divisors: needed a tuple of powers of two, got \(1, 3\)"),
        (lambda: tp.Cyclic(8, ()), r"divisors: needed a tuple of powers of two, got \(\)"),
        (lambda: tp.Cyclic(8, 4), "divisors: needed a tuple of powers of two, got 4"),
        (lambda: tp.Cyclic(8, (1, 0)), "divisors: needed a tuple of powers of two"),
        (lambda: tp.Cyclic(8, (1, True)), "divisors: needed a tuple of powers of two"),
        (lambda: tp.Cyclic(0), "max_count: needed an integer >= 1, got 0"),
        (lambda: tp.Cyclic(8, levels=0), "levels: needed an integer >= 1"),
        (
            lambda: tp.Cyclic(8, (1, 2**14)),
            r"levels \* divisor <= 2\^16, got 8 levels and divisor 16384",
        ),
        (lambda: tp.Schedule(cyclic=True), r"Use Schedule\(divisors=\(1, 4\), cyclic=True\)"),
        (lambda: tp.Schedule(divisors=(1, 2), cyclic=1), "cyclic: needed True or False, got 1"),
        (lambda: tp.Schedule(divisors=(1, 2), ratio=2), "divisors: needed ratio 1 beside them"),
        (
            lambda: tp.Neuron(schedule=tp.Schedule(divisors=(1, 2))),
            r"divisors: .*got levels=None. Use Cyclic\(max_count, divisors\)",
        ),
        (
            lambda: tp.Neuron.from_dict(tp.Cyclic(2, levels=4).to_dict() | {"window": 2}),
            r"levels: needed at most 3, got 4. With divisors \(1, 2\), 2 counts",
        ),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(tp.ArgumentError, match=message):
        call()

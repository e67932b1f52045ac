"""Laws of neurons whose step shrinks, compared with a slow model and the quantized ANN."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import nets
import transpike as tp


def _reachable(max_count, ratio, levels, period, initial_membrane):
    levels = min(levels, max_count * period * ratio // (ratio - 1))
    return tp.Refining(
        max_count, ratio, levels=levels, period=period, initial_membrane=initial_membrane
    )


NEURONS = st.builds(
    _reachable,
    st.integers(1, 6),
    st.sampled_from([2, 4, 8]),
    levels=st.integers(1, 9),
    period=st.integers(1, 3),
    initial_membrane=st.sampled_from([0.0, 0.25, 0.5]),
)


def _by_hand(neuron, currents, d, bound):
    """Follow the definition of one neuron; return (counts, membranes, steps).

    Membranes and steps are in activation units.
    """
    k, levels, v0 = neuron.max_count, neuron.levels, neuron.initial_membrane
    left, sent, counts, membranes, steps = 0.0, 0.0, [], [], []
    for t, current in enumerate(currents):
        step = d
        for _ in range(t // neuron.schedule.period):
            if levels * (d / step) * neuron.schedule.ratio <= 2**16:
                step /= neuron.schedule.ratio
        left += current
        n = math.floor(left / step + v0)
        n = max(-k, min(n, k))
        most = levels * d
        if bound is not None:
            most = min(most, step * math.floor(bound / step + v0))
        n = min(n, round((most - sent) / step))
        n = max(n, -round(sent / step))
        left -= n * step
        sent += n * step
        counts.append(n)
        membranes.append(left + v0 * d)
        steps.append(step)
    return counts, membranes, steps


@settings(max_examples=80)
@given(
    neuron=NEURONS,
    currents=st.lists(st.integers(-200, 200), min_size=1, max_size=24),
    d=st.sampled_from([0.5, 1.0, 2.0]),
    bound=st.sampled_from([None, 0.75, 3.0]),
    chunk=st.integers(1, 9),
)
def test_population_equals_the_definition(neuron, currents, d, bound, chunk):
    """This holds for any currents and chunk lengths, with and without a bound."""
    values = [current / 64 for current in currents]
    counts, membranes, steps = _by_hand(neuron, values, d, bound)
    out, kept, spikes = nets.scanned(neuron, values, d, bound, chunk)
    sent = [n * step for n, step in zip(counts, steps, strict=True)]
    assert out.tolist() == sent
    assert (kept * d).tolist() == membranes
    assert spikes.tolist() == [abs(n) for n in counts]


@settings(max_examples=40)
@given(
    max_count=st.integers(1, 8),
    ratio=st.sampled_from([2, 4, 8, 16]),
    timesteps=st.integers(1, 6),
    value=st.integers(-(2**20), 2**21),
    v0=st.sampled_from([0.0, 0.5]),
)
def test_a_population_alone_holds_the_finest_levels(max_count, ratio, timesteps, value, v0):
    """An input C that comes once gives d_T clamp(floor(C/d_T + v0), 0, L d/d_T).

    Here d is the first step, d_T the step at timestep T, and L the number of levels.
    """
    if ratio > 2 * max_count * (0.5 if v0 == 0 else 1):
        ratio = 2 if max_count > 1 or v0 else 1
    if ratio == 1:
        return
    neuron = tp.Refining(max_count, ratio, levels=max_count, initial_membrane=v0)
    network, calibration = nets.one_site([1.0])
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    x = torch.full((1, 1), value / 2**20, dtype=torch.float64)
    name = network.sites[0].name
    run = tp.simulate_reference(snn, x, timesteps, record=tp.Record(totals=True))
    d = float(snn.steps[name])
    fine = d / neuron.finer_at(timesteps)
    wanted = fine * min(max(math.floor(float(x) / fine + v0), 0), neuron.levels_at(timesteps))
    assert float(run.totals[name].net) * d == pytest.approx(wanted, abs=1e-12)
    assert float(tp.quantized_ann(snn, x, timesteps)) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_settled_it_equals_the_quantized_ann_of_its_last_step(name):
    """Once no neuron fires any more, the outputs are equal in float64 for every kind of graph."""
    network, calibration = nets.captured(name)
    neuron = tp.Refining(256, 8, levels=1024, period=12)
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.Percentile(95))
    torch.manual_seed(7)
    x = torch.randn(3, *nets.NETS[name][1], dtype=torch.float64)
    timesteps = 48
    # 1024 levels times 8^2 need 16 bits, so the step shrinks no further.
    assert neuron.finer_at(timesteps) == 8**2
    run = tp.simulate_reference(snn, x, timesteps, record=tp.Record(output_at=[timesteps]))
    assert all(not bool(counts[-1].any()) for counts in run.counts_per_timestep.values())
    last = [leaf[-1] for leaf in nets.leaves(run.output)]
    assert nets.error(last, nets.leaves(tp.quantized_ann(snn, x, timesteps))) < 1e-9


@pytest.mark.parametrize("kind", sorted(nets.SMALL))
@pytest.mark.parametrize(
    "neuron",
    [tp.Refining(4), tp.Refining(8, 4, initial_membrane=0.25), tp.Refining(1, period=2, levels=3)],
    ids=lambda neuron: neuron.name,
)
@pytest.mark.parametrize("chunk", [1, 2, 9])
def test_engine_equals_reference(kind, neuron, chunk):
    """Every spike is the same; membranes and totals agree up to rounding."""
    snn, x = nets.corrected_dyadic_snn(kind, neuron)
    names = [site.name for site in snn.network.sites]
    slow = tp.simulate_reference(snn, x, 5, record=tp.Record(sites=names, totals=True))
    fast = tp.simulate(snn, x, 5, record=tp.Record(sites=names, totals=True), chunk=chunk)
    nets.same_counts(slow, fast)
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-9, atol=1e-9)
    nets.same_observations(slow, fast)


def test_kernel_equals_torch_in_float32(monkeypatch):
    """The compiled update and the update in torch agree bit for bit on real-valued data."""
    torch.manual_seed(3)
    neuron = tp.Refining(4, 2, levels=6)
    snn = tp.convert(nets.conv_net(), [torch.randn(8, 2, 8, 8)], neuron=neuron)
    x = torch.randn(3, 2, 8, 8)
    compiled = tp.simulate(snn, x, 6)
    monkeypatch.setattr("transpike.simulation.engine.native.kernel", lambda: None)
    nets.same_simulation(compiled, tp.simulate(snn.changed(), x, 6))


def test_more_timesteps_come_closer_than_a_fixed_step():
    """At the same K and T, the output is closer to the analog network than the signed neuron's."""
    network, _ = nets.captured("residual")
    torch.manual_seed(5)
    x = torch.randn(64, *nets.NETS["residual"][1], dtype=torch.float64)
    calibration = tp.calibrate(network, [x])
    with torch.inference_mode():
        wanted = network(x)
    gaps = []
    for neuron in (tp.Signed(8), tp.Refining(8, 4)):
        snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
        gaps.append((tp.simulate(snn, x, 4).output - wanted).flatten(1).norm(dim=1))
    assert gaps[1][0] < 1.2 * gaps[0][0] and gaps[1][3] < 0.5 * gaps[0][3]


@pytest.mark.parametrize("start", [-1.0, 0.5, 0.75, 2.0])
def test_a_calibrated_start_is_a_current_and_does_not_move_the_bound(start):
    """A site of ReLU6 holds min(current + start - v0, 6), rounded to the last step."""
    network, calibration = nets.one_site([7.0], nn.ReLU6())
    snn = tp.convert(network, calibration, neuron=tp.Refining(4), threshold=tp.MaxAbs())
    (name,) = snn.steps
    d = float(snn.steps[name])
    snn = snn.changed(starts={name: torch.full_like(snn.steps[name], start)})
    x = torch.linspace(-2, 9, 45, dtype=torch.float64)[:, None]
    fine = d / snn.neurons[name].finer_at(9)
    shifted = x + (start - 0.5) * d
    wanted = torch.floor(shifted / fine + 0.5).clamp(0, math.floor(6 / fine + 0.5)) * fine
    for simulate in (tp.simulate, tp.simulate_reference):
        found = simulate(snn, x, 9, record=tp.Record(output_at=[9])).output[0]
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-9)
    torch.testing.assert_close(tp.quantized_ann(snn, x, 9), wanted, rtol=0, atol=1e-9)


def test_rules_aim_at_the_levels_of_the_last_step():
    network, calibration = nets.captured("conv2d")
    neuron = tp.Refining(4)
    aimed = {}
    for levels in (None, neuron.levels_at(4), neuron.levels):
        rule = tp.LeastSquares(levels=levels)
        snn = tp.convert(network, calibration, neuron=neuron, threshold=rule, timesteps=4)
        aimed[levels] = torch.cat(list(snn.steps.values()))
    assert torch.equal(aimed[None], aimed[48]) and not torch.equal(aimed[None], aimed[6])


def test_a_sample_that_stops_early_does_not_touch_the_others():
    """Samples leave the batch while the step shrinks, and the other outputs stay the same."""
    torch.manual_seed(4)
    x = torch.randn(24, 2, 8, 8)
    snn = tp.convert(nets.conv_net(), [x], neuron=tp.Refining(2))
    full = tp.simulate(snn, x, 8)
    margins = full.output[3].softmax(1).topk(2, dim=1).values
    early_stopping = tp.EarlyStopping("margin", float((margins[:, 0] - margins[:, 1]).median()))
    run = tp.simulate(snn, x, 8, early_stopping=early_stopping, chunk=1)
    assert 1 < len(run.decided_at.unique())
    for t in range(1, 9):
        held = torch.minimum(run.decided_at, torch.tensor(t)) - 1
        expected = full.output[held, torch.arange(len(x))]
        torch.testing.assert_close(run.output[t - 1], expected)


def test_defaults_follow_the_count():
    found = [tp.Refining(count) for count in (1, 2, 4, 8)]
    assert [(one.schedule.ratio, one.levels) for one in found] == [(2, 1), (2, 3), (2, 6), (4, 10)]
    assert tp.Refining(1, period=3).levels == 3


def test_inputs_that_change_are_refused():
    network, calibration = nets.captured("conv2d")
    snn = tp.convert(network, calibration, neuron=tp.Refining(4))
    x = torch.randn(4, 2, *network.input_shape, dtype=torch.float64)
    for simulate in (tp.simulate, tp.simulate_reference):
        with pytest.raises(tp.ArgumentError, match=r"input has to stay.*Differential"):
            simulate(snn, x, 4, time_axis=True)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tp.Refining(4, 3), "ratio: needed a power of two, got 3"),
        (lambda: tp.Refining(4, 0), "ratio: needed an integer >= 1, got 0"),
        (lambda: tp.Refining(4, 1), "Use Differential for 1"),
        (lambda: tp.Refining(4, 2, period=0), "period: needed an integer >= 1"),
        (lambda: tp.Refining(4, 2, levels=0), "levels: needed an integer >= 1"),
        (
            lambda: tp.Refining(8, levels=12),
            "needed at most 10, got 12. With ratio 4 and period 1, 8 counts per timestep",
        ),
        (lambda: tp.Refining(4, 2**16), "the step can shrink, got 4 levels and ratio 65536"),
        (lambda: tp.Neuron(schedule=tp.Schedule(ratio=2)), r"Use Refining\(max_count, ratio\)"),
        (lambda: tp.Neuron(schedule=tp.Schedule(period=2)), "period: needed 1 with ratio 1"),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(tp.ArgumentError, match=message):
        call()

"""Laws of layers that fire one after the other, checked by a slow model and the quantized ANN."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

import nets
import transpike as tp
from transpike.simulation.engine import run
from transpike.spiking.neuron import quantized


@st.composite
def neurons(draw):
    """Draw a neuron whose window starts at a random timestep."""
    count, ratio = draw(st.integers(1, 5)), draw(st.sampled_from([2, 4]))
    window = draw(st.integers(1, 5))
    levels = draw(st.integers(1, int(count * sum(ratio**-i for i in range(window)))))
    hysteresis = draw(st.sampled_from([0.0, 0.25, 0.375, 0.5]))
    neuron = tp.Staggered(count, ratio, levels=levels, window=window, hysteresis=hysteresis)
    return tp.Neuron.from_dict({**neuron.to_dict(), "delay": draw(st.integers(0, 6))})


def _by_hand(neuron, currents, d, bound):
    """Follow the definition of one neuron; return (sent, membranes) in activation units."""
    k, levels, v0, h = neuron.max_count, neuron.levels, neuron.initial_membrane, neuron.hysteresis
    left, total, sent, membranes = 0.0, 0.0, [], []
    for t, current in enumerate(currents, start=1):
        left += current
        place = t - neuron.schedule.delay
        n, step = 0, d
        if 1 <= place <= neuron.schedule.window:
            step = d / neuron.schedule.ratio ** (place - 1)
            v = left / step + v0
            n = math.floor(v) if v >= 0 else min(0, math.floor(v + h))
            n = max(-k, min(n, k))
            most = levels * d
            if bound is not None:
                most = min(most, step * math.floor(bound / step + v0))
            n = min(n, round((most - total) / step))
            n = max(n, -round(total / step))
        left -= n * step
        total += n * step
        sent.append(n * step)
        membranes.append(left + v0 * d)
    return sent, membranes


@settings(max_examples=120)
@given(
    neuron=neurons(),
    currents=st.lists(st.integers(-200, 200), min_size=1, max_size=14),
    d=st.sampled_from([0.5, 1.0, 2.0]),
    bound=st.sampled_from([None, 0.75, 3.0]),
    chunk=st.integers(1, 9),
)
def test_population_equals_the_definition(neuron, currents, d, bound, chunk):
    """This holds inside and outside the window, for any chunk lengths, with and without a bound."""
    values = [current / 64 for current in currents]
    sent, membranes = _by_hand(neuron, values, d, bound)
    out, kept, spikes = nets.scanned(neuron, values, d, bound, chunk)
    assert out.tolist() == sent
    assert (kept * d).tolist() == membranes
    finer = [neuron.finer_at(t) for t in range(1, len(sent) + 1)]
    counts = [abs(one) / d * fine for one, fine in zip(sent, finer, strict=True)]
    assert spikes.tolist() == counts


def _written(h, window=8):
    """Quantize B complete inputs from 0 to 1 with a step that halves at every timestep.

    Returns (counts (window, B), inputs (1, B), values that the neuron holds at the end (1, B)).
    """
    neuron = tp.Staggered(1, window=window, hysteresis=h)
    values = torch.arange(2**14, dtype=torch.float64)[None] / 2**14
    start = torch.full((1,), neuron.initial_membrane, dtype=torch.float64)
    held = [quantized(neuron, values, t, start, None) for t in range(1, window + 1)]
    series = torch.cat([torch.zeros_like(values), *held])
    return series.diff(dim=0) * torch.tensor([[2.0**t] for t in range(window)]), values, held[-1]


@pytest.mark.parametrize("h, density", [(0.0, 1 / 2), (1 / 3, 1 / 3), (0.5, 0.33)])
def test_hysteresis_makes_counts_rare(h, density):
    """The mean of |count| is the expected density; the error is at most (1 + h) / 2 last steps."""
    counts, values, held = _written(h)
    assert set(counts.unique().tolist()) <= {-1, 0, 1}
    assert float(counts.abs().mean()) == pytest.approx(density, abs=0.005)
    assert float((held - values).abs().max()) <= (1 + h) / 2 / 2**7


def test_with_a_third_it_is_the_non_adjacent_form():
    """No two consecutive timesteps both have a count; no signed binary form has fewer counts."""
    counts, _, held = _written(1 / 3)
    assert not bool(((counts[1:] != 0) & (counts[:-1] != 0)).any())
    numbers = (held[0] * 2**7).round().int().tolist()
    for column, number in list(enumerate(numbers))[::97]:
        least, rest = 0, number
        while rest:  # Reitwiesner (1960) counts the fewest nonzero digits this way.
            if rest % 2:
                least, rest = least + 1, rest - (2 - rest % 4)
            rest //= 2
        assert int(counts[:, column].abs().sum()) == least


def _last(snn):
    return max(neuron.schedule.delay + neuron.schedule.window for neuron in snn.neurons.values())


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_with_complete_inputs_it_equals_the_quantized_ann(name):
    """With lag = window - 1, every layer has its complete input before it fires.

    The outputs are equal in float64 for every kind of graph. Initial membranes and offsets are
    drawn at random for each channel.
    """
    network, calibration = nets.captured(name)
    neuron = tp.Staggered(2, window=4, lag=3)
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.Percentile(95))
    torch.manual_seed(7)
    starts = {site: torch.rand_like(step) for site, step in snn.starts.items()}
    offsets = {site: torch.randn_like(step) / 2 for site, step in snn.offsets.items()}
    snn = snn.changed(starts=starts, offsets=offsets)
    x = torch.randn(3, *nets.NETS[name][1], dtype=torch.float64)
    timesteps = _last(snn)
    for simulate in (tp.simulate, tp.simulate_reference):
        run = simulate(snn, x, timesteps, record=tp.Record(output_at=[timesteps]))
        last = [leaf[-1] for leaf in nets.leaves(run.output)]
        assert nets.error(last, nets.leaves(tp.quantized_ann(snn, x, timesteps))) < 1e-9


def test_a_calibrated_start_moves_the_bound_only_if_the_step_stays():
    """The engine and the reference agree on the bound of a neuron with a window."""
    snn, x = nets.corrected_dyadic_snn("bounded", tp.Staggered(2, window=3))
    for ratio, hysteresis, initial, step in itertools.product(
        (1, 2), (0.0, 0.25), (0.0, 0.5), (0.5, 4.0, 8.0)
    ):
        neuron = tp.Neuron(
            max_count=2,
            signed=True,
            step="fraction",
            levels=3,
            initial_membrane=initial,
            hysteresis=hysteresis,
            schedule=tp.Schedule(ratio=ratio, window=3),
        )
        steps = {name: torch.full_like(one, step) for name, one in snn.steps.items()}
        changed = snn.changed(neurons=dict.fromkeys(steps, neuron), steps=steps)
        slow, fast = (run(changed, 8 * x, 4) for run in (tp.simulate_reference, tp.simulate))
        assert sum(float(counts.sum()) for counts in slow.counts_per_timestep.values()) > 100
        nets.same_counts(slow, fast)


@pytest.mark.parametrize("kind", sorted(nets.SMALL))
@pytest.mark.parametrize(
    "neuron",
    [tp.Staggered(2), tp.Staggered(4, 4, window=2), tp.Staggered(1, window=5, lag=2)],
    ids=lambda neuron: neuron.name,
)
@pytest.mark.parametrize("chunk", [None, 1, 3, 20])
def test_engine_equals_reference(kind, neuron, chunk):
    """Every spike is the same with and without records, also after the last window."""
    snn, x = nets.corrected_dyadic_snn(kind, neuron)
    names, timesteps = [site.name for site in snn.network.sites], _last(snn) + 2
    slow = tp.simulate_reference(snn, x, timesteps, record=tp.Record(sites=names, totals=True))
    assert sum(float(counts.sum()) for counts in slow.counts_per_timestep.values()) > 100
    fast = tp.simulate(snn, x, timesteps, chunk=chunk)
    nets.same_counts(slow, fast)
    torch.testing.assert_close(fast.output, slow.output, rtol=1e-9, atol=1e-9)
    seen = tp.simulate(snn, x, timesteps, record=tp.Record(sites=names, totals=True), chunk=chunk)
    nets.same_counts(slow, seen)
    nets.same_observations(slow, seen)


@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_skipping_silent_layers_changes_nothing(name):
    """Without records the engine skips silent layers; the reference computes every timestep."""
    network, calibration = nets.captured(name)
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2), threshold=tp.Percentile(95))
    torch.manual_seed(7)
    x = torch.randn(3, *nets.NETS[name][1], dtype=torch.float64)
    timesteps = _last(snn) + 1
    slow = tp.simulate_reference(snn, x, timesteps)
    for chunk in (None, 4):
        fast = tp.simulate(snn, x, timesteps, chunk=chunk)
        nets.same_counts(slow, fast)
        pairs = zip(nets.leaves(fast.output), nets.leaves(slow.output), strict=True)
        for one, other in pairs:
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_kernel_equals_torch_in_float32(monkeypatch):
    """The compiled update and the update in torch agree bit for bit on real-valued data."""
    torch.manual_seed(3)
    snn = tp.convert(nets.conv_net(), [torch.randn(8, 2, 8, 8)], neuron=tp.Staggered(2))
    x = torch.randn(3, 2, 8, 8)
    compiled = tp.simulate(snn, x, 8)
    monkeypatch.setattr("transpike.simulation.engine.native.kernel", lambda: None)
    nets.same_simulation(compiled, tp.simulate(snn.changed(), x, 8))


def test_delays_follow_the_longest_path():
    network, calibration = nets.captured("residual")
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2, lag=3))
    delays = {name: neuron.schedule.delay for name, neuron in snn.neurons.items()}
    assert delays == {name: 3 * (depth - 1) for name, depth in network.depth.items()}
    assert snn.first_output == 1 + max(delays.values())


def test_converted_again_it_is_the_same():
    """A neuron of a converted network has a delay; a new conversion does not add to that delay."""
    network, calibration = nets.captured("residual")
    settings = {"threshold": tp.LeastSquares(), "timesteps": 7}
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2, lag=3), **settings)
    used = list(snn.neurons.values())[-1]
    assert used.schedule.delay == 3
    again = tp.convert(network, calibration, neuron=used, **settings)
    assert again.neurons == snn.neurons and again.settings == snn.settings
    assert all(torch.equal(again.steps[name], step) for name, step in snn.steps.items())


def test_large_counts_with_few_levels_are_taken():
    assert tp.Staggered(40000, levels=10, window=2).levels == 10
    assert tp.Staggered(30000, window=1).levels == 30000
    steady = {**tp.Differential(70000, 70000).to_dict(), "window": 2}
    assert tp.Neuron.from_dict(steady).reach_at(2) == 70000


def test_names_tell_settings_apart():
    found = [
        tp.Staggered(2),
        tp.Staggered(2, hysteresis=0.0),
        tp.Staggered(2, lag=2),
        tp.Staggered(2, window=3),
        tp.Staggered(2, levels=2),
        tp.Refining(2),
        tp.Neuron.from_dict({**tp.Refining(2).to_dict(), "lag": 1}),
        tp.Neuron(**{**vars(tp.Differential(3, 2)), "hysteresis": 0.25}),
        tp.Differential(3, 2),
    ]
    assert len({neuron.name for neuron in found}) == len(found)


@pytest.mark.parametrize("hysteresis", [0.0, 0.5])
def test_the_quantized_ann_knows_what_a_short_window_reaches(hysteresis):
    """In a window of one timestep, a large input gives K counts of the first step."""
    network, calibration = nets.one_site([1.0])
    neuron = tp.Staggered(2, window=1, hysteresis=hysteresis)
    snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
    x = torch.tensor([[0.1], [0.6], [5.0]], dtype=torch.float64)
    assert torch.equal(tp.quantized_ann(snn, x, 1), tp.simulate(snn, x, 1).output[0])
    assert float(tp.quantized_ann(snn, x, 1)[-1]) == 1.0


def test_the_quantized_ann_is_the_same_in_blocks():
    """Inputs that need several blocks give the same result as the inputs one at a time."""
    neuron = tp.Staggered(2)
    torch.manual_seed(2)
    drive, start = torch.rand(9, 3, 60, 60) * 4, torch.full((1, 3, 1, 1), 0.25)
    whole = quantized(neuron, drive, 4, start, None)
    alone = [quantized(neuron, one[None], 4, start, None) for one in drive]
    assert torch.equal(whole, torch.cat(alone))


def _read_out_silent(kind):
    """Return a network that reads out a site, or a linear or pooled value behind a site."""
    if kind == "pool":
        return nets.Fn(lambda m, x: F.max_pool2d(m.c(x).relu(), 2), c=nets.conv())
    if kind == "site":
        return nets.Fn(lambda m, x: m.d(m.c(x).relu()).relu(), c=nets.conv(), d=nets.conv(4, 4))
    return nets.Fn(lambda m, x: _both(m, m.c(x).relu()), c=nets.conv(), d=nets.conv(4, 4))


def _both(m, a):
    inner = m.d(a)
    return inner, inner.relu(), a


@pytest.mark.parametrize("kind", ["pool", "site", "both"])
@pytest.mark.parametrize("chunk", [None, 3])
def test_silent_values_are_read_out(kind, chunk):
    torch.manual_seed(6)
    x = torch.randn(3, 2, 8, 8, dtype=torch.float64)
    model = _read_out_silent(kind).double().eval()
    snn = tp.convert(model, [x], neuron=tp.Staggered(2))
    names, timesteps = [site.name for site in snn.network.sites], _last(snn) + 2
    slow = tp.simulate_reference(snn, x, timesteps, record=tp.Record(sites=names[:1]))
    fast = tp.simulate(snn, x, timesteps, record=tp.Record(sites=names[:1]), chunk=chunk)
    nets.same_counts(slow, fast)
    assert torch.equal(slow.records[names[0]].counts, fast.records[names[0]].counts)
    torch.testing.assert_close(slow.records[names[0]].membrane, fast.records[names[0]].membrane)
    for one, other in zip(nets.leaves(fast.output), nets.leaves(slow.output), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)


def test_silent_layers_are_not_computed(monkeypatch):
    """A linear operation runs at t = 1 and while its input fires, but not at every timestep."""
    torch.manual_seed(5)
    layers = [part for _ in range(8) for part in (nn.Linear(16, 16), nn.ReLU())]
    x = torch.randn(16, 16)
    snn = tp.convert(nn.Sequential(*layers, nn.Linear(16, 4)), [x], neuron=tp.Staggered(2))
    calls, linear = [], run._Portion.linear
    monkeypatch.setattr(run._Portion, "linear", lambda *a: calls.append(1) or linear(*a))
    tp.simulate(snn, x, _last(snn))
    # Seven operations lie between the 8 sites. Each runs once for the biases and four times in a
    # window. The last operation is read out, so it may run at every timestep.
    assert len(calls) <= 7 * 5 + _last(snn)


def test_depth_counts_the_sites_of_the_longest_way():
    def run(m, x):
        short = m.a(x).relu()
        long = m.b(m.c(short).relu()).relu()
        return m.d((short + long).relu())

    model = nets.Fn(run, a=nn.Linear(3, 3), b=nn.Linear(3, 3), c=nn.Linear(3, 3), d=nn.Linear(3, 2))
    network = tp.capture(model, torch.randn(2, 3))
    assert list(network.depth.values()) == [1, 2, 3, 4]


def test_it_needs_fewer_spikes_than_layers_that_fire_at_once():
    """The network is deep; K, ratio and levels are the same. Hysteresis saves further spikes."""
    torch.manual_seed(5)
    layers = [part for _ in range(12) for part in (nn.Linear(64, 64), nn.ReLU())]
    x = torch.randn(128, 64)
    network = tp.capture(nn.Sequential(*layers, nn.Linear(64, 10)), x)
    calibration = tp.calibrate(network, [x])
    with torch.inference_mode():
        wanted = network(x)
    gaps, spikes = [], []
    for neuron in (tp.Refining(2), tp.Staggered(2, hysteresis=0.0), tp.Staggered(2)):
        snn = tp.convert(network, calibration, neuron=neuron, threshold=tp.MaxAbs())
        timesteps = 4 if neuron.schedule.window is None else _last(snn)
        run = tp.simulate(snn, x, timesteps)
        gaps.append(float((run.output[-1] - wanted).norm()))
        spikes.append(float(run.spikes_per_neuron[-1]))
    assert gaps[1] < gaps[0] and spikes[2] < 0.95 * spikes[1] < 0.95 * spikes[0]


def test_too_few_timesteps_are_refused_everywhere():
    """No output exists before the last layer fires; the error says how many timesteps it needs."""
    network, calibration = nets.captured("residual")
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2))
    few = snn.first_output - 1
    assert few >= 1
    x = torch.randn(4, *network.input_shape, dtype=torch.float64)
    match = rf"needed at least {few + 1} \({_last(snn)} for whole windows\), got {few}.*Refining"
    calls = [
        lambda: tp.simulate(snn, x, few),
        lambda: tp.simulate_reference(snn, x, few),
        lambda: tp.fit_early_stopping(snn, [x], few),
        lambda: tp.evaluate(snn, [(x, torch.zeros(4))], few),
        lambda: tp.convert(network, calibration, neuron=tp.Staggered(2), timesteps=few),
        lambda: tp.measure_cost(snn, [x], few),
        lambda: tp.diagnose(snn, [x], few),
    ]
    for call in calls:
        with pytest.raises(tp.ArgumentError, match=match):
            call()
    with pytest.raises(tp.ArgumentError, match=r"input has to stay"):
        tp.simulate(snn, torch.stack([x] * 8), 8, time_axis=True)


def test_no_sample_stops_before_the_last_layer_has_fired():
    """Before that, the scores hold only the biases, which may look clear."""
    torch.manual_seed(4)
    x = torch.randn(24, 2, 8, 8)
    snn = tp.convert(nets.conv_net(), [x], neuron=tp.Staggered(2))
    run = tp.simulate(snn, x, 6, early_stopping=tp.EarlyStopping("margin", 0.0))
    assert snn.first_output > 1 and run.decided_at.unique().tolist() == [snn.first_output]
    assert torch.equal(run.output[-1], tp.simulate(snn, x, 6).output[snn.first_output - 1])
    early_stopping = tp.fit_early_stopping(snn, [x], 6, most_changed=0.99)
    scores = tp.simulate(snn, x, 6).output[snn.first_output - 1 :].softmax(dim=2)
    margins = scores.topk(2, dim=2).values.diff(dim=2).abs()
    # The threshold is not the margin of a timestep at which the scores hold only the biases.
    assert early_stopping.threshold >= float(margins.min()) - 1e-6


def test_with_values_of_several_first_steps_counts_are_less_rare():
    """The method card says: K = 2 with 3 levels gives a count in about one of two timesteps."""
    neuron = tp.Staggered(2)
    values = torch.arange(2**14, dtype=torch.float64)[None] * 3 / 2**14
    start = torch.full((1,), neuron.initial_membrane, dtype=torch.float64)
    held = [quantized(neuron, values, t, start, None) for t in range(1, 5)]
    counts = torch.cat([torch.zeros_like(values), *held]).diff(dim=0)
    assert float((counts != 0).double().mean()) == pytest.approx(0.47, abs=0.01)


def test_no_quantized_ann_before_the_last_layer_has_fired():
    """Before that timestep, the quantized ANN would hold only the biases."""
    torch.manual_seed(4)
    x, labels = torch.randn(24, 2, 8, 8), torch.randint(0, 5, (24,))
    snn = tp.convert(nets.conv_net(), [x], neuron=tp.Staggered(2, lag=3))
    result = tp.evaluate(snn, [(x, labels)], 9)
    assert snn.first_output == 4 and list(result.quantized) == ["4", "8", "9"]
    right = tp.quantized_ann(snn, x, 8).argmax(dim=1) == labels
    assert result.quantized["8"] == float(right.double().mean())
    printed = str(result).splitlines()
    assert [line.split()[0] for line in printed[3:]] == list(result.quantized)


def test_the_quantized_ann_sends_nothing_before_its_window():
    network, calibration = nets.captured("conv2d")
    snn = tp.convert(network, calibration, neuron=tp.Staggered(2))
    x = torch.randn(2, *network.input_shape, dtype=torch.float64)
    with torch.inference_mode():
        silent = network.run(x, lambda site, z: torch.zeros_like(z))
    late = snn.changed(
        neurons={
            name: tp.Neuron.from_dict({**n.to_dict(), "delay": 5})
            for name, n in snn.neurons.items()
        }
    )
    assert torch.equal(tp.quantized_ann(late, x, 5), silent)


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: tp.Staggered(2, 3), "ratio: needed a power of two, got 3"),
        (lambda: tp.Staggered(2, 1), "Use Differential for 1"),
        (lambda: tp.Staggered(2, window=0), "window: needed an integer >= 1, got 0"),
        (lambda: tp.Staggered(2, window=True), "window: needed an integer >= 1, got True"),
        (lambda: tp.Staggered(2, lag=-1), "lag: needed an integer >= 0, got -1"),
        (lambda: tp.Staggered(2, hysteresis=1.0), "hysteresis: needed 0 <= h < 1"),
        (lambda: tp.Staggered(2, hysteresis="much"), "hysteresis: needed 0 <= h < 1"),
        (lambda: tp.Staggered(2, levels=4), "needed at most 3, got 4.* in a window of 4"),
        (lambda: tp.Staggered(2**16, levels=2**16), "so that the step can shrink, got 65536"),
        (lambda: tp.Staggered(2, levels=9), "needed at most 3, got 9.* in a window of 4"),
        (lambda: tp.Staggered(2, levels=3, window=1), "levels: needed at most 2, got 3"),
        (
            lambda: tp.Neuron.from_dict({**tp.Differential(7, 2).to_dict(), "window": 3}),
            "needed at most 6, got 7. With ratio 1 and period 1, 2 counts .* in a window of 3",
        ),
        (lambda: tp.Staggered(2, window=None), "window: needed a whole number, got None"),
        (lambda: tp.Staggered(2, None), "ratio: needed a whole number, got None"),
        (lambda: tp.Neuron(hysteresis="x"), "hysteresis: needed 0 <= h < 1"),
        (
            lambda: tp.Neuron(schedule=tp.Schedule(window=3)),
            r"window: .* Use Staggered\(max_count, ratio\)",
        ),
        (
            lambda: tp.Neuron(signed=True, hysteresis=0.5),
            "hysteresis: needed differential coding, got levels=None",
        ),
        (
            lambda: tp.Neuron(schedule=tp.Schedule(delay=2)),
            "delay: needed differential coding, got levels=None",
        ),
    ],
)
def test_settings_out_of_range_are_refused(call, message):
    with pytest.raises(tp.ArgumentError, match=message):
        call()

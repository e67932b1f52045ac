"""Calibration passes keep their promises in simulations of the networks."""

import pytest
import torch

import nets
import transpike as tp
from transpike.conversion.passes import apply_pass, mean_count, sweep
from transpike.conversion.passes.allocate_counts import with_count
from transpike.conversion.passes.sweep import Sweep
from transpike.simulation.fidelity import output_distance

NEURONS = {
    "if": tp.IF(),
    "signed": tp.Signed(2),
    "range": tp.Burst(3),
    "differential": tp.Differential(6),
    "refining": tp.Refining(4),
    "staggered": tp.Staggered(2, window=2),
}
SWEEPS = [tp.BiasCorrection(), tp.MembraneCorrection(), tp.SiteSearch(rounds=2)]


def _snn(name="conv2d", neuron=None, percentile=99):
    network, calibration = nets.captured(name)
    rule = tp.Percentile(percentile)
    snn = tp.convert(network, calibration, neuron=neuron or tp.Signed(2), threshold=rule)
    torch.manual_seed(3)
    return snn, torch.randn(12, *nets.NETS[name][1], dtype=torch.float64)


@pytest.mark.parametrize("neuron", sorted(NEURONS))
@pytest.mark.parametrize("name", sorted(nets.NETS))
def test_sweep_sees_the_currents_and_activations_of_the_networks(name, neuron, monkeypatch):
    """The sweep runs operation by operation and gives the numbers of a run by timesteps."""
    monkeypatch.setattr(sweep, "_SAMPLES_PER_INPUT", 10**6)
    snn, x = _snn(name, NEURONS[neuron])
    seen = []
    Sweep(snn, 5, lambda site, values: (seen.append(site), values)[1]).run(x)
    run = tp.simulate_reference(snn, x, 5, record=tp.Record(totals=True))
    analog = {}

    def note(site, z):
        analog[site.name] = site.activate(z)
        return analog[site.name]

    snn.network.run(x, note)
    assert len(seen) == len(snn.network.sites)
    for site, found in zip(snn.network.sites, seen, strict=True):
        current = found.current.sum(0) if len(found.current) > 1 else 5 * found.current[0]
        expected = run.totals[site.name].current.movedim(site.channel_axis, -1)
        torch.testing.assert_close(current, expected.reshape(current.shape))
        wanted = analog[site.name].movedim(site.channel_axis, -1)
        torch.testing.assert_close(found.target, wanted.reshape(found.target.shape))


def _mean_errors(snn, x, timesteps):
    """Return mean output minus mean activation for every channel, in units of the step."""
    run = tp.simulate_reference(snn, x, timesteps, record=tp.Record(totals=True))
    means = {}

    def note(site, z):
        means[site.name] = site.activate(z)
        return means[site.name]

    snn.network.run(x, note)
    errors = []
    for site in snn.network.sites:
        step = site.along_channels(snn.steps[site.name])
        gap = run.totals[site.name].net / timesteps - means[site.name] / step
        errors.append(gap.movedim(site.channel_axis, 0).flatten(1).mean(1))
    return torch.cat(errors)


@pytest.mark.parametrize("one", [tp.BiasCorrection(rounds=6), tp.MembraneCorrection(rounds=6)])
@pytest.mark.parametrize("name", ["conv2d", "residual", "relu6", "unet"])
def test_corrections_remove_the_mean_error_of_every_channel(name, one):
    snn, x = _snn(name, tp.IF(initial_membrane=0.0))
    before = _mean_errors(snn, x, 16)
    after = _mean_errors(apply_pass(one, snn, x, 16), x, 16)
    assert after.abs().mean() < 0.3 * before.abs().mean()


@pytest.mark.parametrize("one", SWEEPS, ids=lambda one: type(one).__name__)
@pytest.mark.parametrize("name", ["conv2d", "residual", "unet"])
def test_passes_bring_the_output_closer(name, one):
    """An initial membrane of zero loses half a step at every site, which a pass can correct."""
    snn, x = _snn(name, tp.IF(initial_membrane=0.0))
    corrected = apply_pass(one, snn, x, 8)
    assert output_distance(corrected, x, 8)[0] < output_distance(snn, x, 8)[0]
    assert snn.settings.get("passes") is None  # The given network is unchanged.
    (note,) = corrected.settings["passes"]
    assert (note["pass"], note["timesteps"], note["n"]) == (type(one).__name__, 8, 12)


def test_search_lowers_the_error_of_a_lone_site_more_than_a_bias_can():
    network, calibration = nets.one_site([1.0, 2.0])
    rule = tp.MaxAbs()
    snn = tp.convert(network, calibration, neuron=tp.IF(), threshold=rule)
    x = torch.randn(400, 2, dtype=torch.float64) * 0.3
    base = output_distance(snn, x, 4)[0]
    biased = output_distance(apply_pass(tp.BiasCorrection(), snn, x, 4), x, 4)[0]
    searched = output_distance(apply_pass(tp.SiteSearch(4), snn, x, 4), x, 4)[0]
    assert searched < 0.5 * min(base, biased)


def test_input_size_stays_free():
    network, calibration = nets.captured("average")
    snn = tp.convert(network, calibration)
    x = torch.randn(6, *nets.IMAGE, dtype=torch.float64)
    for one in SWEEPS:
        snn = apply_pass(one, snn, x, 6)
    for kind in (snn.steps, snn.starts, snn.offsets):
        for site in network.sites:
            assert kind[site.name].shape == (site.channels,)


def test_silent_and_dead_channels_stay_finite():
    snn, x = _snn("linear", tp.IF())
    for one in SWEEPS:
        corrected = apply_pass(one, snn, x - 100, 4)
        for values in (*corrected.steps.values(), *corrected.offsets.values()):
            assert bool(torch.isfinite(values).all())


def test_passes_are_repeatable_and_in_the_order_given():
    network, calibration = nets.captured("conv2d")
    x = torch.randn(12, *nets.CONV_NET_INPUT, dtype=torch.float64)
    both = [tp.BiasCorrection(), tp.DelayedReadout()]

    def made():
        return tp.convert(
            network, calibration, neuron=tp.Signed(1), timesteps=6, passes=both, batches=[x]
        )

    nets.same_simulation(tp.simulate(made(), x, 6), tp.simulate(made(), x, 6))
    by_hand = tp.convert(network, calibration, neuron=tp.Signed(1), timesteps=6)
    for one in both:
        by_hand = apply_pass(one, by_hand, x, 6)
    nets.same_simulation(tp.simulate(made(), x, 6), tp.simulate(by_hand, x, 6))
    assert [p["pass"] for p in made().settings["passes"]] == ["BiasCorrection", "DelayedReadout"]


def test_samples_of_a_channel_are_limited_and_the_same_for_current_and_target():
    network, _ = nets.captured("conv2d")
    site = network.sites[0]
    current = torch.arange(3.0 * 4 * site.channels * 400).reshape(3, 4, site.channels, 20, 20)
    target = current[0] + 0.5
    rows, wanted = sweep.samples_of(site, current, target)
    assert rows.shape == (3, 4 * sweep._SAMPLES_PER_INPUT, site.channels)
    assert torch.equal(rows[0] + 0.5, wanted)
    assert len(wanted[:, 0].unique()) == len(wanted)


def test_delayed_readout_takes_the_closest():
    snn, x = _snn(neuron=tp.IF(), percentile=95)
    chosen = apply_pass(tp.DelayedReadout(), snn, x, 8)
    distances = {
        start: output_distance(snn.changed(readout_start=start), x, 8)[0]
        for start in (0, 1, 2, 3, 4, 6)
    }
    assert distances[chosen.readout_start] == min(distances.values())


def test_allocation_keeps_the_budget_and_the_thresholds():
    snn, x = _snn(neuron=tp.Signed(8))
    spikes = output_distance(snn, x, 4)[1]
    budget = 0.6 * spikes
    smaller = apply_pass(tp.AllocateCounts(budget), snn, x, 4)
    after, fewer = output_distance(smaller, x, 4)
    assert fewer <= budget and after < 0.5
    counts = [smaller.neurons[s.name].max_count for s in snn.network.sites]
    assert min(counts) < 8
    for site in snn.network.sites:
        before = snn.steps[site.name] * snn.neurons[site.name].max_count
        torch.testing.assert_close(
            smaller.steps[site.name] * smaller.neurons[site.name].max_count, before
        )


def test_allocation_keeps_a_budget_of_levels():
    """The first reduction changes the output least in relation to the levels it saves."""
    snn, x = _snn(neuron=tp.Signed(8))
    smaller = apply_pass(tp.AllocateCounts(mean_count=5), snn, x, 4)
    sites = snn.network.sites
    counts = {site.name: smaller.neurons[site.name].max_count for site in sites}
    mean = sum(counts[site.name] * site.neurons for site in sites) / snn.network.neurons
    assert mean == mean_count(smaller) <= 5 and mean_count(snn) == 8
    first = apply_pass(tp.AllocateCounts(mean_count=7.9), snn, x, 4)
    base, prices = output_distance(snn, x, 4)[0], {}
    for site in sites:
        for count in (4, 2, 1):
            one = with_count(snn, {site.name: count})
            change = max(0.0, output_distance(one, x, 4)[0] - base)
            prices[site.name, count] = change / (8 - mean_count(one))
    (moved,) = [(n.name, k) for n in sites if (k := first.neurons[n.name].max_count) < 8]
    assert prices[moved] == min(prices.values())


def test_allocation_without_need_changes_nothing():
    snn, x = _snn(neuron=tp.Signed(4))
    for one in (tp.AllocateCounts(1e6), tp.AllocateCounts(mean_count=4)):
        assert apply_pass(one, snn, x, 4).neurons == snn.neurons


def test_what_a_pass_cannot_do_is_refused():
    snn, x = _snn(neuron=tp.Differential(6))
    with pytest.raises(
        tp.ArgumentError, match="DelayedReadout: needed rate coding, got differential coding"
    ):
        apply_pass(tp.DelayedReadout(), snn, x, 4)
    with pytest.raises(tp.ArgumentError, match="AllocateCounts: needed rate coding"):
        apply_pass(tp.AllocateCounts(1.0), snn, x, 4)
    rate, x = _snn(neuron=tp.Signed(4))
    with pytest.raises(
        tp.ArgumentError, match="without corrections, got .* Put it before the corrections"
    ):
        apply_pass(tp.AllocateCounts(1.0), apply_pass(tp.BiasCorrection(), rate, x, 4), x, 4)
    assert apply_pass(tp.BiasCorrection(), apply_pass(tp.AllocateCounts(3.0), rate, x, 4), x, 4)
    with pytest.raises(
        tp.ArgumentError,
        match="needed at most 1e-06 spikes .* Raise the budget, or lower timesteps",
    ):
        apply_pass(tp.AllocateCounts(1e-6), rate, x, 4)


def test_convert_refuses_passes_without_inputs_or_timesteps():
    network, calibration = nets.captured("conv2d")
    x = torch.randn(4, *nets.CONV_NET_INPUT, dtype=torch.float64)
    one = [tp.BiasCorrection()]
    with pytest.raises(tp.ArgumentError, match="Give them as batches="):
        tp.convert(network, calibration, timesteps=4, passes=one)
    with pytest.raises(tp.ArgumentError, match=r"Give convert\(..., timesteps=...\)"):
        tp.convert(network, calibration, passes=one, batches=[x])
    with pytest.raises(tp.ArgumentError, match="needed passes such as BiasCorrection"):
        tp.convert(network, calibration, timesteps=4, passes=["bias"], batches=[x])
    assert tp.convert(network, calibration, timesteps=4, passes=one, batches=[x])
    assert tp.convert(network, (b for b in x.split(2)), timesteps=4, passes=one)


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: tp.BiasCorrection(0), "rounds: needed an integer in 1..6"),
        (lambda: tp.Distillation(epochs=0), "epochs: needed an integer >= 1"),
        (lambda: tp.Distillation(rate=0.0), "rate: needed a number > 0"),
        (lambda: tp.SiteSearch(weight=-1), "weight: needed a number >= 0"),
        (lambda: tp.AllocateCounts(0), "spikes_per_neuron: needed a number > 0"),
        (lambda: tp.AllocateCounts(mean_count=0.5), "mean_count: needed a number >= 1, got 0.5"),
        (lambda: tp.AllocateCounts("3"), "spikes_per_neuron: needed a number > 0, got '3'"),
        (lambda: tp.AllocateCounts(mean_count=True), "mean_count: needed a number >= 1, got True"),
        (lambda: tp.AllocateCounts(), "needed one budget, .* got None and None"),
        (lambda: tp.AllocateCounts(1.0, 2.0), "needed one budget, .* got 1.0 and 2.0"),
    ],
)
def test_settings_out_of_range_are_refused(make, message):
    with pytest.raises(tp.ArgumentError, match=message):
        make()

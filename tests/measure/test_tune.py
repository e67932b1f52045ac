"""Tuning keeps its promises about the recipe that it returns."""

import json
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import nets
import transpike as tp
from transpike.graph.outputs import divergence
from transpike.measure import candidates as listed
from transpike.measure import trials as judged_by
from transpike.measure import tune as tuning
from transpike.measure.findings import LEAST_AGREEMENT
from transpike.measure.intervals import wilson_interval

COUNT = 120  # number of inputs, of which 40 are held out

FEW = (tp.Percentile(99.9), tp.LeastSquares())
SHORT = ((), (tp.BiasCorrection(),))


@pytest.fixture
def few(monkeypatch):
    """Try few candidates to save time; other tests cover the whole list."""
    monkeypatch.setattr(listed, "RULES", FEW)
    monkeypatch.setattr(listed, "PASSES", SHORT)


def _inputs(name="linear", count=COUNT):
    torch.manual_seed(5)
    return torch.randn(count, *nets.NETS[name][1], dtype=torch.float64)


def _network(name="linear"):
    return nets.captured(name)[0]


def test_the_whole_list_of_candidates_is_tried_and_ranked(monkeypatch):
    monkeypatch.setattr(tuning, "_ROUNDS", (COUNT,))
    x = _inputs()
    seen = []
    result = tp.tune(
        _network(), [x], timesteps=3, progress=lambda done, total: seen.append((done, total))
    )
    count = 2 * len(listed.RULES) * len(listed.PASSES)
    assert len(result.trials) == len({trial.recipe for trial in result.trials}) <= count + 2
    kinds = [{type(one) for one in trial.recipe.passes} for trial in result.trials]
    distilled = [kind for kind in kinds if tp.Distillation in kind]
    assert 1 <= len(distilled) <= 2  # A distillation that changes nothing is left out.
    without = [kind for kind in kinds if tp.DelayedReadout not in kind and kind not in distilled]
    # A recipe that delays the readout by nothing equals another one and is left out.
    assert len(without) == count * 5 // 6
    assert seen[-1][0] == seen[-1][1] == len(seen) == count + 2
    divergences = [trial.divergence for trial in result.trials]
    assert divergences == sorted(divergences)
    assert result.recipe == result.trials[0].recipe
    plain = tp.Recipe(3, tp.Signed(1), tp.Percentile(99.9))
    (unchanged,) = [trial for trial in result.trials if trial.recipe == plain]
    assert result.trials[0].divergence < unchanged.divergence


def test_what_was_found_is_what_the_recipe_gives(few):
    """Compare with the slow reference on the inputs that were held out."""
    network, x = _network(), _inputs()
    result = tp.tune(network, [x], timesteps=3, seed=7)
    order = _order(COUNT, 7)
    held, used = x[order[:40]], x[order[40:]]
    run = tp.simulate_reference(result.recipe.convert(network, [used]), held, 3)
    wanted = network(held).softmax(1)
    found = run.output[-1].softmax(1)
    found_log, wanted_log = found.log(), wanted.log()
    divergence = float((wanted * (wanted_log - found_log)).sum(1).mean())
    agreement = float((found.argmax(1) == wanted.argmax(1)).double().mean())
    counts = sum(float(count.sum()) for count in run.spike_counts.values())
    assert result.recipe.found["divergence"] == pytest.approx(divergence, rel=1e-6)
    assert result.recipe.found["agreement"] == agreement
    assert result.recipe.found["spikes_per_neuron"] == pytest.approx(counts / 40 / network.neurons)
    assert (result.recipe.found["held_out"], result.recipe.found["calibration_inputs"]) == (40, 80)


def test_inputs_that_judge_are_never_calibrated_on(few, monkeypatch):
    calibrated, judged = set(), set()

    def rows(images):
        return {tuple(row.flatten().tolist()) for row in images}

    calibrate, judge, apply_pass = judged_by.calibrate, judged_by.judge, judged_by.apply_pass

    def calibrating(network, batches):
        calibrated.update(*map(rows, batches))
        return calibrate(network, batches)

    def applying(one, snn, images, timesteps):
        calibrated.update(rows(images))
        return apply_pass(one, snn, images, timesteps)

    def judging(snn, images, timesteps, reading):
        judged.update(rows(images))
        return judge(snn, images, timesteps, reading)

    monkeypatch.setattr(judged_by, "calibrate", calibrating)
    monkeypatch.setattr(judged_by, "judge", judging)
    monkeypatch.setattr(judged_by, "apply_pass", applying)
    x = _inputs()
    tp.tune(_network(), [x], timesteps=2)
    assert not calibrated & judged
    assert calibrated | judged == rows(x) and len(judged) == 40


def test_what_is_done_once_is_what_the_recipe_does(monkeypatch):
    """Recipes with the same first passes share their result, which equals that of each alone."""
    network, x = _network("residual"), _inputs("residual")
    together = (), (tp.BiasCorrection(),), (tp.BiasCorrection(), tp.DelayedReadout())
    monkeypatch.setattr(listed, "RULES", (tp.Percentile(99),))
    monkeypatch.setattr(listed, "PASSES", together)
    result = tp.tune(network, [x], timesteps=4, signed=False)
    held, used = x[(order := _order(COUNT, 0))[:40]], x[order[40:]]
    for trial in result.trials:
        snn = trial.recipe.convert(network, judged_by.in_batches(used))
        assert judged_by.judge(snn, held, 4) == trial.judgment


def _order(count, seed):
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed))


def test_labels_are_not_used(few):
    x = _inputs()
    labels = torch.arange(COUNT) % 4
    one = tp.tune(_network(), [(x, labels)], timesteps=2)
    other = tp.tune(_network(), [(x, labels.flip(0))], timesteps=2)
    assert one == other == tp.tune(_network(), [x], timesteps=2)


def test_repeatable_by_seed_and_leaves_the_random_state(few):
    x = _inputs()
    before = torch.get_rng_state()
    first = tp.tune(_network(), x.split(7), timesteps=2, seed=3)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert first == tp.tune(_network(), x.split(7), timesteps=2, seed=3)
    assert first.recipe.found == tp.tune(_network(), [x], timesteps=2, seed=3).recipe.found
    assert first.trials != tp.tune(_network(), x.split(7), timesteps=2, seed=4).trials


def test_rounds_grow_and_the_last_one_decides(monkeypatch, few):
    monkeypatch.setattr(tuning, "_ROUNDS", (6, 12, 500))
    seen = []
    result = tp.tune(_network(), [_inputs()], timesteps=2, progress=lambda *now: seen.append(now))
    assert [done for done, _ in seen] == list(range(1, len(seen) + 1))
    assert seen[-1][0] == seen[-1][1] and seen[0][1] == 8 + 3 + 2 + 2
    counts = [trial.n for trial in result.trials]
    # The rounds judge 8, 3 and 2 recipes. The last two are judged with distillation, too, unless
    # it changes nothing.
    assert counts[-6:] == [12] * 1 + [6] * 5
    assert counts[:-6] in ([40] * 3, [40] * 4)
    assert result.recipe.found["held_out"] == 40
    assert all(trial.n == 40 for trial in result.pareto)


@pytest.mark.parametrize("available, rounds", [(6, 1), (48, 1), (49, 2), (128, 2), (5000, 3)])
def test_no_round_that_would_see_the_same_inputs_again(available, rounds):
    assert len(tuning._sizes(available)) == rounds


@pytest.mark.parametrize("signed", [True, False])
def test_sign_can_be_fixed(few, signed):
    result = tp.tune(_network(), [_inputs()], timesteps=2, signed=signed)
    assert {trial.recipe.neuron.signed for trial in result.trials} == {signed}


@pytest.mark.parametrize("max_count", [2, 4, 8])
def test_refining_neurons_are_candidates_where_asked_for(few, max_count):
    network, x = _network(), _inputs()
    plain = tp.tune(network, [x], timesteps=4, max_count=max_count)
    assert {trial.recipe.neuron.schedule.ratio for trial in plain.trials} == {1}
    wide = tp.tune(network, [x], timesteps=4, max_count=max_count, refining=True)
    tried = [trial.recipe.neuron for trial in wide.trials]
    ratios = {neuron.schedule.ratio for neuron in tried if neuron.schedule.window is None}
    assert ratios == {1, 4 if max_count == 8 else 2}
    assert {trial.recipe.neuron.max_count for trial in wide.trials} == {max_count}
    assert max_count == 2 or wide.recipe.neuron.schedule.ratio > 1
    windows = {neuron.schedule.window for neuron in tried} - {None}
    assert max(network.depth.values()) == 2 and windows == {3}
    allowed = {"timesteps": 4, "max_count": max_count}
    for wrong in ({"timesteps": 1}, {"signed": False}, {"max_count": 1, "timesteps": 2}):
        with pytest.raises(
            tp.ArgumentError, match="refining needs .* or timesteps > the .* \\(2\\)"
        ):
            tp.tune(network, [x], refining=True, **(allowed | wrong))


@pytest.mark.parametrize(
    "code, stuck",
    [
        (tp.Refining(8), True),
        (tp.Refining(4), True),
        (tp.Cyclic(8), False),
        (tp.Differential(8, 1), False),
        (tp.Signed(4), False),
    ],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_a_step_that_shrinks_for_good_is_stuck_in_a_deep_network(code, stuck):
    """The output is judged at T as before, with or without the look at 2 T."""
    network, calibration, x = nets.deep()
    snn = tp.convert(network, calibration, neuron=code, threshold=tp.MaxAbs())
    judgment = judged_by.judge(snn, x, 5, "values")
    assert judgment.stuck == stuck
    run = tp.simulate(snn, x, 5)
    wanted = network(x)
    gap = (run.output[-1] - wanted).square().sum() / wanted.square().sum()
    assert judgment.divergence == pytest.approx(float(gap))
    assert judgment.spikes_per_neuron == pytest.approx(float(run.spikes_per_neuron[-1]))


def test_a_code_that_is_stuck_is_never_chosen(few, monkeypatch):
    """Everything that shrinks for good is called stuck here, so that it would otherwise win."""
    x = _inputs()
    settings = {"timesteps": 4, "max_count": 8, "refining": True}
    assert tp.tune(_network(), [x], **settings).recipe.neuron.schedule.shrinks
    monkeypatch.setattr(judged_by, "_GAP", -1.0)
    monkeypatch.setattr(judged_by, "_LEFT", -1.0)
    result = tp.tune(_network(), [x], **settings)
    stuck = [trial for trial in result.trials if trial.stuck]
    assert stuck and not any(trial.recipe.neuron.schedule.returns for trial in stuck)
    assert result.recipe.neuron.schedule.returns
    assert all(trial.recipe.neuron.schedule.returns for trial in result.pareto)
    assert tuning._row(stuck[0]).endswith("(stuck: late corrections do not fit)")
    assert all(trial.to_dict()["stuck"] == trial.stuck for trial in result.trials)


@pytest.mark.parametrize(
    "timesteps, max_count, cycles",
    [
        (2, 8, []),
        (4, 8, [(1, 4)]),
        (6, 8, [(1, 4), (1, 4, 16)]),
        (6, 4, [(1, 2), (1, 2, 4)]),
        (7, 1, []),
        (8, 1, [(1, 2)]),
    ],
)
def test_cycles_that_fit_are_candidates(timesteps, max_count, cycles):
    space = listed.Space(timesteps, max_count, refining=True)
    found = {one.neuron.schedule.divisors for one in listed.candidates(space, 2)} - {None}
    assert sorted(found) == cycles


def test_the_bound_is_a_candidate_where_a_site_has_one():
    space = listed.Space(2)
    for bounded in (False, True):
        rules = {type(one.threshold) for one in listed.candidates(space, 0, bounded=bounded)}
        assert (tp.UpperBound in rules) == bounded


def test_counts_of_any_size_are_tuned_without_refining():
    assert len(listed.candidates(listed.Space(4, 2**15, signed=True), 0)) == 24


def test_single_spikes_refine_layer_after_layer_only(few):
    result = tp.tune(_network(), [_inputs()], timesteps=6, max_count=1, refining=True)
    windows = {
        one.recipe.neuron.schedule.window
        for one in result.trials
        if one.recipe.neuron.schedule.ratio > 1
    }
    # T is 6, so lags of 1 and 2 leave windows of 5 and 4. With a lag of 3, the window would not be
    # longer than the lag.
    assert windows == {5, 4}
    assert {one.recipe.neuron.max_count for one in result.trials} == {1}


def test_a_single_layer_has_one_lag_and_windows_no_longer_than_help():
    found = listed.staggered_neurons(40, 2, 1)
    assert len({(n.schedule.window, n.levels) for n in found}) == len(found) == 2
    assert {n.schedule.window for n in listed.staggered_neurons(40, 2, 3)} == {
        listed.LONGEST_WINDOW
    }


@pytest.mark.parametrize("max_count", [1, 4])
def test_budget_of_spikes_is_kept_or_refused(few, max_count):
    network, x = _network(), _inputs()
    free = tp.tune(network, [x], timesteps=4, max_count=max_count)
    least = min(trial.spikes_per_neuron for trial in free.trials)
    budget = (1.01 if max_count == 1 else 0.7) * least
    tight = tp.tune(network, [x], timesteps=4, max_count=max_count, spikes=budget)
    best = tight.trials[0]
    assert best.within and best.spikes_per_neuron <= budget * 1.02
    assert tight.recipe.found["spikes"] == budget
    assert any(isinstance(p, tp.AllocateCounts) for p in tight.recipe.passes) == (max_count > 1)
    with pytest.raises(tp.ArgumentError, match="no candidate keeps 1e-09 spikes.* Raise spikes"):
        tp.tune(network, [x], timesteps=4, max_count=max_count, spikes=1e-9)


def test_front_is_what_nothing_beats(few, monkeypatch):
    monkeypatch.setattr(tuning, "_ROUNDS", (COUNT,))
    result = tp.tune(_network(), [_inputs()], timesteps=4)

    def beats(a, b):
        return (
            a.divergence <= b.divergence
            and a.spikes_per_neuron <= b.spikes_per_neuron
            and (a.divergence, a.spikes_per_neuron) != (b.divergence, b.spikes_per_neuron)
        )

    for trial in result.trials:
        beaten = any(beats(other, trial) for other in result.trials)
        assert (trial in result.pareto) == (not beaten)
    spikes = [trial.spikes_per_neuron for trial in result.pareto]
    assert spikes == sorted(spikes) and result.trials[0] in result.pareto


def test_a_distilled_trial_is_the_recipe_before_it_and_one_pass_more():
    delayed = tp.Recipe(4, tp.Signed(1), tp.LeastSquares(), (tp.SiteSearch(), tp.DelayedReadout()))
    plain = tp.Recipe(4, tp.Signed(1), tp.LeastSquares())
    assert listed.with_pass(plain, tp.Distillation()).passes == (tp.Distillation(),)
    passes = listed.with_pass(delayed, tp.Distillation()).passes
    assert passes == (tp.SiteSearch(), tp.Distillation(), tp.DelayedReadout())


def test_a_mask_is_judged_by_the_divergence_of_its_probability():
    network, calibration = nets.captured("unet")
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = _inputs("unet", 70)
    found = judged_by.judge(snn, x, 4)
    gap, agreement, rate = found.divergence, found.agreement, found.spikes_per_neuron
    p, q = network(x).sigmoid(), tp.simulate_reference(snn, x, 4).output[-1].sigmoid()
    wanted = p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()
    assert gap == pytest.approx(float(wanted.mean()))
    assert agreement == pytest.approx(float(((q > 0.5) == (p > 0.5)).double().mean()))
    assert rate == pytest.approx(float(tp.simulate(snn, x, 4).spikes_per_neuron[-1]))


def test_a_mask_behind_a_sigmoid_is_judged_as_its_logits_are():
    """The divergence is the same if the network computes the probabilities itself."""
    torch.manual_seed(0)
    analog, spiking = torch.randn(2, 6, 1, 5, 5, dtype=torch.float64)
    logits = divergence(analog, spiking, cut=0.0)
    assert logits.shape == (6, 5, 5) and bool((logits >= 0).all())
    found = divergence(analog.sigmoid(), spiking.sigmoid(), cut=0.5)
    torch.testing.assert_close(found, logits, rtol=1e-9, atol=1e-12)
    sure = divergence(torch.ones(1, 1), torch.zeros(1, 1), cut=0.5)
    assert float(sure) == pytest.approx(-math.log(1e-7), rel=1e-5)


def test_a_network_with_a_sigmoid_is_judged_by_its_probabilities():
    network, calibration = nets.captured("unet")
    plain = tp.convert(network, calibration, neuron=tp.Signed(2))
    network, calibration = nets.captured("unet", tail=(nn.Sigmoid(),))
    sigmoid = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = _inputs("unet", 20)
    wanted, found = judged_by.judge(plain, x, 4), judged_by.judge(sigmoid, x, 4)
    assert found.divergence == pytest.approx(wanted.divergence, rel=1e-4)
    assert found.agreement == wanted.agreement
    assert found.spikes_per_neuron == wanted.spikes_per_neuron


def test_a_distillation_that_changes_nothing_is_no_recipe_of_its_own(few, monkeypatch):
    apply_pass = judged_by.apply_pass

    def applying(one, snn, images, timesteps):
        kept = isinstance(one, tp.Distillation)
        return snn.changed() if kept else apply_pass(one, snn, images, timesteps)

    monkeypatch.setattr(judged_by, "apply_pass", applying)
    result = tp.tune(_network(), [_inputs()], timesteps=2)
    kinds = {type(one) for trial in result.trials for one in trial.recipe.passes}
    assert kinds == {tp.BiasCorrection} and len(result.trials) == 8


def test_the_two_that_are_distilled_measure_differently():
    recipes = [tp.Recipe(2, neuron, rule) for neuron in (tp.IF(), tp.Signed(1)) for rule in FEW]
    gaps = [(0.1, 1.0), (0.1, 1.0), (0.2, 1.0), (0.2, 0.5)]
    trials = [
        judged_by.Trial(recipe, judged_by.Judgment(gap, 1.0, spikes), 5, True)
        for recipe, (gap, spikes) in zip(recipes, gaps, strict=True)
    ]
    assert tuning._different(trials) == [trials[0], trials[2], trials[3]]


@pytest.mark.parametrize("budget", [1.2, 2.0])
def test_distillation_under_a_budget_of_spikes(few, budget):
    """Distillation may add spikes, but a recipe above the budget is not taken."""
    network, x = _network(), _inputs()
    result = tp.tune(network, [x], timesteps=4, max_count=4, spikes=budget, signed=True)
    for trial in result.trials:
        assert trial.within == (trial.spikes_per_neuron <= budget * 1.02)
    assert result.trials[0].within and result.recipe == result.trials[0].recipe


def test_values_are_judged_by_their_distance(few):
    network, calibration = nets.captured("unet")
    snn = tp.convert(network, calibration, neuron=tp.Signed(2))
    x = _inputs("unet", 70)
    judgment = judged_by.judge(snn, x, 4, "values")
    gap, agreement = judgment.divergence, judgment.agreement
    assert sum(judgment.per_input) / 70 == pytest.approx(gap)
    analog, found = network(x), tp.simulate_reference(snn, x, 4).output[-1]
    assert gap == pytest.approx(float(F.mse_loss(found, analog) / analog.square().mean()))
    assert agreement is None
    result = tp.tune(_network(), [_inputs()], timesteps=2, reading="values")
    assert result.recipe.found["agreement"] is None and " - " in str(result)
    assert result.recipe.found["reading"] == "values"
    passes = [one for trial in result.trials for one in trial.recipe.passes]
    assert tp.Distillation(reading="values") in passes and tp.Distillation() not in passes
    with pytest.raises(tp.ArgumentError, match="needed 'scores' or 'values', got 'classes'"):
        tp.tune(_network(), [_inputs()], timesteps=2, reading="classes")


def test_an_output_without_classes_needs_to_be_read_as_values(few):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 1), nn.Flatten(0))
    x = torch.randn(COUNT, 4)
    with pytest.raises(tp.ArgumentError, match="shape .* Pass reading='values'"):
        tp.tune(model, [x], timesteps=2)
    assert tp.tune(model, [x], timesteps=2, reading="values").recipe.found["divergence"] >= 0


def test_a_module_is_captured_and_left_alone(few):
    model = nets.build("conv2d", torch.float32)
    before = nets.state_hash(model)
    result = tp.tune(model, [_inputs("conv2d").float()], timesteps=2)
    assert nets.state_hash(model) == before
    assert tp.convert(model, [_inputs("conv2d").float()], neuron=result.recipe.neuron)


def test_result_is_readable_and_goes_into_json(few):
    result = tp.tune(_network(), [_inputs()], timesteps=2)
    text = str(result)
    assert text.startswith(f"best: {result.recipe.name}, T=2") and "Pareto front" in text
    content = json.loads(json.dumps(result.to_dict()))
    assert content["recipe"] == result.recipe.to_dict()
    assert content["trials"][0]["divergence"] == result.trials[0].divergence
    assert len(content["pareto"]) == len(result.pareto)


def test_bad_arguments_are_refused(few):
    x = _inputs()
    for spikes in (0, -1.0, float("nan"), float("inf")):
        with pytest.raises(tp.ArgumentError, match="spikes: needed a number > 0"):
            tp.tune(_network(), [x], timesteps=2, spikes=spikes)
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        tp.tune(_network(), [x], timesteps=0)
    with pytest.raises(tp.ArgumentError, match="max_count"):
        tp.tune(_network(), [x], timesteps=2, max_count=0)


def test_too_few_inputs_are_refused_with_the_number_that_is_enough(few):
    message = r"needed at least 104 inputs, .* got 103. Give 104 .*\(--calibration-size 104\)"
    with pytest.raises(tp.DataError, match=message):
        tp.tune(_network(), [_inputs(count=103)], timesteps=2)
    assert tp.tune(_network(), [_inputs(count=104)], timesteps=2).trials[0].n == 35


def test_the_least_number_of_inputs_can_show_the_limit_of_diagnose():
    least = tuning._LEAST_HELD_OUT
    assert wilson_interval(least, least)[0] >= LEAST_AGREEMENT
    assert wilson_interval(least - 1, least - 1)[0] < LEAST_AGREEMENT
    assert tuning._LEAST_INPUTS == min(n for n in range(500) if round(n / 3) >= least)


def test_an_interval_is_beside_the_agreement_of_the_best(few):
    result = tp.tune(_network(), [_inputs()], timesteps=2)
    best = result.trials[0]
    low, high = wilson_interval(round(best.agreement * 40), 40)
    assert best.agreement_interval == pytest.approx((low, high))
    text = f"for 40 held-out inputs (95 % interval {100 * low:.2f} to {100 * high:.2f} %)."
    assert f"on {100 * best.agreement:.2f} % of the predictions {text}" in str(result)
    assert result.recipe.found["agreement_interval"] == list(best.agreement_interval)
    assert result.to_dict()["trials"][0]["agreement_interval"] == list(best.agreement_interval)


def _trial(per_input, spikes=1.0):
    divergence = sum(per_input) / len(per_input)
    judgment = judged_by.Judgment(divergence, 1.0, spikes, tuple(per_input))
    return judged_by.Trial(tp.Recipe(2, tp.Signed(1), tp.MaxAbs()), judgment, len(per_input), True)


def test_a_runner_up_that_may_be_as_good_is_named_as_such():
    torch.manual_seed(1)
    # Inputs that are hard for both recipes do not hide the difference between them.
    hard = torch.rand(50, dtype=torch.float64)
    noise = 0.01 * torch.randn(50, dtype=torch.float64)
    best = _trial(hard.tolist())
    near = judged_by.lead(best, _trial((hard + noise).tolist()))
    assert not near.told_apart and near.interval[0] < 0 < near.interval[1]
    assert "cannot be told apart on 50 held-out inputs" in str(near)
    assert "(--calibration-size)" in str(near)
    far = judged_by.lead(best, _trial((hard + noise + 0.01).tolist()))
    gaps = noise + 0.01
    spread = 1.959964 * float(gaps.std()) / math.sqrt(50)
    assert far.difference == pytest.approx(float(gaps.mean()))
    assert far.interval == pytest.approx((far.difference - spread, far.difference + spread))
    assert far.told_apart and "is larger by" in str(far) and "told apart" not in str(far)
    same = judged_by.lead(best, _trial(hard.tolist(), spikes=2.0))
    assert not same.told_apart and same.interval == (0.0, 0.0)


def test_the_lead_over_the_runner_up_is_in_the_result(few):
    result = tp.tune(_network(), [_inputs()], timesteps=2)
    lead = result.lead
    best, second = result.trials[0], lead.runner_up
    assert lead.difference == pytest.approx(second.divergence - best.divergence)
    assert second.divergence == min(
        t.divergence for t in result.trials if t.n == best.n and t.divergence > best.divergence
    )
    assert str(lead) in str(result) and result.to_dict()["lead"] == lead.to_dict()
    assert result.recipe.found["told_apart"] == lead.told_apart
    worst = max(result.trials, key=lambda trial: trial.divergence)
    assert judged_by.lead(best, worst).difference > 0


def test_what_was_dropped_early_is_listed_behind_what_was_kept(few):
    """Both rounds judge all 40 held-out inputs, but they calibrate on 48 and on 80 inputs."""
    result = tp.tune(_network(), [_inputs()], timesteps=2)
    assert {trial.n for trial in result.trials} == {40}
    assert result.recipe == result.trials[0].recipe


def test_several_outputs_are_refused(few):
    with pytest.raises(tp.ArgumentError, match="needed a model with one output tensor, got dict"):
        tp.tune(_network("dict_head"), [_inputs("dict_head")], timesteps=2)

"""The figure of accuracy against spikes uses fronts, mixtures and paired differences."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import transpike as tp
from benchmarks.peers import points, spikes_figure
from transpike.study import paired
from transpike.study.records import Records

ROOT = Path(__file__).resolve().parents[2]

N, BATCH, PARTS = 60, 4, 5


def _point(loss, spikes, ours=True, right=(), error=1.0):
    kind = "signed" if ours else ""
    return points.Point("name", kind, 1, loss, error, spikes, N, False, right)


def test_flags_survive_as_text():
    flags = np.random.RandomState(0).rand(13) < 0.5
    assert (paired.unpacked(paired.packed(flags), 13) == flags).all()


def test_right_is_a_metric_of_evaluate_in_the_order_of_the_images():
    torch.manual_seed(1)
    x, labels = torch.randn(37, 6), torch.randint(0, 3, (37,))
    model = torch.nn.Sequential(torch.nn.Linear(6, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    snn = tp.convert(model, [x], neuron=tp.Signed(2))
    batches = list(zip(x.split(10), labels.split(10), strict=True))
    result = tp.evaluate(snn, batches, 3, metric=paired.Right())
    output = tp.simulate(snn, x, 3).output
    for t in range(3):
        wanted = (output[t].argmax(dim=1) == labels).numpy()
        assert (paired.unpacked(result.metric[t], 37) == wanted).all()
    analog = paired.unpacked(result.ann_metric, 37)
    assert analog.mean() == pytest.approx(result.ann_accuracy) and 0 < analog.mean() < 1


def test_paired_error_is_that_of_the_mean_difference():
    one, other = np.array([1, 1, 0, 1], bool), np.array([1, 0, 0, 1], bool)
    # The differences are 0, 1, 0 and 0. Their variance is 1/4, so the error is sqrt(1/4 / 4).
    assert paired.paired_error(one, other) == pytest.approx(0.25)
    assert paired.paired_error(one, one) == 0


def _images(part):
    """Return the test images of a part, which is every fifth batch of a random order."""
    order = np.random.RandomState(0).permutation(N)
    batches = [order[low : low + BATCH] for low in range(0, N, BATCH)]
    return np.concatenate(batches[part::PARTS])


def _peer(name, right, **asked):
    """Return records as `peers/curves.py` adds them.

    Args:
        name: name of the contestant.
        right: for each T, which images of the test set the contestant gets right.
        **asked: settings that replace the usual ones.
    """
    at = [int(t) for t in right]
    asked = {"images": N, "batch": BATCH, "at": at} | asked
    about = {"contestant": name, "network": "resnet20", "calibration_images": 1, "asked": asked}
    return [
        {
            **about,
            "part": part,
            "n": len(images),
            "right": {t: int(flags[images].sum()) for t, flags in right.items()},
            "which": {t: paired.packed(flags[images]) for t, flags in right.items()},
            "spikes": {t: 5000.0 * len(images) for t in right},
        }
        for part, images in enumerate(map(_images, range(PARTS)))
    ]


def test_peers_flags_are_put_into_the_order_of_the_test_set():
    random = np.random.RandomState(3)
    analog, right = random.rand(N) < 0.8, random.rand(N) < 0.6
    (point,) = points.peers(_peer("ann", {"2": analog}) + _peer("peer", {"2": right}))
    assert (point.right[0] == right).all() and point.spikes == 5.0
    assert point.loss == pytest.approx(100 * (analog.mean() - right.mean()))
    assert point.error == pytest.approx(100 * paired.paired_error(right, analog))


def test_of_two_runs_the_one_on_more_images_counts():
    random = np.random.RandomState(3)
    right, late = random.rand(N) < 0.6, random.rand(N) < 0.7
    analog, whole = _peer("ann", {"2": right}), _peer("peer", {"2": right})
    part = [one for one in _peer("peer", {"2": right, "9": late}) if one["part"] != 1]
    found = {point.t: point for point in points.peers([*analog, *part, *whole])}
    assert found.keys() == {2, 9} and (found[2].n, found[9].n) == (N, 48)
    # Part 1 is missing at T = 9.
    same = np.concatenate([_images(number) for number in (0, 2, 3, 4)])
    assert found[9].loss == pytest.approx(100 * (right[same].mean() - late[same].mean()))
    other = [one for one in _peer("peer", {"2": right}, batch=6) if one["part"] != 1]
    with pytest.raises(SystemExit, match="peer: its images are not those of the ANN"):
        points.peers(analog + other)
    many = _peer("ann", {"2": right}, images=600)
    with pytest.raises(SystemExit, match="its images are not those of the ANN. Run both"):
        points.peers(many + whole)
    with pytest.raises(SystemExit, match=r"no record of the analog network. Run .*curves"):
        points.peers(whole)


def test_without_flags_the_error_is_that_of_a_share():
    right = np.random.RandomState(3).rand(N) < 0.6
    peer = _peer("peer", {"2": right})
    del peer[0]["which"]
    (point,) = points.peers(_peer("ann", {"2": right}) + peer)
    p = right.mean()
    assert point.right == () and point.error == pytest.approx(100 * math.sqrt(p * (1 - p) / N))


def test_mixed_lies_on_the_line_between_two_settings():
    four = [_point(80, 0), _point(70, 50), _point(2, 100), _point(30, 90)]
    # 50 spikes lie halfway between the settings with 0 and with 100 spikes.
    assert points.mixed(four, 50) == pytest.approx(41)
    assert points.mixed(four, 100) == 2
    assert points.mixed(four, 500) == 2
    assert [p.loss for p in points.front(four)] == [80, 70, 30, 2]


def test_a_peer_meets_the_best_of_ours_with_at_most_its_spikes():
    random = np.random.RandomState(5)
    mine, also, its = (random.rand(N) < share for share in (0.7, 0.7, 0.9))
    ours = [_point(9, 10, right=(mine, also)), _point(8, 20), _point(0, 31)]
    (first, second) = points.meetings(
        [*ours, _point(5, 15, False, (its,)), _point(8.5, 30, False, error=2.0)]
    )
    assert first.mine is ours[0] and first.behind == 4 and first.paired
    errors = [paired.paired_error(one, its) for one in (mine, also)]
    assert first.error == pytest.approx(100 * np.mean(errors))
    assert second.mine is ours[1] and second.behind == -0.5 and not second.paired
    assert second.error == pytest.approx(math.hypot(1, 2))


def test_the_document_says_how_many_times_more_the_peers_take():
    steady, shrinking = _point(0.4, 400), replace(_point(0.4, 200), kind="staggered", name="late")
    text = spikes_figure.document([steady, shrinking, replace(_point(0.4, 900, False), name="it")])
    assert "The best peer needs 900 thousand spikes, 4.50 times as many" in text
    assert "which needs 200 thousand." in text
    assert "needs 400 thousand spikes, and the best peer needs 2.25 times as many." in text
    assert "the step shrinks" in text
    refining = replace(shrinking, kind="refining")
    peer = replace(_point(0.4, 900, False), name="it")
    assert "the step shrinks" in spikes_figure.document([steady, refining, peer])
    assert "shrinks" not in spikes_figure.document([steady, peer])


def _record(recipe, right, draw="all", **asked):
    result = {
        "loss": [0.2, 0.1],
        "loss_interval": [[0.1, 0.3], [0.0, 0.2]],
        "spikes_per_neuron": [1.0, 2.0],
        "samples": N,
    }
    return {
        "pooling": "max",
        "recipe": recipe.to_dict(),
        "evaluation": result,
        "right": paired.packed(right),
        "asked": {"test_draw": draw, "calibration_images": 7, **asked},
    }


def test_flags_of_ours_are_those_at_the_last_timestep_of_the_whole_test_set():
    right = np.random.RandomState(3).rand(N) < 0.6
    recipe = tp.Recipe(2, tp.Signed(1), tp.Percentile(99.9))
    first, last = points.ours([_record(recipe, right)], 7)
    assert (first.t, first.right) == (1, ()) and (last.right[0] == right).all()
    assert last.kind == "signed" and last.loss == pytest.approx(10)
    drawn = points.ours([_record(recipe, right, "random, seed 0")], 7)
    assert len(drawn) == 2 and all(point.right == () for point in drawn)


def test_only_one_calibration_size_of_ours_is_shown():
    right = np.ones(N, bool)
    recipe = tp.Recipe(2, tp.Signed(1), tp.Percentile(99.9))
    records = [_record(recipe, right), _record(recipe, right, varied=True)]
    assert len(points.ours(records, 7)) == 2 and points.ours(records, 8) == []


def test_recipes_of_one_name_are_told_apart_by_their_start():
    recipes = [
        tp.Recipe(2, tp.IF(initial_membrane=start), tp.Percentile(99.9)) for start in (0.0, 0.5)
    ]
    records = [_record(recipe, np.ones(N, bool)) for recipe in recipes]
    found = {point.name for point in points.ours(records, 7)}
    assert found == {"IF + Percentile, start 0", "IF + Percentile, start 0.5"}


def test_a_peer_with_fewer_spikes_than_all_of_ours_meets_nobody():
    assert points.meetings([_point(9, 10), _point(80, 5, False)]) == []
    assert points.mixed([_point(9, 10)], 5) == math.inf


def test_the_document_names_runs_on_fewer_images():
    late = [replace(_point(5, 15, False), n=12, t=t, name="it") for t in (64, 128)]
    text = spikes_figure.document([_point(9, 10), _point(6, 12, False), *late])
    assert "Some peers ran on fewer: it at T = 64, 128 on 12 of them." in text


def test_the_document_lists_where_a_peer_is_ahead():
    ours = [_point(9, 10), _point(0, 31)]
    text = spikes_figure.document([*ours, _point(5, 15, False), _point(8, 40, False)])
    assert "At 1 of 2 peer settings, no transpike setting with the same or fewer spikes" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| name | 1 | 15 |")]
    assert "| 4.00 | 1.41, not paired |" in line


def test_every_neuron_of_ours_has_a_color(tmp_path):
    mine = points.ours(Records(ROOT / "results/methods/resnet20.jsonl").all(), 1024)
    assert {p.kind for p in mine} <= {kind for kind, _ in spikes_figure._KINDS}
    libraries = tuple(spikes_figure._PEERS)
    peers = points.peers(Records(ROOT / "results/peers.jsonl").all())
    assert all(p.name.startswith(libraries) for p in peers) and len(peers) > 50
    spikes_figure.draw([*mine, *peers], tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert "snn-calibration-light" in text and "transpike: staggered" in text

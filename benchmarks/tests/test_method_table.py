"""The table of methods measures no row twice, and it shows the numbers of its records."""

import argparse
import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch

import transpike as tp
from benchmarks.methods import cards, rows, table
from benchmarks.methods import text as method_text
from transpike.study.records import Records
from transpike.zoo.models import build_model

ROOT = Path(__file__).resolve().parents[2]
ROWS = rows.rows(budget=1.5)


def _arguments(folder, **changes):
    weights = folder / "w.pt"
    if not weights.exists():
        torch.manual_seed(0)
        torch.save(build_model("digits_cnn").state_dict(), weights)
    values = {
        "model": "digits_cnn",
        "weights": weights,
        "data": "digits",
        "groups": ["codes"],
        "seeds": [0, 1],
        "calibration_size": 16,
        "tuning_size": 104,
        "budget": 1.0,
        "limit": 20,
        "test_seed": 0,
        "batch_size": 20,
        "output": folder / "out",
        "only_table": False,
        "rows": [],
        "timesteps": [],
        "device": "cpu",
        "varied": False,
    }
    return argparse.Namespace(**{**values, **changes})


@pytest.fixture(scope="module")
def networks():
    """Keep one captured network with max-pooling and one without, as all studies share weights."""
    return {}


@pytest.fixture(autouse=True)
def captured_once(networks, monkeypatch):
    capture = tp.capture

    def once(model, example):
        pools = any(isinstance(part, torch.nn.MaxPool2d) for part in model.modules())
        if pools not in networks:
            networks[pools] = capture(model, example)
        return networks[pools]

    monkeypatch.setattr(table.tp, "capture", once)


def test_every_target_of_every_neuron_has_all_its_recipes():
    targets = [row for row in ROWS if row.group == "targets"]
    assert len(targets) == 8 * 5 + 4 * 3
    assert sum(row.recipe is None for row in targets) == 8 + 4
    for row in targets:
        if row.recipe is not None:
            assert row.recipe.timesteps == row.timesteps
            assert row.recipe.neuron.max_count == int(row.target.removeprefix("un")[-1])


def test_ablation_goes_from_the_plainest_to_the_tuned_one_part_at_a_time():
    chain = [row for row in ROWS if row.group == "ablation"][:9]
    recipes = [row.recipe for row in chain]
    assert recipes[0] == tp.Recipe(8, tp.IF(initial_membrane=0.0), tp.MaxAbs("layer"))
    assert recipes[-1] is None
    for before, after in pairwise(recipes[:-1]):
        changed = [
            before.neuron != after.neuron,
            before.threshold != after.threshold,
            before.passes != after.passes,
        ]
        assert sum(changed) == 1


def test_shifted_images_are_moved_and_mirrored_ones():
    x = torch.arange(1.0, 65.0).reshape(1, 1, 8, 8).repeat(40, 1, 1, 1)
    found = table.shifted(x, torch.Generator().manual_seed(0))
    padded = torch.zeros(1, 16, 16)
    padded[:, 4:12, 4:12] = x[0]
    seen = set()
    for one in found:
        places = []
        for flipped in (False, True):
            image = one.flip(-1) if flipped else one
            for dy in range(-4, 5):
                for dx in range(-4, 5):
                    moved = padded[:, 4 + dy : 12 + dy, 4 + dx : 12 + dx]
                    if torch.equal(moved, image):
                        places.append((flipped, dy, dx))
        assert len(places) == 1
        seen.add(places[0])
    assert len(seen) > 25 and {flipped for flipped, _, _ in seen} == {False, True}


def test_varied_calibration_says_so(tmp_path):
    study = table.Study(_arguments(tmp_path, varied=True))
    plain = table.Study(_arguments(tmp_path))
    (one, *_), (other, *_) = study.training(16, 0), plain.training(16, 0)
    assert torch.equal(one[::2], other[::2]) and not torch.equal(one[1::2], other[1::2])
    assert torch.equal(one, study.training(16, 0)[0])
    assert study.asked == {**plain.asked, "varied": True}


def test_one_run_serves_every_t_where_the_conversion_is_the_same():
    shared = rows.shared(ROWS)
    for row, made in zip(ROWS, shared, strict=True):
        assert (made.name, made.timesteps) == (row.name, row.timesteps)
        if row.recipe is None or rows.needs_timesteps(row.recipe):
            assert made == row
        else:
            assert made.recipe == replace(row.recipe, timesteps=made.recipe.timesteps)
    plain = {r.recipe.timesteps for r in shared if r.name == "signed1 plain"}
    assert plain == {32}


@pytest.mark.parametrize("rule", [tp.Percentile(99), tp.LeastSquares(8), tp.LeastSquares()])
def test_what_does_not_need_timesteps_is_the_same_for_all(rule):
    x = torch.randn(8, 2, 8, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU())
    short, long = tp.Recipe(2, tp.Signed(1), rule), tp.Recipe(9, tp.Signed(1), rule)
    (a,), (b,) = (recipe.convert(model, [x]).steps.values() for recipe in (short, long))
    assert torch.equal(a, b) != rows.needs_timesteps(short)


@pytest.mark.parametrize("model", ["resnet20", "vgg-cifar"])
def test_stored_results_are_those_of_today_s_rows(model):
    """If a recipe changed, its row would be measured again and its stored result left unused."""
    pooling = ("max", "average") if model == "vgg-cifar" else ("max",)
    depth = {"resnet20": rows.RESNET_20, "vgg-cifar": 13}[model]
    today = rows.shared(rows.rows(1.5, depth))
    wanted = {(row.recipe, row.pooling) for row in today if row.recipe is not None}
    tuned = Records(ROOT / f"results/methods/{model}-recipes.jsonl").all()
    recipes = [tp.Recipe.from_dict({**one["recipe"], "found": {}}) for one in tuned]
    wanted |= {(recipe, "max") for recipe in recipes}
    found = [
        (tp.Recipe.from_dict({**one["recipe"], "found": {}}), one["pooling"])
        for one in Records(ROOT / f"results/methods/{model}.jsonl").all()
    ]
    assert len(found) > 150 and {own for _, own in found} == set(pooling)
    # Tuning once chose another recipe, and the results of its three seeds are still stored.
    assert len([one for one in found if one not in wanted]) == (3 if model == "resnet20" else 0)


def test_rows_that_cards_name_exist():
    names, seen = {row.name for row in ROWS}, 0
    for card in (ROOT / "docs" / "methods").glob("*.md"):
        for name in cards.named(card.read_text()):
            assert name in names, (card.name, name)
            seen += 1
    assert seen > 20


def test_cards_hold_the_rows_of_the_table():
    found = cards.rows_of(cards.first_part((ROOT / "results/methods/resnet20.md").read_text()))
    filled = 0
    for file in (ROOT / "docs" / "methods").glob("*.md"):
        card, stored = file.read_text(), file.parent / "tables" / file.name
        table = cards.rows_table(card, found)
        assert table == (stored.read_text() if stored.exists() else ""), (
            f"run benchmarks.methods.cards: {file}"
        )
        assert (f'--8<-- "methods/tables/{file.name}"' in card) == bool(table), file
        filled += bool(table)
    assert filled > 5


def test_nothing_is_measured_twice_and_the_table_holds_the_records(tmp_path, monkeypatch):
    study = table.Study(_arguments(tmp_path))
    assert table.run(study) == 0
    records = Records(tmp_path / "out" / "digits_cnn.jsonl").all()
    text = (tmp_path / "out" / "digits_cnn.md").read_text()
    assert len(records) == 2 * len([row for row in ROWS if row.group == "codes"])
    assert records[0]["asked"]["test_images"] == 20 and records[0]["evaluation"]["n"] == 20
    (line,) = [line for line in text.splitlines() if line.startswith("| burst range K=5 |")]
    (recipe,) = {row.recipe for row in ROWS if row.name == "burst range K=5"}
    losses = [
        100 * record["evaluation"]["loss"][31]
        for record in records
        if tp.Recipe.from_dict(record["recipe"]) == recipe
    ]
    assert len(losses) == 2 and f"| {sum(losses) / 2:.2f} |" in line and "2 seeds" in line
    assert "ANN" in text and "n = 20 test images" in text

    def never(*arguments):
        raise AssertionError("measured twice")

    monkeypatch.setattr(table, "measured", never)
    assert table.run(table.Study(_arguments(tmp_path))) == 0
    assert (tmp_path / "out" / "digits_cnn.md").read_text() == text


@pytest.mark.parametrize("change", [{"limit": 19}, {"calibration_size": 12}, {"varied": True}])
def test_other_settings_are_records_and_a_part_of_the_table_of_their_own(tmp_path, change):
    few = {"seeds": [0], "rows": ["burst range K=5"]}
    for changes in ({}, change):
        table.run(table.Study(_arguments(tmp_path, **few, **changes)))
    records = Records(tmp_path / "out" / "digits_cnn.jsonl").all()
    assert len(records) == 4 and len({json.dumps(one["asked"]) for one in records}) == 2
    text = (tmp_path / "out" / "digits_cnn.md").read_text()
    assert text.count("\n# digits_cnn") == 1 and text.count("| burst range K=5 |") == 2
    assert cards.first_part(text).count("| burst range K=5 |") == 1


def test_what_a_network_cannot_do_is_said_and_left_out(tmp_path, capsys):
    study = table.Study(_arguments(tmp_path, budget=1e-6, seeds=[0]))
    assert table.run(study) == 0
    said = capsys.readouterr().out
    assert "codes: allocated counts, T=2, seed 0: refused: AllocateCounts" in said
    assert "| allocated counts |" not in (tmp_path / "out" / "digits_cnn.md").read_text()


def test_tuned_recipe_is_chosen_once_and_tables_of_other_groups_stay(tmp_path, monkeypatch):
    only = (rows.Target("signed2", tp.Signed(2), {2: 1.5}, tp.Refining(2)),)
    for module in (rows, method_text):
        monkeypatch.setattr(module, "TARGETS", only)
    for group in ("pooling", "targets"):
        table.run(table.Study(_arguments(tmp_path, groups=[group], seeds=[0])))
    text = (tmp_path / "out" / "digits_cnn.md").read_text()
    assert "## Pooling" in text and "## Targets" in text and "1 seed |" in text
    file = tmp_path / "out" / "digits_cnn-recipes.jsonl"
    steady, refining = Records(file).all()
    assert (steady["refining"], refining["refining"]) == (False, True)
    recipe, other = (tp.Recipe.from_dict(one["recipe"]) for one in (steady, refining))
    assert recipe.neuron == tp.Signed(2) and f"- signed2 tuned, T=2: {recipe.name}" in text
    assert f"- signed2 refining tuned, T=2: {other.name}" in text
    before = file.read_bytes()
    table.run(table.Study(_arguments(tmp_path, groups=["targets"])))
    assert file.read_bytes() == before
    assert "2 seeds |" in (tmp_path / "out" / "digits_cnn.md").read_text()


def test_average_pooling_goes_in_the_place_of_max_pooling():
    torch.manual_seed(0)
    model = build_model("digits_cnn")
    changed = table.averaged(model)
    pools = [name for name, m in model.named_modules() if isinstance(m, torch.nn.MaxPool2d)]
    assert pools
    for name in pools:
        old, new = model.get_submodule(name), changed.get_submodule(name)
        assert isinstance(old, torch.nn.MaxPool2d) and isinstance(new, torch.nn.AvgPool2d)
        x = torch.randn(2, 3, 8, 8)
        assert new(x).shape == old(x).shape
    with pytest.raises(ValueError, match="no nn.MaxPool2d"):
        table.averaged(build_model("resnet20"))


def test_binary_share_of_single_spikes_is_one():
    x = torch.randn(8, 2, 8, 8)
    model = torch.nn.Sequential(torch.nn.Conv2d(2, 3, 3), torch.nn.ReLU())
    assert table.binary_share(tp.convert(model, [x]), x, 4) == 1.0
    several = tp.convert(model, [x], neuron=tp.Burst(7, mode="resolution"))
    assert 0.1 < table.binary_share(several, x, 4) < 1.0

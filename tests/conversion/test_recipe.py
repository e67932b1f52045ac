"""A recipe holds the settings of a conversion, as a value and as a file."""

import json
from pathlib import Path

import pytest
import torch

import nets
import transpike as tp

NEURONS = [
    tp.IF(initial_membrane=0.25),
    tp.Burst(5),
    tp.Burst(3, mode="resolution"),
    tp.Signed(4),
    tp.MultiThreshold(3, signed=True),
    tp.Differential(12, 2),
    tp.Refining(2, 4, levels=8, period=3),
    tp.Staggered(4, 4, levels=5, window=3, lag=2, hysteresis=0.25),
    tp.Telescoped(2),
]
RULES = [
    tp.MaxAbs("layer"),
    tp.UpperBound(),
    tp.Percentile(99.5),
    tp.LeastSquares(),
    tp.LeastSquares(16, "layer"),
    tp.GaussianIteration(8),
    tp.LocalThresholdBalancing(200, 0.25),
]
PASSES = (
    tp.AllocateCounts(1.5),
    tp.SiteSearch(2, 1.5),
    tp.BiasCorrection(4),
    tp.MembraneCorrection(),
    tp.Distillation(2, 0.05),
    tp.DelayedReadout(),
)


def _saved(tmp_path, **changes):
    """Write the file of a recipe with some entries changed, and return its path."""
    content = {**tp.Recipe(4, tp.IF(), tp.MaxAbs()).to_dict(), **changes}
    file = tmp_path / "r.json"
    file.write_text(json.dumps(content))
    return file


@pytest.mark.parametrize("neuron", NEURONS, ids=lambda neuron: neuron.name)
@pytest.mark.parametrize("rule", RULES, ids=lambda rule: f"{type(rule).__name__}")
def test_a_file_gives_the_same_recipe(tmp_path, neuron, rule):
    recipe = tp.Recipe(6, neuron, rule, PASSES, {"by": "hand", "n": 3})
    recipe.save(tmp_path / "folder" / "r.json")
    loaded = tp.Recipe.load(tmp_path / "folder" / "r.json")
    assert loaded == recipe and hash(loaded) == hash(recipe)
    assert loaded.found == {"by": "hand", "n": 3}


def test_how_it_was_found_makes_no_other_recipe():
    plain = tp.Recipe(4, tp.IF(), tp.MaxAbs())
    assert plain == tp.Recipe(4, tp.IF(), tp.MaxAbs(), (), {"by": "hand"})
    assert plain != tp.Recipe(5, tp.IF(), tp.MaxAbs())
    assert plain != tp.Recipe(4, tp.IF(), tp.MaxAbs(), (tp.BiasCorrection(),))


def test_passes_may_be_a_list_as_in_convert():
    one = [tp.BiasCorrection()]
    assert tp.Recipe(4, tp.IF(), tp.MaxAbs(), one) == tp.Recipe(4, tp.IF(), tp.MaxAbs(), (*one,))


def test_converting_by_a_recipe_is_converting_with_its_parts():
    network, calibration = nets.captured("residual")
    x = torch.randn(10, *nets.IMAGE, dtype=torch.float64)
    passes = (tp.BiasCorrection(), tp.DelayedReadout())
    recipe = tp.Recipe(5, tp.Signed(2), tp.LeastSquares(), passes)
    by_hand = tp.convert(
        network,
        calibration,
        neuron=tp.Signed(2),
        threshold=tp.LeastSquares(),
        timesteps=5,
        passes=passes,
        batches=[x],
    )
    made = recipe.convert(network, [x], calibration=calibration)
    nets.same_simulation(tp.simulate(made, x, 5), tp.simulate(by_hand, x, 5))
    assert made.settings == by_hand.settings


def test_without_statistics_the_batches_are_calibrated_on():
    network, _ = nets.captured("conv2d")
    batches = list(torch.randn(3, 4, *nets.CONV_NET_INPUT, dtype=torch.float64))
    recipe = tp.Recipe(4, tp.IF(), tp.Percentile(99), [tp.BiasCorrection()])
    alone = recipe.convert(network, (batch for batch in batches))
    given = recipe.convert(network, batches, calibration=tp.calibrate(network, batches))
    x = torch.cat(batches)
    nets.same_simulation(tp.simulate(alone, x, 4), tp.simulate(given, x, 4))


def test_a_recipe_is_for_at_least_one_timestep():
    with pytest.raises(tp.ArgumentError, match="timesteps"):
        tp.Recipe(0, tp.IF(), tp.MaxAbs())


def test_name_says_what_is_in_it():
    recipe = tp.Recipe(8, tp.Signed(1), tp.LeastSquares(granularity="layer"), PASSES[1:3])
    assert recipe.name == "signed + LeastSquares per layer + SiteSearch + BiasCorrection"


@pytest.mark.parametrize(
    ("settings", "remedy"),
    [
        ((tp.Signed, tp.MaxAbs()), r"neuron: .* got Signed itself. Call it: tp\.Signed\(1\)"),
        ((tp.IF(), tp.LeastSquares), r"threshold: .* itself. Call it: tp\.LeastSquares\(\)"),
        ((tp.IF(), tp.MaxAbs(), [tp.SiteSearch]), r"passes: .* Call it: tp\.SiteSearch\(3\)"),
        ((tp.IF(), "max"), r"threshold: needed a rule such as Percentile\(99.9\), got 'max'"),
    ],
)
def test_settings_are_refused_as_convert_refuses_them(settings, remedy):
    with pytest.raises(tp.ArgumentError, match=remedy):
        tp.Recipe(4, *settings)
    neuron, rule, *passes = settings
    with pytest.raises(tp.ArgumentError, match=remedy):
        tp.convert(
            nets.conv_net(),
            [torch.rand(4, 2, 8, 8)],
            neuron=neuron,
            threshold=rule,
            timesteps=4,
            passes=passes[0] if passes else (),
        )


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"format": "transpike network"}'])
def test_other_files_are_refused(tmp_path, text):
    file = tmp_path / "other.json"
    file.write_text(text)
    with pytest.raises(tp.FileError, match=r"recipe .*other.json|other.json.* is not a recipe"):
        tp.Recipe.load(file)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(tp.FileError, match=r"cannot read the recipe .*absent.json"):
        tp.Recipe.load(tmp_path / "absent.json")


def test_another_schema_is_refused(tmp_path):
    with pytest.raises(tp.FileError, match="needed schema 1 or 2, got 3"):
        tp.Recipe.load(_saved(tmp_path, schema=3))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"threshold": {"rule": "Mean"}}, "Mean"),
        ({"threshold": {"rule": "MaxAbs", "granularity": "pixel"}}, "needed 'channel' or 'layer'"),
        ({"neuron": {"max_count": 0}}, "max_count"),
        ({"neuron": {"leak": 0.5}}, "leak"),
        ({"passes": [{"pass": "WeightCorrection"}]}, "WeightCorrection"),
        ({"passes": [{"pass": "BiasCorrection", "rounds": 0}]}, "rounds"),
        ({"passes": None}, "NoneType"),
        ({"timesteps": "many"}, "timesteps"),
    ],
)
def test_a_damaged_recipe_is_refused_by_what_is_wrong(tmp_path, changes, what):
    with pytest.raises(tp.FileError, match=f"is damaged: .*{what}"):
        tp.Recipe.load(_saved(tmp_path, **changes))
    assert tp.Recipe.load(_saved(tmp_path)) == tp.Recipe(4, tp.IF(), tp.MaxAbs())


def test_a_recipe_that_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(tp.FileError, match="cannot write"):
        tp.Recipe(4, tp.IF(), tp.MaxAbs()).save(tmp_path)


def test_recipes_of_the_version_with_flat_fields_are_read():
    """Commit b8d493c wrote this file."""
    file = Path(__file__).parents[1] / "spiking" / "saved" / "recipe_b8d493c.json"
    recipe = tp.Recipe.load(file)
    assert recipe.neuron == tp.Refining(2, period=2)
    assert recipe.neuron.schedule == tp.Schedule(ratio=2, period=2)


@pytest.mark.parametrize("key", ["calibrate", "passes"])
def test_recipes_of_schema_1_are_read(tmp_path, key):
    """Versions before 0.1 wrote schema 1, with the passes under either key."""
    recipe = tp.Recipe(4, tp.Signed(1), tp.MaxAbs(), passes=(tp.BiasCorrection(rounds=2),))
    content = recipe.to_dict()
    # Versions that read only the key "calibrate" refuse this schema by name.
    assert content["schema"] == 2
    content |= {"schema": 1, key: content.pop("passes")}
    assert tp.Recipe.from_dict(content) == recipe
    (tmp_path / "r.json").write_text(json.dumps(content))
    assert tp.Recipe.load(tmp_path / "r.json") == recipe

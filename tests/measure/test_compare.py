"""A comparison has the numbers that each method gives alone, on the same samples."""

import json

import pytest
import torch

import nets
import transpike as tp

T = 3


@pytest.fixture(scope="module")
def data():
    """Return training and test batches; all but three labels are the network's own classes."""
    torch.manual_seed(2)
    x = torch.randn(32, *nets.CONV_NET_INPUT, dtype=torch.float64)
    network, _ = nets.captured("conv2d")
    test = torch.randn(18, *nets.CONV_NET_INPUT, dtype=torch.float64)
    labels = network(test).argmax(1)
    labels[:3] = (labels[:3] + 1) % 5
    return list(x.split(8)), list(zip(test.split(12), labels.split(12), strict=True))


@pytest.fixture(scope="module")
def table(data):
    network, _ = nets.captured("conv2d")
    return tp.compare(network, *data, tp.methods(T, max_count=2))


def test_every_method_has_its_row(table):
    assert [row.name for row in table.rows] == list(tp.methods(T, max_count=2))
    assert table.calibration_n == 32
    assert all(row.evaluation.n == 18 and row.first_batch == 12 for row in table.rows)
    assert {row.evaluation.ann_accuracy for row in table.rows} == {15 / 18}


def test_a_row_holds_what_evaluate_gives(table, data):
    network, _ = nets.captured("conv2d")
    training, test = data
    for row in table.rows:
        snn = row.recipe.convert(network, training)
        assert row.evaluation == tp.evaluate(snn, test, T)


def test_spikes_are_those_of_the_slow_reference(table, data):
    """A count n is |n| unit spikes, or one binary spike per bit set in |n|."""
    network, _ = nets.captured("conv2d")
    training, test = data
    x = test[0][0]
    for row in table.rows:
        snn = row.recipe.convert(network, training)
        sites = [site.name for site in network.sites]
        run = tp.simulate_reference(snn, x, T, record=tp.Record(sites=sites))
        unit = binary = 0
        for name in sites:
            for count in run.records[name].counts.abs().flatten().int().tolist():
                unit += count
                binary += count.bit_count()
        assert row.unit == pytest.approx(unit / network.neurons / 12)
        assert row.binary == pytest.approx(binary / network.neurons / 12)
    assert any(row.binary < row.unit for row in table.rows)


@pytest.mark.parametrize("max_count", [1, 2, 3, 8])
def test_methods_are_all_different_and_keep_to_the_budget(max_count):
    recipes = tp.methods(4, max_count)
    assert len(set(recipes.values())) == len(recipes)
    assert all(recipe.timesteps == 4 for recipe in recipes.values())
    for name, recipe in recipes.items():
        limit = max(2, max_count) if "burst" in name else max_count
        assert recipe.neuron.max_count <= limit, name


@pytest.mark.parametrize("max_count", [1, 2])
@pytest.mark.parametrize("depth, there", [(None, False), (4, False), (3, True)])
def test_layers_fire_in_turn_where_the_timesteps_are_enough(depth, there, max_count):
    recipes = tp.methods(4, max_count, depth).values()
    found = [one.neuron.schedule.window for one in recipes if one.neuron.schedule.window]
    assert found == ([2] if there else [])
    longest = [
        one.neuron.schedule.window
        for one in tp.methods(40, 2, 3).values()
        if one.neuron.schedule.window
    ]
    assert longest == [7]


def test_text_and_json_hold_every_row(table):
    lines = str(table).splitlines()
    assert lines[0] == "ANN 83.33 %, n=18, calibrated on 32 training inputs"
    assert lines[1].startswith("unit, binary: spikes per neuron up to T on the first ")
    assert len(lines) == 3 + len(table.rows)
    for line, row in zip(lines[3:], table.rows, strict=True):
        assert line.endswith(row.name) and f"{100 * row.evaluation.accuracy[-1]:.2f}" in line
    content = json.loads(json.dumps(table.to_dict()))
    assert [row["name"] for row in content["rows"]] == [row.name for row in table.rows]
    assert content["rows"][0]["evaluation"]["n"] == 18


def test_a_module_with_recipes_of_other_timesteps(data):
    training, test = data
    model = nets.build("conv2d")
    before = nets.state_hash(model)
    recipes = {f"T={t}": tp.Recipe(t, tp.Signed(1), tp.Percentile(99)) for t in (1, 4)}
    seen = []
    result = tp.compare(
        model, training, test, recipes, progress=lambda done, total: seen.append((done, total))
    )
    assert [row.evaluation.timesteps for row in result.rows] == [1, 4]
    assert seen == [(1, 2), (2, 2)] and nets.state_hash(model) == before


def test_without_recipes_or_data_there_is_no_table(data):
    network, _ = nets.captured("conv2d")
    training, test = data
    with pytest.raises(tp.ArgumentError, match=r"such as methods\(timesteps=8\)"):
        tp.compare(network, training, test, {})
    recipes = {"plain": tp.Recipe(2, tp.IF(), tp.MaxAbs())}
    for pair in ([], test), (training, []):
        with pytest.raises(tp.DataError, match="at least one batch of training and of test data"):
            tp.compare(network, *pair, recipes)
    assert tp.compare(network, training, test, recipes).rows

"""Every page of the stored results is what its program writes from the records."""

from pathlib import Path
from types import SimpleNamespace

import pytest

import transpike as tp
from benchmarks.methods import resnet20_curves
from benchmarks.peers import points, spikes_figure
from benchmarks.timing import engine
from benchmarks.unet import study, tables
from transpike.study.records import Records

RESULTS = Path(__file__).resolve().parents[2] / "results"


def _records(name):
    found = Records(RESULTS / f"{name}.jsonl").all()
    assert found
    return found


def test_the_page_of_the_engine_is_that_of_its_records():
    assert engine.document(_records("engine"), []) == (RESULTS / "engine.md").read_text()


def test_the_page_of_the_unet_is_that_of_its_records():
    records = (_records(name) for name in ("unet", "unet-causes", "unet-recipes"))
    assert tables.document(*records) == (RESULTS / "unet.md").read_text()


def test_the_page_of_spikes_is_that_of_its_records():
    mine = points.ours(_records("methods/resnet20"), 1024)
    text = spikes_figure.document(mine + points.peers(_records("peers")))
    assert text == (RESULTS / "spikes.md").read_text()


def test_the_page_of_the_curves_is_that_of_its_records():
    args = SimpleNamespace(seed=0, calibration_size=512, limit=1000, timesteps=64)
    found = resnet20_curves.stored(Records(RESULTS / "resnet20_curves.jsonl"), args)
    assert found.keys() == resnet20_curves.SETTINGS.keys()
    (ann,) = [one for one in _records("resnet20_curves") if one["name"] == resnet20_curves.ANN]
    assert resnet20_curves.table(ann, found) == (RESULTS / "resnet20_curves.md").read_text()
    args.limit = 999
    assert resnet20_curves.stored(Records(RESULTS / "resnet20_curves.jsonl"), args) == {}


@pytest.mark.parametrize(
    ("name", "settings"), [("unet", study.SETTINGS), ("unet-causes", study.CAUSES)]
)
def test_stored_slices_are_those_of_today_s_settings(name, settings):
    tuned = {one["name"]: one["recipe"] for one in _records("unet-recipes")}
    by_name = {setting.name: setting for setting in settings}
    recipes = {}
    for record in _records(name):
        setting = by_name[record["name"]]
        wanted = tp.Recipe.from_dict(tuned[setting.name]) if setting.tuned else setting.recipe
        asked = {**record["asked"], "recipe": {**wanted.to_dict(), "found": {}}}
        assert study.comparable(record["asked"]) == study.comparable(asked)
        assert record["asked"].get("varied", False) == setting.varied
        assert record["asked"]["calibration"].endswith(f"seed {record['seed']}")
        recipes[setting.name] = wanted
    assert by_name.keys() - recipes.keys() <= {"signed1-plain"}  # It is not measured yet.

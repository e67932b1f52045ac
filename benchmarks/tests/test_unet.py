"""The study of the U-Net measures masks correctly, and it resumes slice by slice."""

from types import SimpleNamespace

import pytest
import torch

import transpike as tp
from benchmarks.unet import study, tables
from transpike.study.records import Records

LABEL = torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0]]).bool()


def test_measures_of_a_mask():
    found = study.counts(torch.tensor([[1, 0, 1, 0], [1, 0, 0, 0]]).bool(), LABEL)
    assert found == [2, 1, 4, 1]
    assert tables.f1(found) == pytest.approx(2 / 3) and tables.jaccard(found) == 0.5
    assert tables.accuracy(found) == 0.75
    assert tables.added([found, found]) == [4, 2, 8, 2]


def test_a_map_is_rescaled_to_its_smallest_and_largest_pixel():
    assert study.rescaled(torch.tensor([1.0, 3.0, 2.0])).tolist() == [0.0, 1.0, 0.5]
    assert study.rescaled(torch.full((3,), 0.2)).tolist() == [1.0, 1.0, 1.0]
    assert study.soft_dice(LABEL.float(), LABEL.float()) == 1.0
    assert study.soft_dice(torch.zeros(2, 4), LABEL.float()) == 0.25  # 1 / (3 + 1)


@pytest.mark.parametrize(("total", "wanted"), [(55, 5), (55, 55), (3, 9), (7, 1)])
def test_slices_are_spread_from_the_first_to_the_last(total, wanted):
    found = study.spread_out(total, wanted)
    assert found == sorted(set(found)) and len(found) == min(total, wanted) and found[0] == 0
    assert wanted == 1 or found[-1] == total - 1


class _Study:
    """A stand-in for the network and its data."""

    def __init__(self, seed=0):
        self.asked, self.about = {"width": 4, "weights_sha256": "0"}, {"slices": 3}
        self.args = SimpleNamespace(seed=seed, calibration_size=2)
        self.converted = 0

    def recipe(self, setting):
        return setting.recipe

    def calibration(self, setting):
        return 2, f"2 tiles, seed {self.args.seed}"

    def convert(self, recipe, setting):
        self.converted += 1

    def slice(self, index):
        return index, index


def test_a_slice_is_measured_once_with_the_same_settings(tmp_path):
    records = Records(tmp_path / "unet.jsonl")
    setting = study.Setting("one", tp.Recipe(2, tp.Signed(1), tp.Percentile(99.9)))
    asked = []

    def measure(snn, x, label, points):
        asked.append((x, points))
        return {"x": x}

    study.fill(_Study(), records, setting, [0, 2], 2, measure)
    assert asked == [(0, [1, 2]), (2, [1, 2])]
    again = _Study()
    study.fill(again, records, setting, [0, 1, 2], 2, measure)
    assert asked[2:] == [(1, [1, 2])] and again.converted == 1
    study.fill(again, records, setting, [0, 1, 2], 2, measure)
    assert len(asked) == 3 and again.converted == 1
    study.fill(_Study(seed=1), records, setting, [0], 2, measure)
    study.fill(_Study(), records, setting, [0], 1, measure)
    assert asked[3:] == [(0, [1, 2]), (0, [1])]
    assert [(r["slice"], r["seed"]) for r in records.all()] == [
        (0, 0),
        (2, 0),
        (1, 0),
        (0, 1),
        (0, 0),
    ]

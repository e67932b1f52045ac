"""Files of results are recognized by their content; foreign and damaged ones are refused."""

import json

import pytest
import torch
from report_page import write
from torch import nn

import transpike as tp
from transpike.report import read_results, text


def test_two_evaluations_of_one_name_can_be_told_apart(folder, tmp_path):
    twin = write(tmp_path / "twin.json", json.loads((folder / "evaluate.json").read_text()))
    names = [one.name for one in read_results([folder / "evaluate.json", twin]).evaluations]
    assert names == ["digits_cnn, IF (evaluate)", "digits_cnn, IF (twin)"]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ({"a": 1}, "is no result that a report can show"),
        ([1, 2], "is no result that a report can show"),
        ({"timesteps": 4, "accuracy": [0.5], "ann_accuracy": 1.0, "quantized": {}}, "'accuracy'"),
        ({"sites": [], "output": {}, "findings": [], "advice": ""}, "it has no sites"),
        ({"sites": 3, "output": {}, "findings": [], "advice": ""}, "it has no sites"),
        (
            {
                "sites": [],
                "operations": [],
                "energy": [{"table": "mine", "snn_pj": 1.0}],
                "energy_tables": {"mine": {"multiply_pj": 1.0, "source": ""}},
            },
            "'mine' has no source",
        ),
        ({"rows": [{"name": "a"}], "calibration_n": 3}, "holds no evaluation"),
        ({"trials": [3], "pareto": [], "recipe": {}}, "is damaged"),
    ],
)
def test_foreign_and_damaged_files_are_refused_by_name(tmp_path, content, reason):
    file = write(tmp_path / "odd.json", content)
    with pytest.raises(tp.FileError, match=reason) as caught:
        read_results([tmp_path])
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("reading, agreement", [("scores", "%"), ("values", "–")])
def test_a_tuning_is_shown_with_what_it_measured(tmp_path, reading, agreement):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).eval()
    result = tp.tune(model, [torch.randn(104, 4)], timesteps=2, signed=True, reading=reading)
    file = write(tmp_path / "t.json", result.to_dict())
    (found,) = read_results([file]).of("tuning")
    table = text.tuning_table(found.content)
    assert len(table.rows) == min(len(result.trials), text._TRIALS)
    for row, trial in zip(table.rows, result.trials, strict=False):
        assert row[0] == trial.recipe.name and row[2].endswith(agreement)
    assert ("95 % interval of the agreement" in table.caption) == (reading == "scores")
    apart = result.lead is None or result.lead.told_apart
    assert ("cannot be told apart from the runner-up" in table.caption) == (not apart)
    earlier = {key: value for key, value in found.content.items() if key != "lead"}
    earlier["trials"] = [
        {key: value for key, value in trial.items() if key != "agreement_interval"}
        for trial in earlier["trials"]
    ]
    assert text.tuning_table(earlier).caption.endswith("on held-out training inputs.")
    wrong = write(tmp_path / "w.json", {**result.to_dict(), "trials": [{"name": "a", "n": 3}]})
    with pytest.raises(tp.FileError, match="a trial lacks its name or a number"):
        read_results([wrong])


def test_files_named_one_by_one_leave_a_foreign_file_out(folder, tmp_path):
    """The message names this remedy."""
    write(tmp_path / "odd.json", {"a": 1})
    write(tmp_path / "e.json", json.loads((folder / "evaluate.json").read_text()))
    with pytest.raises(tp.FileError, match="Name the files to show one by one"):
        read_results([tmp_path])
    assert len(read_results([tmp_path / "e.json"]).evaluations) == 1


def test_missing_empty_and_unreadable(tmp_path):
    with pytest.raises(tp.ArgumentError, match="at least one file or folder"):
        read_results([])
    with pytest.raises(tp.FileError, match="holds no JSON file"):
        read_results([tmp_path])
    with pytest.raises(tp.FileError, match="cannot read"):
        read_results([tmp_path / "no.json"])
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(tp.FileError, match="cannot read"):
        read_results([tmp_path / "x.json"])

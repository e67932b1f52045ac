"""A study that is killed repeats nothing, loses nothing, and ends with the same tables."""

from __future__ import annotations

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import transpike as tp
from transpike.data import open_data
from transpike.study import read_study, report_study, run_study, study_status
from transpike.study import run as runner
from transpike.study.cells import cells_of
from transpike.study.config import study_of
from transpike.zoo.models import build_model

pytest.importorskip("sklearn")

METHODS = [
    {"name": "study", "neuron": "burst:5", "threshold": "percentile:99", "granularity": "layer"},
    {"name": "signed", "neuron": "signed:8", "threshold": "lsq"},
]
METHODS[0]["initial_membrane"] = 0.0  # type: ignore[assignment]


def _content(folder: Path, **changes: Any) -> dict[str, Any]:
    """A grid of two training seeds, two methods and two T on 60 digits in four shards."""
    for seed in (0, 1):
        torch.manual_seed(seed)
        file = folder / f"digits-{seed}.safetensors"
        if not file.exists():
            save_file(build_model("digits_cnn").state_dict(), file)
    weights = str(folder / "digits-{seed}.safetensors")
    network = {"name": "digits", "model": "digits_cnn", "weights": weights, "seeds": [0, 1]}
    content = {
        "data": "digits",
        "networks": [network],
        "methods": METHODS,
        "timesteps": [2, 4],
        "calibration": 32,
        "test": 60,
        "shard": 15,
        "batch_size": 10,
    }
    return {**content, **changes}


def _file(folder: Path, **changes: Any) -> Path:
    """The grid as a file; JSON is YAML."""
    file = folder / "study.yaml"
    file.write_text(json.dumps(_content(folder, **changes)))
    return file


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def whole(weights: Path) -> Path:
    """The results of a run that was not interrupted."""
    folder = weights / "whole"
    assert run_study(read_study(_file(weights)), folder) == []
    report_study(folder)
    return folder


def _tables(folder: Path) -> tuple[bytes, bytes]:
    report_study(folder)
    return (folder / "table.md").read_bytes(), (folder / "cells.csv").read_bytes()


def _cells(folder: Path) -> list[dict[str, str]]:
    with (folder / "cells.csv").open() as file:
        return list(csv.DictReader(file))


def test_every_cell_has_the_numbers_of_a_single_evaluation(weights: Path, whole: Path) -> None:
    cells = _cells(whole)
    labels = [(cell["seed"], cell["method"], cell["timesteps"]) for cell in cells]
    assert labels == [(s, m, t) for s in "01" for m in ("study", "signed") for t in "24"]
    chosen = next(
        c for c in cells if (c["seed"], c["method"], c["timesteps"]) == ("1", "signed", "4")
    )
    data = open_data("digits")
    model = build_model("digits_cnn", weights / "digits-1.safetensors")
    images = [x for x, _ in data.train.subset(32, 0).batches(64)]
    recipe = tp.Recipe(4, tp.Signed(8), tp.LeastSquares())
    snn = recipe.convert(tp.capture(model, images[0]), images)
    result = tp.evaluate(snn, data.test.subset(60, 0).batches(10), 4)
    assert float(chosen["accuracy"]) == pytest.approx(result.accuracy[-1])
    assert float(chosen["ann_accuracy"]) == pytest.approx(result.ann_accuracy)
    assert float(chosen["quantized"]) == pytest.approx(result.quantized["4"])
    assert float(chosen["agree"]) == pytest.approx(result.agreement[-1])
    assert float(chosen["spikes_per_neuron"]) == pytest.approx(result.spikes_per_neuron[-1])
    assert int(chosen["max_count"]) == 8


def test_the_table_says_what_its_numbers_hold_for(whole: Path) -> None:
    lines = (whole / "table.md").read_text().splitlines()
    heads, _, *rows = [line.split(" | ") for line in lines if line.startswith("|")]
    assert len(rows) == 4 and all(len(row) == len(heads) for row in rows)
    row = dict(zip(heads, rows[0], strict=True))
    assert (row["T"], row["K"], row["n"], row["training seeds"]) == ("2", "5", "60", "0, 1")
    assert row["calibration"] == "32 images" and "[" in row["loss [95 %]"]
    assert study_status(whole) == "8 of 8 cells complete, 32 of 32 shards stored"


def test_a_second_run_repeats_nothing(weights: Path, whole: Path) -> None:
    before = (whole / "records.jsonl").read_bytes()
    assert run_study(read_study(_file(weights)), whole) == []
    assert (whole / "records.jsonl").read_bytes() == before
    assert sorted(file.name for file in whole.iterdir()) == [
        "cells.csv",
        "plan.json",
        "records.jsonl",
        "table.md",
    ]


def test_a_larger_grid_measures_only_its_new_cells(weights: Path, whole: Path) -> None:
    before = (whole / "records.jsonl").read_text()
    methods = [*METHODS, {"name": "if", "neuron": "if", "timesteps": [2]}]
    run_study(read_study(_file(weights, methods=methods)), whole)
    after = (whole / "records.jsonl").read_text()
    assert after.startswith(before) and len(after.splitlines()) == len(before.splitlines()) + 8
    assert run_study(read_study(_file(weights)), whole) == []  # the plan of the other tests


@pytest.mark.parametrize(
    ("change", "new"),
    [
        ({"test_draw": 1}, True),
        ({"calibration": 31}, True),
        ({"shard": 20}, True),
        ({"networks": [{"name": "other", "model": "digits_cnn", "weights": "w"}]}, False),
        ({"contrasts": [["digits", "digits"]]}, False),
    ],
)
def test_a_cell_is_addressed_by_what_decides_its_result(
    weights: Path, whole: Path, change: dict[str, Any], new: bool
) -> None:
    if "networks" in change:  # another label for the same weights
        file = str(weights / "digits-{seed}.safetensors")
        change = {"networks": [{**change["networks"][0], "weights": file, "seeds": [0, 1]}]}
    keys = {cell["key"] for cell in _cells(whole)}
    found = {cell.key for cell in cells_of(study_of(_content(weights, **change), "here"))}
    assert found.isdisjoint(keys) if new else found == keys


def test_shards_do_not_change_the_numbers(weights: Path, whole: Path, tmp_path: Path) -> None:
    methods = METHODS[1:]
    run_study(read_study(_file(weights, methods=methods, shard=60)), tmp_path)
    report_study(tmp_path)
    names = ("accuracy", "loss", "agree", "quantized")
    one = [[cell[name] for name in names] for cell in _cells(tmp_path)]
    four = [[c[name] for name in names] for c in _cells(whole) if c["method"] == "signed"]
    assert one == four


def _start(config: Path, folder: Path, *options: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "transpike", "study", "run", str(config), "-o", str(folder)]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    return subprocess.Popen([*command, *options], **quiet)  # type: ignore[call-overload, no-any-return]


def _wait_for(folder: Path, shards: int, process: subprocess.Popen[bytes]) -> None:
    records = folder / "records.jsonl"
    while process.poll() is None:
        if records.exists() and len(records.read_bytes().splitlines()) >= shards:
            return
        time.sleep(0.002)


def _stored(folder: Path) -> int:
    return len((folder / "records.jsonl").read_bytes().splitlines())


def _stop_at_random(weights: Path, folder: Path, kills: int) -> None:
    """Kill a run `kills` times, at random points, each after at least one more shard."""
    config, chance = _file(weights), random.Random(kills)
    for number in range(kills):
        process = _start(config, folder)
        before = _stored(folder) if number else 0
        _wait_for(folder, before + 1, process)
        time.sleep(chance.random() * 0.1)
        process.kill()
        process.wait()
    assert run_study(read_study(config), folder) == []


def _assert_nothing_was_repeated(folder: Path) -> None:
    records = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    names = [(record["cell"], record["shard"]) for record in records]
    assert len(names) == len(set(names)) == 32


def test_a_killed_run_ends_with_the_same_tables(weights: Path, whole: Path, tmp_path: Path) -> None:
    _stop_at_random(weights, tmp_path, 2)
    assert _tables(tmp_path) == _tables(whole)
    _assert_nothing_was_repeated(tmp_path)


@pytest.mark.slow
def test_a_run_killed_twenty_times_ends_with_the_same_tables(
    weights: Path, whole: Path, tmp_path: Path
) -> None:
    _stop_at_random(weights, tmp_path, 20)
    assert _tables(tmp_path) == _tables(whole)
    _assert_nothing_was_repeated(tmp_path)


def test_sigterm_ends_a_run_cleanly(weights: Path, whole: Path, tmp_path: Path) -> None:
    config = _file(weights)
    process = _start(config, tmp_path)
    _wait_for(tmp_path, 3, process)
    process.terminate()
    assert process.wait() == runner.TERMINATED
    assert (tmp_path / "records.jsonl").read_bytes().endswith(b"\n")
    assert run_study(read_study(config), tmp_path) == []
    assert _tables(tmp_path) == _tables(whole)


def test_two_workers_give_the_tables_of_one_though_one_is_killed(
    weights: Path, whole: Path, tmp_path: Path
) -> None:
    process = _start(_file(weights), tmp_path, "--workers", "2")
    _wait_for(tmp_path, 1, process)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    for child in children:
        if "spawn_main" in Path(f"/proc/{child}/cmdline").read_text():
            os.kill(int(child), signal.SIGKILL)
            break
    assert process.wait() == 0
    assert _tables(tmp_path) == _tables(whole)


@pytest.mark.parametrize("name", ["convert", "measure"])
def test_failures_are_recorded_retried_and_shown(
    weights: Path, whole: Path, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    original = getattr(runner._Bench, name)

    def fails_for_one_cell(self: Any, cell: Any, *part: Any) -> Any:
        if (cell.seed, cell.method, cell.timesteps) == (1, "study", 4):
            calls.append(part)
            raise tp.DataError("needed | luck,\n got none.")
        return original(self, cell, *part)

    study = read_study(_file(weights))
    with monkeypatch.context() as patched:
        patched.setattr(runner._Bench, name, fails_for_one_cell)
        (failed,) = run_study(study, tmp_path)
    assert len(calls) == runner.ATTEMPTS and (failed.seed, failed.method) == (1, "study")
    table = report_study(tmp_path)
    assert "1 of 2 cells; failed: DataError: needed / luck, got none." in table
    assert "7 of 8 cells complete" in study_status(tmp_path)
    assert "failed 2 times: digits, supervised, seed 1, study, T=4" in study_status(tmp_path)
    assert run_study(study, tmp_path) == []
    assert _tables(tmp_path) == _tables(whole)


def test_a_damaged_conversion_is_made_again(weights: Path, tmp_path: Path) -> None:
    study = read_study(_file(weights, methods=METHODS[1:], timesteps=[2]))
    for cell in cells_of(study):
        (tmp_path / "converted" / cell.key).mkdir(parents=True)
    assert run_study(study, tmp_path) == []
    assert "2 of 2 cells complete" in study_status(tmp_path)


def test_contrasts_compare_losses_on_the_same_images(weights: Path, tmp_path: Path) -> None:
    networks = [
        {
            "name": name,
            "model": "digits_cnn",
            "weights": str(weights / f"digits-{seed}.safetensors"),
        }
        for name, seed in (("one", 0), ("two", 1))
    ]
    changes = {"networks": networks, "methods": METHODS[:1], "timesteps": [2]}
    study = read_study(_file(weights, **changes, contrasts=[["one", "two"]]))
    run_study(study, tmp_path)
    line = next(line for line in report_study(tmp_path).splitlines() if "one minus two" in line)
    one, two = (float(cell["loss"]) for cell in _cells(tmp_path))
    assert f"| {100 * (one - two):.2f} [" in line


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"methods": []}, "methods: needed a list of at least one entry, got \\[\\]"),
        ({"methods": METHODS[:1] * 2}, "methods: needed different names, got 'study' twice"),
        (
            {"methods": [{"name": "x"}]},
            "entry 1: needed name, neuron, got none for neuron",
        ),
        ({"methods": [{"name": "x", "neuron": "burst:0"}]}, "max_count: needed an integer >= 1"),
        ({"methods": [{"name": "x", "neuron": "if", "k": 1}]}, "needed fields among .*, got k"),
        ({"data": None, "timesteps": []}, "timesteps: needed a list of different whole numbers"),
        ({"networks": [3]}, "networks, entry 1: needed a mapping, got 3"),
        ({"timesteps": [4, 4]}, "timesteps: needed a list of different whole numbers, got"),
        ({"timesteps": 4}, "timesteps: needed a list of different whole numbers, got 4"),
        ({"draws": [True]}, "draws: needed a list of different whole numbers, got"),
        ({"shard": 0}, "shard: needed a number >= 1, got 0"),
        ({"test": "all"}, "test: needed a number >= 1, got 'all'"),
        ({"contrasts": [["digits", "x"]]}, "contrasts: needed pairs of digits, got"),
        ({"epochs": 1}, "needed fields among data, networks, .*, got epochs"),
        (
            {"networks": [{"name": "a", "model": "b", "weights": "c", "seeds": [0, 1]}]},
            "network 'a': needed {seed} in the weights of 2 training seeds, got 'c'",
        ),
    ],
)
def test_a_study_that_is_not_understood_is_refused(
    tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(tp.ArgumentError, match=message):
        study_of(_content(tmp_path, **change), "here")


def test_timesteps_belong_to_the_study_or_to_every_method(tmp_path: Path) -> None:
    content = _content(tmp_path, methods=[{**METHODS[1], "timesteps": [2]}])
    del content["timesteps"]
    assert study_of(content, "here").methods[0].timesteps == (2,)
    content["methods"] += METHODS[:1]
    with pytest.raises(tp.ArgumentError, match="method 'study': needed timesteps, got none"):
        study_of(content, "here")


@pytest.mark.parametrize("name", ["small", "full"])
def test_the_studies_of_the_repository_are_understood(name: str) -> None:
    folder = Path(__file__).parents[2] / "benchmarks" / "study"
    study = read_study(folder / f"{name}.yaml")
    assert study.methods[0].name == "original study"
    assert study.methods[0].recipe(64).neuron == tp.Burst(5, initial_membrane=0.0)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(tp.FileError, match="cannot read the study .*none.yaml"):
        read_study(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [")
    with pytest.raises(tp.FileError, match="cannot read the study .*bad.yaml"):
        read_study(tmp_path / "bad.yaml")
    with pytest.raises(tp.FileError, match="cannot read the study in .*Start it with"):
        study_status(tmp_path)
    network = {"name": "a", "model": "digits_cnn", "weights": "none.safetensors"}
    study = study_of(_content(tmp_path, networks=[network]), "here")
    with pytest.raises(tp.FileError, match="cannot read the weights 'none.safetensors'"):
        run_study(study, tmp_path / "out")
    with pytest.raises(tp.ArgumentError, match="workers: needed at least 1, got 0"):
        run_study(study, tmp_path / "out", workers=0)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(tp.ArgumentError, match="pyyaml is not installed"):
        read_study(tmp_path / "bad.yaml")


def test_flags_of_shards_come_back_in_order(whole: Path) -> None:
    records = [json.loads(line) for line in (whole / "records.jsonl").read_text().splitlines()]
    assert {record["n"] for record in records} == {15}
    assert all(len(bytes.fromhex(record["right"])) == int(np.ceil(15 / 8)) for record in records)

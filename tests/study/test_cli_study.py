"""The study commands print their tables and say how to go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import transpike as tp
from commands import ok, refused, run
from transpike.study import run as runner
from transpike.zoo.models import build_model

pytest.importorskip("sklearn")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    save_file(build_model("digits_cnn").state_dict(), tmp_path / "w.safetensors")
    network = {"name": "one", "model": "digits_cnn", "weights": str(tmp_path / "w.safetensors")}
    content = {
        "data": "digits",
        "networks": [network],
        "methods": [{"name": "signed", "neuron": "signed:8"}],
        "timesteps": [2],
        "calibration": 16,
        "test": 20,
        "shard": 10,
    }
    file = tmp_path / "study.yaml"
    file.write_text(json.dumps(content))
    return file


def test_run_status_and_report(config: Path, tmp_path: Path) -> None:
    table = ok("study", "run", config, "-o", tmp_path / "out").stdout
    assert "| one | supervised | signed | 2 | 8 | 20 |" in table
    assert ok("study", "status", tmp_path / "out").stdout.startswith(
        "1 of 1 cells complete, 2 of 2"
    )
    assert ok("study", "report", tmp_path / "out").stdout == table


def test_a_failed_cell_ends_with_code_1_and_says_why(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, cell: Any) -> None:
        raise tp.DataError("needed luck.")

    monkeypatch.setattr(runner._Bench, "convert", fails)
    result = run("study", "run", config, "-o", tmp_path / "out")
    assert (
        result.exit_code == 1 and "0 of 1 cells; failed: DataError: needed luck." in result.stdout
    )
    assert "failed 2 times: one, supervised, seed 0, signed, T=2, draw 0" in result.stderr


def test_an_interrupted_run_keeps_what_is_done(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = runner._Bench.measure

    def stops(self: Any, cell: Any, shard: int) -> Any:
        if shard == 1:
            raise KeyboardInterrupt
        return original(self, cell, shard)

    with monkeypatch.context() as patched:
        patched.setattr(runner._Bench, "measure", stops)
        result = run("study", "run", config, "-o", tmp_path / "out")
    assert result.exit_code == 130 and "holds what is done" in result.stderr
    assert "1 of 2 shards stored" in ok("study", "status", tmp_path / "out").stdout
    ok("study", "run", config, "-o", tmp_path / "out")


def test_a_folder_without_a_study_is_refused(tmp_path: Path) -> None:
    for command in ("status", "report"):
        assert "Start it with transpike study run" in refused("study", command, tmp_path)

"""No command replaces what it reads, and no two of its outputs are one file."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from commands import ok, refused_line
from transpike.cli import app
from transpike.cli.overwriting import check_outputs
from transpike.errors import ArgumentError

REPLACES = "needed another file than the input"
FOLDER = "needed another folder than"
TWICE = "needed two files, got"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one input of every kind. The command is refused before it reads them."""
    for name in (
        "net/config.json",
        "net/model.safetensors",
        "w.safetensors",
        "recipe.json",
        "r.json",
        "results/a.json",
        "results/overview.png",
        "results/plan.json",
        "photos/train/cat/1.png",
        "slices/1.png",
        "labels/1.png",
        "v.tif",
        "v.zarr/zarr.json",
        "out/overview.png",
        "c.npz",
        "nets.py",
        "data/model.safetensors",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "link.json").symlink_to(tmp_path / "r.json")
    (tmp_path / "hard.json").hardlink_to(tmp_path / "recipe.json")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def _digests(folder: Path) -> dict[str, str]:
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


SEGMENT = "--model net --timesteps 2"
CASES = {
    "report r.json -o r.json": REPLACES,
    "report r.json -o ./net/../r.json": REPLACES,
    "report r.json -o link.json": REPLACES,
    "report results -o results/a.json": REPLACES,
    "report results -o results/overview.png": REPLACES,
    "evaluate net --data digits --json net/config.json": REPLACES,
    "evaluate net --data digits --json net/model.safetensors": REPLACES,
    "evaluate net --data digits --samples net": FOLDER,
    "evaluate vgg --data folder:photos?gray --json photos/train/cat/1.png": REPLACES,
    "evaluate vgg --data cifar10:c.npz --json c.npz": REPLACES,
    "evaluate vgg --data digits --weights w.safetensors --json w.safetensors": REPLACES,
    "evaluate vgg --data digits --recipe recipe.json --json hard.json": REPLACES,
    "evaluate nets.py:build --data digits --json nets.py": REPLACES,
    "diagnose net --data digits -o net/config.json": REPLACES,
    "diagnose net --data digits -o a.png --json a.png": TWICE,
    "cost net --data digits -o net/model.safetensors": REPLACES,
    "cost net --data digits --json net/config.json": REPLACES,
    "cost vgg --data digits -o a.svg --json ./a.svg": TWICE,
    "convert vgg --data digits --weights data/model.safetensors -o data --force": REPLACES,
    "convert vgg --data folder:photos -o photos --force": FOLDER,
    "convert vgg --data digits --recipe recipe.json -o n --json recipe.json": REPLACES,
    "convert vgg --data digits -o n --json n/config.json": TWICE,
    "inspect vgg --weights w.safetensors --json w.safetensors": REPLACES,
    "tune vgg --data digits --timesteps 4 --weights w.safetensors -o w.safetensors": REPLACES,
    "tune vgg --data digits --timesteps 4 -o t.json --json t.json": TWICE,
    "compare vgg --data digits --timesteps 4 --recipe recipe.json --json recipe.json": REPLACES,
    "train vgg-cifar --data cifar10:c.npz -o t --json c.npz": REPLACES,
    "train unet-lucchi --data lucchi:photos -o photos": FOLDER,
    f"segment slices {SEGMENT} -o slices": FOLDER,
    f"segment slices {SEGMENT} --labels labels -o labels": FOLDER,
    f"segment v.tif {SEGMENT} -o o --json v.tif": REPLACES,
    f"segment v.tif?channel=1 {SEGMENT} -o o --json v.tif": REPLACES,
    f"segment v.zarr {SEGMENT} -o o --json v.zarr/zarr.json": REPLACES,
    f"segment out/overview.png {SEGMENT} -o out": REPLACES,
    f"segment slices {SEGMENT} -o net": FOLDER,
    f"segment slices {SEGMENT} -o o --json o/overview.png": TWICE,
    "study run results/plan.json -o results": REPLACES,
    "demo -o d --json d/accuracy.png": TWICE,
}


@pytest.mark.parametrize("line", CASES)
def test_an_output_that_is_an_input_is_refused(line: str, place: Path) -> None:
    before = _digests(place)
    assert CASES[line] in refused_line(*line.split())
    assert _digests(place) == before


def test_every_command_is_covered() -> None:
    from typer.main import get_command

    assert {line.split()[0] for line in CASES} == set(get_command(app).commands)  # type: ignore[attr-defined]


def test_results_beside_the_input_may_be_written_again(tmp_path: Path) -> None:
    """A report in the folder of its results is no result, and a JSON file among images no image."""
    results = tmp_path / "results"
    results.mkdir()
    ok("inspect", "digits_cnn", "--json", tmp_path / "i.json")
    ok("inspect", "digits_cnn", "--json", tmp_path / "i.json")
    stored = json.loads((tmp_path / "i.json").read_text())
    assert stored["model"] == "digits_cnn"
    (results / "report.html").write_text("")
    check_outputs({"-o": results / "report.html", "--json": results / "new.json"}, [results])
    (results / "old.json").write_text("")
    check_outputs({"--json": results / "old.json"}, [f"folder:{results}?gray", "x" * 5000])
    shutil.copy(tmp_path / "i.json", results / "1.png")
    with pytest.raises(ArgumentError, match=REPLACES):
        check_outputs({"--json": results / "1.png"}, [f"folder:{results}?gray"])

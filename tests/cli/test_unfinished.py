"""A run of `transpike segment` that was stopped goes on with the same settings, and only then."""

from __future__ import annotations

import importlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from volume_cases import MODEL, SMALL

from commands import ok, refused_line, run
from transpike.segment import Segmented

FORMS = [(), ("--tiff",)]


def stop(after: int, monkeypatch: pytest.MonkeyPatch, *command: str | Path) -> None:
    """Run a command and interrupt it after this number of new slices."""
    real = importlib.import_module("transpike.segment").segment

    def interrupted(*args: Any, **options: Any) -> Iterator[Segmented]:
        yield from itertools.islice(real(*args, **options), after)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("transpike.segment.segment", interrupted)
        result = run(*command)
    assert result.exit_code == 130 and "The same command goes on." in result.stderr


def content(folder: Path) -> dict[str, Any]:
    """Every file; JSON without what differs between two equal runs."""
    found: dict[str, Any] = {}
    for file in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = str(file.relative_to(folder))
        found[name] = file.read_bytes()
        if name == "segment.json":
            facts = json.loads(found[name])
            rows = [{**row, "seconds": None} for row in facts["per_slice"]]
            found[name] = {**facts, "seconds": None, "command": None, "per_slice": rows}
    return found


@pytest.fixture
def volume(root: Path, tmp_path: Path) -> Path:
    """A copy of some slices, which a test may change."""
    folder = tmp_path / "volume"
    folder.mkdir()
    for file in sorted((root / "test" / "images").iterdir())[:4]:
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def command(volume: Path, data: list[str], output: Path, *more: str | Path) -> list[Any]:
    return ["segment", volume, "--model", MODEL, *data, *SMALL, "--tile", "16", "-o", output, *more]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("stops", [[1], [3], [4], [1, 2]])
def test_it_goes_on_where_it_stopped(
    stops: list[int], form: tuple[str, ...], volume: Path, data: list[str], root: Path,
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    if sum(stops) == 2:
        form = (*form, "--labels", str(root / "train" / "labels"))
    ok(*command(volume, data, tmp_path / "whole", *form))
    again = command(volume, data, tmp_path / "o", *form)
    for after in stops:
        stop(after, monkeypatch, *again)
    left = sum(stops)
    result = ok(*again)
    assert f"goes on after the {left} of 4 slices" in " ".join(result.stderr.split())
    assert content(tmp_path / "o") == content(tmp_path / "whole")
    assert "is there already" in refused_line(*again)  # A complete run is not written over.


@pytest.mark.parametrize(
    ("changed", "names"),
    [
        (["--mean", "0.4"], "normalization"),
        (["--slices", "0:2"], "drawn, slices"),
        (["--tiff"], "tiff"),
        (["--precision", "fast"], "precision"),
        (["--timesteps", "4"], "timesteps"),
        (["--seed", "1"], "network"),
        (["--overlap", "4"], "overlap"),
        (["--show", "1"], "drawn"),
    ],
)
def test_other_settings_are_refused_by_name(
    changed: list[str], names: str, volume: Path, data: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    again = command(volume, data, tmp_path / "o")
    stop(1, monkeypatch, *again)
    before = content(tmp_path / "o")
    message = refused_line(*again, *changed)
    assert "a run that was stopped, with other settings: " in message and names in message
    assert "Give the same settings to go on, choose another folder with -o" in message
    assert content(tmp_path / "o") == before


def test_a_volume_that_has_changed_is_refused(
    volume: Path, data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = command(volume, data, tmp_path / "o")
    stop(2, monkeypatch, *again)
    file = sorted(volume.iterdir())[1]
    Image.fromarray(255 - np.asarray(Image.open(file))).save(file)
    assert "slice 1 of the volume is not the one that" in refused_line(*again)


@pytest.mark.parametrize("damage", [b"", b"no archive", None])
def test_a_damaged_slice_is_refused_and_the_remedy_works(
    damage: bytes | None, volume: Path, data: list[str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    again = command(volume, data, tmp_path / "o")
    stop(2, monkeypatch, *again)
    file = tmp_path / "o" / "unfinished" / "1.npz"
    file.write_bytes(file.read_bytes()[:500] if damage is None else damage)
    assert "is damaged" in refused_line(*again)
    file.unlink()
    ok(*again)


def test_half_written_files_are_removed(
    volume: Path, data: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = command(volume, data, tmp_path / "o")
    stop(1, monkeypatch, *again)
    left = [tmp_path / "o" / part / f".{'0' * 16}.tmp" for part in ("", "masks", "unfinished")]
    for file in left:
        file.write_bytes(b"half")
    (tmp_path / "o" / "masks" / ".mine.tmp").write_bytes(b"mine")
    ok(*again)
    assert not any(file.exists() for file in left)
    assert (tmp_path / "o" / "masks" / ".mine.tmp").exists()

"""Folders hold junk, and names of slices hold several numbers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import transpike as tp
from transpike.data import open_data
from transpike.data.volumes import open_slices

JUNK = ["._1.png", ".DS_Store", "Thumbs.db", "desktop.ini", ".hidden_2.tif"]
JUNK_FOLDERS = [".ipynb_checkpoints", "__MACOSX", "@eaDir", ".git"]


def _add_junk(folder: Path) -> None:
    for name in JUNK:
        (folder / name).write_bytes(b"no picture")
    for name in JUNK_FOLDERS:
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(b"no picture")
    (folder / "3.png").mkdir()  # a folder is no image, whatever its name is


def _write(folder: Path, names: list[str]) -> None:
    """Slices whose only pixel value is their place in the list."""
    folder.mkdir(parents=True, exist_ok=True)
    for value, name in enumerate(names):
        Image.new("L", (4, 4), value).save(folder / name)


def _values(folder: Path) -> list[int]:
    volume = open_slices(folder)
    every = slice(None)
    return [int(volume.read(index, every, every)[0, 0]) for index in range(volume.shape[0])]


def test_junk_in_a_folder_of_classes_is_skipped(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            _write(tmp_path / part / name, ["1.png", "2.png"])
            _add_junk(tmp_path / part / name)
        for name in JUNK_FOLDERS:
            (tmp_path / part / name).mkdir()
    data = open_data(f"folder:{tmp_path}?gray")
    assert data.classes == ("cat", "dog") and len(data.test) == 4
    images, labels = next(data.test.batches(4))
    assert labels.tolist() == [0, 0, 1, 1] and images.shape == (4, 1, 4, 4)


def test_junk_in_a_folder_of_slices_is_skipped(tmp_path: Path) -> None:
    _write(tmp_path, ["0.png", "1.png", "2.png"])
    _add_junk(tmp_path)
    assert _values(tmp_path) == [0, 1, 2]


# The names are in the order of the slices.
NAMES = {
    "only a number": ["7.png", "8.png", "9.png", "10.png"],
    "channel behind": ["z001_c1.png", "z002_c1.png", "z003_c1.png"],
    "bits behind": ["img0001_8bit.tif", "img0002_8bit.tif", "img0003_8bit.tif"],
    "size behind": ["001_512x512.png", "002_512x512.png"],
    "voxel behind": ["z01_4nm.png", "z02_4nm.png", "z03_4nm.png"],
    "date in front": ["2024-05-01_s1.png", "2024-05-01_s2.png"],
    "steps of five": ["z05_c2.png", "z10_c2.png", "z15_c2.png"],
    "position with the number": [
        "slice_0000_z=0.000um.tif",
        "slice_0001_z=0.005um.tif",
        "slice_0002_z=0.009um.tif",
    ],
    "the number twice": ["a1_b1.png", "a2_b2.png", "a3_b3.png"],
    "one file": ["z01_4nm.png"],
}


@pytest.mark.parametrize("kind", NAMES)
def test_the_number_that_differs_is_the_number_of_the_slice(kind: str, tmp_path: Path) -> None:
    _write(tmp_path, NAMES[kind])
    assert _values(tmp_path) == list(range(len(NAMES[kind])))


REFUSED = {
    "missing, with a constant behind": (
        ["z001_c1.png", "z002_c1.png", "z004_c1.png"],
        "slice 3 is missing between 2 and 4",
    ),
    "two stacks": (
        ["z001_c1.png", "z001_c2.png", "z002_c1.png", "z002_c2.png"],
        "needed file names in which one number differs.*got 2 numbers that differ",
    ),
    "two orders": (["a1_b2.png", "a2_b1.png"], "needed file names in which one number differs"),
    "other names": (
        ["001.png", "002_copy2.png"],
        "needed file names with the same parts, got '001.png' and '002_copy2.png'",
    ),
    "a number twice": (["1.png", "01.png"], "needed each slice once, got number 1 twice"),
    "no number": (["one.png"], "needed the slice's number in its name"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_unclear_numbers_are_refused(kind: str, tmp_path: Path) -> None:
    names, message = REFUSED[kind]
    _write(tmp_path, names)
    with pytest.raises(tp.DataError, match=message):
        open_slices(tmp_path)


def test_the_remedies_work(tmp_path: Path) -> None:
    """A stack in a folder of its own opens, and so do slices that are named alike."""
    names, _ = REFUSED["two stacks"]
    _write(tmp_path, [name for name in names if name.endswith("c2.png")])
    assert _values(tmp_path) == [0, 1]
    _write(tmp_path / "alike", ["001.png", "002.png"])
    assert np.array_equal(_values(tmp_path / "alike"), [0, 1])

"""Files that are damaged or claim too much end in one line and exit code 2, not in a crash."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from commands import ok, refused

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

STACK = np.random.RandomState(0).randint(0, 256, (3, 32, 48)).astype(np.uint8)


def _bomb(file: Path) -> None:
    """A PNG of a hundred bytes that claims 60000 x 60000 pixels."""
    head = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    file.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
            for name, data in chunks
        )
    )


def _absurd(place: Path) -> None:
    zarr.create_array(str(place), shape=(4, 64, 64), chunks=(1, 64, 64), dtype="u1")
    file = place / "zarr.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "shape": [9, 10**9, 10**9]}))


def _cut(file: Path) -> None:
    tifffile.imwrite(file, STACK, imagej=True, metadata={"axes": "ZYX"})
    file.write_bytes(file.read_bytes()[:3000])


def _tiff(pixels: Any, **options: Any) -> Callable[[Path], None]:
    return lambda file: tifffile.imwrite(file, pixels, **options)


VOLUMES: dict[str, tuple[Callable[[Path], None], str]] = {
    "bomb.png": (_bomb, "bomb.png': Image size (3600000000 pixels) exceeds limit"),
    "absurd.zarr": (_absurd, "absurd.zarr': needed slices and chunks of at most 1,073,741,824"),
    "cut.tif": (_cut, "cut.tif': needed a whole TIFF file, got one that ends after 1 pages"),
    "wide.tif": (
        _tiff(STACK.astype(np.uint32), photometric="minisblack"),
        "wide.tif': needed 8 or 16 bits for each pixel",
    ),
    "stains.tif": (
        _tiff(np.stack([STACK, STACK], 1), imagej=True, metadata={"axes": "ZCYX"}),
        "stains.tif': needed one axis besides height and width, got Z (3) and C (2)",
    ),
    "empty.tif": (lambda file: file.touch(), "cannot read"),
}


def test_segment_refuses_hostile_volumes(saved: Path, tmp_path: Path) -> None:
    for name, (write, message) in VOLUMES.items():
        write(tmp_path / name)
        command = ("segment", tmp_path / name, "--model", saved, "--timesteps", "2")
        assert message in refused(*command, "-o", tmp_path / "o")
        assert not (tmp_path / "o").exists()


def test_segment_takes_the_chosen_channel_and_masks_of_one_bit(saved: Path, tmp_path: Path) -> None:
    """The choice is in the result, and labels of 1 bit score like those of 8."""
    both = np.stack([STACK, 255 - STACK], 1)
    tifffile.imwrite(tmp_path / "v.tif", both, imagej=True, metadata={"axes": "ZCYX"})
    scores = []
    for name, write in {
        "bits": lambda file, mask: Image.fromarray(mask).save(file),
        "bytes": lambda file, mask: Image.fromarray(mask.astype(np.uint8) * 255).save(file),
    }.items():
        (tmp_path / name).mkdir()
        for index, pixels in enumerate(STACK):
            write(tmp_path / name / f"z{index}_c1.png", pixels > 150)
        chosen = f"{tmp_path / 'v.tif'}?channel=0"
        labels = ("--labels", tmp_path / name, "-o", tmp_path / f"o-{name}")
        ok("segment", chosen, "--model", saved, "--timesteps", "2", *labels)
        content = json.loads((tmp_path / f"o-{name}" / "segment.json").read_text())
        assert content["volume"] == chosen and content["shape"] == [3, 32, 48]
        scores.append(content["scores"])
    assert scores[0] == scores[1] is not None


def test_evaluate_refuses_a_bomb_in_a_folder_of_classes(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("a", "b"):
            (tmp_path / part / name).mkdir(parents=True)
            Image.new("L", (8, 8), 99).save(tmp_path / part / name / "1.png")
    command = ("evaluate", "digits_cnn", "--data", f"folder:{tmp_path}?gray&size=8")
    _bomb(tmp_path / "train" / "a" / "1.png")
    message = refused(*command, "--timesteps", "2", "--calibration-size", "2")
    assert "cannot read the image" in message and "exceeds limit" in message
    tifffile.imwrite(tmp_path / "train" / "a" / "1.png", STACK[0] / np.float32(255))
    message = refused(*command, "--timesteps", "2", "--calibration-size", "2")
    assert "needed unsigned integers of 8 or 16 bits" in message

"""Volumes of a few small slices, and a network that was converted on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from volume_cases import MODEL, SHAPE, SMALL

from commands import ok


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write volumes of random images into folders; the masks are the bright pixels."""
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.RandomState(0)
    for part in ("train", "test"):
        for name in ("images", "labels"):
            (folder / part / name).mkdir(parents=True)
        for index in range(SHAPE[0]):
            image = random.randint(0, 256, SHAPE[1:]).astype(np.uint8)
            mask = 255 * (image > 150).astype(np.uint8)
            Image.fromarray(image).save(folder / part / "images" / f"{index:03d}.png")
            Image.fromarray(mask).save(folder / part / "labels" / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def data(root: Path) -> list[str]:
    return ["--data", f"lucchi:{root}", "--calibration-size", "6"]


@pytest.fixture(scope="module")
def saved(root: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "snn"
    ok("convert", MODEL, *data, "--tile", "16", *SMALL, "-o", folder)
    return folder

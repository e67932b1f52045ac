"""The size of a voxel is read if a file states it with a unit, and it is never guessed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import transpike as tp
from transpike.data.volumes import open_stack
from transpike.data.voxel_size import VoxelSize, voxel_size_of

STACK = np.zeros((3, 8, 12), np.uint8)
OME = (
    '<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image><Pixels '
    'PhysicalSizeX="0.5" PhysicalSizeY="250" PhysicalSizeYUnit="nm"{}/></Image></OME>'
)


def _close(size: VoxelSize | None, *wanted: float | None) -> None:
    assert size is not None and size.to_list() == [
        None if one is None else pytest.approx(one) for one in wanted
    ]


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        ({"resolution": (2e6, 1e6), "resolutionunit": "CENTIMETER"}, (None, 10, 5)),
        ({"resolution": (254, 254), "resolutionunit": "INCH"}, (None, 1e5, 1e5)),
        (
            {"imagej": True, "resolution": (200, 100), "metadata": {"unit": "um", "spacing": 0.03}},
            (30, 10, 5),
        ),
        ({"imagej": True, "resolution": (0.2, 0.2), "metadata": {"unit": "nm"}}, (None, 5, 5)),
        (
            {
                "ome": True,
                "metadata": {"axes": "ZYX", "PhysicalSizeX": 0.005, "PhysicalSizeY": 0.01},
            },
            (None, 10, 5),
        ),
        ({}, None),
        ({"resolution": (300, 300), "resolutionunit": "NONE"}, None),
        ({"imagej": True, "resolution": (200, 100), "metadata": {"unit": "pixel"}}, None),
    ],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_tiff_says_its_voxel_size(
    tags: dict[str, Any], wanted: Any, compression: str | None, tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    if tags.get("imagej") and compression:
        pytest.skip("ImageJ knows no compression")
    tifffile.imwrite(
        tmp_path / "v.tif", STACK, photometric="minisblack", compression=compression, **tags
    )
    size = open_stack(tmp_path / "v.tif").voxel_size
    if wanted is None:
        assert size is None
    else:
        _close(size, *wanted)


def test_slices_say_the_size_where_they_agree(tmp_path: Path) -> None:
    for index in range(2):
        Image.fromarray(STACK[0]).save(tmp_path / f"{index}.tif", dpi=(254, 508))
    _close(open_stack(tmp_path).voxel_size, None, 5e4, 1e5)
    Image.fromarray(STACK[0]).save(tmp_path / "2.tif", dpi=(72, 72))
    assert open_stack(tmp_path).voxel_size is None
    (tmp_path / "png").mkdir()
    Image.fromarray(STACK[0]).save(tmp_path / "png" / "0.png")
    assert open_stack(tmp_path / "png").voxel_size is None


def test_the_unit_of_ome_is_micrometers_unless_it_says_another() -> None:
    _close(voxel_size_of(None, None, None, OME.format("")), None, 250, 500)
    _close(voxel_size_of(None, None, None, OME.format(' PhysicalSizeZ="2"')), 2000, 250, 500)
    pixels = ' PhysicalSizeXUnit="pixel"'
    assert voxel_size_of(None, None, None, OME.format(pixels)) is None
    _close(voxel_size_of(2e6, 1e6, 3, "<p>no OME</p>"), None, 10, 5)
    _close(voxel_size_of(2e6, 1e6, 3, "<damaged"), None, 10, 5)


@pytest.mark.parametrize("x", [0.0, float("nan"), float("inf"), None, -1.0])
def test_a_damaged_resolution_says_nothing(x: float | None) -> None:
    assert voxel_size_of(x, 100.0, 3, "") is None


def test_sizes_are_read_from_text() -> None:
    assert VoxelSize.parse("50,4.6,4.5") == VoxelSize(50.0, 4.6, 4.5)
    assert VoxelSize.parse("4.6, 4.5") == VoxelSize(None, 4.6, 4.5)
    for text in ("5", "a,b", "1,2,3,4", ""):
        with pytest.raises(tp.ArgumentError, match="needed Z,Y,X or Y,X in nanometers, got"):
            VoxelSize.parse(text)
    with pytest.raises(tp.ArgumentError, match="needed numbers above 0 in nanometers, got"):
        VoxelSize.parse("0,4,4")
    assert VoxelSize.parse("50,4.6,4.6").z == 50.0  # The remedy works.

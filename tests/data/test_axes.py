"""Files of more axes than a stack has: the right slices are read, or the choice is asked for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import transpike as tp
from transpike.data.volumes import Volume, open_stack

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

Array = NDArray[Any]
# Every pixel of (T, C, Z, Y, X) is different, so that a wrong slice cannot look right.
WHOLE = np.arange(2 * 3 * 5 * 16 * 20, dtype=np.uint16).reshape(2, 3, 5, 16, 20)
CZYX, TZYX, ZYX, YX = WHOLE[0], WHOLE[:, 0], WHOLE[0, 0], WHOLE[0, 0, 0]
ZCYX = CZYX.transpose(1, 0, 2, 3)
TZCYX = WHOLE.transpose(0, 2, 1, 3, 4)


def _read(volume: Volume) -> Array:
    every = slice(None)
    slices = [volume.read(index, every, every) for index in range(volume.shape[0])]
    part = volume.read(0, slice(3, 9), slice(2, 7))
    np.testing.assert_array_equal(part, slices[0][3:9, 2:7])
    assert np.stack(slices).shape == volume.shape
    return np.stack(slices)


def _tiff(pixels: Array, **options: Any) -> Callable[[Path], None]:
    return lambda file: tifffile.imwrite(file, pixels, **options)


def _imagej(pixels: Array, axes: str, **options: Any) -> Callable[[Path], None]:
    return _tiff(pixels, imagej=True, metadata={"axes": axes}, **options)


def _ome(pixels: Array, axes: str, **options: Any) -> Callable[[Path], None]:
    return _tiff(pixels, ome=True, metadata={"axes": axes}, **options)


def _series(*stacks: Array, **options: Any) -> Callable[[Path], None]:
    def write(file: Path) -> None:
        with tifffile.TiffWriter(file, **options) as opened:
            for one in stacks:
                opened.write(one, photometric="minisblack")

    return write


BLACK: dict[str, Any] = {"photometric": "minisblack"}
ZLIB: dict[str, Any] = {**BLACK, "compression": "zlib"}
# How a TIFF file is written, what is chosen, and the slices.
TIFFS: dict[str, tuple[Callable[[Path], None], str, Array]] = {
    "one page": (_tiff(YX, **BLACK), "", YX[None]),
    "plain pages": (_tiff(ZYX, **BLACK), "", ZYX),
    "plain pages, compressed": (_tiff(ZYX, **ZLIB), "", ZYX),
    "plain pages, Motorola": (_tiff(ZYX, byteorder=">", **BLACK), "", ZYX),
    "plain pages, BigTIFF": (_tiff(ZYX, bigtiff=True, **BLACK), "", ZYX),
    "strips": (_tiff(ZYX, rowsperstrip=4, **BLACK), "", ZYX),
    "tiles": (_tiff(ZYX, tile=(16, 16), **BLACK), "", ZYX),
    "written slice by slice": (_series(*ZYX), "", ZYX),
    "ImageJ, slices": (_imagej(ZYX, "ZYX"), "", ZYX),
    "ImageJ, times": (_imagej(ZYX, "TYX"), "", ZYX),
    "ImageJ, channels only": (_tiff(ZYX, imagej=True), "", ZYX),
    "ImageJ behind one header": (_tiff(ZYX, imagej=True, truncate=True), "", ZYX),
    "ImageJ, channel 0": (_imagej(ZCYX, "ZCYX"), "channel=0", CZYX[0]),
    "ImageJ, channel 2": (_imagej(ZCYX, "ZCYX"), "channel=2", CZYX[2]),
    "ImageJ, compressed": (_imagej(ZCYX, "ZCYX", compression="zlib"), "channel=1", CZYX[1]),
    "ImageJ, slice 3 of all channels": (_imagej(ZCYX, "ZCYX"), "z=3", CZYX[:, 3]),
    "ImageJ, one slice": (_imagej(ZCYX, "ZCYX"), "z=3&channel=1", CZYX[1, 3][None]),
    "ImageJ, five axes": (_imagej(TZCYX, "TZCYX"), "time=1&channel=2", WHOLE[1, 2]),
    "ImageJ, behind one header": (
        _imagej(TZCYX, "TZCYX", truncate=True),
        "time=1&channel=2",
        WHOLE[1, 2],
    ),
    "OME, channel": (_ome(CZYX, "CZYX"), "channel=1", CZYX[1]),
    "OME, channel, compressed": (_ome(CZYX, "CZYX", compression="zlib"), "channel=1", CZYX[1]),
    "OME, time": (_ome(TZYX, "TZYX"), "time=1", TZYX[1]),
    "OME, letter": (_ome(TZYX, "TZYX"), "t=1", TZYX[1]),
    "OME, axes of length 1": (_ome(ZYX[None, None], "TCZYX"), "", ZYX),
    "OME, index of an axis of length 1": (_ome(ZYX[None], "CZYX"), "channel=0", ZYX),
    "no names": (_tiff(ZCYX, **BLACK), "axes=ZCYX&channel=1", CZYX[1]),
    "no names, compressed": (_tiff(ZCYX, **ZLIB), "axes=ZCYX&channel=1", CZYX[1]),
    "wrong names": (_imagej(ZCYX, "TCYX"), "axes=ZCYX&channel=1", CZYX[1]),
    "first series": (_series(ZYX, ZYX[3:]), "series=0", ZYX),
    "second series": (_series(ZYX, ZYX[3:]), "series=1", ZYX[3:]),
    "second series, OME": (_series(ZYX, ZYX[3:], ome=True), "series=1", ZYX[3:]),
    "a thumbnail behind": (_series(ZYX, YX[::4, ::4]), "series=0", ZYX),
}


@pytest.mark.parametrize("kind", TIFFS)
def test_a_tiff_gives_the_slices_that_are_meant(kind: str, tmp_path: Path) -> None:
    write, query, wanted = TIFFS[kind]
    file = tmp_path / ("v.ome.tif" if "OME" in kind else "v.tif")
    write(file)
    volume = open_stack(f"{file}?{query}" if query else file)
    np.testing.assert_array_equal(_read(volume), wanted)
    assert volume.maximum == 65535


REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "ImageJ": (_imagej(ZCYX, "ZCYX"), "", r"got Z \(5\) and C \(3\).*'v.tif\?channel=0'"),
    "five axes": (_imagej(TZCYX, "TZCYX"), "", r"got T \(2\) and Z \(5\) and C \(3\).*time=0&ch"),
    "OME": (_ome(CZYX, "CZYX"), "", r"got C \(3\) and Z \(5\).*\?channel=0'"),
    "OME, times": (_ome(TZYX, "TZYX"), "", r"got T \(2\) and Z \(5\).*\?time=0'"),
    "times and channels": (_imagej(TZCYX[:, 0], "TCYX"), "", r"T \(2\) and C \(3\).*channel=0'"),
    "no names": (_tiff(ZCYX, **BLACK), "", r"2 of the sizes 5 and 3 without names.*axes=CZYX&ch"),
    "equal series": (_series(ZYX, ZYX[3:]), "", r"needed one series of pages, got 2.*\?series=0'"),
    "OME series": (_series(ZYX, ZYX, ome=True), "", r"needed one series of pages, got 2 series"),
    "one page in each OME series": (_series(YX, YX, ome=True), "", r"got 2 series"),
    "a thumbnail": (_series(ZYX, YX[::4, ::4]), "", r"every page of one size and type.*series=0"),
    "color": (_tiff(np.zeros((16, 20, 3), np.uint8), photometric="rgb"), "", "It holds color"),
    "color planes": (
        _tiff(np.zeros((3, 16, 20), np.uint8), photometric="rgb", planarconfig="separate"),
        "",
        "It holds color: convert it",
    ),
    "32 bits": (_tiff(ZYX.astype(np.uint32), **BLACK), "", "needed 8 or 16 bits.*got uint32"),
    "64 bits": (_tiff(ZYX.astype(np.uint64), **BLACK), "", "needed 8 or 16 bits.*got uint64"),
    "signed": (_tiff(ZYX.astype(np.int16), **BLACK), "", "needed unsigned integers, got int16"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_a_tiff_with_several_stacks_says_how_to_choose(kind: str, tmp_path: Path) -> None:
    write, query, message = REFUSED[kind]
    write(tmp_path / "v.tif")
    with pytest.raises(tp.DataError, match=message) as raised:
        open_stack(f"{tmp_path / 'v.tif'}?{query}" if query else tmp_path / "v.tif")
    if "as in 'v.tif?" in str(raised.value):  # The remedy works.
        remedy = str(raised.value).split("as in '")[1].split("'")[0]
        assert open_stack(tmp_path / remedy).shape[1:] in ((16, 20), (4, 5))


WRONG = {
    "channel=3": "needed channel=0..2, got 3",
    "time=1": "needed time=0..0, got 1",
    "p=0": r"needed a choice among its axes .*Z \(5\), C \(3\), Y \(16\), X \(20\).*, got p=0",
    "series=1": "needed series=0..0, got 1",
    "level=0": "level=0 is for groups of OME-Zarr",
    "channel=-1": "needed a whole number from 0 for channel, got '-1'",
    "channel=one": "needed a whole number from 0 for channel, got 'one'",
    "channel=": "needed a whole number from 0 for channel, got ''",
    "color=1": "needed options among series, level, axes, channel, time, z",
    "axes=ZCY": "needed one letter for every axis, with Y and X among them, got 'ZCY'",
    "axes=ZZYX": "needed one letter for every axis, with Y and X among them",
    "axes=TZCYX": "needed a letter for each of 4 axes",
    "axes=YXZC&channel=0&z=0": None,  # the axes of a mapped file may have every order
}


@pytest.mark.parametrize("query", WRONG)
def test_a_choice_that_does_not_fit_is_refused(query: str, tmp_path: Path) -> None:
    _imagej(ZCYX, "ZCYX")(tmp_path / "v.tif")
    message = WRONG[query]
    if message is None:
        np.testing.assert_array_equal(
            _read(open_stack(f"{tmp_path / 'v.tif'}?{query}"))[0], ZCYX[:, :, 0, 0]
        )
        return
    with pytest.raises(tp.ArgumentError, match=message):
        open_stack(f"{tmp_path / 'v.tif'}?{query}")


def test_a_choice_is_for_tiff_and_zarr_only(tmp_path: Path) -> None:
    Image.fromarray(YX).save(tmp_path / "1.png")
    for place in (tmp_path, tmp_path / "1.png"):
        with pytest.raises(tp.ArgumentError, match="needed a choice only for a .tif file or a"):
            open_stack(f"{place}?channel=0")
        assert open_stack(place).shape[0] == 1
    with pytest.raises(tp.FileError, match="no file or folder '.*none.tif'"):
        open_stack(tmp_path / "none.tif?channel=0")


def test_a_question_mark_in_the_name_of_a_file(tmp_path: Path) -> None:
    _imagej(ZCYX, "ZCYX")(tmp_path / "what?channel=1.tif")
    _imagej(ZYX, "ZYX")(tmp_path / "what?.tif")
    np.testing.assert_array_equal(_read(open_stack(tmp_path / "what?.tif")), ZYX)
    volume = open_stack(f"{tmp_path / 'what?channel=1.tif'}?channel=2")
    np.testing.assert_array_equal(_read(volume), CZYX[2])


def _array(pixels: Array, **options: Any) -> Callable[[Path], None]:
    def write(place: Path) -> None:
        chunks = (1,) * (pixels.ndim - 2) + (7, 9)
        zarr.create_array(str(place), data=pixels, chunks=chunks, **options)

    return write


def _multiscale(pixels: Array, axes: Any, version: str, levels: int = 2) -> Callable[[Path], None]:
    """An OME-Zarr group of several levels."""

    def write(place: Path) -> None:
        form = 3 if version >= "0.5" else 2
        group = zarr.open_group(str(place), mode="w", zarr_format=form)
        for level in range(levels):
            step = 2**level
            group.create_array(str(level), data=pixels[..., ::step, ::step])
        image: dict[str, Any] = {"datasets": [{"path": str(k)} for k in range(levels)]}
        image |= {"axes": axes} if axes else {}
        content = {"multiscales": [image], "version": version}
        group.attrs.update({"ome": content} if version >= "0.5" else content)

    return write


def _named(letters: str) -> list[dict[str, str]]:
    return [{"name": one.lower()} for one in letters]


COARSE = WHOLE[..., ::2, ::2]
TO_LIST = {"attributes": {"_ARRAY_DIMENSIONS": ["z", "c", "y", "x"]}, "zarr_format": 2}
ZARRS: dict[str, tuple[Callable[[Path], None], str, Array]] = {
    "stack": (_array(ZYX), "", ZYX),
    "slice": (_array(YX), "", YX[None]),
    "axis of length 1 in front": (_array(ZYX[None]), "", ZYX),
    "axis of length 1 in the middle": (_array(ZYX[:, None]), "", ZYX),
    "Zarr 2": (_array(ZYX, zarr_format=2), "", ZYX),
    "no names": (_array(ZCYX), "?axes=ZCYX&channel=1", CZYX[1]),
    "names": (_array(ZCYX, dimension_names=["z", "c", "y", "x"]), "?channel=1", CZYX[1]),
    "long names": (
        _array(TZYX, dimension_names=["time", "depth", "row", "column"]),
        "?time=1",
        TZYX[1],
    ),
    "names of xarray": (_array(ZCYX, **TO_LIST), "?channel=1", CZYX[1]),
    "columns in front": (
        _array(ZYX.transpose(2, 1, 0), dimension_names=["x", "y", "z"]),
        "",
        ZYX,
    ),
    "slices behind": (_array(ZYX.transpose(1, 2, 0)), "?axes=YXZ", ZYX),
    "OME 0.4, level 0": (
        _multiscale(WHOLE, _named("TCZYX"), "0.4"),
        "?level=0&time=1&channel=2",
        WHOLE[1, 2],
    ),
    "OME 0.4, level 1": (
        _multiscale(CZYX, _named("CZYX"), "0.4"),
        "?level=1&channel=0",
        COARSE[0, 0],
    ),
    "OME 0.4, one level": (_multiscale(ZYX, _named("ZYX"), "0.4", 1), "", ZYX),
    "OME 0.3": (_multiscale(CZYX, list("czyx"), "0.3"), "?level=0&channel=1", CZYX[1]),
    "OME 0.2": (_multiscale(WHOLE, None, "0.2"), "?level=0&channel=1&time=0", WHOLE[0, 1]),
    "OME 0.5": (_multiscale(CZYX, _named("CZYX"), "0.5"), "?level=0&channel=1", CZYX[1]),
    "OME, the array of a level": (
        _multiscale(CZYX, _named("CZYX"), "0.4"),
        "/1?channel=1",
        COARSE[0, 1],
    ),
}


@pytest.mark.parametrize("kind", ZARRS)
def test_a_zarr_gives_the_slices_that_are_meant(kind: str, tmp_path: Path) -> None:
    write, query, wanted = ZARRS[kind]
    write(tmp_path / "v.zarr")
    np.testing.assert_array_equal(_read(open_stack(f"{tmp_path / 'v.zarr'}{query}")), wanted)


ZARR_REFUSED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no names": (_array(ZCYX), "", r"2 of the sizes 5 and 3 without names.*'v.zarr\?axes=CZYX&ch"),
    "names": (_array(ZCYX, dimension_names=["z", "c", "y", "x"]), "", r"Z \(5\) and C \(3\)"),
    "levels": (
        _multiscale(ZYX, _named("ZYX"), "0.4"),
        "",
        r"got 2 of the shapes 0: \(5, 16, 20\), 1: \(5, 8, 10\).*'v.zarr\?level=0'",
    ),
    "level 2": (_multiscale(ZYX, _named("ZYX"), "0.5"), "?level=2", r"needed level=0..1, got 2"),
    "image 1": (_multiscale(ZYX, _named("ZYX"), "0.5"), "?series=1", r"needed series=0..0, got 1"),
    "a level of an array": (_array(ZYX), "?level=0", "level=0 is for groups of OME-Zarr, and"),
    "a series of an array": (_array(ZYX), "?series=0", "series=0 is for groups of OME-Zarr"),
    "an axis that is not there": (_array(ZYX), "?channel=0", "needed a choice among its axes"),
    "32 bits": (_array(ZYX.astype(np.uint32)), "", "needed 8 or 16 bits.*got uint32"),
    "floating point": (_array(ZYX / 1e5), "", "needed unsigned integers, got float64"),
    "one axis": (
        lambda place: zarr.create_array(str(place), data=YX[0]),
        "",
        r"needed shape \(slices, height, width\), got \(20,\)",
    ),
    "nothing": (
        lambda place: zarr.create_array(str(place), shape=(0, 16, 20), dtype="u1"),
        "",
        r"needed at least one pixel, got the shape \(0, 16, 20\)",
    ),
}


@pytest.mark.parametrize("kind", ZARR_REFUSED)
def test_a_zarr_with_several_stacks_says_how_to_choose(kind: str, tmp_path: Path) -> None:
    write, query, message = ZARR_REFUSED[kind]
    write(tmp_path / "v.zarr")
    with pytest.raises((tp.DataError, tp.ArgumentError), match=message):
        open_stack(f"{tmp_path / 'v.zarr'}{query}")

"""A damaged or absurd volume ends in an error that names the file, and never in wrong slices."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import transpike as tp
from transpike.data.volumes import ArrayVolume, open_stack, read_mask

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

STACK = np.random.RandomState(0).randint(0, 256, (6, 48, 64)).astype(np.uint8)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    """tifffile logs what it finds wrong; the errors say it too."""
    before = logging.getLogger("tifffile").level
    logging.getLogger("tifffile").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("tifffile").setLevel(before)


def _all(place: Path) -> NDArray[Any]:
    volume = open_stack(place)
    every = slice(None)
    return np.stack([volume.read(index, every, every) for index in range(volume.shape[0])])


def _tiff(**options: Any) -> Callable[[Path], None]:
    return lambda file: tifffile.imwrite(file, STACK, **options)


BLACK: dict[str, Any] = {"photometric": "minisblack"}
TIFFS: dict[str, Callable[[Path], None]] = {
    "plain": _tiff(**BLACK),
    "plain, Motorola": _tiff(byteorder=">", **BLACK),
    "BigTIFF": _tiff(bigtiff=True, **BLACK),
    "strips": _tiff(rowsperstrip=5, **BLACK),
    "tiles": _tiff(tile=(16, 16), **BLACK),
    "compressed": _tiff(compression="zlib", **BLACK),
    "compressed tiles": _tiff(compression="zlib", tile=(16, 16), **BLACK),
    "behind one header": _tiff(truncate=True, **BLACK),
    "ImageJ": _tiff(imagej=True, metadata={"axes": "ZYX"}),
    "ImageJ behind one header": _tiff(imagej=True, truncate=True, metadata={"axes": "ZYX"}),
    "OME": _tiff(ome=True, metadata={"axes": "ZYX"}),
    "OME, compressed": _tiff(ome=True, compression="zlib", metadata={"axes": "ZYX"}),
    "by pillow": lambda file: Image.fromarray(STACK[0]).save(
        file, save_all=True, append_images=[Image.fromarray(one) for one in STACK[1:]]
    ),
    "by pillow, compressed": lambda file: Image.fromarray(STACK[0]).save(
        file,
        save_all=True,
        append_images=[Image.fromarray(one) for one in STACK[1:]],
        compression="tiff_adobe_deflate",
    ),
}
SHARES = (0.0, 0.001, 0.01, 0.05, 0.2, 0.33, 0.5, 0.66, 0.8, 0.95, 0.99)


@pytest.mark.parametrize("kind", TIFFS)
def test_a_truncated_tiff_is_a_file_error(kind: str, tmp_path: Path) -> None:
    TIFFS[kind](tmp_path / "whole.tif")
    np.testing.assert_array_equal(_all(tmp_path / "whole.tif"), STACK)
    whole = (tmp_path / "whole.tif").read_bytes()
    for share in SHARES:
        (tmp_path / "cut.tif").write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(tp.FileError, match=r"cut.tif'.*[.]$"):
            _all(tmp_path / "cut.tif")


@pytest.mark.parametrize("kind", TIFFS)
@pytest.mark.filterwarnings("ignore")
def test_changed_bytes_of_a_tiff_never_end_in_another_error(kind: str, tmp_path: Path) -> None:
    """Whatever the bytes are: a stack, or an error that names the file."""
    TIFFS[kind](tmp_path / "whole.tif")
    whole = np.fromfile(tmp_path / "whole.tif", np.uint8)
    random = np.random.RandomState(0)
    # Headers are at the start, and behind the pixels of a page.
    places = np.r_[np.arange(300), np.arange(len(whole) - 1500, len(whole))]
    for _ in range(40):
        data = whole.copy()
        chosen = random.choice(places[places >= 0], 2)
        data[chosen] = random.randint(0, 256, 2)
        (tmp_path / "damaged.tif").write_bytes(data.tobytes())
        try:
            _all(tmp_path / "damaged.tif")
        except (tp.FileError, tp.DataError) as error:
            assert "damaged.tif" in str(error)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("single", [True, False])
def test_a_truncated_slice_is_a_file_error(suffix: str, single: bool, tmp_path: Path) -> None:
    for number in (1, 2):
        Image.fromarray(STACK[number]).save(tmp_path / f"{number}.{suffix}")
    file = tmp_path / f"2.{suffix}"
    whole = file.read_bytes()
    for share in SHARES:
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(tp.FileError, match=rf"2.{suffix}'.*[.]$"):
            _all(file if single else tmp_path)


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_damaged_chunk_is_a_file_error(form: int, share: float, tmp_path: Path) -> None:
    place = tmp_path / "v.zarr"
    zarr.create_array(str(place), data=STACK, chunks=(1, 48, 64), zarr_format=form)
    np.testing.assert_array_equal(_all(place), STACK)
    chunk = place / ("2.0.0" if form == 2 else "c/2/0/0")
    whole = chunk.read_bytes()
    chunk.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(tp.FileError, match=r"cannot read '.*v.zarr', slice 2: .*[.]$"):
        _all(place)


HOSTILE: tuple[Any, ...] = (None, "x", -1, 0, 1e300, [], {}, [10**12, 10**12, 10**12], True, "|O")


@pytest.mark.parametrize("form", [2, 3])
@pytest.mark.filterwarnings("ignore")
def test_changed_metadata_of_a_zarr_never_end_in_another_error(form: int, tmp_path: Path) -> None:
    place = tmp_path / "v.zarr"
    zarr.create_array(str(place), data=STACK, chunks=(1, 48, 64), zarr_format=form)
    file = place / (".zarray" if form == 2 else "zarr.json")
    text = file.read_text()
    for key in json.loads(text):
        for value in HOSTILE:
            file.write_text(json.dumps({**json.loads(text), key: value}))
            try:
                _all(place)
            except (tp.FileError, tp.DataError) as error:
                assert "v.zarr" in str(error)
    for part in range(0, len(text), 37):
        file.write_text(text[:part])
        with pytest.raises(tp.FileError, match="v.zarr"):
            _all(place)


@pytest.mark.parametrize(
    ("shape", "chunks", "message"),
    [
        ((10, 10**6, 10**6), (1, 64, 64), "at most 1,073,741,824 pixels, got 1,000,000,000,000"),
        ((10**12, 64, 64), (1, 64, 64), "at most 1,048,576 slices, got 1,000,000,000,000"),
        ((4, 64, 64), (10**5, 10**5, 64), "at most 1,073,741,824 pixels, got 640,000,000,000"),
        ((1, 1, 10**18), (1, 1, 64), "got 1,000,000,000,000,000,000"),
    ],
)
def test_absurd_shapes_of_a_zarr_are_refused(
    shape: tuple[int, ...], chunks: tuple[int, ...], message: str, tmp_path: Path
) -> None:
    zarr.create_array(str(tmp_path / "v.zarr"), shape=(4, 64, 64), chunks=(1, 64, 64), dtype="u1")
    file = tmp_path / "v.zarr" / "zarr.json"
    content = json.loads(file.read_text())
    content["shape"] = shape
    content["chunk_grid"]["configuration"]["chunk_shape"] = chunks
    file.write_text(json.dumps(content))
    with pytest.raises(tp.FileError, match=f"v.zarr': needed .*{message}"):
        open_stack(tmp_path / "v.zarr")


def test_bombs_in_tiff_and_png_are_refused(tmp_path: Path) -> None:
    """Files of a few bytes that claim billions of pixels."""
    tifffile.imwrite(tmp_path / "b.tif", STACK[0], compression="zlib", **BLACK)
    with tifffile.TiffFile(tmp_path / "b.tif", mode="r+") as opened:
        opened.pages[0].tags["ImageWidth"].overwrite(65535)
        opened.pages[0].tags["ImageLength"].overwrite(65535)
    with pytest.raises(tp.FileError, match=r"b.tif"):
        _all(tmp_path / "b.tif")
    # A chunk that is much larger than its image.
    tifffile.imwrite(tmp_path / "t.tif", STACK[0], compression="zlib", tile=(16, 16), **BLACK)
    with tifffile.TiffFile(tmp_path / "t.tif", mode="r+") as opened:
        opened.pages[0].tags["TileWidth"].overwrite(65520)
        opened.pages[0].tags["TileLength"].overwrite(65520)
    with pytest.raises(tp.FileError, match=r"t.tif"):
        _all(tmp_path / "t.tif")


def test_a_header_of_imagej_that_stands_for_many_slices_is_no_slice(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "1.tif", STACK, imagej=True, truncate=True)
    with pytest.raises(tp.DataError, match="1.tif': needed one slice per file, got 6 pages"):
        open_stack(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "bits"), [(np.int8, 8), (np.int16, 16), (np.uint32, 32), (np.float32, 32)]
)
def test_slices_whose_white_is_not_known_are_refused(
    dtype: type, bits: int, tmp_path: Path
) -> None:
    tifffile.imwrite(tmp_path / "1.tif", STACK[0].astype(dtype), **BLACK)
    with pytest.raises(tp.DataError, match=r"1.tif': needed .*8 or 16 bit"):
        open_stack(tmp_path)
    with pytest.raises(tp.DataError, match=r"1.tif': needed (unsigned integers|8 or 16 bits)"):
        open_stack(tmp_path / "1.tif")


TRUE = STACK[:2] > 128
MASKS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "1-bit PNG": ("m.png", lambda file: Image.fromarray(TRUE[0]).save(file)),
    "1-bit TIFF by pillow": ("m.tif", lambda file: Image.fromarray(TRUE[0]).save(file)),
    "1-bit TIFF": ("m.tif", lambda file: tifffile.imwrite(file, TRUE, **BLACK)),
    "bool in Zarr": ("m.zarr", lambda place: zarr.save_array(str(place), TRUE)),
}
for _white, _dtype in [
    (1, "u1"),
    (255, "u1"),
    (1, "u2"),
    (255, "u2"),
    (65535, "u2"),
    (1, "u4"),
    (255, "u4"),
    (2**32 - 1, "u4"),
    (1, "i4"),
    (255, "i8"),
    (127, "i1"),
]:
    _array = (TRUE * _white).astype(_dtype)
    MASKS[f"{_white} of {_dtype}, TIFF"] = (
        "m.tif",
        lambda file, array=_array: tifffile.imwrite(file, array, **BLACK),
    )
    MASKS[f"{_white} of {_dtype}, Zarr"] = (
        "m.zarr",
        lambda place, array=_array: zarr.save_array(str(place), array),
    )


@pytest.mark.parametrize("kind", MASKS)
def test_masks_are_read_alike_in_every_type(kind: str, tmp_path: Path) -> None:
    name, write = MASKS[kind]
    write(tmp_path / name)
    masks = open_stack(tmp_path / name, masks=True)
    for index in range(masks.shape[0]):
        np.testing.assert_array_equal(read_mask(masks, index), TRUE[index])


@pytest.mark.parametrize("values", [[0, 1, 255], [0, 7], [1, 2], [0, 254], [-1, 0]])
def test_masks_of_other_values_are_refused(values: list[int]) -> None:
    array = np.resize(np.array(values, np.int32), (1, 4, 6))
    with pytest.raises(tp.DataError, match="needed a binary mask of 0 and 1, of 0 and 255, or of"):
        read_mask(ArrayVolume(array, "m"), 0)


def test_masks_of_floating_point_are_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "m.tif", TRUE.astype(np.float32), **BLACK)
    with pytest.raises(tp.DataError, match="needed unsigned integers, got float32"):
        open_stack(tmp_path / "m.tif", masks=True)

"""Images of class folders have the right value at every depth; other files are refused by name."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

import transpike as tp
from transpike.data import open_data
from transpike.data.images import FileImages

tifffile = pytest.importorskip("tifffile")

RANDOM = np.random.RandomState(0)
GRAY8 = RANDOM.randint(0, 256, (6, 8)).astype(np.uint8)
RGB8 = RANDOM.randint(0, 256, (6, 8, 3)).astype(np.uint8)
GRAY16 = RANDOM.randint(0, 65536, (6, 8)).astype(np.uint16)
RGB16 = RANDOM.randint(0, 65536, (6, 8, 3)).astype(np.uint16)
BITS = RANDOM.rand(6, 8) < 0.5
STEP = 0.51 / 255
LUMA = np.array([0.299, 0.587, 0.114])

Array = NDArray[Any]


def _png(pixels: Array, color: int) -> bytes:
    """A PNG with 16 bits per channel, which pillow cannot write in color."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in pixels)
    head = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color, 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        for name, data in chunks
    )


def _pillow(pixels: Array, **options: Any) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(pixels).save(file, **options)


def _tiff(pixels: Array, **options: Any) -> Callable[[Path], None]:
    return lambda file: tifffile.imwrite(file, pixels, **options)


def _alpha(pixels: Array, opaque: int) -> Array:
    return np.concatenate([pixels, np.full_like(pixels[..., :1], opaque)], axis=2)


BLACK, COLOR = {"photometric": "minisblack"}, {"photometric": "rgb"}
# How the file is written, its name, and its pixels between 0 and 1.
FILES: dict[str, tuple[str, Callable[[Path], Any], Array]] = {
    "8-bit PNG": ("a.png", _pillow(GRAY8), GRAY8 / 255),
    "8-bit RGB PNG": ("a.png", _pillow(RGB8), RGB8 / 255),
    "8-bit TIFF": ("a.tif", _tiff(GRAY8, **BLACK), GRAY8 / 255),
    "8-bit RGB TIFF": ("a.tif", _tiff(RGB8, **COLOR), RGB8 / 255),
    "8-bit white TIFF": ("a.tif", _tiff(255 - GRAY8, photometric="miniswhite"), GRAY8 / 255),
    "1-bit PNG": ("a.png", _pillow(BITS), BITS / 1),
    "1-bit TIFF": ("a.tif", _pillow(BITS), BITS / 1),
    "16-bit PNG": ("a.png", _pillow(GRAY16), GRAY16 / 65535),
    "16-bit RGB PNG": ("a.png", lambda f: f.write_bytes(_png(RGB16, 2)), RGB16 / 65535),
    "16-bit RGBA PNG": (
        "a.png",
        lambda f: f.write_bytes(_png(_alpha(RGB16, 9), 6)),
        RGB16 / 65535,
    ),
    "16-bit TIFF": ("a.tif", _tiff(GRAY16, **BLACK), GRAY16 / 65535),
    "16-bit TIFF, Motorola": ("a.tif", _tiff(GRAY16, byteorder=">", **BLACK), GRAY16 / 65535),
    "16-bit TIFF, LZW": ("a.tif", _pillow(GRAY16, compression="tiff_lzw"), GRAY16 / 65535),
    "16-bit TIFF, deflate, Motorola": (
        "a.tif",
        _tiff(GRAY16, byteorder=">", compression="zlib", **BLACK),
        GRAY16 / 65535,
    ),
    "16-bit RGB TIFF": ("a.tif", _tiff(RGB16, **COLOR), RGB16 / 65535),
    "16-bit RGB TIFF, Motorola": ("a.tif", _tiff(RGB16, byteorder=">", **COLOR), RGB16 / 65535),
    "16-bit RGB TIFF, deflate": ("a.tif", _tiff(RGB16, compression="zlib", **COLOR), RGB16 / 65535),
    "16-bit RGB TIFF in planes": (
        "a.tif",
        _tiff(RGB16.transpose(2, 0, 1), planarconfig="separate", **COLOR),
        RGB16 / 65535,
    ),
    "16-bit RGBA TIFF": (
        "a.tif",
        _tiff(_alpha(RGB16, 9), extrasamples=["unassalpha"], **COLOR),
        RGB16 / 65535,
    ),
}


def _read(file: Path, channels: int, size: int | None = None) -> Array:
    pixels = FileImages((file,), channels, size).read(np.array([0]))
    return np.asarray(pixels[0] / 255.0)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", FILES)
def test_every_depth_is_scaled_by_its_largest_value(
    name: str, channels: int, tmp_path: Path
) -> None:
    file, write, wanted = FILES[name]
    write(tmp_path / file)
    if channels == 1:
        wanted = (wanted if wanted.ndim == 2 else wanted @ LUMA)[None]
    else:
        wanted = np.stack([wanted] * 3) if wanted.ndim == 2 else wanted.transpose(2, 0, 1)
    # Pillow rounds the gray value of an RGB image with 8 bits.
    exact = channels == 3 or "RGB" not in name or "16" in name
    got = _read(tmp_path / file, channels)
    np.testing.assert_allclose(got, wanted, atol=1e-6 if exact else STEP)


def test_a_folder_of_both_depths_is_read_alike(tmp_path: Path) -> None:
    """8 bits and the same picture in 16 bits are the same input.

    Pillow rounds twice when it resizes 8 bits, and the input is then divided by the std.
    """
    for part in ("train", "test"):
        (tmp_path / part / "a").mkdir(parents=True)
        Image.fromarray(GRAY8).save(tmp_path / part / "a" / "1.png")
        Image.fromarray(GRAY8.astype(np.uint16) * 257).save(tmp_path / part / "a" / "2.png")
    for query, tolerance in (("gray", 1e-6), ("gray&size=4", 4 * STEP), ("size=9", 9 * STEP)):
        images, _ = next(open_data(f"folder:{tmp_path}?{query}").test.batches(2))
        np.testing.assert_allclose(images[0], images[1], atol=tolerance)


def _saved(pixels: Array, mode: str) -> Callable[[Path], None]:
    return lambda file: Image.fromarray(pixels).convert(mode).save(file)


def _pages(file: Path) -> None:
    tifffile.imwrite(file, np.stack([GRAY8, GRAY8]), photometric="minisblack")


UNSIGNED = "needed unsigned integers of 8 or 16 bits"
REFUSED: dict[str, tuple[str, Callable[[Path], Any], str]] = {
    "32-bit integers": ("a.tif", _tiff(GRAY16.astype(np.int32), **BLACK), UNSIGNED),
    "32-bit unsigned integers": ("a.tif", _tiff(GRAY16.astype(np.uint32), **BLACK), UNSIGNED),
    "16-bit signed integers": ("a.tif", _tiff(GRAY16.astype(np.int16), **BLACK), UNSIGNED),
    "8-bit signed integers": ("a.tif", _tiff(GRAY8.astype(np.int8), **BLACK), UNSIGNED),
    "floating point": ("a.tif", _tiff((GRAY8 / 255).astype(np.float32), **BLACK), UNSIGNED),
    "floating point, Motorola": (
        "a.tif",
        _tiff((GRAY8 / 255).astype(np.float32), byteorder=">", **BLACK),
        UNSIGNED,
    ),
    "pillow's 32 bits": ("a.tif", _saved(GRAY8, "I"), UNSIGNED),
    "pillow's floating point": ("a.tif", _saved(GRAY8, "F"), UNSIGNED),
    "16 bits, inverted": (
        "a.tif",
        _tiff(GRAY16, photometric="miniswhite"),
        "needed a TIFF in which 0 is black, got one in which 0 is white. Invert",
    ),
    "gray with alpha in 16 bits": (
        "a.png",
        lambda f: f.write_bytes(_png(RGB16[..., :2], 4)),
        "needed gray or RGB, got gray with alpha of 16 bits",
    ),
    "several pages": ("a.tif", _pages, "needed one image per file, got a TIFF of 2 pages"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_known_white_is_refused(name: str, tmp_path: Path) -> None:
    file, write, message = REFUSED[name]
    write(tmp_path / file)
    for channels in (1, 3):
        with pytest.raises(tp.DataError, match=f"{file}': {message}"):
            _read(tmp_path / file, channels)


def _encoded(format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.repeat(np.repeat(RGB8, 8, 0), 8, 1)).save(file, format, **options)
    return file.getvalue()


WHOLE = {
    "png": _encoded("PNG"),
    "jpg": _encoded("JPEG"),
    "bmp": _encoded("BMP"),
    "webp": _encoded("WEBP", lossless=True),
    "tif": _encoded("TIFF"),
    "tiff": _encoded("TIFF", compression="tiff_adobe_deflate"),
    "16.png": _png(np.repeat(RGB16, 40, 0), 2),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_truncated_image_is_a_file_error_with_its_name(kind: str, tmp_path: Path) -> None:
    whole = WHOLE[kind]
    for share in (0.0, 0.02, 0.1, 0.33, 0.66, 0.9):
        file = tmp_path / f"cut.{kind}"
        file.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(tp.FileError, match=f"cannot read the image '.*cut.{kind}': .*[.]"):
            _read(file, 3)
    file.write_bytes(whole)
    assert _read(file, 3).shape[0] == 3


@pytest.mark.parametrize("kind", WHOLE)
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_never_end_in_another_error(kind: str, tmp_path: Path) -> None:
    """A changed byte may still give a picture; if it does not, the error names the file."""
    random = np.random.RandomState(1)
    whole = np.frombuffer(WHOLE[kind], np.uint8)
    for _ in range(60):
        data = whole.copy()
        places = random.randint(0, min(len(data), 400), 3)
        data[places] = random.randint(0, 256, 3)
        file = tmp_path / f"damaged.{kind}"
        file.write_bytes(data.tobytes())
        try:
            _read(file, 3, size=8)
        except (tp.FileError, tp.DataError) as error:
            assert f"damaged.{kind}" in str(error)


def test_a_decompression_bomb_is_refused(tmp_path: Path) -> None:
    """A small file that claims 60000 x 60000 pixels is not decoded."""
    whole = bytearray(_png(GRAY16, 0))
    whole[16:24] = struct.pack(">II", 60000, 60000)
    whole[29:33] = struct.pack(">I", zlib.crc32(bytes(whole[12:29])))
    (tmp_path / "bomb.png").write_bytes(whole)
    with pytest.raises(tp.FileError, match="bomb.png': .*exceeds limit"):
        _read(tmp_path / "bomb.png", 3)

"""One image file as pixels between 0 and 255, whatever its format and depth."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transpike.data.decode import decoding
from transpike.errors import DataError, missing_package

BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF 6.0
WHITE_IS_ZERO = 0  # a value of the tag PhotometricInterpretation
INVERTED = (
    "{!r}: needed a TIFF in which 0 is black, got one in which 0 is white. Invert it and save it "
    "again."
)
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L")  # modes of pillow for gray images
_UNSIGNED = 1  # a value of the tag SampleFormat
_STEPS = 257.0  # 65535 / 255
_DEEP_COLOR = ("RGB;16B", "RGBA;16B")  # how pillow reads PNG with 16 bits: the first byte of two
_LAST_BYTE = {"RGB;16B": "RGB;16L", "RGBA;16B": "RGBA;16L"}
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R 601-2, as in pillow
_ALPHA = ("LA;16B",)


def read_image(file: Path, channels: int, size: int | None) -> NDArray[Any]:
    """Read an image for a network.

    Args:
        file: an image in a format of pillow, with at most 16 bits per channel.
        channels: 1 for gray or 3 for RGB; the image is converted to it.
        size: side in pixels to which the image is resized; None keeps the size.

    Returns:
        Pixels (C, H, W). They are uint8; of files with 16 bits they are float32, and 65535 becomes
        255.

    Raises:
        FileError: the file is missing, damaged or too large.
        DataError: the pixels are signed, floating point, or of another depth, or the file is a TIFF
            of several pages.
        ArgumentError: a package is not installed.
    """
    from PIL import Image

    with decoding(f"the image {str(file)!r}"):
        with Image.open(file) as opened:
            check_depth(opened, file)
            _check_single(opened, file)
            wide = _wide(opened, file)
            image = None
            if wide is None:
                image = opened.convert("L" if channels == 1 else "RGB")
        if image is None:
            assert wide is not None
            return _resized(_in_channels(wide, channels), size)
        if size is not None:
            image = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, channels)
        channels_first: NDArray[np.uint8] = pixels.transpose(2, 0, 1)
        return channels_first


def check_depth(opened: Any, file: Path) -> None:
    """Refuse an image of pillow whose values have no known value that stands for 1.

    Args:
        opened: the opened image.
        file: its file, for the message.

    Raises:
        DataError: the pixels are signed, floating point, or of another depth.
    """
    bits, unsigned = 8, True
    if opened.format == "TIFF":
        tags = opened.tag_v2
        bits = max(_numbers(tags.get(BITS_PER_SAMPLE, 1)))
        unsigned = set(_numbers(tags.get(SAMPLE_FORMAT, _UNSIGNED))) == {_UNSIGNED}
    # Versions of pillow before 11 call a gray PNG of 16 bits "I".
    deep = opened.mode in SIXTEEN_BITS or (opened.mode == "I" and opened.format == "PNG")
    if deep:
        bits = bits if opened.format == "TIFF" else 16
    other = (opened.mode in ("I", "F") or opened.mode.startswith("I;")) and not deep
    if not unsigned or other or (bits > 8 and bits != 16):
        found = f"mode {opened.mode}" if unsigned and other else f"{bits} bits"
        kind = "" if unsigned else " of signed or floating-point values"
        raise DataError(
            f"{str(file)!r}: needed unsigned integers of 8 or 16 bits, got {found}{kind}. Save it "
            "as 8 or 16 bit, so that the value that stands for 1 is known."
        )
    if deep and opened.format not in ("PNG", "TIFF"):
        raise DataError(
            f"{str(file)!r}: needed 8 bits, or 16 bits in a PNG or TIFF file, got {opened.format} "
            f"of mode {opened.mode}. Save it as PNG."
        )


def _check_single(opened: Any, file: Path) -> None:
    pages = getattr(opened, "n_frames", 1) if opened.format == "TIFF" else 1
    if pages != 1:
        raise DataError(
            f"{str(file)!r}: needed one image per file, got a TIFF of {pages} pages. Save each "
            "page in a file of its own, or only the one that is the image."
        )


def _numbers(value: Any) -> tuple[int, ...]:
    return tuple(value) if isinstance(value, tuple) else (int(value),)


def _wide(opened: Any, file: Path) -> NDArray[np.uint16] | None:
    """The pixels of an image with 16 bits per channel, (H, W) or (H, W, C); None for 8 bits."""
    raw = opened.tile[0][3] if opened.format == "PNG" and opened.tile else None
    raw = raw if isinstance(raw, str) or not raw else raw[0]
    if opened.mode in SIXTEEN_BITS or (opened.mode == "I" and opened.format == "PNG"):
        if opened.format == "TIFF" and opened.tag_v2.get(PHOTOMETRIC) == WHITE_IS_ZERO:
            raise DataError(INVERTED.format(str(file)))
        return np.asarray(opened).astype(np.uint16)
    if raw in _DEEP_COLOR:
        return _deep_png(opened, file, raw)
    if raw in _ALPHA:
        raise DataError(
            f"{str(file)!r}: needed gray or RGB, got gray with alpha of 16 bits. Save it without "
            "alpha."
        )
    if opened.format == "TIFF" and max(_numbers(opened.tag_v2.get(BITS_PER_SAMPLE, 1))) > 8:
        return _deep_tiff(file)
    return None


def _deep_png(opened: Any, file: Path, raw: str) -> NDArray[np.uint16]:
    """RGB of a PNG with 16 bits. Pillow gives one byte of two, so the file is decoded twice."""
    from PIL import Image

    first = np.asarray(opened).astype(np.uint16)
    with Image.open(file) as again:
        again.tile = [type(tile)(*tile[:3], _LAST_BYTE[raw]) for tile in again.tile]
        last = np.asarray(again)
    color: NDArray[np.uint16] = (first << 8 | last)[..., :3]
    return color


def _deep_tiff(file: Path) -> NDArray[np.uint16]:
    """RGB of a TIFF with 16 bits, of which pillow drops the last 8."""
    try:
        import tifffile
    except ImportError as error:
        raise missing_package("tifffile") from error
    with tifffile.TiffFile(file) as opened:
        page = opened.pages.first
        pixels = page.asarray()
        axes, photometric = page.axes, page.photometric
    if photometric != tifffile.PHOTOMETRIC.RGB or sorted(axes) != ["S", "X", "Y"]:
        raise DataError(
            f"{str(file)!r}: needed gray or RGB, got 16 bits with the axes {axes} and the "
            f"photometric interpretation {photometric.name}. Save it as RGB."
        )
    color: NDArray[np.uint16] = np.moveaxis(pixels, axes.index("S"), 2)[..., :3]
    return color.astype(np.uint16)


def _in_channels(pixels: NDArray[np.uint16], channels: int) -> NDArray[np.float32]:
    """(H, W) or (H, W, 3) as (C, H, W), where 65535 becomes 255."""
    scaled = pixels.astype(np.float32) / np.float32(_STEPS)
    if channels == 1:
        gray = scaled if scaled.ndim == 2 else scaled @ _LUMA
        return np.ascontiguousarray(gray[None])
    if scaled.ndim == 2:
        return np.repeat(scaled[None], 3, axis=0)
    return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def _resized(pixels: NDArray[np.float32], size: int | None) -> NDArray[np.float32]:
    from PIL import Image

    if size is None:
        return pixels
    planes = (Image.fromarray(plane) for plane in pixels)
    return np.stack([np.asarray(p.resize((size, size), Image.Resampling.BILINEAR)) for p in planes])


__all__ = [
    "BITS_PER_SAMPLE",
    "INVERTED",
    "PHOTOMETRIC",
    "SIXTEEN_BITS",
    "WHITE_IS_ZERO",
    "check_depth",
    "read_image",
]

"""Images as bytes of PNG files, without an imaging package."""

from __future__ import annotations

import base64
import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_GRAY, _RGB = 0, 2  # color types of PNG
_SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: NDArray[Any]) -> bytes:
    """Encode an image as a PNG file.

    Args:
        pixels: (H, W) of bool, stored with one bit per pixel, or (H, W) or (H, W, 3) of uint8.

    Source: W3C, Portable Network Graphics (PNG) Specification, third edition.
    """
    height, width = pixels.shape[:2]
    color = _RGB if pixels.ndim == 3 else _GRAY
    bits = 1 if pixels.dtype == np.bool_ else 8
    packed = np.packbits(pixels, axis=1) if bits == 1 else pixels.reshape(height, -1)
    # Every row begins with its filter: 0 for none, because masks and noise gain nothing from one.
    rows = np.concatenate([np.zeros((height, 1), np.uint8), packed], axis=1)
    head = struct.pack(">IIBBBBB", width, height, bits, color, 0, 0, 0)
    data = zlib.compress(rows.tobytes(), 9)
    return _SIGNATURE + _chunk(b"IHDR", head) + _chunk(b"IDAT", data) + _chunk(b"IEND", b"")


def data_link(pixels: NDArray[Any]) -> str:
    """The image as a `data:` address of a PNG file."""
    return png_link(png(pixels))


def png_link(content: bytes) -> str:
    """The `data:` address of a PNG file."""
    return "data:image/png;base64," + base64.b64encode(content).decode("ascii")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


__all__ = ["data_link", "png", "png_link"]

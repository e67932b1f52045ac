"""The files in which `transpike segment` keeps its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

import transpike as tp
from transpike.data.volumes import Volume
from transpike.segment import Mask

_WHITE = 255
_LARGE_TIFF = 2**32  # bytes that a TIFF with 32-bit offsets cannot hold


def check_output(output: Path) -> None:
    """Refuse to mix masks with those of another run."""
    for place in (output / "masks", output / "masks.tif"):
        if place.exists():
            raise tp.ArgumentError(
                f"{str(place)!r} is there already. Choose another folder, or remove it."
            )


@contextmanager
def _many_png(folder: Path) -> Iterator[Callable[[str, Mask], None]]:
    from PIL import Image

    place = folder / "masks"
    place.mkdir(parents=True)
    try:
        yield lambda name, mask: Image.fromarray(_bytes(mask)).save(place / _mask_file(name))
    finally:
        if not any(place.iterdir()):
            place.rmdir()


@contextmanager
def _one_tiff(folder: Path, stack: Volume, count: int) -> Iterator[Callable[[str, Mask], None]]:
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    place, written = folder / "masks.tif", False
    large = count * stack.shape[1] * stack.shape[2] > _LARGE_TIFF // 2

    def write(_: str, mask: Mask) -> None:
        nonlocal written
        opened.write(_bytes(mask), photometric="minisblack", contiguous=True)
        written = True

    try:
        with tifffile.TiffWriter(place, bigtiff=large) as opened:
            yield write
    finally:
        if not written:
            place.unlink(missing_ok=True)


@contextmanager
def mask_writer(
    folder: Path, tiff: bool, stack: Volume, count: int
) -> Iterator[Callable[[str, Mask], None]]:
    """A function that writes the mask of a slice, as 0 and 255; without any, no place is left."""
    try:
        writer = _one_tiff(folder, stack, count) if tiff else _many_png(folder)
        with writer as write:
            yield write
    except ImportError as error:
        raise tp.ArgumentError(
            f"{error.name} is not installed: install it with pip install 'transpike[volumes]'."
        ) from error
    except OSError as error:
        raise tp.FileError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}."
        ) from error


def _mask_file(name: str) -> str:
    """The mask of slice 003.tif is 003.png."""
    return f"{Path(name).stem}.png"


def _bytes(mask: Mask) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(_WHITE)
    return pixels

"""The files in which `transpike segment` keeps its masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import transpike as tp
from transpike.cli.unfinished import is_unfinished
from transpike.data.volumes import Volume
from transpike.data.voxel_size import VoxelSize
from transpike.errors import missing_package
from transpike.files import replacing
from transpike.segment import Mask

_WHITE = 255
_LARGE_TIFF = 2**32  # bytes that a TIFF with 32-bit offsets cannot hold
_NANOMETERS = 1000.0  # in a micrometer


def check_output(output: Path) -> None:
    """Refuse a folder that holds the masks of another run, unless that run can go on."""
    if is_unfinished(output):
        return
    for place in (output / "masks", output / "masks.tif"):
        if place.exists():
            raise tp.ArgumentError(
                f"{str(place)!r} is there already. Choose another folder with -o, or remove it."
            )


@contextmanager
def _many_png(folder: Path) -> Iterator[Callable[[str, Mask], None]]:
    from PIL import Image

    place = folder / "masks"
    place.mkdir(parents=True, exist_ok=True)

    def write(name: str, mask: Mask) -> None:
        with replacing(place / _mask_file(name)) as file:
            Image.fromarray(_bytes(mask)).save(file, format="PNG")

    try:
        yield write
    finally:
        if not any(place.iterdir()):
            place.rmdir()


@contextmanager
def _one_tiff(
    folder: Path, stack: Volume, chosen: Sequence[int], size: VoxelSize | None
) -> Iterator[Callable[[str, Mask], None]]:
    import tifffile

    folder.mkdir(parents=True, exist_ok=True)
    place, written = folder / "masks.tif", 0
    large = len(chosen) * stack.shape[1] * stack.shape[2] > _LARGE_TIFF // 2
    size = None if size is None else VoxelSize(_distance(size, chosen), size.y, size.x)
    tags = {} if size is None else _size_tags(size, len(chosen))

    def write(_: str, mask: Mask) -> None:
        nonlocal written
        opened.write(_bytes(mask), photometric="minisblack", contiguous=True, **tags)
        written += 1

    try:
        with tifffile.TiffWriter(place, bigtiff=large) as opened:
            yield write
            if size is not None and 0 < written < len(chosen):  # after an interrupt
                opened.overwrite_description(_size_tags(size, written)["description"])
    finally:
        if not written:
            place.unlink(missing_ok=True)


@contextmanager
def mask_writer(
    folder: Path, tiff: bool, stack: Volume, chosen: Sequence[int], size: VoxelSize | None
) -> Iterator[Callable[[str, Mask], None]]:
    """Gives a function that writes the mask of a slice with the values 0 and 255.

    If no mask is written, no empty file or folder is left.

    Args:
        folder: made if it does not exist.
        tiff: write one TIFF file; otherwise one PNG file per slice.
        stack: the volume.
        chosen: its slices in the order in which their masks are written.
        size: size of a voxel of the volume, for the TIFF file.
    """
    try:
        writer = _one_tiff(folder, stack, chosen, size) if tiff else _many_png(folder)
        with writer as write:
            yield write
    except ImportError as error:
        raise missing_package("tifffile" if tiff else "pillow") from error
    except OSError as error:
        raise tp.FileError(
            f"cannot write to {str(folder)!r}: {error.strerror or error}."
        ) from error


def _distance(size: VoxelSize, chosen: Sequence[int]) -> float | None:
    """Distance between neighboring masks in nanometers; None if it is unknown or changes."""
    steps = set(np.diff(chosen).tolist())
    if size.z is None or len(steps) > 1:
        return None
    return size.z * (steps.pop() if steps else 1)


def _size_tags(size: VoxelSize, count: int) -> dict[str, Any]:
    """What makes tifffile write the size of a voxel; the description is that of ImageJ."""
    lines = ["ImageJ=1.11a", f"images={count}", f"slices={count}", "unit=um"]
    if size.z is not None:
        lines.append(f"spacing={size.z / _NANOMETERS:.9g}")
    return {
        "resolution": (_NANOMETERS / size.x, _NANOMETERS / size.y),
        "resolutionunit": "NONE",
        "metadata": None,
        "description": "\n".join(lines) + "\n",
    }


def _mask_file(name: str) -> str:
    """The mask of slice 003.tif is 003.png."""
    return f"{Path(name).stem}.png"


def _bytes(mask: Mask) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = mask.astype(np.uint8) * np.uint8(_WHITE)
    return pixels

"""Stacks of grayscale slices in folders, TIFF files and Zarr arrays, read region by region."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transpike.data.axes import split_place
from transpike.data.decode import check_extent, decoding
from transpike.data.images import Normalization
from transpike.data.listing import entries, numbered
from transpike.data.pixels import (
    INVERTED,
    PHOTOMETRIC,
    SIXTEEN_BITS,
    WHITE_IS_ZERO,
    check_depth,
)
from transpike.data.stack import ArrayVolume, FileVolume, PagedVolume, Volume
from transpike.data.tiff import open_tiff, voxel_size_of_tags
from transpike.data.voxel_size import DESCRIPTION, VoxelSize
from transpike.data.zarr_stack import open_zarr
from transpike.errors import ArgumentError, DataError, FileError, missing_package

_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
_TIFF_SUFFIXES = frozenset({".tif", ".tiff"})
_GRAY_MODES = ("1", "L", *SIXTEEN_BITS)  # names of pillow
_WHITE = 255  # in a mask of any type of integers


def open_stack(place: str | Path, *, masks: bool = False) -> Volume:
    """Open grayscale slices in any layout.

    A TIFF or Zarr file may have more axes than the slices need, several series or several
    resolution levels. Then the name says which of them is meant, as in `stack.tif?channel=1`,
    `stack.tif?series=0&time=3` or `plate.zarr/0?level=1`. `axes=ZCYX` names axes that have no name.

    Args:
        place: a `.png` file, a `.tif` file with one or more pages, a folder of numbered slices (see
            `open_slices`), or a Zarr array: `NAME.zarr`, or `NAME.zarr/ARRAY` in a group, or a
            group of OME-Zarr.
        masks: open masks, which may have any type of integers.

    Raises:
        FileError: the file or folder is missing, damaged, or claims too many pixels.
        DataError: the slices are not grayscale unsigned integers, a slice is missing, or there is
            more than one stack.
        ArgumentError: a package is not installed, or the choice does not fit.
    """
    given = str(place)
    place, choice = split_place(place)
    for root in (place, *place.parents):
        if root.suffix == ".zarr":
            inside = place.relative_to(root).as_posix()
            return open_zarr(root, "" if inside == "." else inside, choice, masks=masks)
    suffix = place.suffix.lower()
    if place.is_file() and suffix in _TIFF_SUFFIXES:
        return open_tiff(place, choice, masks=masks)
    if choice and place.exists():
        raise ArgumentError(
            f"{given!r}: needed a choice only for a .tif file or a .zarr array, got one for "
            f"{str(place)!r}. Leave it out."
        )
    if place.is_dir():
        return open_slices(place)
    if not place.is_file():
        raise FileError(f"no file or folder {str(place)!r}. Check the path.")
    if suffix == ".png":
        (height, width, maximum), _ = _header(place)
        return FileVolume((place,), (1, height, width), maximum)
    raise DataError(
        f"{str(place)!r}: needed a .png or .tif file, a folder of slices or a .zarr array. Save it "
        "as one of these."
    )


def open_slices(folder: Path) -> FileVolume:
    """Open a folder of numbered slices. Only the headers of the files are read.

    Args:
        folder: folder of grayscale `.png` or `.tif` files. The number in a file name that differs
            from file to file is the number of the slice. The numbers rise in equal steps. Hidden
            files are skipped, and those that operating systems add.

    Raises:
        FileError: the folder does not exist, or a file is not an image.
        DataError: there is no slice, a slice is missing, slices differ in size or type, or a slice
            is RGB.
    """
    if not folder.is_dir():
        raise FileError(f"no folder {str(folder)!r}: needed a folder of .png or .tif slices.")
    files = entries(folder, _SUFFIXES)
    if not files:
        raise DataError(f"{str(folder)!r}: needed .png or .tif slices, got none.")
    files = [file for _, file in numbered(folder, files)]
    headers, sizes = zip(*(_header(file) for file in files), strict=True)
    for file, header in zip(files, headers, strict=True):
        if header != headers[0]:
            raise DataError(
                f"{str(file)!r}: needed every slice like the first, (height, width, maximum) = "
                f"{headers[0]}, got {header}. Crop or convert it to the same size and type."
            )
    height, width, maximum = headers[0]
    # If the slices state different sizes, the size of a voxel is unknown.
    voxel_size = sizes[0] if len(set(sizes)) == 1 else None
    shape = (len(files), height, width)
    return FileVolume(tuple(files), shape, maximum, voxel_size)


def read_mask(
    masks: Volume, index: int, rows: slice = slice(None), columns: slice = slice(None)
) -> NDArray[np.bool_]:
    """A region of a binary mask, (height, width).

    Masks are written as 0 and 1, as 0 and 255, or as 0 and the largest value of their type.

    Raises:
        DataError: there are other values.
    """
    labels = masks.read(index, rows, columns)
    values = np.unique(labels)
    found = set(values.tolist())
    if not any(found <= {0, white} for white in (1, _WHITE, masks.maximum)):
        shown = ", ".join(str(value) for value in values[:5])
        raise DataError(
            f"{masks.place(index)}: needed a binary mask of 0 and 1, of 0 and {_WHITE}, or of 0 "
            f"and {masks.maximum}, got {len(values)} values ({shown}...). Binarize it first."
        )
    mask: NDArray[np.bool_] = labels > 0
    return mask


def normalized(
    pixels: NDArray[Any], maximum: int, normalization: Normalization
) -> NDArray[np.float32]:
    """Normalize pixels for a network of one channel: (value / maximum - mean) / std, float32.

    Args:
        pixels: pixels as they were read, any shape.
        maximum: value that stands for 1.
        normalization: mean and std of one channel.
    """
    mean, std = np.float32(normalization.mean[0]), np.float32(normalization.std[0])
    scaled: NDArray[np.float32] = (pixels.astype(np.float32) / maximum - mean) / std
    return scaled


def _header(file: Path) -> tuple[tuple[int, int, int], VoxelSize | None]:
    """(Height, width, largest value) of a slice, and the size of its voxels."""
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_package("pillow") from error
    with decoding(f"the slice {str(file)!r}"), Image.open(file) as opened:
        mode, (width, height) = opened.mode, opened.size
        tags = getattr(opened, "tag_v2", {})
        frames = max(getattr(opened, "n_frames", 1), _stated(tags.get(DESCRIPTION)))
        inverted = tags.get(PHOTOMETRIC) == WHITE_IS_ZERO
        voxel_size = voxel_size_of_tags(tags)
        if mode in _GRAY_MODES:
            check_depth(opened, file)
    if mode not in _GRAY_MODES:
        raise DataError(
            f"{str(file)!r}: needed a grayscale slice of 8 or 16 bit, got mode {mode}. Convert it "
            "to one channel first, and choose the channel or the mix yourself."
        )
    if inverted:
        raise DataError(INVERTED.format(str(file)))
    if frames != 1:
        raise DataError(
            f"{str(file)!r}: needed one slice per file, got {frames} pages. Name the volume "
            "training.tif or testing.tif and give the folder that holds it."
        )
    check_extent(str(file), (1, height, width))
    return (height, width, {"1": 1, "L": 255}.get(mode, 65535)), voxel_size


def _stated(description: object) -> int:
    """The number of images that the description of ImageJ states. One header may serve all."""
    text = description if isinstance(description, str) else ""
    found = re.search(r"^images=(\d{1,9})$", text, re.MULTILINE)
    return int(found[1]) if found and text.startswith("ImageJ=") else 1


__all__ = [
    "ArrayVolume",
    "FileVolume",
    "PagedVolume",
    "Volume",
    "normalized",
    "open_slices",
    "open_stack",
    "open_tiff",
    "open_zarr",
    "read_mask",
]

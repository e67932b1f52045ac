"""Stacks in TIFF files, with the axes that ImageJ, OME and tifffile write."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from transpike.data.axes import Choice, Layout, check_sizes, layout_of
from transpike.data.decode import check_extent, decoding
from transpike.data.pixels import INVERTED, WHITE_IS_ZERO
from transpike.data.stack import ArrayVolume, PagedVolume, Volume, check_type, leading_axes
from transpike.data.voxel_size import (
    DESCRIPTION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    VoxelSize,
    voxel_size_of,
)
from transpike.errors import ArgumentError, DataError, FileError, missing_package

if TYPE_CHECKING:
    from tifffile import TiffFile, TiffPageSeries

_NO_CHOICE = Choice()
_BITS_OF_A_BYTE = 8
# Bytes of the types of TIFF 6.0 and BigTIFF that are longer than one byte.
_TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}


def open_tiff(file: Path, choice: Choice = _NO_CHOICE, *, masks: bool = False) -> Volume:
    """Open a grayscale TIFF of one or more pages. Uncompressed files are memory-mapped.

    Args:
        file: the TIFF file.
        choice: the series, and the index along axes besides that of the slices.
        masks: open masks, which may have any type of integers.

    Raises:
        FileError: the file is missing, damaged, or claims too many pixels.
        DataError: the file is not one stack of grayscale slices of unsigned integers.
        ArgumentError: tifffile is not installed, or the choice does not fit.
    """
    if not file.is_file():
        raise FileError(f"cannot read a volume: no file {str(file)!r}. Check the path.")
    try:
        import tifffile
    except ImportError as error:
        raise missing_package("tifffile") from error
    if choice.level is not None:
        raise ArgumentError(
            f"{str(file)!r}: level={choice.level} is for groups of OME-Zarr. Leave it out, and "
            "choose with series= among the images of a TIFF."
        )
    with decoding(f"{str(file)!r} as TIFF"):
        with tifffile.TiffFile(file) as opened:
            found = _stack(file, opened, choice)
            voxel_size = voxel_size_of_tags({tag.code: tag.value for tag in found.first.tags})
            layout = layout_of(str(file), found.axes, found.sizes, choice)
            _check_pixels(str(file), found, layout, masks)
        if found.series is not None and found.dataoffset is not None:
            array = tifffile.memmap(file, mode="r", series=found.series).reshape(found.sizes)
            return ArrayVolume(_slices_of(array, layout), str(file), voxel_size)
    return PagedVolume(file, found.dtype, layout, found.pages, voxel_size)


def voxel_size_of_tags(tags: Mapping[int, Any]) -> VoxelSize | None:
    """The voxel size that the tags of a TIFF page state.

    Args:
        tags: values by the number of the tag.
    """
    x, y = (_resolution(tags.get(code)) for code in (X_RESOLUTION, Y_RESOLUTION))
    unit, description = tags.get(RESOLUTION_UNIT), tags.get(DESCRIPTION)
    return voxel_size_of(
        x,
        y,
        None if unit is None else int(unit),
        description if isinstance(description, str) else "",
    )


def _resolution(value: Any) -> float | None:
    """A rational number: two whole numbers of tifffile, or one number of pillow."""
    if isinstance(value, tuple):
        return value[0] / value[1] if value[1] else None
    return None if value is None else float(value)


@dataclass(frozen=True)
class _Stack:
    """What was found in a file: one series of pages, or all pages."""

    series: int | None
    axes: str
    sizes: tuple[int, ...]
    dtype: np.dtype[Any]
    pages: tuple[int, ...]
    first: Any
    dataoffset: int | None


def _stack(file: Path, opened: TiffFile, choice: Choice) -> _Stack:
    """The series that the user chose, or the only one."""
    name, series = str(file), opened.series
    _check_chain(name, opened)
    if choice.series is None and len(series) > 1 and _is_pages(opened):
        first: Any = opened.pages.first
        count = len(opened.pages)
        shape = (count, *first.shape)
        return _Stack(
            None, "Q" + first.axes, shape, np.dtype(first.dtype), tuple(range(count)), first, None
        )
    number = _series_number(name, opened, choice.series)
    one = series[number]
    _check_count(name, opened, one)
    axes, sizes = one.get_axes(False), tuple(one.get_shape(False))  # also axes of length 1
    pages = _pages(name, opened, one)
    page = opened.pages[pages[0]]
    return _Stack(number, axes, sizes, np.dtype(one.dtype), pages, page, one.dataoffset)


def _is_pages(opened: TiffFile) -> bool:
    """Whether a program wrote slice by slice, so that each one counts as a series of its own."""
    if opened.is_ome or len(opened.series) != len(opened.pages):
        return False
    kinds = {(series.axes, tuple(series.shape), str(series.dtype)) for series in opened.series}
    return len(kinds) == 1


def _series_number(name: str, opened: TiffFile, wanted: int | None) -> int:
    series = opened.series
    if wanted is None and len(series) > 1:
        found = [f"{k}: {s.axes} {tuple(s.shape)} {s.dtype}" for k, s in enumerate(series)]
        sizes = {(tuple(page.shape), str(page.dtype)) for page in opened.pages}
        needed = "every page of one size and type" if len(sizes) > 1 else "one series of pages"
        raise DataError(
            f"{name!r}: needed {needed}, got {len(series)} series: {', '.join(found[:5])}"
            f"{', ...' if found[5:] else ''}. Choose one, as in '{Path(name).name}?series=0', or "
            "save the slices without thumbnails or other pages."
        )
    if wanted is not None and wanted >= len(series):
        raise ArgumentError(f"{name!r}: needed series=0..{len(series) - 1}, got {wanted}.")
    return wanted or 0


def _pages(name: str, opened: TiffFile, series: TiffPageSeries) -> tuple[int, ...]:
    """Indices of the pages of a series in the file."""
    indices = []
    for page in series.pages:
        if page is None:
            raise FileError(
                f"{name!r}: needed {len(series.pages)} pages, as its OME description states, and "
                "some are missing. The file is damaged, or a part of a set of files. Save the "
                "stack in one file."
            )
        if page.parent is not opened or not isinstance(page.index, int):
            raise DataError(
                f"{name!r}: needed a stack in one file, got pages in other files. Save the stack "
                "in one file."
            )
        indices.append(page.index)
    if len(indices) > 1:
        kinds = {(tuple(opened.pages[k].shape), str(opened.pages[k].dtype)) for k in indices}
        if len(kinds) > 1:
            found = ", ".join(f"{size} {kind}" for size, kind in sorted(kinds))
            raise DataError(
                f"{name!r}: needed every page of one size and type, got {found}. Save the slices "
                "without thumbnails or other pages."
            )
    return tuple(indices)


def _check_chain(name: str, opened: TiffFile) -> None:
    """Refuse a file that ends before its pages do. tifffile would leave the others out."""
    handle, form = opened.filehandle, opened.tiff
    count = len(opened.pages)
    end = opened.pages.next_page_offset
    handle.seek(end or 0)
    stored = handle.read(form.offsetsize)
    if end and struct.unpack(form.offsetformat, stored)[0]:
        raise FileError(
            f"{name!r}: needed a whole TIFF file, got one that ends after {count} pages, where "
            "another one should follow. The file is damaged: copy it or save it again."
        )
    for number, page in enumerate(opened.pages):
        pixels = map(sum, zip(page.dataoffsets, page.databytecounts, strict=False))
        if max(max(pixels, default=0), _end_of_tags(opened, page.offset)) > handle.size:
            raise FileError(
                f"{name!r}: needed a whole TIFF file, got one that ends within page {number}. The "
                "file is damaged: copy it or save it again."
            )


def _end_of_tags(opened: TiffFile, offset: int) -> int:
    """Where the values of the tags of a page end. tifffile leaves out those behind the end."""
    handle, form = opened.filehandle, opened.tiff
    handle.seek(offset)
    count = struct.unpack(form.tagnoformat, handle.read(form.tagnosize))[0]
    table = handle.read(count * form.tagsize)
    inline = form.offsetsize  # shorter values are in the table itself
    layout = form.tagformat1 + form.offsetformat[-1] * 2  # number, type, count, offset
    ends = [
        place + values * _TYPE_BYTES.get(kind, 1)
        for _, kind, values, place in struct.iter_unpack(layout, table)
        if values * _TYPE_BYTES.get(kind, 1) > inline
    ]
    return max(ends, default=0)


def _check_count(name: str, opened: TiffFile, series: TiffPageSeries) -> None:
    """Refuse a file with fewer pixels than its description states."""
    held = math.prod(series.shape)
    page = series.keyframe
    stated = int((opened.imagej_metadata or {}).get("images", 1)) * math.prod(page.shape)
    if len(opened.series) == 1:
        shapes = [one["shape"] for one in opened.shaped_metadata or () if "shape" in one]
        stated = max(stated, *(math.prod(shape) for shape in shapes), 0)
    end = (series.dataoffset or 0) + held * series.dtype.itemsize
    if stated > held or (series.dataoffset is not None and end > opened.filehandle.size):
        raise FileError(
            f"{name!r}: needed the {max(stated, held):,} pixels that the file states, got fewer. "
            "The file is damaged: copy it or save it again."
        )


def _check_pixels(name: str, found: _Stack, layout: Layout, masks: bool) -> None:
    page = found.first
    check_sizes(name, found.sizes)
    leading = leading_axes(found.sizes, len(found.pages))
    if found.dataoffset is None and math.prod(found.sizes[leading:]) != math.prod(page.shape):
        raise FileError(
            f"{name!r}: needed pages of the shape {found.sizes}, got {len(found.pages)} of the "
            f"shape {tuple(page.shape)}. The file is damaged: copy it or save it again."
        )
    if found.dataoffset is None and min(layout.row, layout.column) < leading:
        raise ArgumentError(
            f"{name!r}: needed Y and X among the axes of a page, got axes=, which puts them in "
            "front. Name the axes in the order of the file."
        )
    check_extent(name, layout.shape, page.chunks)
    check_type(name, found.dtype, masks)
    if page.photometric == WHITE_IS_ZERO:
        raise DataError(INVERTED.format(name))
    bits, full = page.bitspersample, _BITS_OF_A_BYTE * found.dtype.itemsize
    if found.dtype.kind != "b" and bits != full and not masks:
        raise DataError(
            f"{name!r}: needed 8 or 16 bits for each pixel, got {bits}. Save it as 8 or 16 bit, so "
            "that the value that stands for 1 is known."
        )


def _slices_of(array: Any, layout: Layout) -> Any:
    """A view (slices, height, width) of a mapped array."""
    every = slice(None)
    key = [layout.fixed.get(axis, every) for axis in range(array.ndim)]
    kept = [axis for axis in range(array.ndim) if axis not in layout.fixed]
    view = array[tuple(key)]
    order = [axis for axis in (layout.stack, layout.row, layout.column) if axis is not None]
    view = view.transpose([kept.index(axis) for axis in order])
    return view if layout.stack is not None else view[None]


__all__ = ["open_tiff", "voxel_size_of_tags"]

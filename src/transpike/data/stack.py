"""A stack of slices in memory, in one file, or in a file for each slice."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transpike.data.axes import Layout
from transpike.data.decode import decoding
from transpike.data.voxel_size import VoxelSize
from transpike.errors import DataError

_IMAGE_KINDS, _MASK_KINDS = "ub", "iub"  # kinds of NumPy: integers, unsigned ones and booleans
_WIDEST = 2  # bytes of a pixel


class Volume(Protocol):
    """A stack of slices with one size and one type of unsigned integers."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height and width."""
        ...

    @property
    def maximum(self) -> int:
        """Largest value of the type: 255 for 8 bit, 65535 for 16 bit."""
        ...

    @property
    def voxel_size(self) -> VoxelSize | None:
        """Size of a voxel as the file states it, or None if it states none."""
        ...

    def read(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """A region of slice `index`, (height, width)."""
        ...

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        ...

    def name(self, index: int) -> str:
        """File name of slice `index`, or its number if all slices are in one file."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayVolume:
    """A volume in an array of NumPy or Zarr, or in a memory map.

    Args:
        array: unsigned integers, (slices, height, width).
        file: name of the file, for messages.
        voxel_size: size of a voxel as the file states it.
    """

    array: Any
    file: str
    voxel_size: VoxelSize | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height and width."""
        slices, height, width = (int(size) for size in self.array.shape)
        return slices, height, width

    @property
    def maximum(self) -> int:
        """Largest value of the type."""
        return _maximum(np.dtype(self.array.dtype))

    def read(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """A region of slice `index`, (height, width)."""
        with decoding(self.place(index)):
            return np.asarray(self.array[index, rows, columns])

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        return f"{self.file!r}, slice {index}"

    def name(self, index: int) -> str:
        """Number of slice `index` in the array, with four digits."""
        return _numbered(index)


@dataclass(frozen=True, eq=False)
class FileVolume:
    """A volume with one image file per slice. A file is decoded when a region of it is read."""

    files: tuple[Path, ...]
    shape: tuple[int, int, int]
    maximum: int
    voxel_size: VoxelSize | None = None

    def read(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """A region of slice `index`, (height, width)."""
        from PIL import Image

        with decoding(f"the slice {self.place(index)}"), Image.open(self.files[index]) as opened:
            pixels = np.asarray(opened)
        return pixels[rows, columns]

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        return repr(str(self.files[index]))

    def name(self, index: int) -> str:
        """File name of slice `index`."""
        return self.files[index].name


@dataclass(frozen=True, eq=False)
class PagedVolume:
    """A stack in the pages of a TIFF. A page is decoded when a region of it is read.

    Args:
        file: the TIFF file.
        dtype: type of the pixels.
        layout: where the slices are among the axes of the pages and of a page.
        pages: the pages in the order of the leading axes.
        voxel_size: size of a voxel as the file states it.
    """

    file: Path
    dtype: np.dtype[Any]
    layout: Layout
    pages: tuple[int, ...]
    voxel_size: VoxelSize | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height and width."""
        return self.layout.shape

    @property
    def maximum(self) -> int:
        """Largest value of the type."""
        return _maximum(self.dtype)

    def read(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """A region of slice `index`, (height, width)."""
        import tifffile

        key, sizes = self.layout.key(index, rows, columns), self.layout.sizes
        leading = leading_axes(sizes, len(self.pages))
        frame = 0
        for size, place in zip(sizes[:leading], key[:leading], strict=True):
            assert isinstance(place, int)
            frame = frame * size + place
        with decoding(self.place(index)):
            page = np.asarray(tifffile.imread(self.file, key=self.pages[frame]))
            region = page.reshape(sizes[leading:])[key[leading:]]
            return np.asarray(self.layout.upright(region))

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        return f"{str(self.file)!r}, page {index}"

    def name(self, index: int) -> str:
        """Number of slice `index` in the file, with four digits."""
        return _numbered(index)


@dataclass(frozen=True, eq=False)
class PickedArray:
    """The stack of slices in an array of more axes, which is read region by region.

    Args:
        array: an array of Zarr.
        layout: where the slices are among its axes.
    """

    array: Any
    layout: Layout

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height and width."""
        return self.layout.shape

    @property
    def dtype(self) -> Any:
        """Type of the pixels."""
        return self.array.dtype

    def __getitem__(self, key: tuple[int, slice, slice]) -> NDArray[Any]:
        return np.asarray(self.layout.upright(np.asarray(self.array[self.layout.key(*key)])))


def leading_axes(sizes: tuple[int, ...], pages: int) -> int:
    """How many leading axes of a shape count the pages of a TIFF."""
    product, leading = 1, 0
    while product < pages and leading < len(sizes):
        product *= sizes[leading]
        leading += 1
    return leading


def check_type(name: str, dtype: np.dtype[Any], masks: bool) -> None:
    """Refuse pixels whose type does not say which value stands for 1.

    Args:
        name: the file, for the message.
        dtype: type of the pixels.
        masks: whether the pixels are masks, of which only zero and one other value count.

    Raises:
        DataError: the type is signed, floating point, or wider than 16 bits.
    """
    if dtype.kind not in (_MASK_KINDS if masks else _IMAGE_KINDS):
        raise DataError(
            f"{name!r}: needed unsigned integers, got {dtype}. Save it as 8 or 16 bit, so that the "
            "value that stands for 1 is known."
        )
    if not masks and dtype.itemsize > _WIDEST:
        raise DataError(
            f"{name!r}: needed 8 or 16 bits for each pixel, got {dtype}. Save it as 8 or 16 bit, "
            "so that the value that stands for 1 is known."
        )


def _numbered(index: int) -> str:
    return f"{index:04d}"


def _maximum(dtype: np.dtype[Any]) -> int:
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


__all__ = [
    "ArrayVolume",
    "FileVolume",
    "PagedVolume",
    "PickedArray",
    "Volume",
    "check_type",
    "leading_axes",
]

"""Stacks of grayscale slices in folders, TIFF files and Zarr arrays, read region by region."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from transpike.data.images import Normalization
from transpike.data.listing import entries, numbered
from transpike.data.voxel_size import (
    DESCRIPTION,
    RESOLUTION_UNIT,
    X_RESOLUTION,
    Y_RESOLUTION,
    VoxelSize,
    voxel_size_of,
)
from transpike.errors import DataError, FileError, missing_package

_PHOTOMETRIC, _WHITE_IS_ZERO = 262, 0  # a tag of TIFF 6.0, and one of its values
_INVERTED = (
    "{!r}: needed a TIFF in which 0 is black, got one in which 0 is white. Invert it and save it "
    "again."
)
_SUFFIXES = frozenset({".png", ".tif", ".tiff"})
_GRAY_MODES = ("1", "L", "I;16", "I;16B", "I;16L")  # names of pillow
_WHOLE_NUMBERS = "ub"  # kinds of NumPy: unsigned integers and booleans


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

        try:
            with Image.open(self.files[index]) as opened:
                pixels = np.asarray(opened)
        except OSError as error:
            raise FileError(
                f"cannot read the slice {str(self.files[index])!r}: {error}."
            ) from error
        return pixels[rows, columns]

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        return repr(str(self.files[index]))

    def name(self, index: int) -> str:
        """File name of slice `index`."""
        return self.files[index].name


@dataclass(frozen=True, eq=False)
class PagedVolume:
    """A compressed TIFF of many pages. A page is decoded when a region of it is read."""

    file: Path
    shape: tuple[int, int, int]
    dtype: np.dtype[Any]
    voxel_size: VoxelSize | None = None

    @property
    def maximum(self) -> int:
        """Largest value of the type."""
        return _maximum(self.dtype)

    def read(self, index: int, rows: slice, columns: slice) -> NDArray[Any]:
        """A region of slice `index`, (height, width)."""
        import tifffile

        try:
            page = tifffile.imread(self.file, key=index)
        except (OSError, ValueError, RuntimeError) as error:
            raise FileError(f"cannot read {self.place(index)}: {error}.") from error
        return np.asarray(page)[rows, columns]

    def place(self, index: int) -> str:
        """The place of slice `index`, for messages."""
        return f"{str(self.file)!r}, page {index}"

    def name(self, index: int) -> str:
        """Number of slice `index` in the file, with four digits."""
        return _numbered(index)


def open_stack(place: str | Path) -> Volume:
    """Open grayscale slices in any layout.

    Args:
        place: a `.png` file, a `.tif` file with one or more pages, a folder of numbered slices (see
            `open_slices`), or a Zarr array: `NAME.zarr`, or `NAME.zarr/ARRAY` in a group.

    Raises:
        FileError: the file or folder is missing or damaged.
        DataError: the slices are not grayscale unsigned integers, or a slice is missing.
        ArgumentError: a package is not installed.
    """
    place = Path(place)
    for root in (place, *place.parents):
        if root.suffix == ".zarr":
            inside = place.relative_to(root).as_posix()
            return open_zarr(root, "" if inside == "." else inside)
    if place.is_dir():
        return open_slices(place)
    if not place.is_file():
        raise FileError(f"no file or folder {str(place)!r}. Check the path.")
    suffix = place.suffix.lower()
    if suffix in (".tif", ".tiff"):
        return open_tiff(place)
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


def open_tiff(file: Path) -> Volume:
    """Open a grayscale TIFF of one or more pages. Uncompressed files are memory-mapped.

    Args:
        file: the TIFF file.

    Raises:
        FileError: the file is missing or damaged.
        DataError: the file is not a stack of grayscale slices of unsigned integers.
        ArgumentError: tifffile is not installed.
    """
    if not file.is_file():
        raise FileError(f"cannot read a volume: no file {str(file)!r}. Check the path.")
    try:
        import tifffile
    except ImportError as error:
        raise missing_package("tifffile") from error
    try:
        with tifffile.TiffFile(file) as opened:
            pages = len(opened.pages)
            first = opened.pages[0]
            shape, dtype = tuple(first.shape), np.dtype(first.dtype)
            stacked = opened.series[0]
            hidden = stacked.ndim == 3 and stacked.shape[1:] == shape and first.samplesperpixel == 1
            if pages == 1 and hidden:  # one header, and all slices follow it
                pages = stacked.shape[0]
            mapped = stacked.shape == (pages, *shape) and stacked.dataoffset is not None
            inverted = first.photometric == _WHITE_IS_ZERO
            voxel_size = _voxel_size({tag.code: tag.value for tag in first.tags})
            kinds = {(tuple(page.shape), str(page.dtype)) for page in opened.pages}
    except (tifffile.TiffFileError, OSError, IndexError) as error:
        raise FileError(f"cannot read {str(file)!r} as TIFF: {error}.") from error
    _check_array(str(file), (pages, *shape), dtype)
    if inverted:
        raise DataError(_INVERTED.format(str(file)))
    if len(kinds) > 1:
        found = ", ".join(f"{size} {kind}" for size, kind in sorted(kinds))
        raise DataError(
            f"{str(file)!r}: needed every page of one size and type, got {found}. Save the slices "
            "without thumbnails or other pages."
        )
    if mapped:
        return ArrayVolume(tifffile.memmap(file, mode="r"), str(file), voxel_size)
    return PagedVolume(file, (pages, shape[0], shape[1]), dtype, voxel_size)


def open_zarr(place: Path, name: str) -> Volume:
    """Open an array of Zarr. Its chunks are read when a region needs them.

    Args:
        place: Zarr group, or the array itself.
        name: name of the array in the group; empty if `place` is the array.

    Raises:
        FileError: the group or the array does not exist.
        DataError: the array is not (slices, height, width) of unsigned integers.
        ArgumentError: zarr is not installed.
    """
    try:
        import zarr
    except ImportError as error:
        raise missing_package("zarr") from error
    try:
        opened: Any = zarr.open(str(place), mode="r")
        array = opened[name] if name else opened
        shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    except (KeyError, ValueError, OSError, AttributeError) as error:
        needed = "a Zarr group that holds it" if name else "an array, or NAME.zarr/ARRAY in a group"
        raise FileError(
            f"cannot read the array {name!r} of {str(place)!r}: needed {needed} ({error})."
        ) from error
    full = str(place / name)
    _check_array(full, shape, dtype)
    return ArrayVolume(array, full)


def read_mask(
    masks: Volume, index: int, rows: slice = slice(None), columns: slice = slice(None)
) -> NDArray[np.bool_]:
    """A region of a binary mask, (height, width).

    Masks are written as 0 and 1 or as 0 and the largest value of their type, whatever the type.

    Raises:
        DataError: there are other values.
    """
    labels = masks.read(index, rows, columns)
    values = np.unique(labels)
    found = set(values.tolist())
    if not (found <= {0, 1} or found <= {0, masks.maximum}):
        shown = ", ".join(str(value) for value in values[:5])
        raise DataError(
            f"{masks.place(index)}: needed a binary mask of 0 and 1 or 0 and {masks.maximum}, got "
            f"{len(values)} values ({shown}...). Binarize it first."
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


def _numbered(index: int) -> str:
    return f"{index:04d}"


def _maximum(dtype: np.dtype[Any]) -> int:
    return 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


def _check_array(name: str, shape: Sequence[int], dtype: np.dtype[Any]) -> None:
    if len(shape) != 3:
        more = " It holds color: convert it to grayscale." if len(shape) == 4 else ""
        raise DataError(f"{name!r}: needed shape (slices, height, width), got {shape}.{more}")
    if dtype.kind not in _WHOLE_NUMBERS:
        raise DataError(
            f"{name!r}: needed unsigned integers, got {dtype}. Save it as 8 or 16 bit, so that the "
            "value that stands for 1 is known."
        )


def _voxel_size(tags: Mapping[int, Any]) -> VoxelSize | None:
    """The voxel size that the tags of a TIFF page state."""
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


def _header(file: Path) -> tuple[tuple[int, int, int], VoxelSize | None]:
    """(Height, width, largest value) of a slice, and the size of its voxels."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise missing_package("pillow") from error
    try:
        with Image.open(file) as opened:
            mode, (width, height) = opened.mode, opened.size
            frames = getattr(opened, "n_frames", 1)
            tags = getattr(opened, "tag_v2", {})
            inverted = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO
            voxel_size = _voxel_size(tags)
    except (UnidentifiedImageError, OSError) as error:
        raise FileError(f"cannot read the slice {str(file)!r}: {error}.") from error
    if mode not in _GRAY_MODES:
        raise DataError(
            f"{str(file)!r}: needed a grayscale slice of 8 or 16 bit, got mode {mode}. Convert it "
            "to one channel first, and choose the channel or the mix yourself."
        )
    if inverted:
        raise DataError(_INVERTED.format(str(file)))
    if frames != 1:
        raise DataError(
            f"{str(file)!r}: needed one slice per file, got {frames} pages. Name the volume "
            "training.tif or testing.tif and give the folder that holds it."
        )
    return (height, width, {"1": 1, "L": 255}.get(mode, 65535)), voxel_size


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

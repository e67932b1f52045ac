"""Stacks in arrays of Zarr and in groups of OME-Zarr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from transpike.data.axes import Choice, check_sizes, layout_of
from transpike.data.decode import check_extent
from transpike.data.stack import ArrayVolume, PickedArray, Volume, check_type
from transpike.errors import ArgumentError, DataError, FileError, TranspikeError, missing_package

_LETTERS = {"channel": "C", "time": "T", "depth": "Z", "row": "Y", "column": "X"}
_OLD_AXES = "TCZYX"  # of OME-Zarr before 0.3, which names none
_NO_CHOICE = Choice()


def open_zarr(
    place: Path, name: str, choice: Choice = _NO_CHOICE, *, masks: bool = False
) -> Volume:
    """Open an array of Zarr. Its chunks are read when a region needs them.

    Args:
        place: Zarr group, or the array itself.
        name: name of the array, or of a group of OME-Zarr, in the group; empty if it is `place`.
        choice: the resolution level, and the index along axes besides that of the slices.
        masks: open masks, which may have any type of integers.

    Raises:
        FileError: the group or the array does not exist, is damaged, or claims too many pixels.
        DataError: the array is not a stack of slices of unsigned integers.
        ArgumentError: zarr is not installed, or the choice does not fit.
    """
    try:
        import zarr
    except ImportError as error:
        raise missing_package("zarr") from error
    full = str(place / name)
    try:
        root: Any = zarr.open(str(place), mode="r")
        opened = root[name] if name else root
        array, axes = _array(full, root, name, opened, choice)
        shape, dtype = tuple(int(size) for size in array.shape), np.dtype(array.dtype)
        chunk = tuple(int(size) for size in array.chunks)
    except TranspikeError:
        raise
    except Exception as error:  # damaged metadata end in many kinds of errors
        needed = "a Zarr group that holds it" if name else "an array, or NAME.zarr/ARRAY in a group"
        raise FileError(
            f"cannot read the array {name!r} of {str(place)!r}: needed {needed} ({error})."
        ) from error
    if len(shape) < 2:
        raise DataError(f"{full!r}: needed shape (slices, height, width), got {shape}.")
    check_sizes(full, shape)
    layout = layout_of(full, axes or _unnamed(len(shape)), shape, choice)
    check_extent(full, layout.shape, chunk)
    check_type(full, dtype, masks)
    return ArrayVolume(array if layout.plain else PickedArray(array, layout), full)


def _unnamed(count: int) -> str:
    return "Q" * (count - 2) + "YX"


def _array(full: str, root: Any, name: str, opened: Any, choice: Choice) -> tuple[Any, str | None]:
    """The array, and the letters of its axes if something names them."""
    images = _images(opened)
    if not hasattr(opened, "shape") and images:
        image = _chosen_image(full, images, choice)
        paths = [str(one["path"]) for one in image["datasets"]]
        array = opened[paths[_chosen_level(full, opened, paths, choice)]]
        return array, _axes_of(image, array)
    for key, value in (("level", choice.level), ("series", choice.series)):
        if value is not None and hasattr(opened, "shape"):
            raise ArgumentError(
                f"{full!r}: {key}={value} is for groups of OME-Zarr, and this is one array. Leave "
                "it out."
            )
    return opened, _axes_in_group(root, name, opened) or _own_axes(opened)


def _images(group: Any) -> Sequence[Any]:
    """The multiscale images of a group of OME-Zarr; none for other groups and for arrays."""
    attributes = dict(group.attrs)
    inner = attributes.get("ome")
    holder = inner if isinstance(inner, Mapping) else attributes
    found = holder.get("multiscales", ())
    return found if isinstance(found, Sequence) else ()


def _chosen_image(full: str, images: Sequence[Any], choice: Choice) -> Any:
    series = choice.series
    if series is None and len(images) > 1:
        raise DataError(
            f"{full!r}: needed one image, got {len(images)}. Choose one, as in "
            f"'{Path(full).name}?series=0'."
        )
    if series is not None and series >= len(images):
        raise ArgumentError(f"{full!r}: needed series=0..{len(images) - 1}, got {series}.")
    return images[series or 0]


def _chosen_level(full: str, group: Any, paths: Sequence[str], choice: Choice) -> int:
    level = choice.level
    if level is None and len(paths) > 1:
        known = ", ".join(
            f"{number}: {tuple(group[path].shape)}" for number, path in enumerate(paths)
        )
        raise DataError(
            f"{full!r}: needed one resolution level, got {len(paths)} of the shapes {known}. "
            "Choose the one whose pixels have the size that the network was trained on, as in "
            f"'{Path(full).name}?level=0'."
        )
    if level is not None and level >= len(paths):
        raise ArgumentError(f"{full!r}: needed level=0..{len(paths) - 1}, got {level}.")
    return level or 0


def _axes_of(image: Mapping[str, Any], array: Any) -> str | None:
    """The axes of a multiscale image."""
    names = [one["name"] if isinstance(one, Mapping) else one for one in image.get("axes", ())]
    if not names and len(array.shape) == len(_OLD_AXES):
        return _OLD_AXES
    return _letters(names, len(array.shape))


def _axes_in_group(root: Any, name: str, array: Any) -> str | None:
    """The axes that a group of OME-Zarr states for one of its levels."""
    for parent in PurePosixPath(name).parents if name else ():
        inside = parent.as_posix()
        group = root if inside == "." else root[inside]
        level = PurePosixPath(name).relative_to(parent).as_posix()
        for image in _images(group):
            if any(str(one["path"]) == level for one in image["datasets"]):
                return _axes_of(image, array)
    return None


def _own_axes(array: Any) -> str | None:
    """The names of dimensions that an array states: those of Zarr 3, or those of xarray."""
    names = getattr(getattr(array, "metadata", None), "dimension_names", None)
    return _letters(names or dict(array.attrs).get("_ARRAY_DIMENSIONS") or (), len(array.shape))


def _letters(names: Sequence[Any], count: int) -> str | None:
    """One letter for each name; None if the names do not tell rows and columns."""
    known = [str(name or "").lower() for name in names]
    letters = "".join(_LETTERS.get(n, n.upper() if len(n) == 1 else "Q") for n in known)
    fits = len(letters) == count and letters.count("Y") == letters.count("X") == 1
    return letters if fits else None


__all__ = ["open_zarr"]

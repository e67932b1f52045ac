"""Data sets by name: CIFAR-10, digits, image folders, and volumes with masks."""

from __future__ import annotations

from transpike.data.cifar10 import open_cifar10
from transpike.data.digits import open_digits
from transpike.data.folder import open_folder
from transpike.data.images import Dataset, Normalization, Split
from transpike.data.lucchi import VolumeDataset, VolumeSplit, open_lucchi
from transpike.errors import ArgumentError

_POSSIBLE = (
    "digits, cifar10:PATH (an .npz file or torchvision's folder; ?download fetches it) "
    "or folder:PATH (PATH/train/CLASS and PATH/test/CLASS; ?size=N resizes, ?gray reads one "
    "channel)"
)


def open_data(spec: str, normalization: Normalization | None = None) -> Dataset:
    """Open a data set of labeled images by name.

    Args:
        spec: `digits`, `cifar10:PATH`, `cifar10:PATH?download`, `folder:PATH` or
            `folder:PATH?size=N&gray`.
        normalization: mean and std of pixel values in 0..1; None means those of the data set.

    Returns:
        The training and test parts.

    Raises:
        ArgumentError: the name or an option is unknown, or a package is not installed.
        FileError: a file or folder is missing or damaged.
        DataError: the images or labels have the wrong shape, type or classes.
    """
    source, _, rest = spec.partition(":")
    place, _, query = rest.partition("?")
    options = dict(_option(text) for text in query.split("&")) if query else {}
    if source == "digits" and not rest:
        return open_digits(normalization)
    if source == "cifar10" and place:
        _allow(spec, options, {"download"})
        return open_cifar10(place, download="download" in options, normalization=normalization)
    if source == "folder" and place:
        _allow(spec, options, {"size", "gray"})
        size = _whole_number(spec, "size", options["size"]) if "size" in options else None
        return open_folder(place, size=size, gray="gray" in options, normalization=normalization)
    if source == "lucchi":
        raise ArgumentError(
            f"data {spec!r}: needed labeled images, got volumes with masks. Use {_POSSIBLE}, or "
            "open volumes with open_volumes."
        )
    raise ArgumentError(f"unknown data {spec!r}: needed {_POSSIBLE}.")


def open_volumes(spec: str, normalization: Normalization | None = None) -> VolumeDataset:
    """Open volumes with masks by name.

    Args:
        spec: `lucchi:PATH` or `lucchi:PATH?tile=N`, see `open_lucchi`.
        normalization: mean and std of pixel values in 0..1; None means 0.5 for both.

    Returns:
        The training, validation and test parts.

    Raises:
        ArgumentError: the name or an option is unknown, a tile does not fit, or a package is not
            installed.
        FileError: a file or folder is missing or damaged.
        DataError: slices are missing, colored or of unequal size, or do not match their masks.
    """
    source, _, rest = spec.partition(":")
    place, _, query = rest.partition("?")
    if source != "lucchi" or not place:
        raise ArgumentError(
            f"unknown volumes {spec!r}: needed lucchi:PATH (?tile=N cuts slices into tiles)."
        )
    options = dict(_option(text) for text in query.split("&")) if query else {}
    _allow(spec, options, {"tile"})
    tile = _whole_number(spec, "tile", options["tile"]) if "tile" in options else None
    return open_lucchi(place, tile=tile, normalization=normalization)


def _option(text: str) -> tuple[str, str]:
    name, _, value = text.partition("=")
    return name, value


def _allow(spec: str, options: dict[str, str], known: set[str]) -> None:
    unknown = sorted(set(options) - known)
    if unknown:
        raise ArgumentError(
            f"data {spec!r}: needed options among {', '.join(sorted(known))}, got "
            f"{', '.join(unknown)}."
        )


def _whole_number(spec: str, name: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"data {spec!r}: needed ?{name}=N in pixels, got {text!r}.") from None


__all__ = [
    "Dataset",
    "Normalization",
    "Split",
    "VolumeDataset",
    "VolumeSplit",
    "open_cifar10",
    "open_data",
    "open_digits",
    "open_folder",
    "open_lucchi",
    "open_volumes",
]

"""Data sets by name: CIFAR-10, scikit-learn's digits and image folders."""

from __future__ import annotations

from transpike.data.cifar10 import open_cifar10
from transpike.data.digits import open_digits
from transpike.data.folder import open_folder
from transpike.data.images import Dataset, Normalisation, Split
from transpike.errors import ArgumentError

_POSSIBLE = (
    "digits, cifar10:PATH (an .npz file or torchvision's folder; ?download fetches it) "
    "or folder:PATH (PATH/train/CLASS and PATH/test/CLASS; ?size=N resizes, ?gray reads one "
    "channel)"
)


def open_data(spec: str, normalisation: Normalisation | None = None) -> Dataset:
    """Opens a data set by name.

    Args:
        spec: `digits`, `cifar10:PATH`, `cifar10:PATH?download`, `folder:PATH` or
            `folder:PATH?size=N&gray`.
        normalisation: of the input; the data set's own where None.

    Returns:
        Its training and test parts.

    Raises:
        ArgumentError: the name or an option is unknown, or a package is not installed.
        FileError: a file or folder is missing or damaged.
        DataError: what is there has the wrong shape, type or classes.
    """
    source, _, rest = spec.partition(":")
    place, _, query = rest.partition("?")
    options = dict(_option(text) for text in query.split("&")) if query else {}
    if source == "digits" and not rest:
        return open_digits(normalisation)
    if source == "cifar10" and place:
        _allow(spec, options, {"download"})
        return open_cifar10(place, download="download" in options, normalisation=normalisation)
    if source == "folder" and place:
        _allow(spec, options, {"size", "gray"})
        size = _whole_number(spec, options["size"]) if "size" in options else None
        return open_folder(place, size=size, gray="gray" in options, normalisation=normalisation)
    raise ArgumentError(f"unknown data {spec!r}: needed {_POSSIBLE}.")


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


def _whole_number(spec: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"data {spec!r}: needed ?size=N in pixels, got {text!r}.") from None


__all__ = [
    "Dataset",
    "Normalisation",
    "Split",
    "open_cifar10",
    "open_data",
    "open_digits",
    "open_folder",
]

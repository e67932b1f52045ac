"""Image folders: PATH/train/CLASS/*.png and PATH/test/CLASS/*.png."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from transpike.data.cifar10 import IMAGENET_NORMALIZATION
from transpike.data.images import Dataset, FileImages, Normalization, Split
from transpike.data.listing import entries
from transpike.errors import ArgumentError, DataError, FileError, missing_package

_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
_GRAY_NORMALIZATION = Normalization((0.5,), (0.5,))


def open_folder(
    path: str | Path,
    *,
    size: int | None = None,
    gray: bool = False,
    normalization: Normalization | None = None,
) -> Dataset:
    """Open a folder of images. The files are read when they are needed.

    Hidden files and folders are skipped, and those that operating systems add.

    Args:
        path: folder with `train` and `test`, each with one folder of images per class.
        size: side in pixels to which every image is resized; None keeps the size.
        gray: read images as one channel instead of RGB.
        normalization: mean and std of pixel values in 0..1. None means those of ImageNet, and 0.5
            for both with `gray`.

    Raises:
        FileError: a folder is missing.
        DataError: there are no images, or train and test have different classes.
        ArgumentError: `size` is below 1, or pillow is not installed.
    """
    if size is not None and size < 1:
        raise ArgumentError(f"size: needed at least 1 pixel, got {size}.")
    try:
        import PIL  # noqa: F401
    except ImportError as error:
        raise missing_package("pillow") from error
    root = Path(path)
    classes = _classes(root / "train")
    tested = _classes(root / "test")
    if tested != classes:
        raise DataError(
            f"{str(root)!r}: needed the same classes in train and test, got {', '.join(classes)} "
            f"and {', '.join(tested)}."
        )
    default = _GRAY_NORMALIZATION if gray else IMAGENET_NORMALIZATION
    train, test = (
        _split(root / part, classes, size, gray, normalization or default)
        for part in ("train", "test")
    )
    return Dataset(root.name, classes, train, test)


def _classes(folder: Path) -> tuple[str, ...]:
    if not folder.is_dir():
        raise FileError(
            f"no folder {str(folder)!r}: needed PATH/train/CLASS and PATH/test/CLASS with images."
        )
    classes = tuple(entry.name for entry in entries(folder))
    if not classes:
        raise DataError(f"{str(folder)!r}: needed one folder of images per class, got none.")
    return classes


def _split(
    folder: Path,
    classes: tuple[str, ...],
    size: int | None,
    gray: bool,
    normalization: Normalization,
) -> Split:
    files: list[Path] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        found = entries(folder / name, _SUFFIXES)
        if not found:
            raise DataError(
                f"{str(folder / name)!r}: needed images ({', '.join(sorted(_SUFFIXES))}), got none."
            )
        files += found
        labels += [label] * len(found)
    images = FileImages(tuple(files), 1 if gray else 3, size)
    return Split(images, np.asarray(labels, dtype=np.int64), normalization)


__all__ = ["open_folder"]

"""CIFAR-10 from one `.npz` file or from the folder of torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from transpike.data.decode import check_archive
from transpike.data.images import ArrayImages, Dataset, Normalization, Split
from transpike.errors import DataError, FileError, missing_package

CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)
# Mean and std of ImageNet. The public ResNet-20 checkpoints for CIFAR-10 were trained with them.
IMAGENET_NORMALIZATION = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_IMAGE_SHAPE = (32, 32, 3)
_KEYS = ("x_train", "y_train", "x_test", "y_test")
_TORCHVISION_FOLDER = "cifar-10-batches-py"


def open_cifar10(
    path: str | Path, *, download: bool = False, normalization: Normalization | None = None
) -> Dataset:
    """Open CIFAR-10.

    Args:
        path: an `.npz` file with x_train, y_train, x_test and y_test, or a folder that holds the
            folder `cifar-10-batches-py` of torchvision.
        download: let torchvision download the data into the folder first.
        normalization: mean and std of pixel values in 0..1; None means those of ImageNet.

    Raises:
        FileError: the file or folder is missing, damaged or holds something else.
        DataError: an array has the wrong shape or type.
        ArgumentError: torchvision is needed and not installed.
    """
    place = Path(path)
    if place.suffix == ".npz":
        arrays = _read_npz(place)
    else:
        arrays = _read_torchvision(place, download)
    chosen = normalization or IMAGENET_NORMALIZATION
    train, test = (
        Split(ArrayImages(arrays[f"x_{part}"]), arrays[f"y_{part}"].astype(np.int64), chosen)
        for part in ("train", "test")
    )
    return Dataset("cifar10", CLASSES, train, test)


def _read_npz(file: Path) -> dict[str, NDArray[np.uint8]]:
    if not file.is_file():
        raise FileError(f"cannot read CIFAR-10: no file {str(file)!r}. Check the path.")
    try:
        check_archive(file)
        with file.open("rb") as opened, np.load(opened, allow_pickle=False) as archive:
            missing = [key for key in _KEYS if key not in archive.files]
            if missing:
                raise FileError(
                    f"{str(file)!r} is not CIFAR-10: needed {', '.join(_KEYS)}, got "
                    f"{', '.join(archive.files) or 'nothing'}."
                )
            arrays = {key: archive[key] for key in _KEYS}
    except FileError:
        raise
    except Exception as error:  # damaged bytes end in many kinds of errors
        raise FileError(
            f"cannot read {str(file)!r}: {error}. It is damaged or not an .npz file."
        ) from error
    for part in ("train", "test"):
        _check(file, part, arrays[f"x_{part}"], arrays[f"y_{part}"])
    return arrays


def _check(file: Path, part: str, images: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
    if images.shape[1:] != _IMAGE_SHAPE or images.dtype != np.uint8 or not len(images):
        raise DataError(
            f"{str(file)!r}, x_{part}: needed uint8 of shape (N, 32, 32, 3), got {images.dtype} "
            f"of shape {images.shape}."
        )
    if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
        raise DataError(
            f"{str(file)!r}, y_{part}: needed integers of shape ({len(images)},), got "
            f"{labels.dtype} of shape {labels.shape}."
        )
    if labels.min() < 0 or labels.max() >= len(CLASSES):
        raise DataError(
            f"{str(file)!r}, y_{part}: needed labels 0..9, got {labels.min()}..{labels.max()}."
        )


def _read_torchvision(place: Path, download: bool) -> dict[str, NDArray[np.uint8]]:
    root = place.parent if place.name == _TORCHVISION_FOLDER else place
    if not download and not (root / _TORCHVISION_FOLDER).is_dir():
        raise FileError(
            f"cannot read CIFAR-10: {str(place)!r} is neither an .npz file nor a folder with "
            f"{_TORCHVISION_FOLDER}. Add ?download to the name of the data to download it there."
        )
    try:
        from torchvision.datasets import CIFAR10
    except ImportError as error:
        raise missing_package("torchvision") from error
    arrays: dict[str, NDArray[np.uint8]] = {}
    try:
        for part in ("train", "test"):
            split = CIFAR10(str(root), train=part == "train", download=download)
            arrays[f"x_{part}"] = np.asarray(split.data, dtype=np.uint8)
            arrays[f"y_{part}"] = np.asarray(split.targets, dtype=np.uint8)
    except (RuntimeError, OSError) as error:
        raise FileError(
            f"cannot read CIFAR-10 in {str(root)!r}: {error}. Add ?download to the name of "
            "the data to download it again."
        ) from error
    return arrays


__all__ = ["CLASSES", "IMAGENET_NORMALIZATION", "open_cifar10"]

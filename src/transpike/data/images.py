"""Labeled images, stored as bytes and read as normalized batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transpike.data.pixels import read_image
from transpike.errors import ArgumentError, DataError

_BYTE_MAXIMUM = 255.0


@dataclass(frozen=True)
class Normalization:
    """How pixel values in 0..1 become network input: (value - mean) / std, channel by channel.

    Args:
        mean: one value per channel.
        std: one value per channel, > 0.

    Raises:
        ArgumentError: the lengths differ, or a std is not above 0.
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ArgumentError(
                f"normalization: needed one mean and one std per channel, got {len(self.mean)} "
                f"and {len(self.std)}. Give both for every channel."
            )
        if not all(value > 0 for value in self.std):
            raise ArgumentError(f"normalization: needed std > 0 everywhere, got {self.std}.")

    def to_dict(self) -> dict[str, list[float]]:
        """Mean and std as lists, ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}


class ImageSource(Protocol):
    """A source of images that can read some of them."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The chosen images, (B, C, H, W), uint8, or float32 if they have more than 8 bits."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, (N, H, W, C), uint8."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen images, (B, C, H, W), uint8."""
        # (B, H, W, C) -> (B, C, H, W). It is a copy, because with one channel the transposed array
        # counts as contiguous, and torch takes its strides for channels_last.
        chosen: NDArray[np.uint8] = self.pixels[indices].transpose(0, 3, 1, 2).copy(order="C")
        return chosen


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images in files, which are read when they are asked for.

    Args:
        files: one file per image.
        channels: 1 for grayscale or 3 for RGB; images are converted to it.
        size: side in pixels to which every image is resized. None keeps the size, and then all
            images need the same one.
    """

    files: tuple[Path, ...]
    channels: int
    size: int | None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: NDArray[np.int64]) -> NDArray[Any]:
        """The chosen images, (B, C, H, W), uint8; float32 in 0..255 if a file has 16 bits."""
        images = [read_image(self.files[index], self.channels, self.size) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"{str(self.files[index])!r}: needed every image of one size "
                    f"{images[0].shape[1:]}, got {image.shape[1:]}. Add ?size=N to the data name."
                )
        return np.stack(images)


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: labeled images, which are normalized batch by batch.

    Args:
        images: source of the images.
        labels: class index of every image of `images`, (N,), int64.
        normalization: mean and std of pixel values in 0..1.
        maximum: pixel value that stands for 1.
        chosen: indices of the images in this part, in order; None means all.
    """

    images: ImageSource
    labels: NDArray[np.int64]
    normalization: Normalization
    maximum: float = _BYTE_MAXIMUM
    chosen: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.images) if self.chosen is None else len(self.chosen)

    def batches(
        self, batch_size: int, indices: Sequence[int] | NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the images in order. Only one batch is in memory at a time.

        Args:
            batch_size: images per batch; the last batch can hold fewer.
            indices: positions in this part, in the order of the batches; None means all.

        Yields:
            images (B, C, H, W), float32, normalized; labels (B,), int64.

        Raises:
            ArgumentError: `batch_size` is below 1, or an index is out of range.
        """
        if batch_size < 1:
            raise ArgumentError(f"batch_size: needed at least 1, got {batch_size}.")
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise ArgumentError(
                f"indices: needed 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}."
            )
        return self._batches(batch_size, wanted)

    def subset(self, n: int, seed: int) -> Split:
        """A random selection of `n` images. The same seed gives the same images.

        Args:
            n: number of images, 1..len(self).
            seed: seed of NumPy's RandomState, which gives the same permutation in every version.

        Raises:
            ArgumentError: `n` is out of range.
        """
        if not 1 <= n <= len(self):
            raise ArgumentError(f"subset: needed 1..{len(self)} images, got {n}.")
        order = np.random.RandomState(seed).permutation(len(self))[:n].astype(np.int64)
        return replace(self, chosen=order if self.chosen is None else self.chosen[order])

    def _batches(
        self, batch_size: int, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        mean = torch.tensor(self.normalization.mean).view(1, -1, 1, 1)
        std = torch.tensor(self.normalization.std).view(1, -1, 1, 1)
        positions = wanted if self.chosen is None else self.chosen[wanted]
        for start in range(0, len(positions), batch_size):
            part = positions[start : start + batch_size]
            pixels = torch.from_numpy(self.images.read(part)).float() / self.maximum
            if pixels.shape[1] != mean.shape[1]:
                raise DataError(
                    f"normalization: needed {pixels.shape[1]} channels, got {mean.shape[1]}."
                )
            yield (pixels - mean) / std, torch.from_numpy(self.labels[part])


@dataclass(frozen=True, eq=False)
class Dataset:
    """A data set with two parts. Calibration and training use `train` only.

    Args:
        name: name of the data set.
        classes: names of the classes in the order of their labels.
        train: part for training and calibration.
        test: part on which results are measured.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    test: Split

    @property
    def normalization(self) -> Normalization:
        """Mean and std of the input."""
        return self.test.normalization

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one image, (C, H, W)."""
        images, _ = next(self.test.batches(1, indices=[0]))
        return tuple(images.shape[1:])


__all__ = ["ArrayImages", "Dataset", "FileImages", "ImageSource", "Normalization", "Split"]

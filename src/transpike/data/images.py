"""Labeled images held as bytes, and handed out as normalized batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transpike.errors import ArgumentError, DataError, FileError

_BYTE_MAXIMUM = 255.0


@dataclass(frozen=True)
class Normalization:
    """What turns pixel values in 0..1 into network input: (value - mean) / std, per channel."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise ArgumentError(
                f"normalization: needed one mean and one std per channel, got {len(self.mean)} "
                f"and {len(self.std)}."
            )
        if not all(value > 0 for value in self.std):
            raise ArgumentError(f"normalization: needed std > 0 everywhere, got {self.std}.")

    def to_dict(self) -> dict[str, list[float]]:
        """The same as plain lists, ready for JSON."""
        return {"mean": list(self.mean), "std": list(self.std)}


class ImageSource(Protocol):
    """Anything that can hand out some of its images as bytes."""

    def __len__(self) -> int: ...

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen images, (B, C, H, W), uint8."""
        ...


@dataclass(frozen=True, eq=False)
class ArrayImages:
    """Images in memory, (N, H, W, C), uint8."""

    pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.pixels)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen images, (B, C, H, W), uint8."""
        # (B, H, W, C) -> (B, C, H, W); a copy, as with one channel the transposed array counts as
        # contiguous and keeps strides that torch takes for channels_last.
        chosen: NDArray[np.uint8] = self.pixels[indices].transpose(0, 3, 1, 2).copy(order="C")
        return chosen


@dataclass(frozen=True, eq=False)
class FileImages:
    """Images read from files when they are asked for.

    Args:
        files: one per image.
        channels: 1 for grayscale, 3 for RGB; files are converted to it.
        size: side in pixels every image is resized to; None leaves them as they are, and then all
            have to be of one size.
    """

    files: tuple[Path, ...]
    channels: int
    size: int | None

    def __len__(self) -> int:
        return len(self.files)

    def read(self, indices: NDArray[np.int64]) -> NDArray[np.uint8]:
        """The chosen images, (B, C, H, W), uint8."""
        images = [self._read_one(self.files[index]) for index in indices]
        for index, image in zip(indices, images, strict=True):
            if image.shape != images[0].shape:
                raise DataError(
                    f"{str(self.files[index])!r}: needed every image of one size "
                    f"{images[0].shape[1:]}, got {image.shape[1:]}. Add ?size=N to the data name."
                )
        return np.stack(images)

    def _read_one(self, file: Path) -> NDArray[np.uint8]:
        from PIL import Image, UnidentifiedImageError

        try:
            with Image.open(file) as opened:
                image = opened.convert("L" if self.channels == 1 else "RGB")
        except (UnidentifiedImageError, OSError) as error:
            raise FileError(f"cannot read the image {str(file)!r}: {error}.") from error
        if self.size is not None:
            image = image.resize((self.size, self.size), Image.Resampling.BILINEAR)
        pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, self.channels)
        channels_first: NDArray[np.uint8] = pixels.transpose(2, 0, 1)
        return channels_first


@dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set: labeled images, normalized batch by batch.

    Args:
        images: where the bytes come from.
        labels: class of every image of `images`, (N,), int64.
        normalization: mean and std per channel, of values in 0..1.
        maximum: pixel value that stands for 1.
        chosen: which images belong to this part, in order; all where None.
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
        """Yields the images in order; only one batch is in memory at a time.

        Args:
            batch_size: images per batch; the last may hold fewer.
            indices: positions within this part, in the order wanted; all where None.

        Yields:
            images (B, C, H, W), float32, normalized; labels (B,), int64.

        Raises:
            ArgumentError: `batch_size` < 1 or an index out of range.
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
        """A random part of `n` images; the same seed gives the same images.

        Args:
            n: number of images, 1..len(self).
            seed: of NumPy's RandomState, whose permutations are the same in every version.

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
    """A data set with its two parts; calibration and training use `train` only.

    Args:
        name: as given by the user.
        classes: name of every class, in label order.
        train: what may be learned or calibrated from.
        test: what results are measured on.
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

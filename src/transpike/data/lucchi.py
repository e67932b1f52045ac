"""The mitochondria stacks of Lucchi et al., and all volumes with masks in the same layout."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from transpike.data.images import Normalization
from transpike.data.volumes import (
    Volume,
    normalized,
    open_slices,
    open_tiff,
    open_zarr,
    read_mask,
)
from transpike.errors import ArgumentError, DataError, FileError

CLASSES = ("background", "mitochondrion")
HALF_NORMALIZATION = Normalization((0.5,), (0.5,))  # gives input in -1..1
_VALIDATION_SHARE = 0.15  # share of the training slices, taken from their end
_GAP_SHARE = 0.04  # share left out before them, because neighboring slices are nearly equal


@dataclass(frozen=True, eq=False)
class VolumeSplit:
    """Tiles of some slices of a volume with their masks, which are read when they are asked for.

    Args:
        images: grayscale slices.
        masks: masks of the same shape; 0 is background and the largest value is the class.
        slices: indices of the slices in this part, in order.
        normalization: mean and std of pixel values in 0..1.
        tile: side of a tile in pixels; None means whole slices. The tiles of a slice form a grid.
            The last tile of a row or column is moved back, so that it ends at the border.
        chosen: positions in the tiles of this part, in order; None means all.
    """

    images: Volume
    masks: Volume
    slices: NDArray[np.int64]
    normalization: Normalization = HALF_NORMALIZATION
    tile: int | None = None
    chosen: NDArray[np.int64] | None = None

    @property
    def slice_shape(self) -> tuple[int, int]:
        """Height and width of a slice."""
        return self.images.shape[1], self.images.shape[2]

    @property
    def tile_shape(self) -> tuple[int, int]:
        """Height and width of the images that `batches` yields."""
        return self.slice_shape if self.tile is None else (self.tile, self.tile)

    def __len__(self) -> int:
        if self.chosen is not None:
            return len(self.chosen)
        return len(self.slices) * len(self._corners())

    def batches(
        self, batch_size: int, indices: Sequence[int] | NDArray[np.int64] | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the tiles slice by slice. Only one batch is in memory at a time.

        Args:
            batch_size: tiles per batch; the last batch can hold fewer.
            indices: positions in this part, in the order of the batches; None means all.

        Yields:
            images (B, 1, H, W), float32, normalized; masks (B, 1, H, W), float32, 0 or 1.

        Raises:
            ArgumentError: `batch_size` is below 1, or an index is out of range.
            DataError: a mask has more than two values.
            FileError: a slice cannot be read.
        """
        if batch_size < 1:
            raise ArgumentError(f"batch_size: needed at least 1, got {batch_size}.")
        wanted = np.arange(len(self)) if indices is None else np.asarray(indices, dtype=np.int64)
        if wanted.size and (wanted.min() < 0 or wanted.max() >= len(self)):
            raise ArgumentError(
                f"indices: needed 0..{len(self) - 1}, got {wanted.min()}..{wanted.max()}."
            )
        return self._batches(batch_size, wanted)

    def subset(self, n: int, seed: int) -> VolumeSplit:
        """A random selection of `n` tiles. The same seed gives the same tiles.

        Args:
            n: number of tiles, 1..len(self).
            seed: seed of NumPy's RandomState, which gives the same permutation in every version.

        Raises:
            ArgumentError: `n` is out of range.
        """
        if not 1 <= n <= len(self):
            raise ArgumentError(f"subset: needed 1..{len(self)} tiles, got {n}.")
        order = np.random.RandomState(seed).permutation(len(self))[:n].astype(np.int64)
        return replace(self, chosen=order if self.chosen is None else self.chosen[order])

    def with_tile(self, tile: int | None) -> VolumeSplit:
        """The same slices in tiles of another size.

        Args:
            tile: side of a tile in pixels; None means whole slices.

        Raises:
            ArgumentError: a tile is larger than a slice, or this part is a subset.
        """
        if self.chosen is not None:
            raise ArgumentError(
                "with_tile: needed a whole part, got a subset. Set the tile before you take a "
                "subset."
            )
        check_tile(tile, self.slice_shape)
        return replace(self, tile=tile)

    def _corners(self) -> list[tuple[int, int]]:
        (height, width), (rows, columns) = self.slice_shape, self.tile_shape
        return [
            (min(row, height - rows), min(column, width - columns))
            for row in range(0, height, rows)
            for column in range(0, width, columns)
        ]

    def _batches(
        self, batch_size: int, wanted: NDArray[np.int64]
    ) -> Iterator[tuple[Tensor, Tensor]]:
        corners = self._corners()
        positions = wanted if self.chosen is None else self.chosen[wanted]
        for start in range(0, len(positions), batch_size):
            pairs = [
                self._read(
                    int(self.slices[position // len(corners)]),
                    corners[position % len(corners)],
                    self.tile_shape,
                )
                for position in positions[start : start + batch_size]
            ]
            yield (
                torch.stack([image for image, _ in pairs]),
                torch.stack([mask for _, mask in pairs]),
            )

    def _read(
        self, index: int, corner: tuple[int, int], shape: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        row, column = corner
        rows, columns = slice(row, row + shape[0]), slice(column, column + shape[1])
        pixels = self.images.read(index, rows, columns)
        image = normalized(pixels, self.images.maximum, self.normalization)
        mask = read_mask(self.masks, index, rows, columns).astype(np.float32)
        return torch.from_numpy(image)[None], torch.from_numpy(mask)[None]  # (H, W) -> (1, H, W)


@dataclass(frozen=True, eq=False)
class VolumeDataset:
    """Volumes with masks in three parts. All choices are made on `train` and `validation`.

    Args:
        name: name of the data set.
        classes: background and the class of the masks.
        train: part for training and calibration.
        validation: block of training slices, with a gap between it and `train`.
        test: part on which results are measured.
    """

    name: str
    classes: tuple[str, ...]
    train: VolumeSplit
    validation: VolumeSplit
    test: VolumeSplit

    @property
    def normalization(self) -> Normalization:
        """Mean and std of pixel values in 0..1."""
        return self.test.normalization

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one tile, (1, H, W)."""
        return (1, *self.test.tile_shape)


def open_lucchi(
    path: str | Path, *, tile: int | None = None, normalization: Normalization | None = None
) -> VolumeDataset:
    """Open training and test stacks with their masks. Slices are read when they are needed.

    Three layouts are known:

    - a folder with `train` and `test`, each with `images` and `labels`, which hold one file per
      slice;
    - a folder with `training.tif`, `training_groundtruth.tif`, `testing.tif` and
      `testing_groundtruth.tif`;
    - a Zarr group whose name ends in `.zarr`, with the arrays `train/images`, `train/labels`,
      `test/images` and `test/labels`.

    Args:
        path: the folder or the group.
        tile: side in pixels of the tiles that `batches` yields; None means whole slices.
        normalization: mean and std of pixel values in 0..1; None means 0.5 for both.

    Raises:
        FileError: a file or folder is missing or damaged.
        DataError: slices are missing, colored or of unequal size, or do not match their masks.
        ArgumentError: a tile is larger than a slice, or a package is not installed.
    """
    root = Path(path)
    chosen = normalization or HALF_NORMALIZATION
    stacks = {part: _open_part(root, part) for part in ("train", "test")}
    for part, (images, masks) in stacks.items():
        _check_pair(root, part, images, masks)
        check_tile(tile, images.shape[1:])
    if len(chosen.mean) != 1:
        raise ArgumentError(f"normalization: needed one channel, got {len(chosen.mean)}.")
    used, held_out = validation_block(stacks["train"][0].shape[0])
    tested = np.arange(stacks["test"][0].shape[0])
    train, validation, test = (
        VolumeSplit(*stacks[part], slices, chosen, tile)
        for part, slices in (("train", used), ("train", held_out), ("test", tested))
    )
    return VolumeDataset("lucchi", CLASSES, train, validation, test)


def validation_block(slices: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Indices of the slices for training and for validation.

    The last slices are for validation. A gap before them is in neither part.

    Args:
        slices: number of slices in the training stack.

    Raises:
        DataError: there are fewer than 3 slices.
    """
    held_out = max(1, round(_VALIDATION_SHARE * slices))
    gap = max(1, round(_GAP_SHARE * slices))
    used = slices - held_out - gap
    if used < 1:
        raise DataError(
            f"needed at least 3 training slices, to hold one out, got {slices}. Add slices to the "
            "training stack."
        )
    return np.arange(used), np.arange(slices - held_out, slices)


def check_tile(tile: int | None, shape: Sequence[int]) -> None:
    """Check that a tile fits into a slice.

    Args:
        tile: side of the tile in pixels; None always fits.
        shape: height and width of the slice in pixels.

    Raises:
        ArgumentError: the tile is larger than the slice.
    """
    if tile is not None and not 1 <= tile <= min(shape):
        raise ArgumentError(
            f"tile: needed 1..{min(shape)} pixels for slices of {shape[0]} x {shape[1]}, got "
            f"{tile}. Choose a smaller tile."
        )


def _open_part(root: Path, part: str) -> tuple[Volume, Volume]:
    """Images and masks."""
    if root.suffix == ".zarr":
        return open_zarr(root, f"{part}/images"), open_zarr(root, f"{part}/labels", masks=True)
    if (root / part).is_dir():
        return open_slices(root / part / "images"), open_slices(root / part / "labels")
    name = f"{part}ing"  # training.tif, testing.tif
    if (root / f"{name}.tif").is_file():
        masks = open_tiff(root / f"{name}_groundtruth.tif", masks=True)
        return open_tiff(root / f"{name}.tif"), masks
    raise FileError(
        f"{str(root)!r} has no {part} part: needed folders {part}/images and {part}/labels, or "
        f"files {name}.tif and {name}_groundtruth.tif, or a Zarr group whose name ends in .zarr."
    )


def _check_pair(root: Path, part: str, images: Volume, masks: Volume) -> None:
    if images.shape != masks.shape:
        raise DataError(
            f"{str(root)!r}, {part}: needed masks of the images' shape (slices, height, width) = "
            f"{images.shape}, got {masks.shape}. Every slice needs its own mask of its own size."
        )


__all__ = [
    "CLASSES",
    "HALF_NORMALIZATION",
    "VolumeDataset",
    "VolumeSplit",
    "check_tile",
    "open_lucchi",
    "validation_block",
]

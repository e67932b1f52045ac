"""Volumes with masks are read lazily and alike in every layout; bad ones are refused."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from transpike.data import Normalization, open_data, open_lucchi, open_volumes
from transpike.data.lucchi import VolumeDataset, validation_block
from transpike.data.volumes import ArrayVolume, PagedVolume, open_slices, open_tiff
from transpike.errors import ArgumentError, DataError, FileError

tifffile = pytest.importorskip("tifffile")
zarr = pytest.importorskip("zarr")

Stack = NDArray[np.uint8]
Stacks = dict[str, tuple[Stack, Stack]]


def _stacks(slices: int = 8, height: int = 32, width: int = 48) -> Stacks:
    random = np.random.RandomState(0)
    return {
        part: (
            random.randint(0, 256, (slices, height, width)).astype(np.uint8),
            (255 * (random.rand(slices, height, width) < 0.2)).astype(np.uint8),
        )
        for part in ("train", "test")
    }


def _write_folder(root: Path, stacks: Stacks, step: int = 1) -> Path:
    for part, arrays in stacks.items():
        for name, stack in zip(("images", "labels"), arrays, strict=True):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index, pixels in enumerate(stack):
                Image.fromarray(pixels).save(folder / f"{step * index:03d}.png")
    return root


def _write_tiffs(root: Path, stacks: Stacks, **options: str) -> Path:
    root.mkdir(exist_ok=True)
    for part, (images, masks) in stacks.items():
        tifffile.imwrite(root / f"{part}ing.tif", images, photometric="minisblack", **options)
        tifffile.imwrite(
            root / f"{part}ing_groundtruth.tif", masks, photometric="minisblack", **options
        )
    return root


def _write_zarr(root: Path, stacks: Stacks) -> Path:
    group = zarr.open_group(str(root), mode="w")
    for part, (images, masks) in stacks.items():
        group.create_array(f"{part}/images", data=images, chunks=(1, 16, 16))
        group.create_array(f"{part}/labels", data=masks, chunks=(1, 16, 16))
    return root


def _everything(data: VolumeDataset) -> list[torch.Tensor]:
    parts = (data.train, data.validation, data.test)
    return [tensor for part in parts for batch in part.batches(3) for tensor in batch]


def test_every_layout_reads_the_same(tmp_path: Path) -> None:
    stacks = _stacks()
    expected = _everything(open_lucchi(_write_folder(tmp_path / "slices", stacks, step=3)))
    others = (
        _write_tiffs(tmp_path / "mapped", stacks),
        _write_tiffs(tmp_path / "compressed", stacks, compression="zlib"),
        _write_zarr(tmp_path / "volume.zarr", stacks),
    )
    for place in others:
        read = _everything(open_lucchi(place))
        assert all(torch.equal(a, b) for a, b in zip(expected, read, strict=True)), place


def test_values_are_normalized_and_masks_are_zero_or_one(tmp_path: Path) -> None:
    stacks = _stacks()
    data = open_volumes(f"lucchi:{_write_folder(tmp_path / 'd', stacks)}")
    images, masks = next(data.test.batches(2))
    pixels, labels = stacks["test"]
    expected = (torch.from_numpy(pixels[:2]).float() / 255 - 0.5) / 0.5
    assert torch.allclose(images[:, 0], expected, atol=1e-6)
    assert torch.equal(masks[:, 0], torch.from_numpy(labels[:2] > 0).float())
    assert data.input_shape == (1, 32, 48) and data.normalization == Normalization((0.5,), (0.5,))
    other = open_volumes(f"lucchi:{tmp_path / 'd'}", Normalization((0.0,), (1.0,)))
    assert next(other.test.batches(1))[0].min() >= 0


def test_tiles_cover_every_pixel_and_the_last_end_at_the_border(tmp_path: Path) -> None:
    stacks = _stacks()
    place = _write_tiffs(tmp_path, stacks)
    # In slices of 32 x 48, tiles start at the rows 0 and 12 and at the columns 0, 20 and 28.
    data = open_volumes(f"lucchi:{place}?tile=20")
    assert len(data.test) == 8 * 6 and data.input_shape == (1, 20, 20)
    tiles = torch.cat([images for images, _ in data.test.batches(5)])[:, 0]
    seen = torch.full((32, 48), torch.nan)
    corners = [(row, column) for row in (0, 12) for column in (0, 20, 28)]
    # These are the six tiles of the second slice.
    for tile, (row, column) in zip(tiles[6:12], corners, strict=True):
        seen[row : row + 20, column : column + 20] = tile
    whole, _ = next(data.test.with_tile(None).batches(1, [1]))
    assert torch.equal(seen, whole[0, 0])


def test_subsets_are_repeatable_and_nest(tmp_path: Path) -> None:
    data = open_volumes(f"lucchi:{_write_tiffs(tmp_path, _stacks())}?tile=16")
    part = data.train.subset(10, seed=1)
    again = data.train.subset(10, seed=1)
    assert len(part) == 10 and np.array_equal(part.chosen, again.chosen)
    assert set(part.subset(3, 0).chosen) <= set(part.chosen)
    images, _ = next(part.batches(10))
    alone, _ = next(data.train.batches(1, [int(part.chosen[4])]))
    assert torch.equal(images[4:5], alone)


def test_only_what_is_asked_for_is_read() -> None:
    class Recording:
        shape = (4, 64, 64)
        dtype = np.dtype(np.uint8)
        asked: tuple[object, ...] = ()

        def __getitem__(self, key: tuple[int, slice, slice]) -> Stack:
            self.asked = key
            return np.zeros((8, 8), np.uint8)

    array = Recording()
    volume = ArrayVolume(array, "test")
    volume.read(2, slice(8, 16), slice(0, 8))
    assert array.asked == (2, slice(8, 16), slice(0, 8))


def test_an_uncompressed_tiff_is_mapped_and_a_compressed_one_is_read_by_page(
    tmp_path: Path,
) -> None:
    stacks = _stacks()
    _write_tiffs(tmp_path / "a", stacks)
    _write_tiffs(tmp_path / "b", stacks, compression="zlib")
    mapped = open_tiff(tmp_path / "a" / "training.tif")
    assert isinstance(mapped, ArrayVolume) and isinstance(mapped.array, np.memmap)
    assert isinstance(open_tiff(tmp_path / "b" / "training.tif"), PagedVolume)


@pytest.mark.parametrize("slices", [3, 8, 55, 165])
def test_validation_is_a_block_at_the_end_with_a_gap(slices: int) -> None:
    used, held_out = validation_block(slices)
    assert np.array_equal(used, np.arange(len(used)))
    assert np.array_equal(held_out, np.arange(held_out[0], slices))
    assert held_out[0] - used[-1] >= 2


def test_too_few_slices_to_hold_one_out(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="at least 3 training slices, to hold one out, got 2"):
        open_lucchi(_write_tiffs(tmp_path, _stacks(slices=2)))


def test_parts_do_not_overlap(tmp_path: Path) -> None:
    data = open_lucchi(_write_tiffs(tmp_path, _stacks(20)))
    assert not set(data.train.slices) & set(data.validation.slices)
    assert data.train.images is data.validation.images is not data.test.images


def test_sixteen_bit_slices_and_volumes(tmp_path: Path) -> None:
    wide = {
        part: (images.astype(np.uint16) * 257, masks) for part, (images, masks) in _stacks().items()
    }
    expected = _everything(open_lucchi(_write_tiffs(tmp_path / "narrow", _stacks())))
    for place in (
        _write_tiffs(tmp_path / "wide", wide),
        _write_folder(tmp_path / "slices", wide),
    ):
        read = _everything(open_lucchi(place))
        assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(expected, read, strict=True)), (
            place
        )


def test_masks_of_zero_and_one_read_like_zero_and_255(tmp_path: Path) -> None:
    stacks = _stacks()
    ones = {part: (images, masks // 255) for part, (images, masks) in stacks.items()}
    first = _everything(open_lucchi(_write_tiffs(tmp_path / "a", stacks)))
    second = _everything(open_lucchi(_write_tiffs(tmp_path / "b", ones)))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_a_mask_with_more_values_is_refused_when_it_is_read(tmp_path: Path) -> None:
    stacks = _stacks()
    stacks["train"][1][4, 0, 0] = 7
    data = open_lucchi(_write_tiffs(tmp_path, stacks))
    with pytest.raises(DataError, match=r"training_groundtruth.tif', slice 4: needed a binary"):
        list(data.train.batches(1))
    stacks["train"][1][4] = 255 * (stacks["train"][1][4] > 0)  # The remedy is a binary mask.
    assert len(list(open_lucchi(_write_tiffs(tmp_path, stacks)).train.batches(1))) == 6


def test_mismatched_masks_are_refused(tmp_path: Path) -> None:
    stacks = _stacks()
    images, masks = stacks["test"]
    stacks["test"] = (images, masks[:, :16])
    with pytest.raises(
        DataError, match=r"test: needed masks of the images' shape .* \(8, 16, 48\)"
    ):
        open_lucchi(_write_tiffs(tmp_path / "size", stacks))
    stacks["test"] = (images, masks[:-1])
    with pytest.raises(DataError, match="got \\(7, 32, 48\\)"):
        open_lucchi(_write_folder(tmp_path / "count", stacks))
    stacks["test"] = (images, masks)
    assert len(open_lucchi(_write_tiffs(tmp_path / "size", stacks)).test) == 8


def test_an_rgb_slice_is_refused(tmp_path: Path) -> None:
    folder = _write_folder(tmp_path, _stacks()) / "train" / "images"
    gray = Image.open(folder / "002.png")
    gray.convert("RGB").save(folder / "002.png")
    with pytest.raises(DataError, match="002.png'.*grayscale slice of 8 or 16 bit, got mode RGB"):
        open_lucchi(tmp_path)
    Image.open(folder / "002.png").convert("L").save(folder / "002.png")
    assert len(open_lucchi(tmp_path).test) == 8


def test_an_rgb_volume_is_refused(tmp_path: Path) -> None:
    _write_tiffs(tmp_path, _stacks())
    color = np.zeros((8, 32, 48, 3), np.uint8)
    tifffile.imwrite(tmp_path / "testing.tif", color, photometric="rgb")
    with pytest.raises(DataError, match="holds color: convert it to grayscale"):
        open_lucchi(tmp_path)


def test_a_missing_slice_is_named(tmp_path: Path) -> None:
    folder = _write_folder(tmp_path, _stacks(), step=3) / "train" / "images"
    moved = (folder / "009.png").rename(tmp_path / "009.png")
    with pytest.raises(DataError, match="slice 9 is missing between 6 and 12"):
        open_lucchi(tmp_path)
    moved.rename(folder / "009.png")
    assert len(open_lucchi(tmp_path).test) == 8


def test_slices_of_unequal_size_or_without_number_are_refused(tmp_path: Path) -> None:
    Image.new("L", (8, 8)).save(tmp_path / "1.png")
    Image.new("L", (8, 9)).save(tmp_path / "2.png")
    with pytest.raises(DataError, match=r"2.png': needed every slice like the first"):
        open_slices(tmp_path)
    (tmp_path / "2.png").rename(tmp_path / "two.png")
    with pytest.raises(DataError, match="two.png': needed the slice's number in its name"):
        open_slices(tmp_path)
    (tmp_path / "two.png").rename(tmp_path / "01.png")
    with pytest.raises(DataError, match="needed each slice once, got number 1 twice"):
        open_slices(tmp_path)


def test_a_slice_with_pages_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "0.tif", np.zeros((2, 8, 8), np.uint8), photometric="minisblack")
    with pytest.raises(DataError, match="one slice per file, got 2 pages"):
        open_slices(tmp_path)


def test_an_image_smaller_than_a_tile(tmp_path: Path) -> None:
    place = _write_tiffs(tmp_path, _stacks())
    with pytest.raises(ArgumentError, match=r"needed 1..32 pixels for slices of 32 x 48, got 64"):
        open_volumes(f"lucchi:{place}?tile=64")
    data = open_volumes(f"lucchi:{place}?tile=32")
    with pytest.raises(ArgumentError, match="got 33. Choose a smaller tile"):
        data.train.with_tile(33)
    with pytest.raises(ArgumentError, match="needed a whole part, got a subset"):
        data.train.subset(2, 0).with_tile(16)


def test_signed_or_floating_volumes_are_refused(tmp_path: Path) -> None:
    _write_tiffs(tmp_path, _stacks())
    tifffile.imwrite(
        tmp_path / "training.tif", np.zeros((8, 32, 48), np.float32), photometric="minisblack"
    )
    with pytest.raises(DataError, match="needed unsigned integers, got float32"):
        open_lucchi(tmp_path)


def test_missing_and_damaged_files(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="has no train part: needed folders"):
        open_lucchi(tmp_path)
    _write_tiffs(tmp_path, _stacks())
    (tmp_path / "testing_groundtruth.tif").unlink()
    with pytest.raises(FileError, match=r"no file .*testing_groundtruth.tif"):
        open_lucchi(tmp_path)
    (tmp_path / "testing_groundtruth.tif").write_bytes(b"not a picture")
    with pytest.raises(FileError, match="as TIFF"):
        open_lucchi(tmp_path)
    with pytest.raises(FileError, match=r"cannot read the array 'train/images'"):
        open_lucchi(tmp_path / "none.zarr")
    (tmp_path / "train").mkdir()
    with pytest.raises(FileError, match="needed a folder of .png or .tif slices"):
        open_lucchi(tmp_path)
    (tmp_path / "train" / "images").mkdir()
    with pytest.raises(DataError, match="needed .png or .tif slices, got none"):
        open_lucchi(tmp_path)
    (tmp_path / "train" / "images" / "0.png").write_bytes(b"not a picture")
    with pytest.raises(FileError, match="cannot read the slice"):
        open_lucchi(tmp_path)


def test_arguments(tmp_path: Path) -> None:
    place = _write_tiffs(tmp_path, _stacks())
    data = open_lucchi(place)
    with pytest.raises(ArgumentError, match="batch_size: needed at least 1"):
        data.test.batches(0)
    with pytest.raises(ArgumentError, match=r"indices: needed 0..7, got 8..8"):
        data.test.batches(1, [8])
    with pytest.raises(ArgumentError, match=r"subset: needed 1..8 tiles, got 9"):
        data.test.subset(9, 0)
    with pytest.raises(ArgumentError, match="needed one channel, got 3"):
        open_lucchi(place, normalization=Normalization((0.5,) * 3, (0.5,) * 3))
    with pytest.raises(ArgumentError, match="unknown volumes 'lucchi:'"):
        open_volumes("lucchi:")
    with pytest.raises(ArgumentError, match="needed options among tile, got size"):
        open_volumes(f"lucchi:{place}?size=3")
    with pytest.raises(ArgumentError, match=r"needed \?tile=N in pixels, got 'x'"):
        open_volumes(f"lucchi:{place}?tile=x")
    with pytest.raises(ArgumentError, match="volumes with masks"):
        open_data(f"lucchi:{place}")


@pytest.mark.parametrize("package", ["tifffile", "zarr"])
def test_a_missing_package_is_named(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    place = _write_tiffs(tmp_path, _stacks()) if package == "tifffile" else tmp_path / "a.zarr"
    with pytest.raises(ArgumentError, match=f"install it with pip install {package}"):
        open_lucchi(place)


def test_slices_behind_one_header_are_all_there(tmp_path: Path) -> None:
    """ImageJ writes large stacks with a single header."""
    stack = np.arange(5 * 8 * 8, dtype=np.uint8).reshape(5, 8, 8)
    tifffile.imwrite(tmp_path / "a.tif", stack, imagej=True, truncate=True)
    volume = open_tiff(tmp_path / "a.tif")
    assert volume.shape == (5, 8, 8)
    for index in range(5):
        assert np.array_equal(volume.read(index, slice(None), slice(None)), stack[index])


@pytest.mark.parametrize("folder", [False, True])
def test_tiff_in_which_zero_is_white_is_refused(tmp_path: Path, folder: bool) -> None:
    tifffile.imwrite(tmp_path / "0.tif", np.zeros((8, 8), np.uint8), photometric="miniswhite")
    opener = open_slices if folder else open_tiff
    with pytest.raises(DataError, match="0 is white. Invert it"):
        opener(tmp_path if folder else tmp_path / "0.tif")

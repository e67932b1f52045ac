from __future__ import annotations

import pickle
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from transpike.data import Normalization, open_cifar10, open_data, open_digits, open_folder
from transpike.data.cifar10 import CLASSES
from transpike.errors import ArgumentError, DataError, FileError


def _arrays(train: int = 7, test: int = 5) -> dict[str, np.ndarray]:
    random = np.random.RandomState(0)
    return {
        "x_train": random.randint(0, 256, (train, 32, 32, 3)).astype(np.uint8),
        "y_train": np.arange(train, dtype=np.uint8) % 10,
        "x_test": random.randint(0, 256, (test, 32, 32, 3)).astype(np.uint8),
        "y_test": np.arange(test, dtype=np.uint8) % 10,
    }


@pytest.fixture
def cifar_file(tmp_path: Path) -> Path:
    np.savez(tmp_path / "cifar10.npz", **_arrays())
    return tmp_path / "cifar10.npz"


def _image_folder(root: Path, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> Path:
    random = np.random.RandomState(0)
    for part in ("train", "test"):
        for name in ("ant", "bee"):
            (root / part / name).mkdir(parents=True)
            for index in range(3):
                pixels = random.randint(0, 256, (size[1], size[0], 3)).astype(np.uint8)
                image = Image.fromarray(pixels).convert(mode)
                image.save(root / part / name / f"{index}.png")
    return root


# -- batches and subsets --


def test_batches_are_the_normalized_images_in_order(cifar_file: Path) -> None:
    arrays = _arrays()
    data = open_cifar10(cifar_file)
    batches = list(data.test.batches(2))
    assert [len(labels) for _, labels in batches] == [2, 2, 1]
    images = torch.cat([images for images, _ in batches])
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = ((arrays["x_test"] / 255 - mean) / std).transpose(0, 3, 1, 2)
    assert images.dtype == torch.float32
    np.testing.assert_allclose(images.numpy(), expected, atol=1e-6)
    labels = torch.cat([labels for _, labels in batches])
    assert labels.dtype == torch.int64 and labels.tolist() == [0, 1, 2, 3, 4]


def test_batch_size_changes_no_bit(cifar_file: Path) -> None:
    split = open_cifar10(cifar_file).train
    whole = torch.cat([images for images, _ in split.batches(7)])
    parts = torch.cat([images for images, _ in split.batches(3)])
    assert torch.equal(whole, parts)


def test_indices_choose_and_order(cifar_file: Path) -> None:
    split = open_cifar10(cifar_file).train
    ((_, labels),) = split.batches(10, indices=[5, 0, 3])
    assert labels.tolist() == [5, 0, 3]


@pytest.mark.parametrize("indices", [[7], [-1]])
def test_index_out_of_range(cifar_file: Path, indices: list[int]) -> None:
    with pytest.raises(ArgumentError, match=r"needed 0\.\.6"):
        open_cifar10(cifar_file).train.batches(2, indices=indices)


def test_batch_size_below_one(cifar_file: Path) -> None:
    with pytest.raises(ArgumentError, match="batch_size: needed at least 1, got 0"):
        open_cifar10(cifar_file).train.batches(0)


def test_subset_is_seeded_and_without_repeats() -> None:
    train = open_digits().train
    labels = [torch.cat([y for _, y in train.subset(200, seed).batches(64)]) for seed in (0, 0, 1)]
    assert torch.equal(labels[0], labels[1]) and not torch.equal(labels[0], labels[2])
    chosen = train.subset(len(train), 3).chosen
    assert chosen is not None and len(set(chosen.tolist())) == len(train)


def test_subset_of_subset_stays_inside() -> None:
    outer = open_digits().train.subset(50, 0)
    inner = outer.subset(20, 1)
    assert set(inner.chosen.tolist()) <= set(outer.chosen.tolist())


@pytest.mark.parametrize("n", [0, 501, -1])
def test_subset_out_of_range(n: int) -> None:
    with pytest.raises(ArgumentError, match=r"needed 1\.\.500 images"):
        open_digits().test.subset(n, 0)


def test_normalization_can_be_given(cifar_file: Path) -> None:
    plain = Normalization((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    images, _ = next(open_cifar10(cifar_file, normalization=plain).test.batches(5))
    assert 0 <= images.min() and images.max() <= 1


def test_normalization_of_other_channels(cifar_file: Path) -> None:
    data = open_cifar10(cifar_file, normalization=Normalization((0.5,), (0.5,)))
    with pytest.raises(DataError, match="needed 3 channels, got 1"):
        next(data.test.batches(5))


@pytest.mark.parametrize(("mean", "std"), [((0.0,), (0.0,)), ((0.0, 0.0), (1.0,)), ((), ())])
def test_bad_normalization(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ArgumentError, match="normalization: needed"):
        Normalization(mean, std)


# -- CIFAR-10 --


def test_cifar10_by_name(cifar_file: Path) -> None:
    data = open_data(f"cifar10:{cifar_file}")
    assert (len(data.train), len(data.test)) == (7, 5)
    assert data.classes == CLASSES and data.input_shape == (3, 32, 32)


def test_cifar10_in_torchvision_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from torchvision.datasets import CIFAR10

    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    arrays = _arrays(train=5)
    for name in [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]:
        part = "test" if name == "test_batch" else "train"
        content = {
            "data": arrays[f"x_{part}"].transpose(0, 3, 1, 2).reshape(5, -1),
            "labels": arrays[f"y_{part}"].tolist(),
        }
        (folder / name).write_bytes(pickle.dumps(content))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list(CLASSES)}))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    assert CIFAR10(str(tmp_path)).data.shape == (25, 32, 32, 3)
    for place in (tmp_path, folder):
        data = open_data(f"cifar10:{place}")
        assert (len(data.train), len(data.test)) == (25, 5)
        ((images, _),) = data.test.batches(5)
        np.savez(tmp_path / "same.npz", **arrays)
        ((same, _),) = open_cifar10(tmp_path / "same.npz").test.batches(5)
        assert torch.equal(images, same)


def test_cifar10_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no file .*absent.npz"):
        open_data(f"cifar10:{tmp_path / 'absent.npz'}")


def test_cifar10_missing_folder_offers_download(tmp_path: Path) -> None:
    with pytest.raises(FileError, match=r"Add \?download"):
        open_data(f"cifar10:{tmp_path}")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 broken", b"text"])
def test_cifar10_damaged_file(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(FileError, match="c.npz"):
        open_cifar10(tmp_path / "c.npz")


def test_cifar10_truncated_file(cifar_file: Path) -> None:
    whole = cifar_file.read_bytes()
    cifar_file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(FileError, match="cifar10.npz"):
        open_cifar10(cifar_file)


def test_cifar10_wrong_keys(tmp_path: Path) -> None:
    np.savez(tmp_path / "c.npz", images=np.zeros(3))
    with pytest.raises(FileError, match="needed x_train, y_train, x_test, y_test, got images"):
        open_cifar10(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("x_test", np.zeros((5, 3, 32, 32), np.uint8), r"needed uint8 of shape \(N, 32, 32, 3\)"),
        ("x_train", np.zeros((7, 32, 32, 3), np.float32), "got float32"),
        ("y_test", np.zeros(4, np.uint8), r"needed integers of shape \(5,\)"),
        ("y_train", np.full(7, 10, np.uint8), r"needed labels 0\.\.9"),
    ],
)
def test_cifar10_wrong_arrays(tmp_path: Path, key: str, value: np.ndarray, message: str) -> None:
    np.savez(tmp_path / "c.npz", **{**_arrays(), key: value})
    with pytest.raises(DataError, match=message):
        open_cifar10(tmp_path / "c.npz")


# -- digits --


def test_digits_split_is_fixed_and_disjoint() -> None:
    first, second = open_digits(), open_data("digits")
    assert (len(first.train), len(first.test)) == (1297, 500)
    assert first.input_shape == (1, 8, 8)
    assert np.array_equal(first.test.chosen, second.test.chosen)
    assert not set(first.train.chosen.tolist()) & set(first.test.chosen.tolist())


def test_digits_training_images_have_mean_zero_and_std_one() -> None:
    images = torch.cat([images for images, _ in open_digits().train.batches(256)])
    assert abs(float(images.mean())) < 0.01 and abs(float(images.std()) - 1) < 0.01


def test_images_have_plain_strides() -> None:
    images, _ = next(open_digits().test.batches(4))
    assert images.stride() == (64, 64, 8, 1)


def test_digits_without_scikit_learn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ArgumentError, match="install it with pip install scikit-learn"):
        open_digits()


# -- image folders --


def test_folder_reads_classes_in_order(tmp_path: Path) -> None:
    data = open_data(f"folder:{_image_folder(tmp_path)}")
    assert data.classes == ("ant", "bee") and data.input_shape == (3, 4, 6)
    ((_, labels),) = data.test.batches(10)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_folder_pixels_are_the_files(tmp_path: Path) -> None:
    plain = Normalization((0.0,) * 3, (1.0,) * 3)
    data = open_folder(_image_folder(tmp_path), normalization=plain)
    images, _ = next(data.train.batches(1))
    pixels = np.asarray(Image.open(tmp_path / "train" / "ant" / "0.png"))
    assert np.array_equal((images[0].numpy() * 255).round(), pixels.transpose(2, 0, 1))


def test_folder_options(tmp_path: Path) -> None:
    data = open_data(f"folder:{_image_folder(tmp_path, mode='L')}?size=5&gray")
    assert data.input_shape == (1, 5, 5)


def test_folder_of_mixed_sizes_and_its_remedy(tmp_path: Path) -> None:
    root = _image_folder(tmp_path)
    Image.new("RGB", (9, 9)).save(root / "test" / "bee" / "9.png")
    with pytest.raises(DataError, match=r"needed every image of one size.*\?size=N"):
        list(open_data(f"folder:{root}").test.batches(10))
    list(open_data(f"folder:{root}?size=8").test.batches(10))


def test_folder_missing(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="needed PATH/train/CLASS"):
        open_data(f"folder:{tmp_path}")


def test_folder_without_classes(tmp_path: Path) -> None:
    (tmp_path / "train").mkdir()
    with pytest.raises(DataError, match="needed one folder of images per class"):
        open_folder(tmp_path)


def test_folder_with_an_empty_class(tmp_path: Path) -> None:
    root = _image_folder(tmp_path)
    for part in ("train", "test"):
        (root / part / "cat").mkdir()
    with pytest.raises(DataError, match="cat.*: needed images"):
        open_folder(root)


def test_folder_with_other_classes_in_test(tmp_path: Path) -> None:
    root = _image_folder(tmp_path)
    (root / "test" / "bee").rename(root / "test" / "fly")
    with pytest.raises(DataError, match="same classes"):
        open_folder(root)


def test_folder_with_a_file_that_is_no_image(tmp_path: Path) -> None:
    root = _image_folder(tmp_path)
    (root / "test" / "ant" / "0.png").write_bytes(b"no image")
    with pytest.raises(FileError, match="cannot read the image"):
        list(open_folder(root).test.batches(10))


# -- names --


@pytest.mark.parametrize("spec", ["mnist", "cifar10", "cifar10:", "folder:", "digits:x", ""])
def test_unknown_data_lists_what_is_possible(spec: str) -> None:
    with pytest.raises(ArgumentError, match="needed digits, cifar10:PATH"):
        open_data(spec)


@pytest.mark.parametrize("spec", ["cifar10:x.npz?resize", "folder:x?sized=3"])
def test_unknown_option(spec: str) -> None:
    with pytest.raises(ArgumentError, match="needed options among"):
        open_data(spec)


@pytest.mark.parametrize("size", ["big", "0"])
def test_bad_size(tmp_path: Path, size: str) -> None:
    with pytest.raises(ArgumentError, match="size"):
        open_data(f"folder:{tmp_path}?size={size}")

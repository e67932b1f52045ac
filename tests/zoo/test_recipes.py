"""Training recipes on tiny data resume bit for bit, write cards and refuse bad settings."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from transpike.cli import app
from transpike.data import Dataset, Normalization, Split, open_lucchi
from transpike.data.images import ArrayImages
from transpike.data.lucchi import VolumeDataset, VolumeSplit
from transpike.data.volumes import ArrayVolume
from transpike.errors import ArgumentError, DataError, FileError
from transpike.segment import PixelCounts
from transpike.zoo.models import build_model
from transpike.zoo.models.vgg_cifar import VGGCifar
from transpike.zoo.train import run
from transpike.zoo.train.augment import deform, vary_intensity
from transpike.zoo.train.card import save_weights
from transpike.zoo.train.fit import Batches, finite
from transpike.zoo.train.muon import Muon, orthogonal

pytest.importorskip("lightning")

from transpike.zoo.train.backbones import BackboneSettings, BackboneTask, train_backbone
from transpike.zoo.train.cifar import accuracy, translate
from transpike.zoo.train.unet_lucchi import (
    UNetSettings,
    balanced_loss,
    crops,
    train_unet_lucchi,
)
from transpike.zoo.train.vgg_cifar import VGGSettings, VGGTask, train_vgg_cifar, whiten

VGG = VGGSettings(epochs=3, batch_size=32, validation=32, widths=(4, 6, 8))
BACKBONE = BackboneSettings(epochs=3, batch_size=32, validation=32)
UNET = UNetSettings(epochs=3, steps=4, batch_size=4, crop=32, width=2)


def _images(n: int = 160) -> Dataset:
    """Return a data set with three classes of colored noise."""
    random = np.random.RandomState(0)
    labels = random.randint(0, 3, n)
    pixels = random.randint(0, 128, (n, 32, 32, 3))
    pixels[np.arange(n), :, :, labels] += 100
    source = ArrayImages(pixels.astype(np.uint8))
    normalization = Normalization((0.5,) * 3, (0.25,) * 3)
    train = Split(source, labels.astype(np.int64), normalization)
    return Dataset("noise", ("r", "g", "b"), train, train.subset(64, 1))


def _volume(slices: int = 8) -> VolumeDataset:
    """Return a volume of dark discs on a bright ground."""
    random = np.random.RandomState(0)
    y, x = np.mgrid[:64, :80]
    images = random.randint(150, 200, (slices, 64, 80))
    masks = np.zeros((slices, 64, 80), np.uint8)
    for index in range(slices):
        row, column = random.randint(16, 48), random.randint(16, 64)
        disc = (y - row) ** 2 + (x - column) ** 2 < 144
        images[index][disc] -= 100
        masks[index][disc] = 255
    volumes = ArrayVolume(images.astype(np.uint8), "images"), ArrayVolume(masks, "masks")
    parts = (np.arange(0, 4), np.arange(5, 6), np.arange(6, slices))
    return VolumeDataset("discs", ("ground", "disc"), *(VolumeSplit(*volumes, p) for p in parts))


class _Stop(Exception):
    pass


def _stop_at(step: int) -> Any:
    def progress(done: int, total: int | None) -> None:
        if done == step:
            raise _Stop

    return progress


@pytest.mark.parametrize(
    ("train", "data", "settings", "stop", "name"),
    [
        (train_vgg_cifar, _images, VGG, 6, "vgg-cifar"),
        (train_unet_lucchi, _volume, UNET, 6, "unet-lucchi-w2"),
        (partial(train_backbone, "resnet18:8"), _images, BACKBONE, 6, "resnet18-w8-s0"),
    ],
)
def test_a_resumed_run_gives_the_weights_of_one_that_was_not_interrupted(
    train: Any, data: Any, settings: Any, stop: int, name: str, tmp_path: Path
) -> None:
    whole = train(data(), tmp_path / "whole", settings)
    with pytest.raises(_Stop):
        train(data(), tmp_path / "parts", settings, progress=_stop_at(stop))
    torch.rand(3)  # The random state of the caller has no influence.
    parts = train(data(), tmp_path / "parts", settings, resume=True)
    first, second = (
        load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "parts")
    )
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert whole == parts and len(whole["history"]) == 3
    other = train(data(), tmp_path / "other", replace(settings, seed=1))
    assert other["history"][0]["loss"] != whole["history"][0]["loss"]


def test_a_resumed_run_keeps_the_best_weights_of_the_epoch_before(tmp_path: Path) -> None:
    """An epoch after the stop is worse than the last one before it, but better than the others."""
    settings = replace(UNET, epochs=6, seed=4)
    whole = train_unet_lucchi(_volume(), tmp_path / "whole", settings)
    with pytest.raises(_Stop):
        train_unet_lucchi(_volume(), tmp_path / "parts", settings, progress=_stop_at(21))
    assert whole == train_unet_lucchi(_volume(), tmp_path / "parts", settings, resume=True)


def test_vgg_learns_and_the_written_weights_have_the_quoted_accuracy(tmp_path: Path) -> None:
    reported: list[dict[str, float]] = []
    done: list[tuple[int, int | None]] = []
    data = _images(320)
    result = train_vgg_cifar(
        data,
        tmp_path,
        replace(VGG, epochs=8, widths=(8, 16, 16)),
        report=reported.append,
        progress=lambda step, total: done.append((step, total)),
    )
    assert result["test_accuracy"] > 0.9
    assert reported == result["history"] and done[-1] == (72, 72)
    model = VGGCifar(3, (8, 16, 16))
    state = load_file(tmp_path / "vgg-cifar.safetensors")
    assert {v.dtype for v in state.values() if v.is_floating_point()} == {torch.float16}
    model.load_state_dict(state)
    assert accuracy(model, data.test.batches(16)) == result["test_accuracy"]
    card = (tmp_path / "vgg-cifar.md").read_text()
    assert f"{result['test_accuracy']:.2%}, n = 64" in card and "n = 32" in card
    assert "Apache-2.0" in card


def test_a_network_of_the_study_learns_and_its_card_builds_it(tmp_path: Path) -> None:
    network = "plainnet18:8"
    data = _images(320)
    settings = replace(BACKBONE, epochs=4, seed=3)
    result = train_backbone(network, data, tmp_path, settings)
    name = f"{network.replace(':', '-w')}-s3"
    assert result["test_accuracy"] > 0.9
    model = build_model(network, tmp_path / f"{name}.safetensors", num_classes=3)
    assert accuracy(model, data.test.batches(16)) == result["test_accuracy"]
    card = (tmp_path / f"{name}.md").read_text()
    assert f"`transpike train {network} --epochs 4 --seed 3`" in card
    assert f"{result['test_accuracy']:.2%}, n = 64" in card and "minutes of training" in card


def test_few_channels_are_trained_without_channels_last() -> None:
    """The backward pass of torch writes past its memory for 1x1 convolutions of few channels."""
    formats = [BackboneTask(f"resnet18:{w}", _images(), BACKBONE).memory for w in (2, 4, 8, 12, 16)]
    plain, last = torch.contiguous_format, torch.channels_last
    assert formats == [plain, plain, last, plain, last]


def test_unet_learns_and_takes_the_best_epoch_of_the_validation_slices(tmp_path: Path) -> None:
    result = train_unet_lucchi(_volume(), tmp_path, replace(UNET, steps=20, width=4))
    assert result["test_f1"] > 0.8
    scores = [entry["validation_f1"] for entry in result["history"]]
    assert result["best_epoch"] == 1 + int(np.argmax(scores))
    # The stored weights have half precision, so the score may differ slightly.
    assert result["validation_f1"] == pytest.approx(max(scores), abs=0.01)
    assert f"F1 {result['test_f1']:.4f}" in (tmp_path / "unet-lucchi-w4.md").read_text()
    build_model("unet:4", tmp_path / "unet-lucchi-w4.safetensors")
    build_model("unet-sigmoid:4", tmp_path / "unet-lucchi-w4.safetensors")


def test_test_images_decide_nothing(tmp_path: Path) -> None:
    """Other test images lead to the same weights."""
    data = _images()
    train_vgg_cifar(data, tmp_path / "a", replace(VGG, epochs=1))
    other = replace(data, test=data.train.subset(10, 3))
    train_vgg_cifar(other, tmp_path / "b", replace(VGG, epochs=1))
    first, second = (load_file(tmp_path / run / "vgg-cifar.safetensors") for run in "ab")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_validation_images_are_never_trained_on() -> None:
    data = _images()
    task = VGGTask(data, VGG)
    labels = torch.cat([batch[1] for batch in task.val_dataloader()])
    assert torch.equal(labels, torch.from_numpy(data.train.labels[-32:]))
    seen = []
    marked = replace(data.train, labels=np.arange(len(data.train)))
    for epoch in range(3):
        task.dataset = replace(data, train=marked)
        seen += [batch[1] for batch in replace_epoch(task, epoch)]
    assert int(torch.cat(seen).max()) < len(data.train) - 32


def replace_epoch(task: VGGTask, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
    batches = task.train_dataloader()
    yield from replace(batches, epoch=epoch)


def test_flips_alternate_and_every_epoch_has_another_order() -> None:
    data = _images()
    still = replace(VGG, translation=0, batch_size=128)
    marked = replace(data.train, labels=np.arange(len(data.train)))
    task = VGGTask(replace(data, train=marked), still)
    epochs = []
    for epoch in (0, 1):
        ((images, order),) = replace_epoch(task, epoch)
        epochs.append((images[order.argsort()], order))
    assert not torch.equal(epochs[0][1], epochs[1][1])
    assert torch.equal(epochs[0][0], epochs[1][0].flip(3))


def test_translation_moves_whole_pixels_and_mirrors_the_border() -> None:
    image = torch.arange(16.0).view(1, 1, 4, 4)
    moved = translate(image, np.array([[1, 2]]), 1)  # The window moves one column to the right.
    expected = image[0, 0][:, [1, 2, 3, 2]]
    assert torch.equal(moved[0, 0], expected)
    assert torch.equal(translate(image, np.array([[1, 1]]), 1), image)


def test_whitened_patches_are_uncorrelated_with_variance_one() -> None:
    torch.manual_seed(0)
    images = torch.randn(64, 3, 16, 16)
    images[:, 1] = 0.5 * images[:, 0] + 0.5 * images[:, 1]
    stem = nn.Conv2d(3, 24, 2)
    whiten(stem, images)
    with torch.no_grad():
        out = stem(images).transpose(0, 1).flatten(1)
    assert torch.allclose(out[:12], -out[12:], atol=1e-5)
    gram = out[:12] @ out[:12].T / out.shape[1]
    assert torch.allclose(gram, torch.eye(12), atol=0.02)
    assert not stem.weight.requires_grad


def test_orthogonal_step_has_singular_values_near_one() -> None:
    torch.manual_seed(0)
    for shape in ((8, 40), (40, 8)):
        matrix = torch.randn(shape)
        values = torch.linalg.svdvals(orthogonal(matrix))
        assert values.min() > 0.3 and values.max() < 1.3
        left, _, right = torch.linalg.svd(matrix, full_matrices=False)
        assert ((orthogonal(matrix) * (left @ right)).sum() / 8).item() > 0.5


def test_muon_equals_torchs_nesterov_where_it_is_not_orthogonal() -> None:
    torch.manual_seed(0)
    start = torch.randn(5)
    ours, theirs = (nn.Parameter(start.clone()) for _ in range(2))
    first = Muon([{"params": [ours], "lr": 0.1, "momentum": 0.9, "weight_decay": 0.01}])
    second = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.01, nesterov=True)
    for _ in range(4):
        for weight, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (weight**2).sum().backward()
            optimizer.step()
    assert torch.allclose(ours, theirs, atol=1e-6)


def test_muon_keeps_the_norm_and_moves_by_its_rate() -> None:
    torch.manual_seed(0)
    weight = nn.Parameter(torch.randn(6, 3, 3, 3))
    optimizer = Muon([{"params": [weight], "lr": 0.0, "orthogonal": True}])
    weight.grad = torch.randn_like(weight)
    optimizer.step()
    assert weight.norm().item() == pytest.approx(6**0.5, rel=1e-5)
    before = weight.detach().clone()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert 0.05 < ((weight - before).norm() / before.norm()).item() < 0.13


def test_images_and_masks_are_deformed_alike() -> None:
    """An image that equals its mask still equals it, except for interpolation at the edges."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((y - 28) ** 2 + (x - 36) ** 2 < 150).float().expand(16, 1, -1, -1)
    generator = torch.Generator().manual_seed(0)
    images, masks = deform(disc, disc, 48, generator)
    assert images.shape == masks.shape == (16, 1, 48, 48)
    assert set(masks.unique().tolist()) == {0.0, 1.0}
    assert ((images > 0.5).float() - masks).abs().mean() < 0.005
    assert (masks - masks[:1]).abs().sum() > 0  # Every image has its own deformation.
    again, _ = deform(disc, disc, 48, torch.Generator().manual_seed(0))
    assert torch.equal(images, again)


def test_deformation_keeps_the_distribution_of_sizes() -> None:
    """Rotations, flips and random zooms around a factor of one change areas only a little."""
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 32) ** 2 < 100).float().expand(64, 1, -1, -1)
    _, masks = deform(disc, disc, 64, torch.Generator().manual_seed(0))
    areas = masks.sum(dim=(1, 2, 3)) / disc[0].sum()
    assert 0.85 < areas.mean() < 1.2 and areas.min() > 0.4 and areas.max() < 2.2
    assert areas.std() > 0.1


def test_intensities_vary_and_keep_what_is_where() -> None:
    image = torch.linspace(-1, 1, 64).view(1, 1, 8, 8).expand(4, 1, 8, 8)
    varied = vary_intensity(image, torch.Generator().manual_seed(0))
    for before, after in zip(image, varied, strict=True):
        assert np.corrcoef(before.flatten(), after.flatten())[0, 1] > 0.99
    assert varied.mean(dim=(1, 2, 3)).std() > 0.01


def test_loss_is_zero_for_the_right_answer_and_balances_the_classes() -> None:
    masks = torch.zeros(1, 1, 32, 32)
    masks[..., :3, :3] = 1
    right = torch.where(masks > 0, 30.0, -30.0)
    assert balanced_loss(right, masks).item() == pytest.approx(0, abs=1e-4)
    # If all pixels are called background, 99 % of them are right.
    blind = torch.full_like(masks, -30.0)
    assert balanced_loss(blind, masks) > 0.8


def test_pixel_counts() -> None:
    predicted = torch.tensor([1, 1, 0, 0, 1]).bool()
    labeled = torch.tensor([1, 0, 1, 0, 1]).bool()
    counts = PixelCounts() + PixelCounts.of(predicted.numpy(), labeled.numpy())
    assert counts == PixelCounts(2, 1, 1, 1)
    assert counts.scores() == {"f1": 4 / 6, "jaccard": 2 / 4, "accuracy": 3 / 5}
    assert PixelCounts().scores() == {"f1": 0, "jaccard": 0, "accuracy": 0}


def test_crops_depend_on_seed_and_epoch_alone() -> None:
    train = _volume().train
    first, again = (next(crops(train, UNET, 2)) for _ in range(2))
    assert torch.equal(first[0], again[0]) and first[0].shape == (4, 1, 32, 32)
    assert not torch.equal(first[0], next(crops(train, UNET, 3))[0])
    assert len(list(crops(train, UNET, 0))) == UNET.steps


def test_nothing_to_resume_and_a_folder_in_use(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="nothing to resume.*Start without --resume"):
        train_vgg_cifar(_images(), tmp_path, VGG, resume=True)
    short = replace(VGG, epochs=1)
    train_vgg_cifar(_images(), tmp_path, short)
    with pytest.raises(ArgumentError, match="holds a training run.*Add --resume"):
        train_vgg_cifar(_images(), tmp_path, short)
    train_vgg_cifar(_images(), tmp_path, short, resume=True)


def test_bad_settings_and_data() -> None:
    with pytest.raises(ArgumentError, match="epochs: needed at least 1, got 0"):
        train_vgg_cifar(_images(), Path("none"), replace(VGG, epochs=0))
    with pytest.raises(ArgumentError, match="one batch of 512 training images, got 32 and 128"):
        VGGTask(_images(), replace(VGG, batch_size=512))
    with pytest.raises(ArgumentError, match=r"needed images of shape \(3, 32, 32\), got"):
        VGGTask(replace_shape(_images()), VGG)
    with pytest.raises(ArgumentError, match="crops of a multiple of 16 pixels, at most 64"):
        train_unet_lucchi(_volume(), Path("none"), replace(UNET, crop=40))
    with pytest.raises(ArgumentError, match="batch size that is a multiple of 4, got 6"):
        train_unet_lucchi(_volume(), Path("none"), replace(UNET, batch_size=6))
    with pytest.raises(DataError, match="needed a finite loss, got nan"):
        finite(torch.tensor(torch.nan))


def replace_shape(data: Dataset) -> Dataset:
    small = ArrayImages(np.zeros((160, 16, 16, 3), np.uint8))
    return replace(
        data, train=replace(data.train, images=small), test=replace(data.test, images=small)
    )


def test_weights_that_overflow_half_precision_are_refused(tmp_path: Path) -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight[0, 0] = 1e6
    with pytest.raises(FileError, match="weight does not fit half precision"):
        save_weights(model, tmp_path / "w.safetensors")


def test_batches_can_be_gone_through_again() -> None:
    batches = Batches(lambda: iter([(torch.zeros(1), torch.ones(1))]), 1)
    assert len(batches) == len(list(batches)) == len(list(batches)) == 1


def test_recipes_by_name(tmp_path: Path) -> None:
    with pytest.raises(
        ArgumentError, match="unknown recipe 'vgg': needed vgg-cifar, unet-lucchi, or a network"
    ):
        run("vgg", "digits", tmp_path, {})
    with pytest.raises(ArgumentError, match="vgg-cifar has no setting width: leave it out"):
        run("vgg-cifar", "cifar10:none.npz", tmp_path, {"width": 3})


def test_command_line(tmp_path: Path) -> None:
    arrays = _images(96)
    pixels = arrays.train.images.read(np.arange(96)).transpose(0, 2, 3, 1)
    labels = arrays.train.labels.astype(np.uint8)
    np.savez(tmp_path / "c.npz", x_train=pixels, y_train=labels, x_test=pixels, y_test=labels)
    command = ["train", "vgg-cifar", "--data", f"cifar10:{tmp_path / 'c.npz'}", "--epochs", "1"]
    command += ["--batch-size", "8", "--validation", "16", "-o", str(tmp_path / "out")]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    assert "epoch 1, loss" in result.stderr and "test_accuracy" in result.stdout
    content = json.loads((tmp_path / "out" / "result.json").read_text())
    assert content["n_test"] == 96 and content["versions"]["torch"]
    again = CliRunner().invoke(app, command)
    assert again.exit_code == 2 and "Add --resume" in again.stderr
    assert CliRunner().invoke(app, [*command, "--resume"]).exit_code == 0


def test_missing_lightning_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    with pytest.raises(ArgumentError, match="install it with pip install lightning"):
        run("vgg-cifar", "digits", Path("none"), {})


def test_the_data_of_the_other_recipe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="unknown volumes 'digits'"):
        run("unet-lucchi", "digits", tmp_path, {})
    with pytest.raises(FileError, match="has no train part"):
        open_lucchi(tmp_path)

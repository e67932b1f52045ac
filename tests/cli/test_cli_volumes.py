"""Every command that measures takes volumes, and `segment` writes their masks."""

from __future__ import annotations

import importlib
import itertools
import json
import os
import re
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from typer.testing import CliRunner, Result

import transpike as tp
from transpike.cli import app
from transpike.cli.mask_files import mask_writer
from transpike.data import open_volumes
from transpike.data.volumes import ArrayVolume, open_stack, read_mask
from transpike.data.voxel_size import VoxelSize
from transpike.segment import Segmented
from transpike.zoo.models import build_model

SHAPE = (8, 32, 48)
MODEL = "test_cli_volumes:dense"
SMALL = ["--neuron", "signed:2", "--timesteps", "3"]


def dense() -> nn.Module:
    """Return a small dense network, always the same; about half of its mask is positive."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.ReLU(),
            nn.Upsample(scale_factor=2),
            nn.Conv2d(4, 1, 1),
        )
        with torch.no_grad():
            model[-1].bias -= model(2 * torch.rand(2, 1, 32, 32) - 1).median()
        return model


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


def ok(*arguments: str | Path) -> Result:
    result = run(*arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result


def refused(*arguments: str | Path) -> str:
    """Return the error message of a command that must end with code 2."""
    result = run(*arguments)
    assert result.exit_code == 2, (result.exit_code, result.output, result.exception)
    return re.sub(r"[\s│]+", " ", result.stderr)


def loaded(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text())
    return content


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write volumes of random images into folders; the masks are the bright pixels."""
    folder = tmp_path_factory.mktemp("volumes")
    random = np.random.RandomState(0)
    for part in ("train", "test"):
        for name in ("images", "labels"):
            (folder / part / name).mkdir(parents=True)
        for index in range(SHAPE[0]):
            image = random.randint(0, 256, SHAPE[1:]).astype(np.uint8)
            mask = 255 * (image > 150).astype(np.uint8)
            Image.fromarray(image).save(folder / part / "images" / f"{index:03d}.png")
            Image.fromarray(mask).save(folder / part / "labels" / f"{index:03d}.png")
    return folder


@pytest.fixture(scope="module")
def data(root: Path) -> list[str]:
    return ["--data", f"lucchi:{root}", "--calibration-size", "6"]


@pytest.fixture(scope="module")
def saved(root: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("saved") / "snn"
    ok("convert", MODEL, *data, "--tile", "16", *SMALL, "-o", folder)
    return folder


def _stat(mask: torch.Tensor, truth: torch.Tensor) -> tuple[float, float]:
    """Return F1 and the Jaccard index from sets of pixels."""
    both, either = int((mask & truth).sum()), int((mask | truth).sum())
    return 2 * both / (both + either), both / either


def test_evaluate_scores_masks_at_every_t(root: Path, data: list[str], tmp_path: Path) -> None:
    text = ok("evaluate", MODEL, *data, *SMALL, "--json", tmp_path / "e.json").stdout
    content = loaded(tmp_path / "e.json")
    assert content["samples"] == 8 and content["n"] == np.prod(SHAPE)
    assert content["tile"] == [32, 48] and content["split"] == "test"
    assert content["calibration"]["tile"] == [32, 32] and content["calibration"]["n"] == 6
    volumes = open_volumes(f"lucchi:{root}")
    x, truth = (torch.cat(parts) for parts in zip(*volumes.test.batches(8), strict=True))
    truth = truth > 0
    with torch.no_grad():
        ann = dense().eval()(x) > 0
    f1, jaccard = _stat(ann, truth)
    assert content["ann_metric"]["f1"] == pytest.approx(f1, abs=2e-3)
    assert content["ann_metric"]["jaccard"] == pytest.approx(jaccard, abs=2e-3)
    # The library makes the same conversion and simulates whole slices.
    tiles = volumes.train.with_tile(32).subset(6, 0)
    small = tp.convert(dense(), tiles.batches(6), neuron=tp.Signed(2), timesteps=3)
    network = tp.capture(dense(), x)
    snn = tp.SpikingNetwork(network, small.neurons, small.steps, {})
    output = tp.simulate(snn, x, 3).output
    for t in range(3):
        mask = output[t] > 0
        f1, jaccard = _stat(mask, truth)
        assert content["metric"][t]["f1"] == pytest.approx(f1, abs=2e-3)
        assert content["metric"][t]["jaccard"] == pytest.approx(jaccard, abs=2e-3)
        f1, jaccard = _stat(mask, ann)
        assert content["mask_agreement"][t]["f1"] == pytest.approx(f1, abs=2e-3)
        assert content["mask_agreement"][t]["jaccard"] == pytest.approx(jaccard, abs=2e-3)
    assert f"masks of 8 tiles or slices, {content['n']} pixels" in text
    row = text.splitlines()[-1].split()
    assert row[0] == "3" and row[1] == f"{content['metric'][2]['f1']:.4f}"
    assert row[4] == f"{content['mask_agreement'][2]['f1']:.4f}"


def test_masks_are_scored_from_the_first_output_on(data: list[str]) -> None:
    settings = ["--neuron", "staggered:2:2:4:2", "--timesteps", "9", "--calibration-size", "6"]
    text = ok("evaluate", MODEL, *data, *settings).stdout
    assert "no output before t=3: not every layer has fired" in text
    masks = text[text.index("masks of") :].splitlines()
    assert [line.split()[0] for line in masks[2:]] == ["ANN", "4", "8", "9"]


def test_limit_tiles_and_the_validation_block(data: list[str], tmp_path: Path) -> None:
    common = [*data, *SMALL, "--json", tmp_path / "e.json"]
    ok("evaluate", MODEL, *common, "--limit", "2")
    assert loaded(tmp_path / "e.json")["n"] == 2 * 32 * 48
    ok("evaluate", MODEL, *common, "--tile", "16", "--limit", "5", "--split", "val")
    content = loaded(tmp_path / "e.json")
    assert content["n"] == 5 * 16 * 16 and content["split"] == "val"
    assert content["tile"] == [16, 16] and content["calibration"]["tile"] == [16, 16]
    ok("evaluate", MODEL, *common, "--split", "val")
    assert loaded(tmp_path / "e.json")["samples"] == 1  # This is one of 8 training slices.
    ok("evaluate", MODEL, *common[2:], "--data", f"{data[1]}?tile=16")
    assert loaded(tmp_path / "e.json")["n"] == 8 * 6 * 16 * 16


def _make_older(saved: Path, folder: Path) -> Path:
    """Copy the saved network in the form of an older version, which stored only one size."""
    shutil.copytree(saved, folder)
    config = loaded(folder / "config.json")
    del config["sizes"]
    (folder / "config.json").write_text(json.dumps(config | {"schema": 2}))
    return folder


def test_a_saved_network_takes_tiles_and_whole_slices(
    saved: Path, data: list[str], tmp_path: Path
) -> None:
    ok("evaluate", saved, *data[:2], "--timesteps", "3", "--json", tmp_path / "whole.json")
    assert loaded(tmp_path / "whole.json")["tile"] == [32, 48]
    file = tmp_path / "a.json"
    ok("evaluate", saved, *data[:2], "--timesteps", "3", "--tile", "16", "--json", file)
    ok("evaluate", MODEL, *data, *SMALL, "--tile", "16", "--json", tmp_path / "b.json")
    a, b = loaded(tmp_path / "a.json"), loaded(tmp_path / "b.json")
    assert a["tile"] == [16, 16]
    for key in ("accuracy", "metric", "mask_agreement", "n", "spikes_per_neuron"):
        assert a[key] == b[key]
    ok("evaluate", saved, *data[:2], "--tile", "32", "--timesteps", "1", "--json", file)
    assert loaded(file)["tile"] == [32, 32]
    older = _make_older(saved, tmp_path / "older")
    message = refused("evaluate", older, *data[:2], "--tile", "32")
    assert "--tile 32: the saved network takes inputs of (1, 16, 16)" in message
    ok("evaluate", older, *data[:2], "--timesteps", "1", "--json", file)
    assert loaded(file)["tile"] == [16, 16]


def test_a_network_that_is_not_fully_convolutional_takes_tiles(
    data: list[str], tmp_path: Path
) -> None:
    ok("evaluate", "test_cli_volumes:pooled", *data, *SMALL, "--json", tmp_path / "e.json")
    assert loaded(tmp_path / "e.json")["tile"] == [32, 32]


class _Pooled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = dense()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.body(x) + x.mean(dim=(2, 3), keepdim=True)
        return out


def pooled() -> nn.Module:
    """Return a model in which every output pixel depends on the whole image."""
    return _Pooled()


def test_diagnose_and_cost(saved: Path, data: list[str], tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    for command in ("diagnose", "cost"):
        ok(command, MODEL, *data, *SMALL, "--limit", "3", "--split", "val", "--json", file)
        content = loaded(file)
        assert content["n"] == 2 and content["tile"] == [32, 32]  # One slice has two tiles.
        ok(command, saved, *data[:2], "--timesteps", "2", "--limit", "3", "--json", file)
        assert loaded(file)["n"] == 3 and loaded(file)["tile"] == [16, 16]


def test_tune_and_compare(data: list[str], tmp_path: Path) -> None:
    recipe = tmp_path / "r.json"
    text = ok("tune", MODEL, *data[:2], "--tile", "8", "-o", recipe, "--timesteps", "2",
              "--signed", "--calibration-size", "104").stdout  # fmt: skip
    assert "--tile 8" in text.splitlines()[-1]
    assert "95 % interval" in text and "runner-up" in text
    values = ok("tune", MODEL, *data[:2], "--tile", "8", "-o", tmp_path / "v.json", "--timesteps",
                "2", "--signed", "--calibration-size", "104", "--reading", "values",
                "--json", tmp_path / "t.json").stdout  # fmt: skip
    assert " - " in values and loaded(tmp_path / "t.json")["trials"][0]["agreement"] is None
    assert "reading: needed 'scores' or 'values'" in refused(
        "tune", MODEL, *data[:2], "-o", recipe, "--timesteps", "2", "--reading", "labels"
    )
    ok("evaluate", MODEL, *data[:2], "--recipe", recipe, "--limit", "1")
    ok("compare", MODEL, *data, "--timesteps", "2", "--limit", "2", "--recipe", recipe,
       "--json", tmp_path / "c.json")  # fmt: skip
    content = loaded(tmp_path / "c.json")
    assert content["tile"] == [32, 32] and content["calibration_n"] == 6
    assert {row["evaluation"]["n"] for row in content["rows"]} == {2 * 32 * 32}


def test_inspect_of_dense_networks(data: list[str], tmp_path: Path) -> None:
    file = tmp_path / "i.json"
    ok("inspect", "unet:1", "--json", file)
    assert loaded(file)["input_shape"] == [1, 256, 256]
    ok("inspect", MODEL, *data[:2], "--json", file)
    assert loaded(file)["input_shape"] == [1, 32, 32]
    ok("inspect", MODEL, *data[:2], "--tile", "16", "--json", file)
    assert loaded(file)["input_shape"] == [1, 16, 16]
    ok("inspect", "vgg-cifar", "--json", file)
    assert loaded(file)["input_shape"] == [3, 32, 32]


def test_options_of_volumes_are_for_volumes(data: list[str]) -> None:
    message = refused("evaluate", "digits_cnn", "--data", "digits", "--tile", "8", "--split", "val")
    assert "--tile, --split: for volumes only" in message
    assert "--tile: for volumes only" in refused("inspect", "digits_cnn", "--tile", "8")
    assert "--split: needed test or val" in refused("evaluate", MODEL, *data, "--split", "train")
    assert "early stopping is for class" in refused(
        "evaluate", MODEL, *data, "--early-stopping", "margin"
    )
    assert "tile: needed 1..32 pixels" in refused("evaluate", MODEL, *data, "--tile", "64")


def test_slices_that_the_network_cannot_halve(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for name in ("images", "labels"):
            (tmp_path / part / name).mkdir(parents=True)
            for index in range(4):
                pixels = np.full((33, 48), 255 * (index % 2), np.uint8)
                Image.fromarray(pixels).save(tmp_path / part / name / f"{index}.png")
    common = ["evaluate", MODEL, "--data", f"lucchi:{tmp_path}", *SMALL]
    message = refused(*common)
    assert "slices of 33 x 48 pixels: the network needs multiples of 2 x 2" in message
    ok(*common, "--tile", "16")


@pytest.fixture(scope="module")
def segmented(root: Path, data: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("segmented") / "out"
    ok("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL, "--tile", "16",
       "--labels", root / "test" / "labels", "--slices", "1:6:2", "-o", folder)  # fmt: skip
    return folder


def test_segment_writes_masks_pictures_and_scores(segmented: Path, root: Path) -> None:
    assert sorted(f.name for f in (segmented / "masks").iterdir()) == [
        "001.png",
        "003.png",
        "005.png",
    ]
    for name in ("overview.png", "timesteps.png"):
        assert (segmented / name).read_bytes().startswith(b"\x89PNG")
    content = loaded(segmented / "segment.json")
    assert [row["name"] for row in content["per_slice"]] == ["001.png", "003.png", "005.png"]
    assert content["masks"] == "masks"
    assert content["slices"] == [1, 3, 5] and content["exact"] and content["tile"] == [16, 16]
    assert content["timesteps"] == 3 and content["max_count"] == 2
    assert content["calibration"]["n"] == 6 and content["calibration"]["tile"] == [32, 32]
    assert list(content["scores"]["snn"]) == ["1", "2", "3"]
    assert content["scores"]["n"] == 3 * 32 * 48
    masks = open_stack(segmented / "masks")
    truth = open_stack(root / "test" / "labels")
    pairs = [(read_mask(masks, i), read_mask(truth, index)) for i, index in enumerate((1, 3, 5))]
    assert set(np.unique(masks.read(0, slice(None), slice(None)))) == {0, 255}
    mask, labels = (torch.from_numpy(np.stack(part)) for part in zip(*pairs, strict=True))
    f1, jaccard = _stat(mask, labels)
    scores = content["scores"]["snn"]["3"]
    assert scores["f1"] == pytest.approx(f1) and scores["jaccard"] == pytest.approx(jaccard)
    assert scores["accuracy"] == pytest.approx(float((mask == labels).float().mean()))
    assert {"command", "versions", "seed", "settings", "seconds"} <= set(content)


def test_segment_agrees_with_evaluate(
    segmented: Path, root: Path, data: list[str], tmp_path: Path
) -> None:
    """Tiles that share what the network sees give the scores of whole slices."""
    ok("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL, "--tile", "16",
       "--labels", root / "test" / "labels", "-o", tmp_path / "s")  # fmt: skip
    ok("evaluate", MODEL, *data, *SMALL, "--json", tmp_path / "e.json")
    a, b = loaded(tmp_path / "s" / "segment.json"), loaded(tmp_path / "e.json")
    for t in (1, 2, 3):
        assert a["scores"]["snn"][str(t)]["f1"] == pytest.approx(b["metric"][t - 1]["f1"], abs=2e-3)
    assert a["scores"]["ann"]["f1"] == pytest.approx(b["ann_metric"]["f1"], abs=1e-3)
    assert a["against_ann"]["f1"] == pytest.approx(b["mask_agreement"][2]["f1"], abs=2e-3)


@pytest.mark.parametrize("after", [1, 2])
def test_segment_interrupted_says_what_is_done(
    after: int, segmented: Path, root: Path, data: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    real = importlib.import_module("transpike.segment").segment

    def interrupted(*args: Any, **options: Any) -> Iterator[Segmented]:
        yield from itertools.islice(real(*args, **options), after)
        raise KeyboardInterrupt

    monkeypatch.setattr("transpike.segment.segment", interrupted)
    result = run("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL,
                 "--tile", "16", "--slices", "1:6:2", "--show", "3", "-o", tmp_path / "o",
                 "--labels", root / "test" / "labels")  # fmt: skip
    assert result.exit_code == 130 and f"interrupted after {after} of 3 slices" in result.stderr
    content = loaded(tmp_path / "o" / "segment.json")
    assert content["interrupted"] and content["slices"] == [1, 3, 5][:after]
    whole = loaded(segmented / "segment.json")
    assert not whole["interrupted"]
    for one, other in zip(content["per_slice"], whole["per_slice"], strict=False):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}
    assert len(list((tmp_path / "o" / "masks").iterdir())) == after
    # The overview shows the second slice.
    assert (tmp_path / "o" / "overview.png").exists() == (after == 2)


@pytest.mark.parametrize("place", ["read_mask", "PixelCounts.scores"])
def test_a_slice_is_written_and_counted_as_a_whole(
    place: str, segmented: Path, root: Path, data: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    """Ctrl-C during the scores of the second slice takes effect after this slice."""
    module = importlib.import_module("transpike.cli.tally")
    owner, _, name = place.rpartition(".")
    target = getattr(module, owner) if owner else module
    real, calls = getattr(target, name), []

    def signalling(*args: Any) -> Any:
        calls.append(None)
        if len(calls) == (2 if place == "read_mask" else 4):  # Each slice has three scores.
            os.kill(os.getpid(), signal.SIGINT)
        return real(*args)

    monkeypatch.setattr(target, name, signalling)
    result = run("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL,
                 "--tile", "16", "--slices", "1:6:2", "-o", tmp_path / "o",
                 "--labels", root / "test" / "labels")  # fmt: skip
    assert result.exit_code == 130, result.output
    content = loaded(tmp_path / "o" / "segment.json")
    assert content["slices"] == [1, 3] and len(content["per_slice"]) == 2
    assert content["against_ann"]["n"] == content["scores"]["n"] == 2 * 32 * 48
    assert len(list((tmp_path / "o" / "masks").iterdir())) == 2


def test_segment_takes_its_length_from_the_recipe(
    root: Path, data: list[str], tmp_path: Path
) -> None:
    tp.Recipe(5, tp.Signed(2), tp.Percentile(99)).save(tmp_path / "r.json")
    ok("segment", root / "test" / "images", "--model", MODEL, *data, "--recipe",
       tmp_path / "r.json", "--tile", "16", "--limit", "1", "-o", tmp_path / "o")  # fmt: skip
    assert loaded(tmp_path / "o" / "segment.json")["timesteps"] == 5


@pytest.mark.parametrize("form", [(), ("--tiff",)])
def test_segment_interrupted_before_the_first_slice(
    form: tuple[str, ...], root: Path, data: list[str], tmp_path: Path, monkeypatch: Any
) -> None:
    def interrupted(*_: Any, **__: Any) -> Iterator[Segmented]:
        raise KeyboardInterrupt
        yield

    command = ("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL,
               "--tile", "16", "--limit", "1", "-o", tmp_path / "o", *form)  # fmt: skip
    with monkeypatch.context() as patch:
        patch.setattr("transpike.segment.segment", interrupted)
        assert run(*command).exit_code != 0
    assert list((tmp_path / "o").iterdir()) == []
    ok(*command)  # The interrupted run has left no files in the way.


def test_segment_into_one_tiff_without_labels(
    segmented: Path, root: Path, data: list[str], tmp_path: Path
) -> None:
    text = ok("segment", root / "test" / "images", "--model", MODEL, *data, *SMALL, "--tiff",
              "--tile", "16", "--slices", "1:6:2", "--show", "3",
              "-o", tmp_path / "o").stdout  # fmt: skip
    a, b = open_stack(segmented / "masks"), open_stack(tmp_path / "o" / "masks.tif")
    assert a.shape == b.shape == (3, 32, 48)
    for index in range(3):
        np.testing.assert_array_equal(read_mask(a, index), read_mask(b, index))
    content = loaded(tmp_path / "o" / "segment.json")
    assert content["scores"] is None and content["labels"] is None
    assert "spikes per neuron" in text and "against labels" not in text
    # The tiles overlap, so more than six of them cover a slice.
    tiles = content["tiles_per_slice"]
    assert tiles > 6
    assert f"3 slices, each cut into {tiles} tiles of 16 x 16 pixels" in text
    assert content["masks"] == "masks.tif"
    assert [row["name"] for row in content["per_slice"]] == ["001.png", "003.png", "005.png"]


def test_masks_keep_the_names_of_their_slices(data: list[str], tmp_path: Path) -> None:
    random = np.random.RandomState(0)
    (tmp_path / "slices").mkdir()
    for name in ("z_000", "z_003", "z_006"):
        pixels = random.randint(0, 256, SHAPE[1:]).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / "slices" / f"{name}.tif")
    text = ok("segment", tmp_path / "slices", "--model", MODEL, *data, *SMALL, "--slices", "1:",
              "-o", tmp_path / "o").stdout  # fmt: skip
    assert "2 slices, each cut into 1 tile of 32 x 48 pixels" in text
    masks = sorted(file.name for file in (tmp_path / "o" / "masks").iterdir())
    assert masks == ["z_003.png", "z_006.png"]
    content = loaded(tmp_path / "o" / "segment.json")
    assert [row["name"] for row in content["per_slice"]] == ["z_003.tif", "z_006.tif"]
    assert [row["slice"] for row in content["per_slice"]] == [1, 2]


def test_masks_of_one_tiff_state_the_size_of_a_voxel(
    root: Path, data: list[str], tmp_path: Path
) -> None:
    tifffile = pytest.importorskip("tifffile")
    common = ["--model", MODEL, *data, *SMALL, "--tiff"]
    images = root / "test" / "images"
    ok("segment", images, *common, "--limit", "1", "-o", tmp_path / "a")
    assert loaded(tmp_path / "a" / "segment.json")["voxel_size_nm"] is None
    assert open_stack(tmp_path / "a" / "masks.tif").voxel_size is None  # No size is invented.
    ok("segment", images, *common, "--slices", "1:6:2", "--voxel-size", "50,4.6,4.5",
       "-o", tmp_path / "b")  # fmt: skip
    assert loaded(tmp_path / "b" / "segment.json")["voxel_size_nm"] == [50, 4.6, 4.5]
    masks = open_stack(tmp_path / "b" / "masks.tif")
    assert masks.shape == (3, 32, 48) and masks.voxel_size is not None
    # Only every second slice has a mask, so the masks are twice as far apart.
    assert masks.voxel_size.to_list() == pytest.approx([100, 4.6, 4.5])
    # Without the option, the size is read from the file.
    stack = np.random.RandomState(0).randint(0, 256, SHAPE).astype(np.uint8)
    tifffile.imwrite(tmp_path / "v.tif", stack, imagej=True, resolution=(200, 100),
                     metadata={"unit": "um", "spacing": 0.03, "axes": "ZYX"})  # fmt: skip
    ok("segment", tmp_path / "v.tif", *common, "--limit", "2", "-o", tmp_path / "c")
    masks = open_stack(tmp_path / "c" / "masks.tif")
    assert masks.voxel_size is not None
    assert masks.voxel_size.to_list() == pytest.approx([30, 10, 5])
    with tifffile.TiffFile(tmp_path / "c" / "masks.tif") as file:
        assert file.imagej_metadata["slices"] == 2 and file.series[0].axes == "ZYX"
    message = refused("segment", images, *common, "--voxel-size", "5", "-o", tmp_path / "d")
    assert "voxel size: needed Z,Y,X or Y,X in nanometers, got '5'" in message


def test_an_interrupted_tiff_states_how_many_masks_it_holds(tmp_path: Path) -> None:
    tifffile = pytest.importorskip("tifffile")
    volume = ArrayVolume(np.zeros((3, 8, 12), np.uint8), "v")
    with mask_writer(tmp_path, True, volume, [0, 1, 2], VoxelSize(50.0, 4.6, 4.5)) as write:
        write("0000", np.eye(8, 12, dtype=bool))
        write("0001", np.eye(8, 12, dtype=bool))
    with tifffile.TiffFile(tmp_path / "masks.tif") as file:
        assert file.imagej_metadata["slices"] == file.imagej_metadata["images"] == 2
        assert file.series[0].shape == (2, 8, 12)


def test_segment_with_a_saved_network(
    saved: Path, segmented: Path, root: Path, tmp_path: Path
) -> None:
    common = ["segment", root / "test" / "images", "--model", saved, "--timesteps", "3"]
    ok(*common, "--slices", "1", "-o", tmp_path / "o")
    content = loaded(tmp_path / "o" / "segment.json")
    # It takes whole slices, although it was converted with tiles of 16.
    assert content["calibration"] is None and content["tile"] == [32, 48]
    assert content["tiles_per_slice"] == 1
    message = refused(*common, "-o", tmp_path / "p", "--neuron", "if")
    assert "is a converted network: --neuron cannot change it" in message
    message = refused(*common, "-o", tmp_path / "p", "--data", f"lucchi:{root}")
    assert "needs no calibration" in message
    for number, side in enumerate((16, 32)):
        folder = tmp_path / f"tiles{number}"
        ok(*common, "-o", folder, "--tile", side, "--limit", "1")
        assert loaded(folder / "segment.json")["tile"] == [side, side]


def test_segment_with_a_network_of_one_size(saved: Path, root: Path, tmp_path: Path) -> None:
    older = _make_older(saved, tmp_path / "older")
    common = ["segment", root / "test" / "images", "--model", older, "--timesteps", "3"]
    message = refused(*common, "-o", tmp_path / "p", "--tile", "32")
    assert "--tile 32: the saved network takes inputs of (1, 16, 16)" in message
    ok(*common, "-o", tmp_path / "p", "--limit", "1")
    assert loaded(tmp_path / "p" / "segment.json")["tile"] == [16, 16]
    Image.fromarray(np.zeros((8, 48), np.uint8)).save(tmp_path / "small.png")
    message = refused("segment", tmp_path / "small.png", "--model", older, "-o", tmp_path / "q")
    assert "slices of 8 x 48 pixels are smaller than the network's tile of 16 x 16" in message


def test_segment_one_small_image(data: list[str], tmp_path: Path) -> None:
    """Tiles shrink to the size of a smaller image."""
    pixels = np.random.RandomState(2).randint(0, 65536, (20, 70)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "one.tif")
    ok("segment", tmp_path / "one.tif", "--model", MODEL, *data, *SMALL, "-o", tmp_path / "o")
    content = loaded(tmp_path / "o" / "segment.json")
    assert content["tile"] == [20, 70] and content["maximum"] == 65535 and content["exact"]
    Image.fromarray(pixels[:19]).save(tmp_path / "odd.tif")
    message = refused(
        "segment", tmp_path / "odd.tif", "--model", MODEL, *data, "-o", tmp_path / "p"
    )
    assert "slices of 19 pixels" in message and "to 18 or 20 pixels" in message


def test_segment_refuses_bad_input(
    segmented: Path, root: Path, data: list[str], tmp_path: Path
) -> None:
    images = root / "test" / "images"
    common = ["segment", images, "--model", MODEL, *SMALL]
    new = ["-o", tmp_path / "o"]
    assert "is there already" in refused(*common, *data, "-o", segmented)
    assert "needed --data lucchi:PATH" in refused(*common, *new)
    assert "needed --data lucchi:PATH" in refused(*common, *new, "--data", "digits")
    for text in ("a", "8", "1:2:0", "5:2", ""):
        assert "--slices" in refused(*common, *data, *new, "--slices", text)
    for text in ("9", "x", "0,1,2,3,4"):
        assert "--show" in refused(*common, *data, *new, "--show", text)
    Image.fromarray(np.zeros((32, 48, 3), np.uint8)).save(tmp_path / "rgb.png")
    message = refused("segment", tmp_path / "rgb.png", "--model", MODEL, *data, *new)
    assert "needed a grayscale slice" in message
    message = refused(*common, *data, *new, "--labels", root / "test" / "labels" / "000.png")
    assert "(8, 32, 48), got (1, 32, 48)" in message
    assert "binary mask" in refused(*common, *data, *new, "--labels", images, "--limit", "1")
    message = refused(*common, *data, "-o", tmp_path / "n", "--tile", "15")
    assert "Give a tile of 14 or 16 pixels" in message


def test_segment_refuses_a_folder_with_a_gap(data: list[str], tmp_path: Path) -> None:
    for index in (0, 1, 3):
        Image.fromarray(np.zeros((32, 48), np.uint8)).save(tmp_path / f"{index}.png")
    message = refused("segment", tmp_path, "--model", MODEL, *data, "-o", tmp_path / "out")
    assert "slice 2 is missing between 1 and 3" in message


def test_segment_normalizes_as_it_is_told(root: Path, data: list[str], tmp_path: Path) -> None:
    common = ["segment", root / "test" / "images", "--model", MODEL, *data, *SMALL, "--limit", "1"]
    ok(*common, "-o", tmp_path / "a")
    ok(*common, "-o", tmp_path / "b", "--mean", "0.2", "--std", "0.25")
    a, b = (loaded(tmp_path / name / "segment.json") for name in "ab")
    assert b["normalization"] == {"mean": [0.2], "std": [0.25]}
    assert a["per_slice"][0]["positive"] != b["per_slice"][0]["positive"]
    assert "std > 0" in refused(*common, "-o", tmp_path / "c", "--std", "0")


def test_unet_of_the_zoo_is_built_by_name(root: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(build_model("unet:1").state_dict(), tmp_path / "w.pt")
    ok("segment", root / "test" / "images", "--model", "unet:1", "--weights", tmp_path / "w.pt",
       "--data", f"lucchi:{root}", "--calibration-size", "4", "--timesteps", "2", "--limit", "1",
       "-o", tmp_path / "o")  # fmt: skip
    assert loaded(tmp_path / "o" / "segment.json")["tile"] == [32, 48]

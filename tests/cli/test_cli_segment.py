"""transpike segment: masks under the names of their slices, scores and pictures."""

from __future__ import annotations

import importlib
import itertools
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from volume_cases import MODEL, SHAPE, SMALL, keep_one_size, loaded, overlap_scores

import transpike as tp
from commands import ok, run
from commands import refused_line as refused
from transpike.cli.mask_files import mask_writer
from transpike.data.volumes import ArrayVolume, open_stack, read_mask
from transpike.data.voxel_size import VoxelSize
from transpike.segment import Segmented
from transpike.zoo.models import build_model


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
    f1, jaccard = overlap_scores(mask, labels)
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
    older = keep_one_size(saved, tmp_path / "older")
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

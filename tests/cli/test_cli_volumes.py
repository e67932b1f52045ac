"""Volumes on the command line: every command measures them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from volume_cases import MODEL, SHAPE, SMALL, dense, keep_one_size, loaded, overlap_scores

import transpike as tp
from commands import ok
from commands import refused_line as refused
from transpike.data import open_volumes


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
    f1, jaccard = overlap_scores(ann, truth)
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
        f1, jaccard = overlap_scores(mask, truth)
        assert content["metric"][t]["f1"] == pytest.approx(f1, abs=2e-3)
        assert content["metric"][t]["jaccard"] == pytest.approx(jaccard, abs=2e-3)
        f1, jaccard = overlap_scores(mask, ann)
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
    older = keep_one_size(saved, tmp_path / "older")
    message = refused("evaluate", older, *data[:2], "--tile", "32")
    assert "--tile 32: the saved network takes inputs of (1, 16, 16)" in message
    ok("evaluate", older, *data[:2], "--timesteps", "1", "--json", file)
    assert loaded(file)["tile"] == [16, 16]


def test_a_network_that_is_not_fully_convolutional_takes_tiles(
    data: list[str], tmp_path: Path
) -> None:
    ok("evaluate", "volume_cases:pooled", *data, *SMALL, "--json", tmp_path / "e.json")
    assert loaded(tmp_path / "e.json")["tile"] == [32, 32]


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

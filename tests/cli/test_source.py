"""A command opens the data set, the weights and the number of images that the user names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from commands import ok, run
from commands import refused_line as refused
from transpike.cli.completion import (
    DATA,
    MODELS,
    NEURONS,
    THRESHOLDS,
    complete_data,
    complete_model,
)
from transpike.conversion.specs import parse_neuron, parse_threshold
from transpike.data import open_data
from transpike.errors import ArgumentError, FileError
from transpike.zoo.models import build_model

DIGITS = ["--data", "digits"]
SMALL = ["--calibration-size", "32", "--batch-size", "32", "--timesteps", "2"]
WARNING = "warning: the weights of digits_cnn are untrained (random, seed 3)"


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.save(build_model("digits_cnn").state_dict(), tmp_path / "w.pt")
    return tmp_path / "w.pt"


@pytest.mark.parametrize("command", ["convert", "evaluate", "diagnose", "cost", "tune", "compare"])
def test_only_the_demo_has_a_default_data_set(command: str, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "o"] if command in ("convert", "tune") else []
    message = refused(command, "digits_cnn", "--timesteps", "2", *output)
    assert "--data: needed one of digits, cifar10:PATH, folder:PATH, lucchi:PATH" in message


@pytest.mark.parametrize("command", ["evaluate", "diagnose", "cost", "tune", "compare"])
def test_untrained_weights_are_not_measured_silently(command: str, tmp_path: Path) -> None:
    output = ["-o", tmp_path / "o.json"] if command == "tune" else []
    file = tmp_path / "r.json"
    few = ["--calibration-size", "104"] if command == "tune" else ["--limit", "8"]
    result = ok(command, "digits_cnn", *DIGITS, *SMALL, *few, *output, "--seed", "3",
                "--json", file)  # fmt: skip
    assert WARNING in result.stderr and "Give --weights FILE." in result.stderr
    assert result.stdout.startswith("untrained weights (random, seed 3)\n")
    assert json.loads(file.read_text())["untrained"] is True


def test_convert_warns_of_untrained_weights(tmp_path: Path) -> None:
    folder = tmp_path / "o"
    result = ok("convert", "digits_cnn", *DIGITS, *SMALL, "-o", folder, "--seed", "3")
    assert WARNING in result.stderr
    file = tmp_path / "r.json"
    result = ok("evaluate", folder, *DIGITS, "--timesteps", "2", "--limit", "8", "--json", file)
    assert "are untrained (random, seed 3)" in result.stderr
    assert "Convert the model again with trained weights." in result.stderr
    assert result.stdout.startswith("untrained weights (random, seed 3)\n")
    assert json.loads(file.read_text())["untrained"] is True


def test_a_folder_of_trained_weights_is_not_warned_of(weights: Path, tmp_path: Path) -> None:
    ok("convert", "digits_cnn", *DIGITS, *SMALL, "--weights", weights, "-o", tmp_path / "o")
    result = ok("evaluate", tmp_path / "o", *DIGITS, "--timesteps", "2", "--limit", "8")
    assert result.stderr == "" and "untrained" not in result.stdout


def test_the_remedy_for_untrained_weights(weights: Path, tmp_path: Path) -> None:
    file = tmp_path / "r.json"
    result = ok("evaluate", "digits_cnn", *DIGITS, *SMALL, "--limit", "8", "--weights", weights,
                "--json", file)  # fmt: skip
    assert result.stderr == "" and "untrained" not in result.stdout
    assert json.loads(file.read_text())["untrained"] is False


def test_the_seed_draws_untrained_weights(tmp_path: Path) -> None:
    accuracies = []
    for number, seed in enumerate((1, 1, 2)):
        file = tmp_path / f"{number}.json"
        ok("evaluate", "digits_cnn", *DIGITS, *SMALL, "--seed", str(seed), "--json", file)
        content = json.loads(file.read_text())
        accuracies.append((content["ann_accuracy"], content["spikes_per_neuron"]))
    assert accuracies[0] == accuracies[1] != accuracies[2]


def test_pretrained_weights_that_cannot_be_downloaded(monkeypatch: Any) -> None:
    import torchvision

    def unreachable(*_: Any, **__: Any) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_model", unreachable)
    message = refused("evaluate", "torchvision:resnet18", "--pretrained", *DIGITS)
    assert "cannot download the pretrained weights of torchvision:resnet18: no route" in message
    assert "give them as a file of weights" in message
    timm = pytest.importorskip("timm")
    monkeypatch.setattr(timm, "create_model", unreachable)
    with pytest.raises(FileError, match="weights of timm:resnet10t: no route to host"):
        build_model("timm:resnet10t", pretrained=True)


def test_pretrained_weights_come_from_the_library(monkeypatch: Any) -> None:
    import torchvision

    given: list[Any] = []

    def builder(name: str, weights: Any) -> nn.Module:
        given.append((name, str(weights)))
        return nn.Sequential(nn.ReLU())

    monkeypatch.setattr(torchvision.models, "get_model", builder)
    assert not build_model("torchvision:resnet18", pretrained=True).training
    assert given == [("resnet18", "ResNet18_Weights.IMAGENET1K_V1")]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("resnet20", {}, "needed torchvision:NAME or timm:NAME, got 'resnet20'"),
        ("torchvision:resnet18", {"num_classes": 3}, "num_classes cannot be given with it"),
        ("torchvision:resnet18", {"weights": "w.pt"}, "weights cannot be given with it"),
        ("torchvision:resnet19", {}, "torchvision has no model 'resnet19'"),
        ("timm:resnet19", {}, "timm has no model 'resnet19'"),
        ("timm:test_vit4", {}, "timm has no"),
    ],
)
def test_pretrained_weights_that_do_not_exist(name: str, arguments: Any, message: str) -> None:
    with pytest.raises(ArgumentError, match=message):
        build_model(name, **arguments, pretrained=True)


def test_torchvision_warns_how_to_get_its_weights() -> None:
    message = run("evaluate", "torchvision:resnet18", *DIGITS).stderr
    assert "Give --weights FILE or --pretrained." in message


@pytest.fixture
def few(tmp_path: Path) -> str:
    """Write a data set in the form of CIFAR-10, with 10 training and 4 test images."""
    arrays = {
        f"{kind}_{part}": np.zeros((count, 32, 32, 3) if kind == "x" else count, np.uint8)
        for part, count in (("train", 10), ("test", 4))
        for kind in "xy"
    }
    np.savez(tmp_path / "few.npz", **arrays)
    return f"cifar10:{tmp_path / 'few.npz'}"


def test_too_few_images_name_the_option_that_helps(few: str) -> None:
    command = ["evaluate", "resnet20", "--data", few, "--timesteps", "1"]
    message = refused(*command)
    assert "--calibration-size: needed 1..10 images" in message and "got 512" in message
    assert "10 training images: give --calibration-size 10 or less." in message
    assert "--limit: needed 1..4 images" in refused(*command, *SMALL[:1], "10", "--limit", "5")
    ok(*command, "--calibration-size", "10", "--limit", "4")  # Both remedies work.


def test_other_classes_than_those_of_the_data_are_refused(few: str) -> None:
    command = ["evaluate", "resnet20", "--data", few, "--timesteps", "1", *SMALL[:1], "10"]
    message = refused(*command, "--num-classes", "7")
    assert "the data set has 10 classes, and the network has 7 outputs" in message
    ok(*command, "--num-classes", "10")  # The remedy works.


def test_the_help_describes_the_options_of_data() -> None:
    shown = " ".join(ok("evaluate", "--help").stdout.replace("│", " ").split())
    for form in ("?size=N", "?gray", "?download", "?tile=N"):
        assert form in shown, form


def test_completion_of_names() -> None:
    assert complete_data("ci") == ["cifar10:"] and "unet:" in complete_model("un")


def test_completion_of_paths(tmp_path: Path) -> None:
    (tmp_path / "net").mkdir()
    (tmp_path / "notes.txt").touch()
    assert complete_model(f"{tmp_path}/n") == [f"{tmp_path}/net"]
    assert complete_data(f"folder:{tmp_path}/n") == [
        f"folder:{tmp_path}/net",
        f"folder:{tmp_path}/notes.txt",
    ]
    assert complete_data("folder:/nowhere/at/all/") == [] == complete_data("other:")


def test_names_that_are_offered_exist() -> None:
    for name in MODELS:
        if name not in ("torchvision:", "timm:"):
            build_model(name.rstrip(":"))
    for name in NEURONS:
        parse_neuron(name)
    for name in THRESHOLDS:
        parse_threshold(name, "channel")
    with pytest.raises(ArgumentError) as error:
        open_data("nonsense")
    assert all(name in str(error.value) for name in DATA if name != "lucchi:")

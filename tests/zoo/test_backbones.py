"""The networks of the study have the layers that their names promise."""

from __future__ import annotations

import operator
import sys
from collections import Counter

import pytest
import torch
from torch import nn

from transpike.errors import ArgumentError
from transpike.zoo.models import build_model

NAMES = [
    "resnet18:4",
    "plainnet18:4",
    "resnet50:4",
    "resnet101-basic:4",
    "resnet101:4",
    "vgg18:4",
    "resnet18-7x7:4",
    "plainnet18-7x7:4",
    "resnet50-3x3:4",
    "resnet32",
    "resnet110",
]


@pytest.mark.parametrize("name", ["resnet50", "resnet101", "resnet18-7x7"])
def test_networks_of_full_width_equal_those_of_torchvision(name: str) -> None:
    from torchvision import models

    theirs = models.get_model(name.removesuffix("-7x7"), weights=None).eval()
    ours = build_model(name, num_classes=1000)
    ours.load_state_dict(theirs.state_dict())
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(ours(image), theirs(image))


@pytest.mark.parametrize("name", NAMES)
def test_every_network_maps_cifar_images_to_classes(name: str) -> None:
    assert build_model(name, num_classes=7)(torch.randn(2, 3, 32, 32)).shape == (2, 7)


# The classifier is no convolution; shortcuts are convolutions of 1x1.
@pytest.mark.parametrize(
    ("name", "kernels"),
    [
        ("resnet18:4", {3: 17, 1: 3}),
        ("plainnet18:4", {3: 17}),
        ("resnet101-basic:4", {7: 1, 3: 66, 1: 3}),
        ("resnet50:4", {7: 1, 3: 16, 1: 36}),
        ("resnet101:4", {7: 1, 3: 33, 1: 70}),
        ("vgg18:4", {3: 15}),
        ("resnet18-7x7:4", {7: 1, 3: 16, 1: 3}),
        ("resnet50-3x3:4", {3: 17, 1: 36}),
        *((f"resnet{depth}", {3: depth - 1}) for depth in (20, 32, 44, 56, 110)),
    ],
)
def test_numbers_of_convolutions(name: str, kernels: dict[int, int]) -> None:
    found = [m.kernel_size[0] for m in build_model(name).modules() if isinstance(m, nn.Conv2d)]
    assert Counter(found) == kernels


def test_the_plain_network_is_the_residual_one_without_additions() -> None:
    residual, plain = build_model("resnet18:4"), build_model("plainnet18:4")
    wanted = {k: v.shape for k, v in residual.state_dict().items() if "downsample" not in k}
    assert wanted == {k: v.shape for k, v in plain.state_dict().items()}
    sums = (operator.add, operator.iadd)
    graphs = [torch.fx.symbolic_trace(model).graph for model in (residual, plain)]
    assert [sum(node.target in sums for node in graph.nodes) for graph in graphs] == [8, 0]


def test_a_basic_block_calls_one_relu_twice_as_in_the_study() -> None:
    block = build_model("resnet18:4").layer1[0]
    assert sum(isinstance(module, nn.ReLU) for module in block.modules()) == 1


def test_the_vgg_has_the_widths_of_the_study() -> None:
    layers = build_model("vgg18").features
    found = [
        "M" if isinstance(layer, nn.MaxPool2d) else layer.out_channels
        for layer in layers
        if isinstance(layer, (nn.Conv2d, nn.MaxPool2d))
    ]
    stages = [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 3]
    assert found == [entry for stage in stages for entry in (*stage, "M")]


@pytest.mark.parametrize("name", ["resnet18:", "resnet18:x", "resnet18:0", "vgg18:1.5"])
def test_a_width_is_a_number_of_channels(name: str) -> None:
    with pytest.raises(ArgumentError, match="needed a width in channels, as (resnet18|vgg18):16"):
        build_model(name)


@pytest.mark.parametrize(
    "name",
    ["resnet19:4", "vgg18-7x7:4", "resnet18-5x5:4", "plainnet50:4", "resnet32:16", "resnet26"],
)
def test_other_names_are_unknown(name: str) -> None:
    with pytest.raises(ArgumentError, match="unknown model|cannot import"):
        build_model(name)


def test_missing_torchvision_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchvision.models.resnet", None)
    with pytest.raises(ArgumentError, match="torchvision"):
        build_model("resnet18:4")

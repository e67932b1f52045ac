from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from transpike.errors import ArgumentError
from transpike.zoo.models import build_model
from transpike.zoo.models.resnet_cifar import CifarResNet


@pytest.mark.parametrize(
    ("depth", "parameters"), [(20, 269_722), (32, 464_154), (44, 658_586), (56, 853_018)]
)
def test_parameter_counts_are_the_published_ones(depth: int, parameters: int) -> None:
    # He et al. 2016, table 6, give 0.27, 0.46, 0.66 and 0.85 million.
    assert sum(p.numel() for p in CifarResNet(depth).parameters()) == parameters


def test_resnet20_names_its_layers_as_public_checkpoints_do() -> None:
    names = set(build_model("resnet20").state_dict())
    blocks = {f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)}
    weights = {f"{block}.{layer}.weight" for block in blocks for layer in ("conv1", "bn2")}
    assert weights | {"conv1.weight", "bn1.running_mean", "linear.bias"} <= names
    assert not [name for name in names if "shortcut" in name or "downsample" in name]


def test_shortcut_subsamples_and_pads_channels_with_zeros() -> None:
    block = CifarResNet(20).layer2[0]
    x = torch.randn(2, 16, 8, 8)
    out = block._shortcut(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert not out[:, :8].any() and not out[:, 24:].any()


def test_depth_must_be_six_n_plus_two() -> None:
    with pytest.raises(ValueError, match="6n \\+ 2"):
        CifarResNet(21)


def test_digits_cnn_shares_one_relu_between_two_calls() -> None:
    model = build_model("digits_cnn")
    assert model(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert sum(isinstance(module, nn.ReLU) for module in model.block.modules()) == 1


def test_models_come_in_evaluation_mode() -> None:
    assert not any(module.training for module in build_model("digits_cnn").modules())


def test_num_classes_sets_the_output() -> None:
    assert build_model("resnet20", num_classes=7)(torch.randn(1, 3, 32, 32)).shape == (1, 7)


@pytest.mark.parametrize("name", ["resnet21", "", "torchvision:", ":resnet18"])
def test_unknown_name_lists_what_is_possible(name: str) -> None:
    with pytest.raises(ArgumentError, match="resnet20, vgg-cifar, .* digits_cnn, torchvision:NAME"):
        build_model(name)


def test_torchvision_model_is_built_without_download() -> None:
    pytest.importorskip("torchvision")
    assert build_model("torchvision:resnet18", num_classes=5).fc.out_features == 5


def test_timm_model_is_built_without_download() -> None:
    pytest.importorskip("timm")
    assert build_model("timm:resnet10t", num_classes=5).num_classes == 5


def test_unknown_torchvision_name_shows_close_ones_and_they_work() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(ArgumentError, match="close names are .*resnet18"):
        build_model("torchvision:resnet_18")
    build_model("torchvision:resnet18")


def test_unknown_timm_name_is_refused() -> None:
    pytest.importorskip("timm")
    with pytest.raises(ArgumentError, match="timm has no model 'resnet10x'"):
        build_model("timm:resnet10x")


@pytest.mark.parametrize("package", ["torchvision", "timm"])
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ArgumentError, match=f"pip install {package}\\."):
        build_model(f"{package}:resnet18")


def test_factory_is_imported_by_name() -> None:
    model = build_model("transpike.zoo.models.resnet_cifar:CifarResNet", num_classes=4)
    assert isinstance(model, CifarResNet) and model.linear.out_features == 4


def test_factory_that_cannot_be_imported() -> None:
    with pytest.raises(ArgumentError, match="cannot import 'no_such_module'.*PYTHONPATH"):
        build_model("no_such_module:net")


def test_factory_that_is_not_there() -> None:
    with pytest.raises(ArgumentError, match="no callable 'net'"):
        build_model("transpike.zoo.models:net")


def test_factory_that_does_not_take_the_options() -> None:
    with pytest.raises(ArgumentError, match="cannot be called with .*num_classes"):
        build_model("torch.nn:ReLU", num_classes=3)


def test_factory_that_returns_something_else() -> None:
    with pytest.raises(ArgumentError, match="returned dict: needed an nn.Module"):
        build_model("builtins:dict")

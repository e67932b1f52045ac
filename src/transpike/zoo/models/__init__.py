"""Models by name: those of transpike, torchvision and timm, and any factory in a module."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import nn

from transpike.errors import ArgumentError, missing_package
from transpike.zoo.models.backbones import backbone, is_backbone
from transpike.zoo.models.digits_cnn import digits_cnn
from transpike.zoo.models.pretrained import pretrained_model, similar
from transpike.zoo.models.resnet_cifar import resnet20
from transpike.zoo.models.unet import unet, unet_sigmoid
from transpike.zoo.models.vgg_cifar import vgg_cifar
from transpike.zoo.models.weights import load_state_dict, load_weights

_POSSIBLE = (
    "resnet20, vgg-cifar, resnet32, resnet44, resnet56, resnet110, resnet18:WIDTH, "
    "plainnet18:WIDTH, resnet50:WIDTH, resnet101-basic:WIDTH, resnet101:WIDTH, vgg18:WIDTH, "
    "unet:WIDTH, unet-sigmoid:WIDTH, "
    "digits_cnn, "
    "torchvision:NAME (as torchvision:resnet18), "
    "timm:NAME (as timm:resnet10t) or package.module:factory"
)


def build_model(
    name: str,
    weights: str | Path | None = None,
    num_classes: int | None = None,
    *,
    pretrained: bool = False,
) -> nn.Module:
    """Build a model by name. Nothing is downloaded unless `pretrained` is set.

    Args:
        name: `vgg-cifar`, a network of the study such as `resnet20` or `resnet18:WIDTH` (see
            `backbone`), `unet:WIDTH`, `unet-sigmoid:WIDTH` (the default width is 64), `digits_cnn`,
            `torchvision:NAME`, `timm:NAME`, or `package.module:factory`. A factory is
            a callable that returns an `nn.Module`.
        weights: file of weights, see `load_state_dict`. None means untrained weights.
        num_classes: size of the output; None means the default of the model.
        pretrained: download the trained weights that torchvision or timm has for the model.

    Returns:
        The model in evaluation mode.

    Raises:
        ArgumentError: the name is unknown, its package is not installed, the factory does not
            return an `nn.Module` or does not take `num_classes`, or `pretrained` contradicts the
            model or another argument.
        FileError: the weight file cannot be read, or the weights cannot be downloaded.
        CheckpointError: the weights do not fit the model.
    """
    if pretrained:
        given = {"weights": weights, "num_classes": num_classes}
        return pretrained_model(name, [key for key, value in given.items() if value is not None])
    model = _fresh_model(name, {} if num_classes is None else {"num_classes": num_classes})
    if weights is not None:
        load_weights(model, weights)
    return model.eval()


def _fresh_model(name: str, options: dict[str, Any]) -> nn.Module:
    if name == "vgg-cifar":
        return vgg_cifar(**options)
    if name == "digits_cnn":
        return digits_cnn(**options)
    if is_backbone(name):
        return backbone(name, **options)
    source, _, rest = name.partition(":")
    if source in ("unet", "unet-sigmoid"):
        return _unet(name, source == "unet-sigmoid", rest, options)
    if not rest or not source:
        raise ArgumentError(f"unknown model {name!r}: needed {_POSSIBLE}.")
    if source == "torchvision":
        return _torchvision_model(rest, options)
    if source == "timm":
        return _timm_model(rest, options)
    return _factory_model(source, rest, options)


def _unet(name: str, sigmoid: bool, width: str, options: dict[str, Any]) -> nn.Module:
    if width and not width.isdecimal():
        raise ArgumentError(f"model {name!r}: needed a width in channels, as unet:16.")
    if width:
        options = {**options, "width": int(width)}
    return unet_sigmoid(**options) if sigmoid else unet(**options)


def _torchvision_model(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_package("torchvision") from error
    if name not in models.list_models():
        raise ArgumentError(
            f"torchvision has no model {name!r}{similar(name, models.list_models())}."
        )
    # Some constructors download a backbone unless told otherwise, or warn without init_weights.
    settings: dict[str, Any] = {"weights": None, **options}
    builder = models.get_model_builder(name)
    parameters = inspect.signature(builder).parameters
    if "weights_backbone" in parameters:
        settings["weights_backbone"] = None
    if name in ("googlenet", "inception_v3"):
        settings["init_weights"] = True
    model: nn.Module = builder(**settings)
    return model


def _timm_model(name: str, options: dict[str, Any]) -> nn.Module:
    try:
        import timm
    except ImportError as error:
        raise missing_package("timm") from error
    if not timm.is_model(name):
        raise ArgumentError(f"timm has no model {name!r}{similar(name, timm.list_models())}.")
    model: nn.Module = timm.create_model(name, pretrained=False, **options)
    return model


def _factory_model(module_name: str, attribute: str, options: dict[str, Any]) -> nn.Module:
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ArgumentError(
            f"cannot import {module_name!r} for the model {module_name}:{attribute} ({error}). "
            f"Install it or put its folder on PYTHONPATH. Known models are {_POSSIBLE}."
        ) from error
    factory: Callable[..., Any] | None = getattr(module, attribute, None)
    if not callable(factory):
        raise ArgumentError(f"{module_name!r} has no callable {attribute!r}: needed a factory.")
    try:
        model = factory(**options)
    except TypeError as error:
        raise ArgumentError(
            f"{module_name}:{attribute} cannot be called with {options or 'no arguments'}: {error}."
        ) from error
    if not isinstance(model, nn.Module):
        raise ArgumentError(
            f"{module_name}:{attribute} returned {type(model).__name__}: needed an nn.Module."
        )
    return model


__all__ = [
    "backbone",
    "build_model",
    "digits_cnn",
    "load_state_dict",
    "load_weights",
    "resnet20",
    "unet",
    "unet_sigmoid",
    "vgg_cifar",
]

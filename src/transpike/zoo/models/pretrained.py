"""Models with trained weights that torchvision and timm offer for download."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from transpike.errors import ArgumentError, FileError, missing_package


def pretrained_model(name: str, given: Sequence[str]) -> nn.Module:
    """Build a model of torchvision or timm and download its weights.

    Args:
        name: `torchvision:NAME` or `timm:NAME`.
        given: names of other arguments by which the user chose weights or classes.

    Returns:
        The model in evaluation mode.

    Raises:
        ArgumentError: the model has no such weights, or `given` is not empty.
        FileError: the weights cannot be downloaded.
    """
    if given:
        raise ArgumentError(
            f"pretrained: {', '.join(given)} cannot be given with it, because the download fixes "
            "both the weights and the classes. Leave one of them out."
        )
    source, _, rest = name.partition(":")
    builders = {"torchvision": _torchvision_builder, "timm": _timm_builder}
    if source not in builders:
        raise ArgumentError(
            f"pretrained: needed torchvision:NAME or timm:NAME, got {name!r}. Give a file of "
            "weights instead."
        )
    build = builders[source](rest)
    try:
        return build().eval()
    except Exception as error:  # a failed download raises a different type in each library
        reason = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
        raise FileError(
            f"cannot download the pretrained weights of {name}: {reason}. Download them where "
            "there is a network connection, and give them as a file of weights."
        ) from error


def _torchvision_builder(name: str) -> Callable[[], nn.Module]:
    try:
        from torchvision import models
    except ImportError as error:
        raise missing_package("torchvision") from error
    known = models.list_models()
    if name not in known:
        raise ArgumentError(f"torchvision has no model {name!r}{similar(name, known)}.")
    weights = getattr(models.get_model_weights(name), "DEFAULT", None)
    if weights is None:
        raise _no_weights("torchvision", name)
    return lambda: _module(models.get_model(name, weights=weights))


def _timm_builder(name: str) -> Callable[[], nn.Module]:
    try:
        import timm
    except ImportError as error:
        raise missing_package("timm") from error
    if not timm.is_model(name):
        raise ArgumentError(f"timm has no model {name!r}{similar(name, timm.list_models())}.")
    if not timm.models.is_model_pretrained(name):
        raise _no_weights("timm", name)
    return lambda: _module(timm.create_model(name, pretrained=True))


def _module(model: Any) -> nn.Module:
    assert isinstance(model, nn.Module)
    return model


def _no_weights(library: str, name: str) -> ArgumentError:
    return ArgumentError(
        f"pretrained: {library} has no trained weights for {name!r}. Give a file of weights "
        "instead."
    )


def similar(name: str, known: list[str]) -> str:
    """The end of an error message with names that look like `name`; empty if there are none."""
    close = difflib.get_close_matches(name, known)
    return f"; close names are {', '.join(close)}" if close else ""

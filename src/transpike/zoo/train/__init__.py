"""Training recipes for the networks of the zoo and of the demo. This is no training framework.

The recipes need lightning, the extra `train`. They are imported when they are used. The recipe of
the study's networks takes the name of the network, as in `resnet18:16`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transpike.data import open_data, open_volumes
from transpike.errors import ArgumentError, missing_package
from transpike.zoo.models.backbones import is_backbone
from transpike.zoo.train.classifier import train_classifier


def run(
    recipe: str,
    data: str,
    folder: Path,
    settings: dict[str, Any],
    *,
    resume: bool = False,
    progress: Callable[[int, int | None], None] | None = None,
    report: Callable[[dict[str, float]], None] | None = None,
) -> dict[str, Any]:
    """Run a recipe by name.

    Args:
        recipe: `vgg-cifar`, `unet-lucchi`, or a network of the study with its width, such as
            `resnet18:16`.
        data: name of the data set, see `open_data` and `open_volumes`.
        folder: folder for checkpoints, weights, the card and the result.
        settings: settings of the recipe by name; all others keep their defaults.
        resume: continue from the last checkpoint in `folder`.
        progress: called with the number of finished batches and of all batches.
        report: called after every epoch with its scores.

    Returns:
        Settings, scores with n, and the history, ready for JSON.

    Raises:
        ArgumentError: the recipe, a setting or the data are unknown, or lightning is not installed.
        FileError: a file is missing or damaged, or cannot be written.
        DataError: the data do not fit the recipe, or the loss is not finite.
    """
    try:
        import lightning  # noqa: F401
    except ImportError as error:
        raise missing_package("lightning") from error
    if recipe == "vgg-cifar":
        from transpike.zoo.train.vgg_cifar import VGGSettings, train_vgg_cifar

        chosen = _settings(recipe, VGGSettings, settings)
        images = open_data(data)
        return train_vgg_cifar(
            images, folder, chosen, resume=resume, progress=progress, report=report
        )
    if recipe == "unet-lucchi":
        from transpike.zoo.train.unet_lucchi import UNetSettings, train_unet_lucchi

        chosen = _settings(recipe, UNetSettings, settings)
        volumes = open_volumes(data)
        return train_unet_lucchi(
            volumes, folder, chosen, resume=resume, progress=progress, report=report
        )
    if is_backbone(recipe):
        from transpike.zoo.train.backbones import BackboneSettings, train_backbone

        chosen = _settings(recipe, BackboneSettings, settings)
        images = open_data(data)
        return train_backbone(
            recipe, images, folder, chosen, resume=resume, progress=progress, report=report
        )
    raise ArgumentError(
        f"unknown recipe {recipe!r}: needed vgg-cifar, unet-lucchi, or a network with its width, "
        "as resnet18:16."
    )


def _settings(recipe: str, kind: type[Any], given: dict[str, Any]) -> Any:
    unknown = sorted(set(given) - set(kind.__dataclass_fields__))
    if unknown:
        raise ArgumentError(f"{recipe} has no setting {', '.join(unknown)}: leave it out.")
    return kind(**given)


__all__ = ["run", "train_classifier"]

"""What the shell offers when the user presses the tab key; none of it needs an import."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

MODELS = (
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet56",
    "resnet110",
    "vgg-cifar",
    "resnet18:",
    "plainnet18:",
    "resnet50:",
    "resnet101-basic:",
    "resnet101:",
    "vgg18:",
    "unet:",
    "unet-sigmoid:",
    "digits_cnn",
    "torchvision:",
    "timm:",
)
DATA = ("digits", "cifar10:", "folder:", "lucchi:")
NEURONS = (
    "if",
    "signed:1",
    "burst:5",
    "multi:3",
    "differential:8",
    "refining:4",
    "cyclic:8",
    "staggered:2",
    "telescoped:8",
)
THRESHOLDS = ("percentile:99.9", "max", "bound", "lsq", "gauss", "ltb")


def complete_from(words: Iterable[str]) -> Callable[[str], list[str]]:
    """A completion that offers the words that begin as the user's word does."""

    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete


def complete_model(incomplete: str) -> list[str]:
    """Offers names of models, and folders."""
    return complete_from(MODELS)(incomplete) + _paths(incomplete, folders_only=True)


def complete_data(incomplete: str) -> list[str]:
    """Offers names of data sets; behind `folder:` and the like, files and folders."""
    source, colon, place = incomplete.partition(":")
    if not colon:
        return complete_from(DATA)(incomplete)
    return [f"{source}:{path}" for path in _paths(place)] if f"{source}:" in DATA else []


def _paths(incomplete: str, *, folders_only: bool = False) -> list[str]:
    folder = incomplete[: incomplete.rfind("/") + 1]
    try:
        found = sorted(Path(folder or ".").iterdir())
    except OSError:
        return []
    paths = [folder + path.name for path in found if path.is_dir() or not folders_only]
    return [path for path in paths if path.startswith(incomplete)]

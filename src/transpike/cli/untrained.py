"""Whether the weights of a network are trained, and what a command says if they are not."""

from __future__ import annotations

from pathlib import Path

import typer

import transpike as tp
from transpike.cli.completion import MODELS
from transpike.cli.options import Source

UNTRAINED = "untrained_seed"
"""Setting of a network that was converted with random weights: their seed."""
_CONFIG_FILE = "config.json"  # A folder with this file holds a converted network.
_KNOWN = frozenset(name.rstrip(":") for name in MODELS)
_HAVE_WEIGHTS = ("torchvision", "timm")


def is_saved(model: str) -> bool:
    """Whether this is a folder that holds a converted network."""
    return (Path(model) / _CONFIG_FILE).is_file()


def is_untrained(model: str, source: Source) -> bool:
    """Whether the weights of this model are random; unknown for a factory, which may load some."""
    known = model.partition(":")[0] in _KNOWN and not is_saved(model)
    return known and source.weights is None and not source.pretrained


def untrained_seed(snn: tp.SpikingNetwork) -> int | None:
    """The seed of the weights that a network was converted with; None if they are not random."""
    seed: int | None = snn.settings.get(UNTRAINED)
    return seed


def heading(untrained: int | None) -> str:
    """The line above results of untrained weights, with their seed; empty for other weights."""
    return "" if untrained is None else f"untrained weights (random, seed {untrained})\n"


def warn_untrained(name: str, seed: int, remedy: str) -> None:
    """Say on stderr that a network is untrained."""
    typer.echo(
        f"warning: the weights of {name} are untrained (random, seed {seed}), and these results "
        f"say nothing about a trained network. {remedy}",
        err=True,
    )


def trained_weights(name: str) -> str:
    """How to get trained weights for this model."""
    downloaded = " or --pretrained" if name.partition(":")[0] in _HAVE_WEIGHTS else ""
    return f"Give --weights FILE{downloaded}."

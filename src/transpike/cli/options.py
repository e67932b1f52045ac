"""The options that several commands share, in groups; each is described here and only here.

A command takes a group as one parameter. `with_groups` shows its options to the user one by one.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, get_type_hints

import typer

SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]


@dataclass(frozen=True)
class Source:
    """Where a network and its data come from; None where the user left the default."""

    panel: ClassVar[str] = "Model and data"

    weights: Annotated[
        Path | None,
        typer.Option("--weights", help="File of weights: .safetensors, .pt, .pth, .th."),
    ] = None
    num_classes: Annotated[
        int | None, typer.Option("--num-classes", min=1, help="Size of the model's output.")
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            help="digits, cifar10:PATH, folder:PATH or lucchi:PATH; calibrates on its train.",
        ),
    ] = None
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            min=1,
            help="Of volumes: side in pixels of the tiles they are cut into (default 256, and "
            "whole test slices to evaluate).",
        ),
    ] = None
    calibration_size: Annotated[
        int | None,
        typer.Option(
            "--calibration-size",
            min=1,
            help="Training images used (default 512), or tiles of training slices (default 64).",
        ),
    ] = None

    def arguments(self) -> list[str]:
        """The options that open the same model and the same data again."""
        given = {name: value for name, value in vars(self).items() if name != "calibration_size"}
        values = [str(value) for value in given.values() if value is not None]
        return [part for pair in zip(option_names(given), values, strict=True) for part in pair]


@dataclass(frozen=True)
class Conversion:
    """How the network is converted; None where the user left the default."""

    panel: ClassVar[str] = "Conversion"

    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron",
            help="if (default), burst:5, burst:8:resolution, signed:1, multi:3, differential:8, "
            "refining:4 (refining:K:RATIO:LEVELS:PERIOD), staggered:1 "
            "(staggered:K:RATIO:WINDOW:LAG:LEVELS) or telescoped:8.",
        ),
    ] = None
    threshold: Annotated[
        str | None,
        typer.Option("--threshold", help="percentile:99.9 (default), max, lsq, gauss, ltb."),
    ] = None
    granularity: Annotated[
        str | None,
        typer.Option("--granularity", help="One threshold per channel (default) or layer."),
    ] = None
    initial_membrane: Annotated[
        float | None,
        typer.Option(
            "--initial-membrane", help="At the start, a fraction of the step (default 0.5)."
        ),
    ] = None
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            help="Passes, in order: bias, membrane, search, distill (of a regression "
            "distill:values), delay, allocate:SPIKES.",
        ),
    ] = None
    recipe: Annotated[
        Path | None, typer.Option("--recipe", help="A file written by transpike tune.")
    ] = None


@dataclass(frozen=True)
class Part:
    """Which of the data a network is measured on; None where the user left the default."""

    panel: ClassVar[str] = "Measurement"

    split: Annotated[
        str | None,
        typer.Option("--split", help="Of volumes: measure on test (default), or on val, held out."),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            help="Use a random part of the test images, at most so many (default: all; of "
            "diagnose and cost 200).",
        ),
    ] = None


@dataclass(frozen=True)
class Machine:
    """What a command runs on, in what portions, and the seed of its random choices."""

    panel: ClassVar[str] = "Machine"

    seed: SeedOption = 0
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            min=1,
            help="Images at a time (default 128, of diagnose and cost 50; of volumes a megapixel).",
        ),
    ] = None
    device: Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")] = "cpu"


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet20, vgg-cifar, unet:WIDTH, unet-sigmoid:WIDTH, digits_cnn, torchvision:NAME, "
        "timm:NAME or package.module:factory.",
    ),
]
SavedOrModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL|FOLDER", help="A model's name or a saved folder.")
]
TimestepsOption = Annotated[int, typer.Option("--timesteps", help="Length of the run.")]
RunLengthOption = Annotated[
    int | None,
    typer.Option("--timesteps", help="Length of the run (default: the recipe's, or 32)."),
]
PrecisionOption = Annotated[
    str, typer.Option("--precision", help="exact, fast (bfloat16 products) or split (on CUDA).")
]
MemoryOption = Annotated[
    int | None, typer.Option("--memory", min=1, help="MiB for values and states.")
]
FigureOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Also draw it into this file (.png, .svg).")
]
FolderOption = Annotated[Path, typer.Option("-o", "--output", help="Folder for what it makes.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the result to this file.")
]


def option_names(settings: dict[str, Any]) -> list[str]:
    """The options that were given, as the user writes them.

    Args:
        settings: values by the name of their field; None where the option was left out.
    """
    return [f"--{name.replace('_', '-')}" for name, value in settings.items() if value is not None]


def with_groups(*without: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Lets a command take its options in groups.

    Args:
        without: fields that this command has no option for; they keep their default.

    Returns:
        A decorator. It replaces each parameter that is a group by the options of the group.
    """

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        hints = get_type_hints(command, include_extras=True)
        parameters, groups = [], {}
        for name, parameter in inspect.signature(command).parameters.items():
            if is_dataclass(hints[name]):
                options = _options_of(hints[name], without)
                groups[name] = (hints[name], [option.name for option in options])
                parameters += options
            else:
                named = inspect.Parameter.KEYWORD_ONLY
                parameters.append(parameter.replace(kind=named, annotation=hints[name]))

        @functools.wraps(command)
        def run(**given: Any) -> None:
            for name, (group, members) in groups.items():
                given[name] = group(**{member: given.pop(member) for member in members})
            command(**given)

        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _options_of(group: Any, without: tuple[str, ...]) -> list[inspect.Parameter]:
    """The options of a group as parameters; its panel is their heading in the help."""
    hints = get_type_hints(group, include_extras=True)
    found = []
    for field in fields(group):
        if field.name in without:
            continue
        hint = hints[field.name]
        option = copy(hint.__metadata__[0])
        option.rich_help_panel = group.panel
        found.append(
            inspect.Parameter(
                field.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=field.default,
                annotation=Annotated[hint.__origin__, option],
            )
        )
    return found

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

from transpike.cli.completion import (
    MODELS,
    NEURONS,
    THRESHOLDS,
    complete_data,
    complete_from,
    complete_model,
)

CALIBRATION_TILE, SEGMENT_TILE = 256, 512
"""Largest side in pixels of the tiles that slices are cut into, where the user gives none."""

SeedOption = Annotated[
    int,
    typer.Option(
        "--seed",
        min=0,
        help="Seed of every random choice: which images are used, and untrained weights.",
    ),
]


@dataclass(frozen=True)
class Source:
    """Where a network and its data come from; None where the user left the default."""

    panel: ClassVar[str] = "Model and data"

    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights",
            help="File of trained weights: .safetensors, .pt, .pth, .th, .ckpt, .bin or .pth.tar. "
            "FILE?part=NAME chooses one of several sets of weights in it.",
        ),
    ] = None
    pretrained: Annotated[
        bool | None,
        typer.Option(
            "--pretrained",
            help="Download the trained weights that torchvision or timm has for torchvision:NAME "
            "or timm:NAME.",
        ),
    ] = None
    num_classes: Annotated[
        int | None,
        typer.Option(
            "--num-classes",
            min=1,
            help="Number of outputs of the model. By default the model decides it.",
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            "--data",
            metavar="DATA",
            autocompletion=complete_data,
            help="Data set. It is required, except by inspect, and by segment for a saved network. "
            "The network is calibrated on its training part and measured on its test part. "
            "Possible values are: digits, which comes with scikit-learn; cifar10:PATH, an "
            ".npz file or the folder that torchvision makes (cifar10:PATH?download fetches it); "
            "folder:PATH, images in PATH/train/CLASS and PATH/test/CLASS (add ?size=N to resize "
            "them to N x N pixels, ?gray to read one channel, or both as in "
            "folder:PATH?size=64&gray); and lucchi:PATH, volumes with masks (add ?tile=N to cut "
            "their slices into tiles).",
        ),
    ] = None
    tile: Annotated[
        int | None,
        typer.Option(
            "--tile",
            min=1,
            help="Side in pixels of the tiles that slices of volumes are cut into. The default "
            f"is {CALIBRATION_TILE} for calibration and {SEGMENT_TILE} for segment; evaluate takes "
            "whole slices.",
        ),
    ] = None
    calibration_size: Annotated[
        int | None,
        typer.Option(
            "--calibration-size",
            min=1,
            help="Number of training images that calibration uses (default 512), or of tiles "
            "of training slices (default 64).",
        ),
    ] = None

    def arguments(self) -> list[str]:
        """The options that open the same model and the same data again."""
        given = {name: value for name, value in vars(self).items() if name != "calibration_size"}
        found = []
        for name, value in given.items():
            found += option_names({name: value})
            found += [] if value is None or value is True else [str(value)]
        return found


@dataclass(frozen=True)
class Conversion:
    """How the network is converted; None where the user left the default."""

    panel: ClassVar[str] = "Conversion"

    neuron: Annotated[
        str | None,
        typer.Option(
            "--neuron",
            autocompletion=complete_from(NEURONS),
            help="Kind of spiking neuron. K is the largest number of spikes that a neuron sends "
            "in one timestep. Possible values are: if (default), signed:K, burst:K, "
            "burst:K:resolution, multi:BITS, differential:LEVELS:K, refining:K, cyclic:K, "
            "staggered:K and telescoped:K. Further settings have names, as in "
            "staggered:K=2,window=4,lag=1.",
        ),
    ] = None
    threshold: Annotated[
        str | None,
        typer.Option(
            "--threshold",
            autocompletion=complete_from(THRESHOLDS),
            help="Rule that chooses the firing thresholds from calibration images: percentile:P "
            "(default percentile:99.9), max, bound (of a ReLU6), lsq (least squares), gauss (least "
            "squares for a Gaussian) or ltb (local threshold balancing).",
        ),
    ] = None
    granularity: Annotated[
        str | None,
        typer.Option(
            "--granularity",
            autocompletion=complete_from(("channel", "layer")),
            help="Use one threshold for each channel (default) or for each layer.",
        ),
    ] = None
    initial_membrane: Annotated[
        float | None,
        typer.Option(
            "--initial-membrane",
            help="Membrane potential before the first timestep, as a fraction of the value of "
            "one spike (default 0.5).",
        ),
    ] = None
    passes: Annotated[
        str | None,
        typer.Option(
            "--passes",
            help="Calibration passes, which correct the converted network. They are separated by "
            "commas and run in this order: bias, membrane, search, distill (distill:values for a "
            "regression), delay, allocate:SPIKES. They need --timesteps.",
        ),
    ] = None
    recipe: Annotated[
        Path | None,
        typer.Option(
            "--recipe",
            help="File that transpike tune wrote. It fixes the neuron, the thresholds and the "
            "passes.",
        ),
    ] = None


@dataclass(frozen=True)
class Part:
    """Which of the data a network is measured on; None where the user left the default."""

    panel: ClassVar[str] = "Measurement"

    split: Annotated[
        str | None,
        typer.Option(
            "--split",
            autocompletion=complete_from(("test", "val")),
            help="For volumes: measure on test (default), or on val, training slices that are "
            "held out.",
        ),
    ] = None
    limit: Annotated[
        int | None,
        typer.Option(
            "--limit",
            help="Measure on a random part of the test images, at most this many. By default "
            "evaluate and compare use all images; diagnose and cost use 200.",
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
            help="Number of images that run together. The default is 128, for diagnose and cost "
            "50, and for volumes as many tiles as have a megapixel.",
        ),
    ] = None
    device: Annotated[
        str, typer.Option("--device", help="Device that computes: cpu, cuda or cuda:N.")
    ] = "cpu"


@dataclass(frozen=True)
class Simulation:
    """How a network is simulated."""

    panel: ClassVar[str] = "Simulation"

    precision: Annotated[
        str,
        typer.Option(
            "--precision",
            autocompletion=complete_from(("exact", "fast", "split")),
            help="Arithmetic of the products: exact; fast, which uses bfloat16; or split, which "
            "restores float32 from TF32 products on CUDA.",
        ),
    ] = "exact"
    memory: Annotated[
        int | None,
        typer.Option("--memory", min=1, help="Memory in MiB that the values and states may take."),
    ] = None

    @property
    def memory_budget(self) -> int | None:
        """The memory in bytes."""
        return None if self.memory is None else self.memory * 2**20


ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        autocompletion=complete_from(MODELS),
        help="Name of a model: resnet20, resnet32 and so on, vgg-cifar, resnet18:WIDTH, "
        "plainnet18:WIDTH, "
        "resnet50:WIDTH, resnet101:WIDTH, resnet101-basic:WIDTH, vgg18:WIDTH, unet:WIDTH, "
        "unet-sigmoid:WIDTH, digits_cnn, torchvision:NAME, timm:NAME, or package.module:factory "
        "for a function that returns a model.",
    ),
]
SavedOrModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|FOLDER",
        autocompletion=complete_model,
        help="Name of a model, as transpike convert takes it, or a folder that transpike convert "
        "saved.",
    ),
]
TimestepsOption = Annotated[
    int, typer.Option("--timesteps", help="T, the number of timesteps of the simulation.")
]
RunLengthOption = Annotated[
    int | None,
    typer.Option(
        "--timesteps",
        help="T, the number of timesteps of the simulation. The default is the T of the recipe, "
        "or 32.",
    ),
]
FigureOption = Annotated[
    Path | None,
    typer.Option("-o", "--output", help="Also draw the result into this file (.png or .svg)."),
]
FolderOption = Annotated[
    Path, typer.Option("-o", "--output", help="Folder that the results are written into.")
]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the result into this JSON file.")
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

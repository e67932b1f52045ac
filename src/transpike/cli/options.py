"""The options that several commands share, and the choices that decide a conversion."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="resnet20, vgg-cifar, unet:WIDTH, unet-sigmoid:WIDTH, digits_cnn, torchvision:NAME, "
        "timm:NAME or package.module:factory.",
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option("--weights", help="File of weights: .safetensors, .pt, .pth, .th.")
]
ClassesOption = Annotated[
    int | None, typer.Option("--num-classes", min=1, help="Size of the model's output.")
]
DataOption = Annotated[
    str,
    typer.Option(
        "--data",
        help="digits, cifar10:PATH, folder:PATH or lucchi:PATH; calibrates on its train.",
    ),
]
NeuronOption = Annotated[
    str | None,
    typer.Option(
        "--neuron",
        help="if (default), burst:5, burst:8:resolution, signed:1, multi:3, differential:8, "
        "refining:4 (refining:K:RATIO:LEVELS:PERIOD), staggered:1 "
        "(staggered:K:RATIO:WINDOW:LAG:LEVELS) or telescoped:8.",
    ),
]
ThresholdOption = Annotated[
    str | None,
    typer.Option("--threshold", help="percentile:99.9 (default), max, lsq, gauss, ltb."),
]
GranularityOption = Annotated[
    str | None, typer.Option("--granularity", help="One threshold per channel (default) or layer.")
]
MembraneOption = Annotated[
    float | None,
    typer.Option("--initial-membrane", help="At the start, a fraction of the step (default 0.5)."),
]
CalibrationOption = Annotated[
    int | None,
    typer.Option(
        "--calibration-size",
        min=1,
        help="Training images used (default 512), or tiles of training slices (default 64).",
    ),
]
PassesOption = Annotated[
    str | None,
    typer.Option(
        "--passes",
        help="Passes, in order: bias, membrane, search, distill (of a regression distill:values), "
        "delay, allocate:SPIKES.",
    ),
]
RecipeOption = Annotated[
    Path | None, typer.Option("--recipe", help="A file written by transpike tune.")
]
SavedOrModelArgument = Annotated[
    str, typer.Argument(metavar="MODEL|FOLDER", help="A model's name or a saved folder.")
]
TimestepsOption = Annotated[int, typer.Option("--timesteps", help="Length of the run.")]
LimitOption = Annotated[
    int | None,
    typer.Option("--limit", help="Use a random part of the test images, at most so many."),
]
FigureOption = Annotated[
    Path | None, typer.Option("-o", "--output", help="Also draw it into this file (.png, .svg).")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of every random choice.")]
BatchOption = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        min=1,
        help="Images at a time (default 128, of diagnose and cost 50; of volumes a megapixel).",
    ),
]
TileOption = Annotated[
    int | None,
    typer.Option(
        "--tile",
        min=1,
        help="Of volumes: side in pixels of the tiles they are cut into (default 256, and whole "
        "test slices to evaluate).",
    ),
]
SplitOption = Annotated[
    str | None,
    typer.Option("--split", help="Of volumes: measure on test (default), or on val, held out."),
]
DeviceOption = Annotated[str, typer.Option("--device", help="cpu, cuda or cuda:N.")]
JsonOption = Annotated[
    Path | None, typer.Option("--json", help="Also write the result to this file.")
]


@dataclass(frozen=True)
class Choices:
    """What decides a conversion; None where the user left the default."""

    weights: Path | None
    num_classes: int | None
    neuron: str | None
    threshold: str | None
    granularity: str | None
    initial_membrane: float | None
    calibration_size: int | None
    passes: str | None = None
    recipe: Path | None = None

    def given(self) -> list[str]:
        """The options that were given, by name."""
        return [
            f"--{name.replace('_', '-')}" for name, value in vars(self).items() if value is not None
        ]

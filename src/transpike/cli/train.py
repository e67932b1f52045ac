"""The command that trains the networks of the zoo."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

import typer

from transpike.cli.completion import complete_data, complete_from
from transpike.cli.options import FolderOption, JsonOption, SeedOption, with_groups
from transpike.cli.output import interrupted, progress_bar, provenance, write_json
from transpike.cli.overwriting import check_outputs

_CHECKPOINT = "last.ckpt"  # written after every epoch


@dataclass(frozen=True)
class Settings:
    """How a network is trained; None where the recipe decides."""

    panel: ClassVar[str] = "Training"

    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs", min=1, help="Number of epochs in all. By default RECIPE decides it."
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option("--batch-size", min=1, help="Number of images that are trained on together."),
    ] = None
    width: Annotated[
        int | None,
        typer.Option("--width", min=1, help="Number of channels in the first stage of the U-Net."),
    ] = None
    validation: Annotated[
        int | None,
        typer.Option(
            "--validation", min=1, help="Number of CIFAR-10 training images that are held out."
        ),
    ] = None


@with_groups()
def train(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            autocompletion=complete_from(
                ("vgg-cifar", "unet-lucchi", "resnet18:16", "plainnet18:16", "vgg18:16")
            ),
            help="What to train: vgg-cifar, unet-lucchi, or a network with its width, as "
            "resnet18:16.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data", autocompletion=complete_data, help="Data set: cifar10:PATH or lucchi:PATH."
        ),
    ],
    output: FolderOption,
    settings: Settings,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue from the last checkpoint in the folder.")
    ] = False,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Train one of the networks that transpike ships recipes for.

    Checkpoints, weights and a model card are written into a folder.
    """
    from transpike.zoo.train import run

    check_outputs({"--json": json_file}, [data], {"-o": (output, ())})
    given = {name: value for name, value in vars(settings).items() if value is not None}
    try:
        with progress_bar(f"train {recipe}", None) as progress:
            result = run(
                recipe,
                data,
                output,
                {**given, "seed": seed},
                resume=resume,
                progress=progress,
                report=lambda scores: typer.echo(
                    ", ".join(f"{name} {value:.4g}" for name, value in scores.items()), err=True
                ),
            )
    except KeyboardInterrupt:
        if not (output / _CHECKPOINT).is_file():
            raise
        interrupted(f"during training; {output} holds a checkpoint. Continue with --resume.")
    content = {**result, **provenance(seed)}
    write_json(output / "result.json", content)
    write_json(json_file, content)
    scores = {name: value for name, value in result.items() if isinstance(value, float)}
    typer.echo("\n".join(f"{name} {value:.4f}" for name, value in scores.items()))
    typer.echo(f"written: {output}")

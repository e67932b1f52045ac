"""Training the zoo's networks."""

from __future__ import annotations

from typing import Annotated

import typer

from transpike.cli.options import FolderOption, JsonOption, SeedOption
from transpike.cli.output import progress_bar, provenance, write_json


def train(
    recipe: Annotated[str, typer.Argument(metavar="RECIPE", help="vgg-cifar or unet-lucchi.")],
    data: Annotated[str, typer.Option("--data", help="cifar10:PATH or lucchi:PATH.")],
    output: FolderOption,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on from the last checkpoint in the folder.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option("--epochs", min=1, help="In all; the recipe's own by default.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", min=1, help="Images at a time.")
    ] = None,
    width: Annotated[
        int | None, typer.Option("--width", min=1, help="Channels of the U-Net's first stage.")
    ] = None,
    validation: Annotated[
        int | None, typer.Option("--validation", min=1, help="CIFAR-10 images held out.")
    ] = None,
    seed: SeedOption = 0,
    json_file: JsonOption = None,
) -> None:
    """Train a network of the zoo; writes checkpoints, weights and a card into a folder."""
    from transpike.zoo.train import run

    given = {
        "epochs": epochs,
        "batch_size": batch_size,
        "width": width,
        "validation": validation,
    }
    settings = {name: value for name, value in given.items() if value is not None}
    with progress_bar(f"train {recipe}", None) as progress:
        result = run(
            recipe,
            data,
            output,
            {**settings, "seed": seed},
            resume=resume,
            progress=progress,
            report=lambda scores: typer.echo(
                ", ".join(f"{name} {value:.4g}" for name, value in scores.items()), err=True
            ),
        )
    content = {**result, **provenance(seed)}
    write_json(output / "result.json", content)
    write_json(json_file, content)
    scores = {name: value for name, value in result.items() if isinstance(value, float)}
    typer.echo("\n".join(f"{name} {value:.4f}" for name, value in scores.items()))
    typer.echo(f"written: {output}")

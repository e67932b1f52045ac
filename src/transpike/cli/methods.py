"""Choosing a method: the best recipe for a budget, and one table of many."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

import transpike as tp
from transpike.cli.options import (
    JsonOption,
    Machine,
    ModelArgument,
    Part,
    Source,
    TimestepsOption,
    with_groups,
)
from transpike.cli.output import INTERRUPTED, plain, progress_bar, provenance, write_json

if TYPE_CHECKING:
    from transpike.graph.outputs import Reading


@with_groups()
def tune(
    model: ModelArgument,
    output: Annotated[Path, typer.Option("-o", "--output", help="File for the recipe (JSON).")],
    timesteps: TimestepsOption,
    source: Source,
    machine: Machine,
    max_count: Annotated[
        int, typer.Option("--max-count", min=1, help="Largest count per timestep.")
    ] = 1,
    spikes: Annotated[
        float | None, typer.Option("--spikes", help="Budget: spikes per neuron over all timesteps.")
    ] = None,
    signed: Annotated[
        bool | None,
        typer.Option("--signed/--unsigned", help="Only signed, or only unsigned neurons."),
    ] = None,
    refining: Annotated[
        bool,
        typer.Option(
            "--refining",
            help="Also neurons whose step shrinks from timestep to timestep (signed); where T is "
            "larger than the network is deep, also layers that fire one after the other.",
        ),
    ] = False,
    reading: Annotated[
        str,
        typer.Option(
            "--reading",
            help="What the output is: scores (of classes, or logits of a mask), or values.",
        ),
    ] = "scores",
    json_file: JsonOption = None,
) -> None:
    """Choose the recipe for a budget by fidelity on held-out training images; needs no labels."""
    from transpike.cli.run import open_run

    run = open_run(source, machine)
    network, images = run.captured(model)
    with progress_bar("tune", None) as progress:
        result = tp.tune(
            network,
            images,
            timesteps=timesteps,
            max_count=max_count,
            spikes=spikes,
            signed=signed,
            refining=refining,
            reading=cast("Reading", reading),
            seed=machine.seed,
            progress=progress,
        )
    result.recipe.save(output)
    command = ["transpike", "evaluate", model, "--recipe", str(output), *source.arguments()]
    typer.echo(
        f"{run.heading(model)}{result}\n\nsaved {output}\nuse it with: {shlex.join(command)}"
    )
    content = {
        "model": model,
        "untrained": run.untrained(model),
        "data": source.data,
        **result.to_dict(),
        **provenance(machine.seed),
    }
    write_json(json_file, plain(content))
    if result.interrupted:
        typer.echo(
            f"interrupted: {output} holds the best recipe of the {len(result.trials)} that were "
            "measured until then.",
            err=True,
        )
        raise typer.Exit(INTERRUPTED)


@with_groups()
def compare(
    model: ModelArgument,
    timesteps: TimestepsOption,
    source: Source,
    part: Part,
    machine: Machine,
    max_count: Annotated[
        int, typer.Option("--max-count", min=1, help="K of the methods that have one.")
    ] = 1,
    recipe: Annotated[
        list[Path] | None, typer.Option("--recipe", help="Also this recipe; may be repeated.")
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Print one table of methods on one network, all on the same test images."""
    from transpike.cli.run import open_run

    run = open_run(source, machine, part)
    network, images = run.captured(model)
    recipes = tp.methods(timesteps, max_count, max(network.depth.values()))
    recipes |= {f"recipe {file}": tp.Recipe.load(file) for file in recipe or []}
    test = list(run.batches(run.test_images(network, part.limit)))
    with progress_bar("compare", len(recipes)) as progress:
        result = tp.compare(network, images, test, recipes, progress=progress)
    typer.echo(f"{run.heading(model)}{result}")
    content = {**result.to_dict(), "limit": part.limit, **run.record(model, network)}
    write_json(json_file, plain(content))

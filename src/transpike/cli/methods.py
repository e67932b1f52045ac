"""Commands that choose a method: the best recipe for a budget, and a table of many methods."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, cast

import typer

import transpike as tp
from transpike.cli.completion import complete_from
from transpike.cli.options import (
    JsonOption,
    Machine,
    ModelArgument,
    Part,
    Source,
    TimestepsOption,
    with_groups,
)
from transpike.cli.output import interrupted, plain, progress_bar, provenance, write_json
from transpike.cli.overwriting import check_outputs, reads_of

if TYPE_CHECKING:
    from transpike.graph.outputs import Reading

MaxCountOption = Annotated[
    int,
    typer.Option(
        "--max-count",
        min=1,
        help="K, the largest number of spikes of a neuron in one timestep.",
    ),
]


@dataclass(frozen=True)
class Budget:
    """What a recipe may cost, and which recipes are tried."""

    panel: ClassVar[str] = "Budget"

    max_count: MaxCountOption = 1
    spikes: Annotated[
        float | None,
        typer.Option(
            "--spikes",
            help="Budget: the mean number of spikes of a neuron over all timesteps, at most.",
        ),
    ] = None
    signed: Annotated[
        bool | None,
        typer.Option(
            "--signed/--unsigned",
            help="Try only neurons that also send negative spikes, or only neurons that do not.",
        ),
    ] = None
    refining: Annotated[
        bool,
        typer.Option(
            "--refining",
            help="Also try signed neurons whose spikes are worth less from timestep to timestep. "
            "If T is larger than the depth of the network, also try layers that fire one after the "
            "other.",
        ),
    ] = False
    reading: Annotated[
        str,
        typer.Option(
            "--reading",
            autocompletion=complete_from(("scores", "values")),
            help="How the output is read: as scores (of classes, or logits of a mask) or as "
            "values (of a regression).",
        ),
    ] = "scores"


@with_groups()
def tune(
    model: ModelArgument,
    output: Annotated[
        Path, typer.Option("-o", "--output", help="JSON file that the recipe is written into.")
    ],
    timesteps: TimestepsOption,
    source: Source,
    machine: Machine,
    budget: Budget,
    json_file: JsonOption = None,
) -> None:
    """Choose the best recipe for a budget of timesteps and spikes.

    A recipe is a neuron, a threshold rule and calibration passes. Recipes are judged by how
    closely the spiking network follows the analog network on held-out training images. No labels
    are needed.
    """
    from transpike.cli.run import open_run

    check_outputs({"-o": output, "--json": json_file}, reads_of(model, source))
    run = open_run(source, machine)
    network, images = run.captured(model)
    with progress_bar("tune", None) as progress:
        result = tp.tune(
            network,
            images,
            timesteps=timesteps,
            max_count=budget.max_count,
            spikes=budget.spikes,
            signed=budget.signed,
            refining=budget.refining,
            reading=cast("Reading", budget.reading),
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
        "untrained": run.untrained(model) is not None,
        "data": source.data,
        **result.to_dict(),
        **provenance(machine.seed),
    }
    write_json(json_file, plain(content))
    if result.interrupted:
        tried = len(result.trials)
        interrupted(f"after {tried} recipes; {output} holds the best one until then.")


@with_groups()
def compare(
    model: ModelArgument,
    timesteps: TimestepsOption,
    source: Source,
    part: Part,
    machine: Machine,
    max_count: MaxCountOption = 1,
    recipe: Annotated[
        list[Path] | None,
        typer.Option("--recipe", help="File of a recipe to measure as well. It may be repeated."),
    ] = None,
    json_file: JsonOption = None,
) -> None:
    """Measure many conversion methods on one network and print one table.

    All methods are measured on the same test images.
    """
    from transpike.cli.run import open_run

    check_outputs({"--json": json_file}, [*reads_of(model, source), *(recipe or [])])
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

"""The commands that run a grid of conversions and show its tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.options import FolderOption
from transpike.cli.output import interrupted, progress_bar

_INCOMPLETE = 1  # exit code if a cell has no result
_WRITES = ("plan.json", "records.jsonl", "table.md", "cells.csv")

study = typer.Typer(
    name="study",
    no_args_is_help=True,
    help="Measure a grid of networks, methods and timesteps, which can be stopped and continued.",
)
FolderArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="Folder that transpike study run wrote.")
]


@study.command()
def run(
    config: Annotated[
        Path, typer.Argument(metavar="CONFIG", help="YAML file that describes the study.")
    ],
    output: FolderOption,
    workers: Annotated[
        int,
        typer.Option("--workers", min=1, help="Number of processes, with one thread each."),
    ] = 1,
) -> None:
    """Measure every cell of a study that has no result yet.

    The same command continues after a stop. The exit code is 1 if a cell failed.
    """
    from transpike.cli.overwriting import check_outputs
    from transpike.study import read_study, report_study, run_study, study_status

    check_outputs({}, [config], {"--output": (output, _WRITES)})
    try:
        with progress_bar("study, shards", None) as progress:
            incomplete = run_study(read_study(config), output, workers=workers, progress=progress)
    except KeyboardInterrupt:
        interrupted(f"during the study; {output} holds what is done. The same command continues.")
    typer.echo(report_study(output))
    if incomplete:
        typer.echo(study_status(output), err=True)
        raise typer.Exit(_INCOMPLETE)


@study.command()
def status(folder: FolderArgument) -> None:
    """Show how much of a study is done, and what failed."""
    from transpike.study import study_status

    typer.echo(study_status(folder))


@study.command()
def report(folder: FolderArgument) -> None:
    """Write the tables of what a study has measured so far, and print the first one."""
    from transpike.study import report_study

    typer.echo(report_study(folder))

"""The command that writes results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from transpike.cli.overwriting import check_outputs


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="JSON files that other commands wrote with --json, folders of such files, and "
            "folders that transpike evaluate wrote with --samples.",
        ),
    ],
    output: Annotated[
        Path, typer.Option("-o", "--output", help="HTML file that the page is written into.")
    ],
    title: Annotated[str | None, typer.Option("--title", help="Title of the page.")] = None,
) -> None:
    """Write results as one HTML page with charts, tables and pictures.

    The page needs no network connection.
    """
    from transpike.report import read_results, write_report

    inside = (f for folder in results if folder.is_dir() for f in folder.iterdir())
    files = [*results, *(file for file in inside if file.suffix.lower() != ".html")]
    check_outputs({"-o": output}, files)
    found = read_results(results)
    write_report(found, output, title=title)
    count = len(found.files)
    typer.echo(f"written: {output}, from {count} file{'' if count == 1 else 's'}")

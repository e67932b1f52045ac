"""Results as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    results: Annotated[
        list[Path],
        typer.Argument(
            metavar="RESULTS...",
            help="Files that other commands wrote with --json, or folders of them; folders of "
            "evaluate --samples.",
        ),
    ],
    output: Annotated[Path, typer.Option("-o", "--output", help="The page (.html).")],
    title: Annotated[str | None, typer.Option("--title", help="Of the page.")] = None,
) -> None:
    """Write results as one HTML page that opens without a network: charts, tables, pictures."""
    from transpike.report import read_results, write_report

    found = read_results(results)
    write_report(found, output, title=title)
    files = len(found.files)
    typer.echo(f"written: {output}, from {files} file{'' if files == 1 else 's'}")

"""What commands write: results as JSON with their provenance, figures, and progress."""

from __future__ import annotations

import json
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer

import transpike as tp
from transpike.files import write_text

INTERRUPTED = 130
"""Exit code after Ctrl-C; shells use the same."""
_SECONDS_BETWEEN_LINES = 20.0
ProgressCallback = Callable[[int, int | None], None]


def provenance(seed: int) -> dict[str, Any]:
    """What is needed to repeat a result: the command, its seed and the versions."""
    import torch

    return {
        "command": shlex.join(["transpike", *sys.argv[1:]]),
        "seed": seed,
        "versions": {
            "transpike": tp.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        },
    }


def progress_bar(task: str, total: int | None) -> AbstractContextManager[ProgressCallback]:
    """Shows progress on stderr: as a bar in a terminal, else as a line every 20 seconds."""
    if sys.stderr.isatty():
        return _bar(task, total)
    return _lines(task, total)


@contextmanager
def _lines(task: str, total: int | None) -> Iterator[ProgressCallback]:
    start = last = time.monotonic()

    def advance(done: int, of: int | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _SECONDS_BETWEEN_LINES:
            return
        last = now
        known = total if of is None else of
        of_all = "" if known is None else f" of {known}"
        typer.echo(f"{task}: {done}{of_all}, {now - start:.0f} s", err=True)

    yield advance


@contextmanager
def _bar(task: str, total: int | None) -> Iterator[ProgressCallback]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    ) as bar:
        handle = bar.add_task(task, total=total)

        def advance(done: int, of: int | None) -> None:
            bar.update(handle, completed=done, total=total if of is None else of)

        yield advance


def interrupted(text: str) -> NoReturn:
    """Says what an interrupted command kept, and ends it."""
    typer.echo(f"interrupted {text}", err=True)
    raise typer.Exit(INTERRUPTED)


def plain(value: Any) -> Any:
    """The value in types that JSON has; other types become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write_figure(file: Path | None, draw: Callable[[Any], Any], result: Any) -> None:
    """Draws a result into a file, if there is one.

    Raises:
        FileError: the file cannot be written.
    """
    if file is None:
        return
    from transpike.report.figures import save_figure  # it needs torch, which is slow to import

    figure = draw(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        save_figure(figure, file)
    except (OSError, ValueError) as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error}.") from error


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """Writes a result with its provenance into a file, if there is one.

    Raises:
        FileError: the file cannot be written.
    """
    if file is None:
        return
    if "command" not in content:
        content = {**content, **provenance(0)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, json.dumps(content, indent=2) + "\n")
    except OSError as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error

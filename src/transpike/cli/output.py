"""What commands write: JSON with where it comes from, figures, and a bar of progress."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import transpike as tp

INTERRUPTED = 130
"""Exit code after Ctrl-C, as shells have it."""
ProgressCallback = Callable[[int, int | None], None]


def provenance(seed: int) -> dict[str, Any]:
    """The command, its seed and the versions: what a result carries to be repeated."""
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


@contextmanager
def progress_bar(task: str, total: int | None) -> Iterator[ProgressCallback]:
    """A bar on stderr; nothing where stderr is not a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    ) as bar:
        handle = bar.add_task(task, total=total)

        def advance(done: int, of: int | None) -> None:
            bar.update(handle, completed=done, total=total if of is None else of)

        yield advance


def plain(value: Any) -> Any:
    """The same value in JSON's types; what has none becomes its text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)


def write_figure(file: Path | None, draw: Callable[[Any], Any], result: Any) -> None:
    """Draws a result into a file, or does nothing without one.

    Raises:
        FileError: it cannot be written.
    """
    if file is None:
        return
    figure = draw(result)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=150)
    except (OSError, ValueError) as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error}.") from error


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """Writes a result with its provenance into a file, or does nothing without one.

    Raises:
        FileError: it cannot be written.
    """
    if file is None:
        return
    if "command" not in content:
        content = {**content, **provenance(0)}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise tp.FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error

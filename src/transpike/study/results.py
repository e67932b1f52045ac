"""What a study has measured so far: one line of JSON per shard and per failure."""

from __future__ import annotations

import json
import platform
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

import transpike
from transpike.errors import FileError
from transpike.files import write_text
from transpike.study.cells import Cell
from transpike.study.config import Study
from transpike.study.records import Record, Records

_PLAN = "plan.json"
_RECORDS = "records.jsonl"


class Results:
    """The results in one folder.

    Args:
        folder: the folder. It need not exist yet.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = Records(folder / _RECORDS)
        self._read = 0
        self._shards: dict[str, dict[int, Record]] = {}
        self._failures: dict[str, list[Record]] = {}

    def write_plan(self, study: Study, cells: Sequence[Cell]) -> None:
        """Write which cells the study has, for status and report.

        Raises:
            FileError: the folder cannot be written.
        """
        versions = {
            "transpike": transpike.__version__,
            "torch": str(torch.__version__),
            "python": platform.python_version(),
        }
        content = {
            "study": asdict(study),
            "versions": versions,
            "cells": [cell.to_dict() for cell in cells],
        }
        write_whole(self.folder / _PLAN, json.dumps(content, indent=1) + "\n")

    def plan(self) -> tuple[dict[str, Any], list[Cell]]:
        """What `write_plan` wrote: the study and the versions, and the cells.

        Raises:
            FileError: the folder holds no study.
        """
        file = self.folder / _PLAN
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise FileError(
                f"cannot read the study in {str(self.folder)!r}: {error}. Start it with "
                "transpike study run."
            ) from error
        return content, [Cell.from_dict(one) for one in content["cells"]]

    def has(self, cell: Cell, shard: int) -> bool:
        """Whether a shard is stored."""
        self._update()
        return shard in self._shards.get(cell.key, {})

    def is_complete(self, cell: Cell) -> bool:
        """Whether every shard of a cell is stored."""
        self._update()
        return len(self._shards.get(cell.key, {})) == cell.shards

    def shards(self, cell: Cell) -> list[Record]:
        """The stored shards of a cell, in the order of the images."""
        self._update()
        found = self._shards.get(cell.key, {})
        return [found[shard] for shard in sorted(found)]

    def counts(self, cells: Sequence[Cell]) -> tuple[int, int]:
        """Number of finished shards, and of all shards. Cells with the same address count once."""
        self._update()
        different = {cell.key: cell for cell in cells}
        done = sum(len(self._shards.get(key, {})) for key in different)
        return done, sum(cell.shards for cell in different.values())

    def failures(self, cell: Cell, run: str | None = None) -> int:
        """How often a cell has failed, in one run or in all."""
        self._update()
        found = self._failures.get(cell.key, [])
        return sum(run is None or record["run"] == run for record in found)

    def last_failure(self, cell: Cell) -> str | None:
        """Why a cell that is not complete failed the last time, or None."""
        found = [] if self.is_complete(cell) else self._failures.get(cell.key, [])
        return str(found[-1]["error"]) if found else None

    def open_cells(self, cells: Sequence[Cell], run: str, attempts: int) -> list[Cell]:
        """The cells that are not complete and have not failed too often in this run."""
        different = {cell.key: cell for cell in reversed(cells)}
        return [
            cell
            for cell in reversed(different.values())
            if not self.is_complete(cell) and self.failures(cell, run) < attempts
        ]

    def claimed(self, cell: Cell, part: int) -> AbstractContextManager[bool]:
        """Whether this process is the one to work on a part, while the context lasts."""
        return self._records.claimed(cell.key, part)

    def add(self, cell: Cell, shard: int, measured: Record) -> None:
        """Store a shard, on disk when this returns."""
        self._records.append({"cell": cell.key, "shard": shard, **measured})

    def add_failure(self, cell: Cell, part: int, error: Exception, run: str) -> None:
        """Store that a part of a cell failed, and why."""
        text = " ".join(f"{type(error).__name__}: {error}".split())
        self._records.append({"cell": cell.key, "failed": part, "error": text, "run": run})

    def _update(self) -> None:
        records = self._records.all()
        for record in records[self._read :]:
            if "failed" in record:
                self._failures.setdefault(record["cell"], []).append(record)
            else:
                # The first one counts, if two processes measured the same shard.
                self._shards.setdefault(record["cell"], {}).setdefault(record["shard"], record)
        self._read = len(records)


def write_whole(file: Path, text: str) -> None:
    """Write a file that others see whole or not at all, and the folders around it.

    Raises:
        FileError: the file cannot be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise FileError(f"cannot write {str(file)!r}: {error.strerror or error}.") from error

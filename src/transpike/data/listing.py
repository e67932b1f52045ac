"""The entries of a folder that are data, and the numbers of slices in their names."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from transpike.errors import DataError

# What macOS, Windows and Synology leave in folders. Names that start with a dot are skipped too,
# such as ._1.png and .ipynb_checkpoints.
_JUNK = frozenset({"__macosx", "thumbs.db", "desktop.ini", "@eadir"})


def entries(folder: Path, suffixes: Collection[str] = ()) -> list[Path]:
    """The entries of a folder in the order of their names, without those that are no data.

    Args:
        folder: the folder.
        suffixes: suffixes of the files to list, in lower case; empty for folders.
    """
    found = (e for e in folder.iterdir() if not e.name.startswith("."))
    kept = (entry for entry in found if entry.name.lower() not in _JUNK)
    if suffixes:
        return sorted(e for e in kept if e.suffix.lower() in suffixes and not e.is_dir())
    return sorted(entry for entry in kept if entry.is_dir())


def numbered(folder: Path, files: Sequence[Path]) -> list[tuple[int, Path]]:
    """The files of a folder with their slice numbers, in rising order.

    A name can hold several numbers, such as z001_8bit.png. The number of the slice is the one that
    differs from file to file. If several do, all of them must give the same order. Then it is one
    that rises in equal steps, as in 0001_z=0.005um.tif.

    Args:
        folder: the folder, for messages.
        files: one or more files of slices.

    Raises:
        DataError: a name has no number, the number of the slice is not clear, two slices have the
            same number, or a slice is missing.
    """
    table = [_numbers(file) for file in files]
    counts = {len(row) for row in table}
    if len(counts) > 1:
        few, many = (_first_with(files, table, count) for count in (min(counts), max(counts)))
        raise DataError(
            f"{str(folder)!r}: needed file names with the same parts, got {few!r} and {many!r}. "
            "Name the slices alike, as in 001.png and 002.png."
        )
    column = _column(folder, files, list(zip(*table, strict=True)))
    pairs = sorted((row[column], file) for row, file in zip(table, files, strict=True))
    _check_steps(folder, [number for number, _ in pairs])
    return pairs


def _first_with(files: Sequence[Path], table: Sequence[Sequence[int]], count: int) -> str:
    """Name of the first file whose name holds `count` numbers."""
    return next(f.name for f, row in zip(files, table, strict=True) if len(row) == count)


def _numbers(file: Path) -> list[int]:
    found = re.findall(r"\d+", file.stem)
    if not found:
        raise DataError(f"{str(file)!r}: needed the slice's number in its name, as in 007.png.")
    return [int(text) for text in found]


def _column(folder: Path, files: Sequence[Path], columns: Sequence[Sequence[int]]) -> int:
    """Which number of a name is that of the slice."""
    varying = [k for k, column in enumerate(columns) if len(set(column)) > 1]
    if not varying:
        return len(columns) - 1
    if len(varying) == 1:
        return varying[0]
    distinct = [k for k in varying if len(set(columns[k])) == len(files)]
    orders = {tuple(np.argsort(columns[k]).tolist()) for k in distinct}
    if len(orders) != 1:
        raise DataError(
            f"{str(folder)!r}: needed file names in which one number differs, that of the slice, "
            f"got {len(varying)} numbers that differ, as in {files[0].name!r} and "
            f"{files[-1].name!r}. Move the slices of one stack into a folder of their own."
        )
    even = [k for k in distinct if len(set(np.diff(sorted(columns[k])).tolist())) == 1]
    return (even or distinct)[-1]


def _check_steps(folder: Path, numbers: Sequence[int]) -> None:
    """Refuse a missing slice: the step between two numbers is larger than the smallest step."""
    steps = np.diff(numbers)
    if not len(steps):
        return
    if steps.min() == 0:
        twice = numbers[int(steps.argmin())]
        raise DataError(f"{str(folder)!r}: needed each slice once, got number {twice} twice.")
    gaps = np.flatnonzero(steps != steps.min())
    if len(gaps):
        before = numbers[int(gaps[0])]
        raise DataError(
            f"{str(folder)!r}: slice {before + int(steps.min())} is missing between {before} and "
            f"{numbers[int(gaps[0]) + 1]}: needed numbers in equal steps. Add it, or renumber the "
            "slices if it does not exist."
        )


__all__ = ["entries", "numbered"]

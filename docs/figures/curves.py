"""Reads the curves of results/resnet20_curves.md."""

from __future__ import annotations

import re
from pathlib import Path

TABLE = Path(__file__).resolve().parents[2] / "results" / "resnet20_curves.md"
TIMESTEPS = [1, 2, 4, 8, 16, 32, 64]


def read_curves(file: Path = TABLE) -> dict[tuple[str, str], list[float]]:
    """Values at T = 1, 2, 4, .. 64 by setting and row: "accuracy" or "quantized"."""
    found: dict[tuple[str, str], list[float]] = {}
    setting = ""
    for line in file.read_text().splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.match(r"\*\*(\w+)\*\* accuracy %", cells[0])
        if named:
            setting = named[1]
        row = "accuracy" if named else cells[0].removesuffix(" %")
        if setting and row in ("accuracy", "quantized"):
            found[setting, row] = [float(cell) for cell in cells[2:9]]
    return found


def curve(
    curves: dict[tuple[str, str], list[float]], setting: str, row: str = "accuracy"
) -> tuple[list[int], list[float]]:
    """Timesteps and values of one curve."""
    return TIMESTEPS, curves[setting, row]


def ann_accuracy(file: Path = TABLE) -> float:
    """Accuracy of the unchanged model on the images of the table, in percent."""
    found = re.search(r"of ([\d.]+) % \[[^]]+\] on the n = \d+ images below", file.read_text())
    if found is None:
        raise ValueError(f"{file}: no accuracy of the unchanged model.")
    return float(found[1])

"""What a study has found, as tables. The same records give the same tables byte for byte."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transpike.measure.intervals import Interval
from transpike.study.cells import Cell
from transpike.study.paired import Flags, bootstrap_interval, unpacked
from transpike.study.records import Record
from transpike.study.results import Results, write_whole

_TABLE = "table.md"
_CELLS = "cells.csv"
_HEADS = (
    "network",
    "pretraining",
    "method",
    "T",
    "K",
    "n",
    "training seeds",
    "calibration",
    "ANN %",
    "SNN %",
    "loss [95 %]",
    "s.d.",
    "quantized %",
    "agree %",
    "spikes/neuron",
)
Row = tuple[str, str, str, int]


@dataclass(frozen=True, eq=False)
class Measured:
    """One complete cell.

    Args:
        cell: the cell.
        right: which images the spiking network gets right, (n,).
        ann_right: which images the ANN gets right, (n,).
        quantized: share of images that the quantized ANN gets right.
        agree: share of images on which the spiking network and the ANN agree.
        spikes_per_neuron: number of spikes of a neuron in T timesteps, mean over images.
        max_count: K, the largest count of a neuron in one timestep.
        neurons: number of neurons.
    """

    cell: Cell
    right: Flags
    ann_right: Flags
    quantized: float
    agree: float
    spikes_per_neuron: float
    max_count: int
    neurons: int

    @property
    def differences(self) -> NDArray[np.float64]:
        """Whether the ANN is right minus whether the spiking network is right, (n,)."""
        return self.ann_right.astype(np.float64) - self.right

    @property
    def loss(self) -> float:
        """Accuracy of the ANN minus that of the spiking network."""
        return float(self.differences.mean())


def study_status(folder: Path) -> str:
    """How much of a study is done, and what failed.

    Raises:
        FileError: the folder holds no study.
    """
    results = Results(folder)
    _, cells = results.plan()
    done, of_all = results.counts(cells)
    complete = sum(results.is_complete(cell) for cell in cells)
    lines = [f"{complete} of {len(cells)} cells complete, {done} of {of_all} shards stored"]
    for cell in cells:
        failure = results.last_failure(cell)
        if failure is not None:
            lines.append(f"failed {results.failures(cell)} times: {cell}: {failure}")
    return "\n".join(lines)


def report_study(folder: Path) -> str:
    """Write `table.md` with one row per conversion and `cells.csv` with one line per cell.

    A row with a cell that is not complete says so and has no numbers.

    Args:
        folder: folder of the results.

    Returns:
        The content of `table.md`.

    Raises:
        FileError: the folder holds no study, or cannot be written.
    """
    results = Results(folder)
    plan, cells = results.plan()
    measured = {cell.key: _merged(cell, results) for cell in cells if results.is_complete(cell)}
    rows: dict[Row, list[Cell]] = {}
    for cell in cells:
        rows.setdefault((cell.network, cell.pretraining, cell.method, cell.timesteps), []).append(
            cell
        )
    lines = [
        f"# Conversion losses on {plan['study']['data'].partition(':')[0]}",
        "",
        _explained(),
        "",
        *_markdown(_HEADS, [_row(row, group, measured, results) for row, group in rows.items()]),
    ]
    contrasts = _contrasts(plan["study"]["contrasts"], rows, measured)
    if contrasts:
        lines += ["", "## Differences between networks", "", _contrast_explained(), "", *contrasts]
    versions = ", ".join(f"{name} {value}" for name, value in plan["versions"].items())
    text = "\n".join([*lines, "", f"Versions: {versions}.", ""])
    write_whole(folder / _TABLE, text)
    write_whole(folder / _CELLS, _csv(cells, measured, results))
    return text


def _merged(cell: Cell, results: Results) -> Measured:
    """All shards of a cell, in the order of the images."""
    shards: Sequence[Record] = results.shards(cell)

    def flags(name: str) -> Flags:
        return np.concatenate([unpacked(shard[name], shard["n"]) for shard in shards])

    def share(name: str) -> float:
        return sum(int(shard[name]) for shard in shards) / cell.n

    spikes = math.fsum(shard["spikes_per_neuron"] * shard["n"] for shard in shards) / cell.n
    return Measured(
        cell=cell,
        right=flags("right"),
        ann_right=flags("ann_right"),
        quantized=share("quantized_right"),
        agree=share("agree"),
        spikes_per_neuron=spikes,
        max_count=shards[0]["max_count"],
        neurons=shards[0]["neurons"],
    )


def _row(
    row: Row, group: Sequence[Cell], measured: dict[str, Measured], results: Results
) -> list[str]:
    network, pretraining, method, timesteps = row
    found = [measured[cell.key] for cell in group if cell.key in measured]
    seeds = ", ".join(str(seed) for seed in dict.fromkeys(cell.seed for cell in group))
    draws = len({cell.draw for cell in group})
    calibration = f"{group[0].calibration} images" + (f", {draws} draws" if draws > 1 else "")
    start = [network, pretraining, method, str(timesteps)]
    if len(found) < len(group):
        failures = [text for cell in group if (text := results.last_failure(cell)) is not None]
        state = f"{len(found)} of {len(group)} cells"
        state += f"; failed: {failures[0].replace('|', '/')}" if failures else ""
        blank = ["-"] * (len(_HEADS) - len(start) - 5)
        return [*start, "-", str(group[0].n), seeds, calibration, state, *blank]
    losses = [one.loss for one in found]
    interval = bootstrap_interval(np.mean([one.differences for one in found], axis=0))
    return [
        *start,
        str(found[0].max_count),
        str(group[0].n),
        seeds,
        calibration,
        _percent(np.mean([one.ann_right.mean() for one in found])),
        _percent(np.mean([one.right.mean() for one in found])),
        _with_interval(float(np.mean(losses)), interval),
        f"{100 * float(np.std(losses, ddof=1)):.2f}" if len(losses) > 1 else "-",
        _percent(np.mean([one.quantized for one in found])),
        _percent(np.mean([one.agree for one in found])),
        f"{np.mean([one.spikes_per_neuron for one in found]):.3f}",
    ]


def _contrasts(
    pairs: Sequence[Sequence[str]], rows: dict[Row, list[Cell]], measured: dict[str, Measured]
) -> list[str]:
    """For each pair of networks: the difference of their losses on the same images."""
    heads = ("networks", "pretraining", "method", "T", "difference of losses [95 %]")
    found = []
    for one, other in pairs:
        for (network, pretraining, method, timesteps), group in rows.items():
            twin = rows.get((other, pretraining, method, timesteps), [])
            sides = [[measured.get(cell.key) for cell in side] for side in (group, twin)]
            if network != one or not twin or None in sides[0] + sides[1]:
                continue
            means = [
                np.mean([m.differences for m in side if m is not None], axis=0) for side in sides
            ]
            difference = means[0] - means[1]
            shown = _with_interval(float(difference.mean()), bootstrap_interval(difference))
            names = [f"{one} minus {other}", pretraining, method, str(timesteps), shown]
            found.append(names)
    return _markdown(heads, found) if found else []


def _explained() -> str:
    return (
        "The loss is the accuracy of the ANN minus that of the spiking network on the same images, "
        "in percentage points, the mean over training seeds and calibration draws. Its interval "
        "is a paired bootstrap over the test images. It does not contain the spread over training "
        "seeds and draws, which is in the column s.d. An interval of [0, 0] means that no image "
        "changed. The quantized ANN has the thresholds of the spiking network and K T levels."
    )


def _contrast_explained() -> str:
    return (
        "The loss of the first network minus that of the second one, in percentage points, with "
        "a paired bootstrap over the test images."
    )


def _percent(value: Any) -> str:
    return f"{100 * float(value):.2f}"


def _with_interval(value: float, interval: Interval) -> str:
    low, high = (f"{100 * bound + 0:.2f}" for bound in interval)
    return f"{100 * value + 0:.2f} [{low}, {high}]".replace("-0.00", "0.00")


def _markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    return lines + ["| " + " | ".join(row) + " |" for row in rows]


def _csv(cells: Sequence[Cell], measured: dict[str, Measured], results: Results) -> str:
    """One line per cell, with the numbers in full."""
    numbers = ("ann_accuracy", "accuracy", "loss", "quantized", "agree", "spikes_per_neuron")
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*Cell.__dataclass_fields__, "max_count", "neurons", *numbers, "failure"])
    for cell in cells:
        one = measured.get(cell.key)
        values: list[Any] = [""] * (2 + len(numbers))
        if one is not None:
            accuracies = [float(one.ann_right.mean()), float(one.right.mean())]
            shares = [one.loss, one.quantized, one.agree, one.spikes_per_neuron]
            values = [one.max_count, one.neurons, *accuracies, *shares]
        failure = results.last_failure(cell) or ""
        writer.writerow([*cell.to_dict().values(), *values, failure])
    return stream.getvalue()


__all__ = ["Measured", "report_study", "study_status"]

"""Accuracy against spikes per image: every method measured, ours and the peers', in one figure.

    python benchmarks/method_table.py --weights WEIGHTS          # ours, all test images
    python benchmarks/peers/curves.py --weights WEIGHTS ...      # peers
    python benchmarks/spikes_figure.py

Reads results/methods/resnet20/ and results/peers/, writes results/spikes.svg and results/spikes.md.
A recipe made for one T is a point there; one that does not depend on T is a curve; a peer converted
anew for every T is a curve through its conversions, each at its own T. Loss: against
the analog network on the same images. Spikes: counts of n as n, at the outputs of spiking neurons.
"""

from __future__ import annotations

import argparse
import json
import math
import re
import statistics
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

sys.path.insert(0, str(Path(__file__).resolve().parent))
import method_rows

import transpike as tp
from transpike.evaluate import curve_points

NEURONS = 188_416  # of the spiking ResNet-20, per image
LOSS = 0.5  # points at which spikes are compared
_FEWEST = 10  # thousand spikes, below which nothing is recognised


@dataclass(frozen=True)
class Point:
    """One method at one T: loss in points with its standard error, thousand spikes per image."""

    name: str
    ours: bool
    t: int
    loss: float
    error: float
    spikes: float
    n: int
    curve: bool


def peers(folder: Path) -> list[Point]:
    """All peers at every T."""
    entries = {file.stem: json.loads(file.read_text()) for file in sorted(folder.glob("*.json"))}
    analog = entries["ann"]["parts"]
    found = []
    for name, entry in entries.items():
        if name == "ann":
            continue
        n = entry["n"]
        # On the same images: a peer that has not run all parts is compared on those it has.
        right = sum(next(iter(analog[part]["right"].values())) for part in entry["parts"]) / n
        method, made_for = _made_for(name)
        for t, share in entry["accuracy"].items():
            if made_for not in (None, int(t)):
                continue
            loss = right - share
            # Not paired: the peers' files hold sums. Few images change sides, so this is too wide.
            error = math.sqrt(max(share * (1 - share), 1e-9) / n)
            thousands = entry["spikes_per_image"][t] / 1000
            found.append(
                Point(method, False, int(t), 100 * loss, 100 * error, thousands, n, curve=True)
            )
    return found


def _made_for(name: str) -> tuple[str, int | None]:
    """A peer's method, and the T of this conversion where it is made for one."""
    found = re.fullmatch(r"(snn-calibration-(?:light|advanced))(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def ours(folder: Path) -> list[Point]:
    """Every recipe that was measured: at its T, or at all if it does not depend on T."""
    by_recipe: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for file in sorted(folder.glob("*-s*.json")):
        entry = json.loads(file.read_text())
        if entry["pooling"] == "max":
            by_recipe[file.stem.rpartition("-s")[0]].append(entry)
    found = []
    for entries in by_recipe.values():
        recipe = tp.Recipe.from_dict(entries[0]["recipe"])
        curve = not method_rows.needs_timesteps(recipe)
        points = curve_points(recipe.timesteps) if curve else [recipe.timesteps]
        found += [_point(recipe, entries, t, curve) for t in points]
    return found


def _point(recipe: tp.Recipe, entries: list[dict[str, Any]], t: int, curve: bool) -> Point:
    losses, errors, spikes = [], [], []
    for entry in entries:
        e = entry["evaluation"]
        low, high = e["loss_interval"][t - 1]
        losses.append(100 * e["loss"][t - 1])
        errors.append(100 * (high - low) / 2 / 1.959964)
        spikes.append(e["spikes_per_neuron"][t - 1] * NEURONS / 1000)
    n = entries[0]["evaluation"]["samples"]
    numbers = (statistics.fmean(values) for values in (losses, errors, spikes))
    return Point(recipe.name, True, t, *numbers, n, curve)


def front(points: list[Point]) -> list[Point]:
    """Points that no other beats in loss with at most its spikes, by spikes."""
    best, kept = math.inf, []
    for point in sorted(points, key=lambda p: (p.spikes, p.loss)):
        if point.loss < best:
            best = point.loss
            kept.append(point)
    return kept


def least_spikes(points: list[Point], loss: float) -> dict[str, tuple[float, float]]:
    """Per method that gets there: T and thousand spikes at a loss, between T by log spikes."""
    found = {}
    for name in sorted({p.name for p in points}):
        series = sorted((p for p in points if p.name == name), key=lambda p: p.spikes)
        for before, now in zip([None, *series], series, strict=False):
            if now.loss > loss:
                continue
            if before is None or before.loss <= loss or not now.curve:
                found[name] = (float(now.t), now.spikes)
            else:
                part = (before.loss - loss) / (before.loss - now.loss)
                logs = [math.log(p.spikes) for p in (before, now)]
                t = before.t + part * (now.t - before.t)
                found[name] = (t, math.exp(logs[0] + part * (logs[1] - logs[0])))
            break
    return found


def draw(points: list[Point], file: Path) -> None:
    figure, axes = plt.subplots(figsize=(11, 8), layout="constrained")
    colours = plt.get_cmap("tab20")
    shown = {p.name for p in front([p for p in points if p.ours])}
    shown |= {p.name for p in points if not p.ours} | {p.name for p in points if p.ours and p.curve}
    names = sorted(
        shown, key=lambda name: (name not in {p.name for p in points if not p.ours}, name)
    )
    for index, name in enumerate(names):
        series = sorted((p for p in points if p.name == name), key=lambda p: p.spikes)
        mine, curve = series[0].ours, series[0].curve
        axes.plot(
            [p.spikes for p in series],
            [max(p.loss, 0.01) for p in series],
            label=("transpike: " if mine else "") + name,
            color=colours(index % 20),
            linestyle="-" if curve else "none",
            marker="o" if mine else "s",
            markersize=4 if curve else 7,
            linewidth=1.5 if mine else 1,
        )
    axes.axhline(LOSS, color="grey", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(_FEWEST, None), ylim=(0.01, 100))
    axes.set_xlabel("thousand spikes per image (counts of n as n)")
    axes.set_ylabel("loss against the ANN, points (0.01 and less at the bottom)")
    axes.set_title("ResNet-20 on CIFAR-10: accuracy against spikes")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=7, loc="outside lower center", ncols=2)
    figure.savefig(file)
    figure.savefig(file.with_suffix(".png"), dpi=110)


def document(points: list[Point]) -> str:
    reached = least_spikes(points, LOSS)
    mine = {p.name for p in points if p.ours}
    most = max(p.n for p in points if p.ours)
    fewer = sorted({(p.name, p.n, p.t) for p in points if not p.ours and p.n < most})
    partly = "; ".join(
        f"{name} on {n} of them, up to T = {max(t for other, _, t in fewer if other == name)}"
        for name, n in sorted({(name, n) for name, n, _ in fewer})
    )
    lines = [
        "# Accuracy against spikes per image: ResNet-20 on CIFAR-10",
        "",
        f"n = {most} test images, ours and the peers'"
        + (f"; {partly}" if partly else "")
        + ". Loss in points against the ANN on the same images. Errors: ours paired, peers' not.",
        "",
        "## Front",
        "",
        "| method | T | loss | s.e. | thousand spikes |",
        "|---|---|---|---|---|",
    ]
    for p in front(points):
        name = ("transpike: " if p.ours else "") + p.name
        lines.append(f"| {name} | {p.t} | {p.loss:.2f} | {p.error:.2f} | {p.spikes:.0f} |")
    lines += ["", f"## Spikes at a loss of {LOSS} points", ""]
    lines += ["| method | T | thousand spikes |", "|---|---|---|"]
    for name, (t, spikes) in sorted(reached.items(), key=lambda item: item[1][1]):
        shown = ("transpike: " if name in mine else "") + name
        lines.append(f"| {shown} | {t:.1f} | {spikes:.0f} |")
    missing = sorted({p.name for p in points if not p.ours} - set(reached))
    if missing:
        lines += ["", "Not reached within the T measured: " + ", ".join(missing) + "."]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=Path, default=Path("results/methods/resnet20"))
    parser.add_argument("--peers", type=Path, default=Path("results/peers"))
    parser.add_argument("--output", type=Path, default=Path("results/spikes.svg"))
    args = parser.parse_args()
    points = ours(args.methods) + peers(args.peers)
    draw(points, args.output)
    args.output.with_suffix(".md").write_text(document(points))


if __name__ == "__main__":
    main()

"""Accuracy against spikes per image: every method measured, ours and the peers', in one figure.

    python -m benchmarks.methods.table --weights WEIGHTS          # ours, all test images
    python -m benchmarks.peers.curves --weights WEIGHTS ...      # peers
    python -m benchmarks.peers.spikes_figure

Reads results/methods/resnet20.jsonl and results/peers.jsonl, and writes results/spikes.svg,
results/spikes.png and results/spikes.md. A recipe made for one T is a point of the figure. A recipe
that does not depend on T is a curve. A peer that is converted again for every T is a curve through
its conversions, each at its own T. The loss is against the analog network on the same images.
Spikes are counted at the outputs of spiking neurons, a count of n as n spikes.
"""

from __future__ import annotations

import argparse
import math
import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np

import transpike as tp
from benchmarks import paired
from benchmarks.methods import rows
from benchmarks.paired import Flags
from benchmarks.peers.curves import entries
from benchmarks.records import Record, Records
from transpike.measure.evaluate import Z95, curve_points

ANALOG = "ann"  # contestant
TEST_SEED = 0  # of the peers' draw of test images
NEURONS = 188_416  # of the spiking ResNet-20, per image
LOSS = 0.5  # points at which spikes are compared
_FEWEST = 10  # thousand spikes, below which nothing is recognized
_FLOOR = 0.01  # points, the bottom of the figure


@dataclass(frozen=True)
class Point:
    """One method at one T.

    Attributes:
        name: of the recipe, or of the peer.
        kind: of our neuron; empty for peers.
        t: T.
        loss: points, mean over calibration seeds.
        error: its standard error, points; ours paired with the ANN, a peer's paired where its file
            says which images were right.
        spikes: thousand per image.
        n: test images.
        curve: part of a curve over T.
        right: which test images were right, in the order of the test set, one per calibration
            seed; empty where the files do not say, or not of all images.
    """

    name: str
    kind: str
    t: int
    loss: float
    error: float
    spikes: float
    n: int
    curve: bool
    right: tuple[Flags, ...] = field(default=(), repr=False)

    @property
    def ours(self) -> bool:
        """Whether it is one of ours."""
        return bool(self.kind)


def peers(records: list[Record]) -> list[Point]:
    """All peers at every T; of two runs that have the same T, the one on more images."""
    runs = sorted(
        ((entry["contestant"].replace(":", "-"), entry) for entry in entries(records)),
        key=lambda run: run[0],
    )
    analog = next((entry for name, entry in runs if name == ANALOG), None)
    if analog is None:
        raise SystemExit(
            "no record of the analog network: run benchmarks.peers.curves --contestants ann."
        )
    found: dict[tuple[str, int], Point] = {}
    for name, entry in runs:
        if name == ANALOG:
            continue
        for point in _of_peer(name, entry, analog):
            key = (point.name, point.t)
            before = found.get(key)
            if before is None or (before.n, len(before.right)) < (point.n, len(point.right)):
                found[key] = point
    return list(found.values())


def _of_peer(name: str, entry: Record, analog: Record) -> list[Point]:
    n, found = entry["n"], []
    # On the same images: a peer that has not run all parts is compared on those it has.
    asked, whole = entry["asked"], analog["asked"]
    partly = min(n, analog["n"]) < asked["images"]
    if asked["images"] != whole["images"] or (partly and asked["batch"] != whole["batch"]):
        raise SystemExit(
            f"{name}: its images are not those of the ANN. Run both with one --images and --batch."
        )
    parts = [analog["parts"][part]["right"] for part in entry["parts"]]
    right = sum(next(iter(part.values())) for part in parts) / n
    method, made_for = _made_for(name)
    own = which_right(analog, next(iter(analog["accuracy"])))
    for t, share in entry["accuracy"].items():
        if made_for not in (None, int(t)):
            continue
        flags = which_right(entry, t)
        # Where the file holds sums only it is not paired, which is too wide: few images change.
        error = math.sqrt(max(share * (1 - share), 1e-9) / n)
        if flags and own:
            error = paired.paired_error(flags[0], own[0])
        losses, thousands = 100 * (right - share), entry["spikes_per_image"][t] / 1000
        found.append(Point(method, "", int(t), losses, 100 * error, thousands, n, True, flags))
    return found


def which_right(entry: Record, t: str) -> tuple[Flags, ...]:
    """Which test images a peer got right at t, in the order of the test set, if it ran them all."""
    parts, asked = entry["parts"], entry["asked"]
    if entry["n"] != asked["images"] or not all("which" in part for part in parts.values()):
        return ()
    # The draw of the worker: all images in a random order, batch b in part b mod the parts.
    order = np.random.RandomState(TEST_SEED).permutation(entry["n"])
    number = np.arange(entry["n"]) // asked["batch"] % len(parts)
    flags = np.zeros(entry["n"], bool)
    for part, found in parts.items():
        flags[order[number == part]] = paired.unpacked(found["which"][t], found["n"])
    return (flags,)


def _made_for(name: str) -> tuple[str, int | None]:
    """A peer's method, and the T of this conversion where it is made for one."""
    found = re.fullmatch(r"(snn-calibration-(?:light|advanced))(\d+)", name)
    return (found[1], int(found[2])) if found else (name, None)


def ours(records: list[Record], calibration_images: int) -> list[Point]:
    """Every recipe that was measured: at its T, or at all if it does not depend on T."""
    by_recipe: dict[tp.Recipe, list[Record]] = defaultdict(list)
    for record in records:
        asked = record["asked"]
        same = asked["calibration_images"] == calibration_images and not asked.get("varied")
        if record["pooling"] == "max" and same:
            by_recipe[tp.Recipe.from_dict({**record["recipe"], "found": {}})].append(record)
    alike = Counter((recipe.name, recipe.timesteps) for recipe in by_recipe)
    found = []
    for recipe, seeds in by_recipe.items():
        curve = not rows.needs_timesteps(recipe)
        points = curve_points(recipe.timesteps) if curve else [recipe.timesteps]
        name = recipe.name
        if alike[name, recipe.timesteps] > 1:
            name += f", start {recipe.neuron.initial_membrane:g}"
        found += [_point(name, recipe, seeds, t, curve) for t in points]
    return found


def _point(name: str, recipe: tp.Recipe, entries: list[Record], t: int, curve: bool) -> Point:
    losses, errors, spikes = [], [], []
    for entry in entries:
        e = entry["evaluation"]
        low, high = e["loss_interval"][t - 1]
        losses.append(100 * e["loss"][t - 1])
        errors.append(100 * (high - low) / 2 / Z95)
        spikes.append(e["spikes_per_neuron"][t - 1] * NEURONS / 1000)
    n = entries[0]["evaluation"]["samples"]
    right: tuple[Flags, ...] = ()
    whole = all("right" in e and e["asked"]["test_draw"] == "all" for e in entries)
    if t == recipe.timesteps and whole:
        right = tuple(paired.unpacked(entry["right"], n) for entry in entries)
    loss, error, thousands = (statistics.fmean(values) for values in (losses, errors, spikes))
    kind = re.split(r" K=|,| L=", recipe.neuron.name)[0]
    return Point(name, kind, t, loss, error, thousands, n, curve, right)


def front(points: Iterable[Point]) -> list[Point]:
    """Points that no other beats in loss with at most its spikes, by spikes."""
    best, kept = math.inf, []
    for point in sorted(points, key=lambda p: (p.spikes, p.loss)):
        if point.loss < best:
            best = point.loss
            kept.append(point)
    return kept


def mixed(points: list[Point], spikes: float) -> float:
    """Least loss of ours at a mean of `spikes`: one of two settings drawn at random per image."""
    kept = front(points)
    best = min((p.loss for p in kept if p.spikes <= spikes), default=math.inf)
    for few in kept:
        for many in kept:
            if few.spikes <= spikes < many.spikes:
                share = (spikes - few.spikes) / (many.spikes - few.spikes)
                best = min(best, few.loss + share * (many.loss - few.loss))
    return best


@dataclass(frozen=True)
class Meeting:
    """A peer's point and the best of ours with at most its spikes.

    Attributes:
        peer: the peer's point.
        mine: ours.
        error: standard error of the difference of the losses, points.
        paired: over the same images; else from the two errors, as if they were independent.
        mixed: least loss of a mix of two of our settings with the peer's spikes, points.
    """

    peer: Point
    mine: Point
    error: float
    paired: bool
    mixed: float

    @property
    def behind(self) -> float:
        """Points by which ours loses more."""
        return self.mine.loss - self.peer.loss


def meetings(points: list[Point]) -> list[Meeting]:
    """Every point of the peers against ours, but for those with fewer spikes than all of ours."""
    mine = [p for p in points if p.ours]
    found = []
    for peer in (p for p in points if not p.ours):
        cheaper = [p for p in mine if p.spikes <= peer.spikes]
        if not cheaper:
            continue
        best = min(cheaper, key=lambda p: p.loss)
        same = bool(peer.right and best.right)
        error = math.hypot(peer.error, best.error)
        if same:
            pairs = [paired.paired_error(one, peer.right[0]) for one in best.right]
            error = 100 * statistics.fmean(pairs)
        found.append(Meeting(peer, best, error, same, mixed(mine, peer.spikes)))
    return found


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


_PEERS = {"spikingjelly": "#d62728", "braincog": "#ff7f0e", "snn-calibration": "#9467bd"}
_KINDS = (
    ("IF", "#9ecae1"),
    ("burst", "#6baed6"),
    ("multi-threshold", "#4292c6"),
    ("signed", "#74c476"),
    ("signed burst", "#238b45"),
    ("differential", "#969696"),
    ("refining", "#08519c"),
    ("staggered", "#000000"),
)
_SHRINKING = ("refining", "staggered")
_DASHES = ("-", "--", "-.", ":")


def draw(points: list[Point], file: Path) -> None:
    """Ours by neuron, a color each; peers by library, a line style for each setting."""
    figure, axes = plt.subplots(figsize=(11, 8), layout="constrained")
    for kind, color in _KINDS:
        mine = [p for p in points if p.kind == kind]
        for index, name in enumerate(sorted({p.name for p in mine})):
            series = sorted((p for p in mine if p.name == name), key=lambda p: p.spikes)
            line = "-" if series[0].curve else "none"
            label = f"transpike: {kind}" if index == 0 else None
            _plot(axes, series, color=color, linestyle=line, marker="o", linewidth=1, label=label)
    for library, color in _PEERS.items():
        own = [p for p in points if p.name.startswith(library)]
        for name, dash in zip(sorted({p.name for p in own}), cycle(_DASHES), strict=False):
            series = sorted((p for p in own if p.name == name), key=lambda p: p.spikes)
            style = {"color": color, "linestyle": dash, "marker": "s", "linewidth": 1.2}
            _plot(axes, series, label=name, **style)
    best = front(p for p in points if p.ours)
    steps = ([p.spikes for p in best], [max(p.loss, _FLOOR) for p in best])
    axes.step(*steps, where="post", color="black", linewidth=0.8, label="transpike: front")
    axes.axhline(LOSS, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(_FEWEST, None), ylim=(_FLOOR, 100))
    axes.set_xlabel("thousand spikes per image (counts of n as n)")
    axes.set_ylabel(f"loss against the ANN, points ({_FLOOR} and less at the bottom)")
    axes.set_title("ResNet-20 on CIFAR-10: accuracy against spikes")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(file)
    figure.savefig(file.with_suffix(".png"), dpi=110)


def _plot(axes: Any, series: list[Point], **style: Any) -> None:
    losses = [max(p.loss, _FLOOR) for p in series]
    axes.plot([p.spikes for p in series], losses, markersize=5, **style)


def document(points: list[Point]) -> str:
    """The tables."""
    most = max(p.n for p in points if p.ours)
    fewer = sorted({(p.name, p.n, p.t) for p in points if not p.ours and p.n < most})
    partly = "; ".join(
        f"{name} at T = {', '.join(str(t) for *key, t in fewer if key == [name, n])} on {n} of them"
        for name, n in sorted({(name, n) for name, n, _ in fewer})
    )
    lines = [
        "# Accuracy against spikes per image: ResNet-20 on CIFAR-10",
        "",
        f"n = {most} test images, ours and the peers'"
        + (f"; {partly}" if partly else "")
        + ". Loss in points against the ANN on the same images, ours the mean over calibration "
        "seeds. Errors: ours paired; a peer's paired where it is known which images it got right.",
        "",
        *_front_table(points),
        *_meeting_table(meetings(points)),
        *_half_table(points),
    ]
    return "\n".join([*lines, ""])


def _shown(point: Point) -> str:
    return ("transpike: " if point.ours else "") + point.name


def _front_table(points: list[Point]) -> list[str]:
    lines = [
        "## Front",
        "",
        "| method | T | loss | s.e. | thousand spikes |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {_shown(p)} | {p.t} | {p.loss:.2f} | {p.error:.2f} | {p.spikes:.0f} |"
        for p in front(points)
    ]
    return [*lines, ""]


def _meeting_table(found: list[Meeting]) -> list[str]:
    """Where a peer is ahead of all of ours that have at most its spikes."""
    ahead = sorted((m for m in found if m.behind > 0), key=lambda m: m.peer.spikes)
    lines = [
        "## Where a peer is ahead",
        "",
        f"Of {len(found)} points of peers {len(ahead)} lose less than all of ours with at most "
        "their spikes. Mixed: loss of ours with the peer's spikes, one of two settings drawn at "
        "random for every image.",
        "",
    ]
    if not ahead:
        return lines
    lines += [
        "| peer | T | thousand spikes | loss | ours, T, thousand spikes | behind | s.e. | mixed |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for m in ahead:
        kind = "paired" if m.paired else "not paired"
        mine = f"{m.mine.name}, {m.mine.t}, {m.mine.spikes:.0f}"
        lines.append(
            f"| {m.peer.name} | {m.peer.t} | {m.peer.spikes:.0f} | {m.peer.loss:.2f} | {mine} | "
            f"{m.behind:.2f} | {m.error:.2f}, {kind} | {m.mixed:.2f} |"
        )
    return [*lines, ""]


def _half_table(points: list[Point]) -> list[str]:
    reached = least_spikes(points, LOSS)
    mine = {p.name for p in points if p.ours}
    lines = [f"## Spikes at a loss of {LOSS} points", ""]
    lines += ["| method | T | thousand spikes |", "|---|---|---|"]
    for name, (t, spikes) in sorted(reached.items(), key=lambda item: item[1][1]):
        shown = ("transpike: " if name in mine else "") + name
        lines.append(f"| {shown} | {t:.1f} | {spikes:.0f} |")
    missing = sorted({p.name for p in points if not p.ours} - set(reached))
    if missing:
        lines += ["", "Not reached within the T measured: " + ", ".join(missing) + "."]
    return [*lines, "", *_ratios(points, reached)]


def _ratios(points: list[Point], reached: dict[str, tuple[float, float]]) -> list[str]:
    """The fewest spikes of the peers over ours, with and without steps that shrink."""
    groups = {
        "peers": {p.name for p in points if not p.ours},
        "ours": {p.name for p in points if p.ours},
        "steady": {p.name for p in points if p.ours and p.kind not in _SHRINKING},
    }
    least = {
        group: min((spikes for name, (_, spikes) in reached.items() if name in names), default=None)
        for group, names in groups.items()
    }
    if least["peers"] is None or least["ours"] is None:
        return []
    text = (
        f"The best peer takes {least['peers']:.0f} thousand, {least['peers'] / least['ours']:.2f} "
        f"times our fewest, {least['ours']:.0f} thousand."
    )
    if least["steady"] == least["ours"]:
        return [text]
    text += (
        " There the step shrinks with time: hardware has to shift membranes between timesteps or "
        "weigh spikes by their time."
    )
    if least["steady"] is not None:
        text += (
            f" With steps that stay, ours takes {least['steady']:.0f} thousand: the best peer "
            f"takes {least['peers'] / least['steady']:.2f} times as many."
        )
    return [text]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--methods", type=Path, default=Path("results/methods/resnet20.jsonl"))
    parser.add_argument("--calibration-size", type=int, default=1024, help="of our methods")
    parser.add_argument("--peers", type=Path, default=Path("results/peers.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("results/spikes.svg"))
    args = parser.parse_args()
    mine = ours(Records(args.methods).all(), args.calibration_size)
    points = mine + peers(Records(args.peers).all())
    draw(points, args.output)
    args.output.with_suffix(".md").write_text(document(points))


if __name__ == "__main__":
    main()

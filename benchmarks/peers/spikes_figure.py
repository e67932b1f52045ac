"""Who needs the fewest spikes for an accuracy, transpike or its peers?

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
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt

from benchmarks.peers.points import Meeting, Point, front, least_spikes, meetings, ours, peers
from transpike.study.records import Records

LOSS = 0.5  # percentage points, the loss at which spikes are compared
_FEWEST = 10  # thousand spikes, the left edge of the figure; below it nothing is recognized
_FLOOR = 0.01  # percentage points, the bottom of the figure

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
    """Draw transpike with one color per neuron, and peers with one line style per setting."""
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
    axes.step(*steps, where="post", color="black", linewidth=0.8, label="transpike: best settings")
    axes.axhline(LOSS, color="gray", linewidth=0.8, linestyle=":")
    axes.set(xscale="log", yscale="log", xlim=(_FEWEST, None), ylim=(_FLOOR, 100))
    axes.set_xlabel("thousand spikes per image (a count of n is n spikes)")
    axes.set_ylabel(f"loss against the ANN in percentage points ({_FLOOR} or less at the bottom)")
    axes.set_title("ResNet-20 on CIFAR-10: accuracy against spikes")
    axes.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside lower center", ncols=3)
    figure.savefig(file)
    figure.savefig(file.with_suffix(".png"), dpi=110)


def _plot(axes: Any, series: list[Point], **style: Any) -> None:
    losses = [max(p.loss, _FLOOR) for p in series]
    axes.plot([p.spikes for p in series], losses, markersize=5, **style)


def document(points: list[Point]) -> str:
    """The page with all tables."""
    most = max(p.n for p in points if p.ours)
    lines = [
        "# Accuracy against spikes per image: ResNet-20 on CIFAR-10",
        "",
        f"transpike and its peers are measured on the same n = {most} test images.{_fewer(points)} "
        "The loss is in percentage points, against the ANN on the same images. For transpike it is "
        "the mean over the calibration seeds. Standard errors (s.e.) are paired over the images, "
        "but for peers only if their records say which images were right.",
        "",
        *_front_table(points),
        *_meeting_table(meetings(points)),
        *_loss_table(points),
    ]
    return "\n".join([*lines, ""])


def _fewer(points: list[Point]) -> str:
    """A sentence about the peers that ran on fewer images than transpike."""
    most = max(p.n for p in points if p.ours)
    fewer: dict[tuple[str, int], list[int]] = {}
    for point in points:
        if not point.ours and point.n < most:
            fewer.setdefault((point.name, point.n), []).append(point.t)
    if not fewer:
        return ""
    runs = [
        f"{name} at T = {', '.join(map(str, sorted(at)))} on {n} of them"
        for (name, n), at in sorted(fewer.items())
    ]
    return f" Some peers ran on fewer: {'; '.join(runs)}."


def _shown(point: Point) -> str:
    return ("transpike: " if point.ours else "") + point.name


def _front_table(points: list[Point]) -> list[str]:
    lines = [
        "## The best settings",
        "",
        "No other setting is more accurate with the same or fewer spikes.",
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
    """The peers that are more accurate than transpike with the same or fewer spikes."""
    ahead = sorted((m for m in found if m.behind > 0), key=lambda m: m.peer.spikes)
    lines = [
        "## Where a peer is ahead",
        "",
        f"At {len(ahead)} of {len(found)} peer settings, no transpike setting with the same or "
        "fewer spikes is as accurate.",
        "",
    ]
    if not ahead:
        return lines
    lines += [
        'The column "behind" says by how many percentage points the best of these transpike '
        'settings loses more than the peer. The column "mixed" is the loss of transpike at the '
        "peer's number of spikes, if one of two settings is drawn at random for every image.",
        "",
        "| peer | T | thousand spikes | loss | transpike: setting, T, thousand spikes | behind | "
        "s.e. | mixed |",
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


def _loss_table(points: list[Point]) -> list[str]:
    reached = least_spikes(points, LOSS)
    mine = {p.name for p in points if p.ours}
    lines = [
        f"## Spikes for a loss of {LOSS} percentage points",
        "",
        "Between two T of a curve, T and spikes are interpolated.",
        "",
    ]
    lines += ["| method | T | thousand spikes |", "|---|---|---|"]
    for name, (t, spikes) in sorted(reached.items(), key=lambda item: item[1][1]):
        shown = ("transpike: " if name in mine else "") + name
        lines.append(f"| {shown} | {t:.1f} | {spikes:.0f} |")
    missing = sorted({p.name for p in points if not p.ours} - set(reached))
    if missing:
        lines += ["", "These peers do not reach it at any T measured: " + ", ".join(missing) + "."]
    return [*lines, "", *_ratios(points, reached)]


def _ratios(points: list[Point], reached: dict[str, tuple[float, float]]) -> list[str]:
    """How many times more spikes the peers need, with and without steps that shrink."""
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
        f"The best peer needs {least['peers']:.0f} thousand spikes, "
        f"{least['peers'] / least['ours']:.2f} times as many as the best transpike setting, which "
        f"needs {least['ours']:.0f} thousand."
    )
    if least["steady"] == least["ours"]:
        return [text]
    text += (
        " In that setting the step shrinks with time, so hardware has to shift membranes between "
        "timesteps or weigh spikes by their time."
    )
    if least["steady"] is not None:
        text += (
            f" With steps of constant size, transpike needs {least['steady']:.0f} thousand spikes, "
            f"and the best peer needs {least['peers'] / least['steady']:.2f} times as many."
        )
    return [text]


def main() -> None:
    """Draw the figure and write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--methods", type=Path, default=Path("results/methods/resnet20.jsonl"))
    parser.add_argument(
        "--calibration-size",
        type=int,
        default=1024,
        help="calibration images of transpike's methods",
    )
    parser.add_argument("--peers", type=Path, default=Path("results/peers.jsonl"))
    parser.add_argument("--output", type=Path, default=Path("results/spikes.svg"))
    args = parser.parse_args()
    mine = ours(Records(args.methods).all(), args.calibration_size)
    points = mine + peers(Records(args.peers).all())
    draw(points, args.output)
    args.output.with_suffix(".md").write_text(document(points))


if __name__ == "__main__":
    main()

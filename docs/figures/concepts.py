"""Draws the figures of docs/concepts.md into docs/images, for light and dark pages.

    python docs/figures/concepts.py

The staircases come from the library, the curves from results/resnet20_curves.md, and the neurons
over time from the equations that the page gives.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib as mpl
import numpy as np
import torch
from curves import ann_accuracy, curve, read_curves
from matplotlib.figure import Figure
from torch import nn

import transpike as tp

IMAGES = Path(__file__).resolve().parent.parent / "images"
BLUE, ORANGE, GREEN, RED = "#4c78d8", "#e8833a", "#2ca25f", "#d6455d"
THEMES = {
    "light": {"ink": "#30343f", "grid": "#d9dce5"},
    "dark": {"ink": "#d5d8e2", "grid": "#454a5c"},
}
VALUE, THRESHOLD = 0.375, 1.0  # of the neuron in the first figure


def fired(currents: Sequence[float], signed: bool = False) -> tuple[list[float], list[int]]:
    """Membrane before firing, and count, of a neuron with threshold 1 at every timestep."""
    membrane, total, membranes, counts = 0.5, 0, [], []
    for current in currents:
        membrane += current
        membranes.append(membrane)
        count = int(membrane >= THRESHOLD)
        if signed and membrane < 0 and total > 0:
            count = -1
        membrane -= count * THRESHOLD
        total += count
        counts.append(count)
    return membranes, counts


def neuron_over_time(figure: Figure, ink: str) -> None:
    """One neuron with a constant current: its membrane, its spikes, and their mean."""
    timesteps = np.arange(1, 17)
    membranes, counts = fired([VALUE] * len(timesteps))
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=[3, 1, 2.4])
    top.plot(timesteps, membranes, "o-", color=BLUE, markersize=4)
    top.axhline(THRESHOLD, color=RED, linestyle="--", linewidth=1.2)
    top.annotate("threshold", (16.4, THRESHOLD + 0.03), color=RED)
    top.set(ylabel="membrane", xlim=(0.5, 18.7), ylim=(0, 1.45))
    middle.vlines(timesteps[np.array(counts) == 1], 0, 1, color=ORANGE, linewidth=3)
    middle.set(ylabel="spikes", yticks=[], ylim=(0, 1.2))
    bottom.plot(timesteps, np.cumsum(counts) / timesteps, "o-", color=ORANGE, markersize=4)
    bottom.axhline(VALUE, color=ink, linestyle="--", linewidth=1.2)
    bottom.annotate("activation", (16.4, VALUE + 0.02), color=ink)
    bottom.set(ylabel="mean so far", xlabel="timestep", xticks=timesteps, ylim=(0, 0.7))


def staircase(figure: Figure, ink: str) -> None:
    """Mean output of one neuron against its input, beside the ReLU it stands for."""
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1))
    with torch.no_grad():
        for layer in (model[0], model[2]):
            layer.weight.fill_(1)
            layer.bias.fill_(0)
    snn = tp.convert(model, [torch.linspace(0, 1, 101)[:, None]], threshold=tp.MaxAbs())
    inputs = torch.linspace(-0.2, 1.4, 1601)[:, None]
    run = tp.simulate(snn, inputs, timesteps=16)
    for axes, t in zip(figure.subplots(1, 2, sharey=True), (4, 16), strict=True):
        axes.plot(inputs, inputs.clamp(min=0), color=ink, linestyle="--", linewidth=1.2)
        axes.plot(inputs, run.output[t - 1].numpy(), color=BLUE, linewidth=2)
        axes.axvline(THRESHOLD, color=RED, linestyle=":", linewidth=1.2)
        axes.annotate("threshold ", (THRESHOLD, 0.02), color=RED, ha="right")
        axes.annotate("ReLU", (0.92, 1.15), color=ink, ha="right")
        axes.set(title=f"T = {t}: {t} levels", xlabel="activation", ylim=(-0.08, 1.4))
    figure.axes[0].set_ylabel("mean output")


def uneven(figure: Figure, ink: str) -> None:
    """An input that comes too early and is taken back: both kinds of neuron."""
    currents = [0.9, 0.8, 0.7, 0.2, -0.5, -0.6, -0.7, -0.4]
    timesteps = np.arange(1, len(currents) + 1)
    grid = figure.subplots(2, 2, sharex=True, sharey="row", height_ratios=[1, 1.4])
    for (above, below), signed in zip(grid.T, (False, True), strict=True):
        _, counts = fired(currents, signed)
        colors = [ORANGE if count > 0 else GREEN for count in counts]
        above.bar(timesteps, counts, 0.35, color=colors)
        above.axhline(0, color=ink, linewidth=0.8)
        above.set_title("signed" if signed else "integrate-and-fire")
        above.set(ylim=(-1.3, 1.3), yticks=[-1, 0, 1])
        below.plot(timesteps, np.cumsum(currents), "--", color=ink, linewidth=1.2)
        below.plot(timesteps, np.cumsum(counts), "o-", color=BLUE, markersize=4)
        below.set(xlabel="timestep", xticks=timesteps)
    grid[1, 0].annotate("what has come", (5.6, 1.95), color=ink)
    grid[1, 0].annotate("what was sent", (8, 3.1), color=BLUE, ha="right")
    grid[0, 0].set_ylabel("count")
    grid[1, 0].set(ylabel="sum so far", ylim=(0, 3.6))


def accuracy(figure: Figure, ink: str) -> None:
    """Accuracy of two conversions of a ResNet-20 beside the network and its quantized form."""
    curves = read_curves()
    axes = figure.subplots()
    axes.axhline(ann_accuracy(), color=ink, linestyle="--", linewidth=1.2)
    axes.annotate("original network", (1, ann_accuracy() + 1.2), color=ink)
    for label, setting, color in (
        ("signed", "signed1_channel", BLUE),
        ("integrate-and-fire", "if_channel", ORANGE),
    ):
        axes.plot(*curve(curves, setting), "o-", color=color, label=label)
    axes.plot(
        *curve(curves, "signed1_channel", "quantized"),
        linestyle="none",
        marker="o",
        fillstyle="none",
        markersize=9,
        color=ink,
        label="quantized ANN",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32, 64])
    axes.set(xlabel="timesteps", ylabel="accuracy, %", ylim=(0, 100))
    axes.legend(frameon=False, loc="lower right", labelcolor=ink)


def save(name: str, size: tuple[float, float], draw: Callable[[Figure, str], None]) -> None:
    """Draws one figure for every theme."""
    for theme, colors in THEMES.items():
        ink = colors["ink"]
        style = {
            "font.size": 11,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "grid.color": colors["grid"],
            "svg.hashsalt": name,
            **dict.fromkeys(
                ("text.color", "axes.labelcolor", "xtick.color", "ytick.color", "axes.edgecolor"),
                ink,
            ),
        }
        with mpl.rc_context(style):
            figure = Figure(figsize=size, layout="constrained")
            draw(figure, ink)
            figure.savefig(
                IMAGES / f"{name}-{theme}.svg", transparent=True, metadata={"Date": None}
            )


def main() -> None:
    """Draws all figures."""
    IMAGES.mkdir(exist_ok=True)
    save("neuron", (7, 4.6), neuron_over_time)
    save("staircase", (7.6, 3.4), staircase)
    save("uneven", (7.6, 4.2), uneven)
    save("accuracy", (7, 4), accuracy)


if __name__ == "__main__":
    main()

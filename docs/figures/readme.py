"""Draws the picture of README.md, docs/images/readme.png.

    python docs/figures/readme.py --data lucchi:PATH

Left: curves of results/resnet20_curves.md. Right: a part of a test slice that the shipped U-Net
segments. PATH is a folder with the Lucchi++ data set, which its authors publish; it is not shipped.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from curves import ann_accuracy, curve, read_curves
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

import transpike as tp
from transpike.data import VolumeDataset, open_volumes
from transpike.zoo.models import build_model

ROOT = Path(__file__).resolve().parents[2]
BLUE, ORANGE, GRAY = "#3b66c4", "#e07a2f", "#555a66"
TILE, CALIBRATION_TILES, TIMESTEPS = 256, 32, 8
CURVES = (
    ("signed, K = 4", "signed4_channel", "#2a9d5c"),
    ("signed, K = 1", "signed1_channel", BLUE),
    ("integrate-and-fire, K = 1", "if_channel", ORANGE),
)


def draw_curves(axes: Axes) -> None:
    """Accuracy against timesteps of a ResNet-20 on CIFAR-10."""
    curves = read_curves()
    axes.axhline(ann_accuracy(), color=GRAY, linestyle="--", linewidth=1.2)
    axes.annotate(f"original network, {ann_accuracy()} %", (1, ann_accuracy() + 1.5))
    for label, setting, color in CURVES:
        axes.plot(*curve(curves, setting), "o-", color=color, label=label, linewidth=2)
    axes.set_xscale("log", base=2)
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64], [1, 2, 4, 8, 16, 32, 64])
    axes.set(xlabel="timesteps", ylabel="accuracy, %", ylim=(0, 100))
    axes.set_title("ResNet-20 on CIFAR-10, 1,000 test images", fontsize=11)
    axes.legend(frameon=False, loc="lower right")
    axes.grid(color="#e3e5ec")
    axes.set_axisbelow(True)


def masks(data: VolumeDataset, index: int) -> tuple[dict[str, Tensor], str]:
    """One test tile, its label, and the masks of both networks; with their agreement."""
    model = build_model("unet:16", weights=ROOT / "zoo" / "unet-lucchi-w16.safetensors")
    training = data.train.subset(CALIBRATION_TILES, seed=0)
    snn = tp.convert(model, training.batches(8), neuron=tp.Signed(1))
    ((x, label),) = data.test.batches(1, [index])
    with torch.inference_mode():
        analog = model(x)[0, 0] > 0
    spiking = tp.simulate(snn, x, timesteps=TIMESTEPS).output[-1, 0, 0] > 0
    agreement = (analog == spiking).float().mean().item()
    pictures = {
        "slice": x[0, 0],
        "label": label[0, 0],
        "original network": analog,
        f"spiking, T = {TIMESTEPS}, K = 1": spiking,
    }
    return pictures, f"Both networks' masks agree in {100 * agreement:.1f} % of these pixels."


def main() -> None:
    """Draws the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="lucchi:PATH")
    parser.add_argument("--tile", type=int, default=5, help="which tile of the test slices")
    args = parser.parse_args()
    data = open_volumes(f"{args.data}?tile={TILE}")
    figure = Figure(figsize=(12, 4.9), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.28, 1])
    draw_curves(left.subplots())
    pictures, caption = masks(data, args.tile)
    for axes, (title, picture) in zip(right.subplots(2, 2).flat, pictures.items(), strict=True):
        axes.imshow(picture.numpy(), cmap="gray")
        axes.set_title(title, fontsize=11)
        axes.axis("off")
    right.supxlabel(caption, fontsize=10)
    figure.savefig(ROOT / "docs" / "images" / "readme.png", dpi=110)


if __name__ == "__main__":
    main()

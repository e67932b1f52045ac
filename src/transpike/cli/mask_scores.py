"""Scores of the masks of a dense network at every timestep, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import transpike as tp
from transpike.errors import missing_package

# The rule by which `evaluate` predicts.
from transpike.graph.outputs import cut_of
from transpike.measure.evaluate import curve_points

_CLASSES = 2  # of a binary mask


class MaskScores:
    """A metric for `evaluate`: F1, Jaccard index and number of positive pixels of binary masks.

    Args:
        network: a network whose output has one channel of logits or probabilities, or two
            channels.

    Raises:
        ArgumentError: torchmetrics is not installed.
    """

    def __init__(self, network: tp.Network) -> None:
        try:
            from torchmetrics.classification import BinaryF1Score, BinaryJaccardIndex
        except ImportError as error:
            raise missing_package("torchmetrics") from error
        self.cut = cut_of(network)
        # The masks are made by the rule of `evaluate`. torchmetrics has another rule: it takes all
        # outputs for probabilities that happen to lie in 0..1.
        self.f1 = BinaryF1Score(validate_args=False).to(network.device)
        self.jaccard = BinaryJaccardIndex(validate_args=False).to(network.device)
        self.positive = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Counts outputs (B, H, W) or (B, 2, H, W) against true masks (B, H, W).

        Raises:
            ArgumentError: there are more than two channels.
        """
        one_channel = preds.ndim == target.ndim
        if not one_channel and preds.shape[1] > _CLASSES:
            raise tp.ArgumentError(
                f"masks: needed an output of one or two channels, got {preds.shape[1]}. Use "
                "transpike.evaluate with a metric of your own for more classes."
            )
        mask = (preds > self.cut) if one_channel else preds.argmax(dim=1) > 0
        self.f1.update(mask.int(), target.int())
        self.jaccard.update(mask.int(), target.int())
        self.positive += int(mask.sum())

    def compute(self) -> dict[str, Any]:
        """F1, Jaccard index, and number of pixels in the masks."""
        with torch.inference_mode():
            f1, jaccard = float(self.f1.compute()), float(self.jaccard.compute())
        return {"f1": f1, "jaccard": jaccard, "positive": self.positive}


def against_ann(result: tp.Evaluation) -> list[dict[str, float]]:
    """Compares the masks of the spiking network with those of the analog network, at every t.

    If the masks have S and A pixels and differ in D pixels, then they share (S + A - D) / 2 pixels.

    Args:
        result: an evaluation with `MaskScores` as its metric.

    Returns:
        F1 and Jaccard index for every timestep. Both are 0 if both masks are empty.
    """
    assert result.metric is not None
    scores = []
    for value, agreement in zip(result.metric, result.agreement, strict=True):
        sizes = value["positive"] + result.ann_metric["positive"]
        differing = round((1 - agreement) * result.n)
        both = (sizes - differing) // 2
        scores.append({"f1": 2 * both / max(1, sizes), "jaccard": both / max(1, sizes - both)})
    return scores


def mask_table(result: tp.Evaluation, agreement: Sequence[dict[str, float]]) -> str:
    """Scores of the masks at t = 1, 2, 4, ... and T, as text.

    Args:
        result: an evaluation with `MaskScores` as its metric.
        agreement: from `against_ann`.
    """
    assert result.metric is not None
    ann = result.ann_metric
    lines = [
        f"masks of {result.samples} tiles or slices, {result.n} pixels",
        f"{'t':>4} {'F1':>7} {'Jaccard':>8} {'pixels %':>9}   against the ANN's: {'F1':>7} "
        f"{'Jaccard':>8} {'pixels %':>9}",
        f"{'ANN':>4} {ann['f1']:7.4f} {ann['jaccard']:8.4f} {100 * result.ann_accuracy:9.2f}",
    ]
    for t in curve_points(result.timesteps, result.first_output):
        own, other = result.metric[t - 1], agreement[t - 1]
        lines.append(
            f"{t:>4} {own['f1']:7.4f} {own['jaccard']:8.4f} {100 * result.accuracy[t - 1]:9.2f}"
            f"   {'':19}{other['f1']:7.4f} {other['jaccard']:8.4f} "
            f"{100 * result.agreement[t - 1]:9.2f}"
        )
    return "\n".join(lines)

"""How well the spiking network predicts at the T whose cost is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.graph.network import Network


@dataclass(frozen=True)
class Quality:
    """Predictions of the spiking and the analog network on the samples whose cost was measured.

    Attributes:
        predictions: number of predictions; for dense prediction every pixel counts.
        agreement: fraction of predictions in which both networks agree.
        snn_accuracy: fraction that the spiking network predicts right after T timesteps; None
            where a batch has no class labels.
        ann_accuracy: the same for the analog network.
    """

    predictions: int
    agreement: float
    snn_accuracy: float | None
    ann_accuracy: float | None

    def __str__(self) -> str:
        """One sentence."""
        same = f"the networks agree in {100 * self.agreement:.2f} %"
        if self.snn_accuracy is None or self.ann_accuracy is None:
            return f"{same} of {self.predictions:,} predictions (no labels given)"
        return (
            f"accuracy: SNN {100 * self.snn_accuracy:.2f} %, ANN {100 * self.ann_accuracy:.2f} % "
            f"of {self.predictions:,} predictions; {same}"
        )


class QualityTally:
    """Sums of right and equal predictions over batches."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.labeled = self.classifies = True
        self.predictions = self.equal = self.snn_right = self.ann_right = 0

    def add(self, x: Tensor, labels: Any, output: Any) -> None:
        """Add samples.

        Args:
            x: input (B, ...).
            labels: class indices (B, ...), or None.
            output: of the spiking network at T alone, (1, B, C, ...).
        """
        if not isinstance(output, Tensor) or output.ndim < 3 or output.shape[2] < 2:
            self.classifies = False  # nothing to take the largest class of
            return
        with torch.inference_mode():
            snn, ann = output[0].argmax(dim=1), self.network(x).argmax(dim=1)
        self.predictions += snn.numel()
        self.equal += int((snn == ann).sum())
        if not _are_classes(labels, snn, output.shape[2]):
            self.labeled = False
            return
        labels = labels.to(snn.device)
        self.snn_right += int((snn == labels).sum())
        self.ann_right += int((ann == labels).sum())

    def result(self) -> Quality | None:
        """What was found; None where the output holds no classes."""
        if not self.classifies or not self.predictions:
            return None
        n = self.predictions
        right = (self.snn_right / n, self.ann_right / n) if self.labeled else (None, None)
        return Quality(n, self.equal / n, *right)


def _are_classes(labels: Any, guess: Tensor, classes: int) -> bool:
    if not isinstance(labels, Tensor) or labels.is_floating_point() or labels.is_complex():
        return False
    return labels.shape == guess.shape and bool(((labels >= 0) & (labels < classes)).all())

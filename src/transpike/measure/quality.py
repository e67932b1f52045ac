"""How well the spiking network predicts at the T whose cost is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from transpike.graph.network import Network
from transpike.graph.outputs import cut_of, prediction
from transpike.measure.targets import as_indices, target_problem, without_channel


@dataclass(frozen=True)
class Quality:
    """Predictions of the spiking and the analog network on the samples whose cost was measured.

    Attributes:
        predictions: number of predictions; for dense prediction every pixel counts.
        agreement: fraction of predictions in which both networks agree.
        snn_accuracy: fraction of correct predictions of the spiking network after T timesteps;
            None where a batch has no class labels.
        ann_accuracy: the same for the analog network.
        unlabeled: why there is no accuracy, or None.
    """

    predictions: int
    agreement: float
    snn_accuracy: float | None
    ann_accuracy: float | None
    unlabeled: str | None = None

    def __str__(self) -> str:
        """One sentence."""
        same = f"the networks agree in {100 * self.agreement:.2f} %"
        if self.snn_accuracy is None or self.ann_accuracy is None:
            return f"{same} of {self.predictions:,} predictions ({self.unlabeled})"
        return (
            f"accuracy: SNN {100 * self.snn_accuracy:.2f} %, ANN {100 * self.ann_accuracy:.2f} % "
            f"of {self.predictions:,} predictions; {same}"
        )


class QualityTally:
    """Sums of correct and equal predictions over batches."""

    def __init__(self, network: Network) -> None:
        self.network, self.cut = network, cut_of(network)
        self.classifies = True
        self.unlabeled: str | None = None
        self.predictions = self.equal = self.snn_right = self.ann_right = 0

    def add(self, x: Tensor, labels: Any, output: Any) -> None:
        """Add samples.

        An output with one channel counts as a mask only if the labels are those of a mask. Without
        labels nothing tells a mask from a regression.

        Args:
            x: input (B, ...).
            labels: class indices (B, ...), or None.
            output: output of the spiking network at T alone, (1, B, C, ...).
        """
        if not isinstance(output, Tensor) or output.ndim < 3:
            self.classifies = False
            return
        spiking = output[0]
        if isinstance(labels, Tensor):
            labels = as_indices(without_channel(labels.to(spiking.device), spiking))
        problem = target_problem(labels, spiking)
        if problem is not None and spiking.shape[1] == 1:
            self.classifies = False
            return
        with torch.inference_mode():
            snn, ann = (prediction(one, self.cut) for one in (spiking, self.network(x)))
        self.predictions += snn.numel()
        self.equal += int((snn == ann).sum())
        if problem is not None:
            given = "the labels are not class indices of the output"
            self.unlabeled = "no labels were given" if labels is None else given
            return
        self.snn_right += int((snn == labels).sum())
        self.ann_right += int((ann == labels).sum())

    def result(self) -> Quality | None:
        """What was found; None where the output holds no classes."""
        if not self.classifies or not self.predictions:
            return None
        n = self.predictions
        if self.unlabeled is not None:
            return Quality(n, self.equal / n, None, None, self.unlabeled)
        return Quality(n, self.equal / n, self.snn_right / n, self.ann_right / n)


__all__ = ["Quality", "QualityTally"]

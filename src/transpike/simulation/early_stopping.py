"""Stop the simulation of a sample as soon as its output is settled.

Choose the threshold on training data with `fit_early_stopping`, never on test data.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError


@dataclass(frozen=True)
class EarlyStopping:
    """The rule by which the output of a sample counts as settled.

    Class probabilities are the softmax of the mean output over the timesteps 1 to t.

    Attributes:
        rule: "margin" asks that the largest class probability exceeds the second largest by at
            least `threshold`. "entropy" asks that the entropy of the class probabilities, divided
            by the entropy of equal probabilities, is at most `threshold`.
        threshold: between 0 and 1.
        least: earliest timestep at which a sample may settle.

    Raises:
        ArgumentError: a setting is out of range.
    """

    rule: Literal["margin", "entropy"]
    threshold: float
    least: int = 1

    def __post_init__(self) -> None:
        if self.rule not in ("margin", "entropy"):
            raise ArgumentError(f"rule: needed 'margin' or 'entropy', got {self.rule!r}.")
        if not (math.isfinite(self.threshold) and 0 <= self.threshold <= 1):
            raise ArgumentError(f"threshold: needed 0 <= threshold <= 1, got {self.threshold!r}.")
        if isinstance(self.least, bool) or not isinstance(self.least, int) or self.least < 1:
            raise ArgumentError(f"least: needed an integer >= 1, got {self.least!r}.")

    def settled(self, output: Tensor, t: int) -> Tensor:
        """Tell which samples are settled at timestep t.

        Args:
            output: class scores (B, C) at t.
            t: the timestep, counted from 1.

        Returns:
            (B,) of bool.

        Raises:
            DataError: the output is not one row of scores per sample.
        """
        if t < self.least:
            return torch.zeros(len(output), dtype=torch.bool, device=output.device)
        clear = clearness(self.rule, output)
        return clear >= (self.threshold if self.rule == "margin" else 1 - self.threshold)


def clearness(rule: Literal["margin", "entropy"], output: Tensor) -> Tensor:
    """Measure from 0 to 1 how clear class scores (B, C) are.

    It is the margin, or one minus the relative entropy, of every sample, (B,).

    Raises:
        DataError: the output is not one row of at least two scores per sample.
    """
    if output.ndim != 2 or output.shape[1] < 2:
        raise DataError(
            f"early_stopping: needed class scores (B, C) with C >= 2, got shape "
            f"{tuple(output.shape)}. Early stopping is for classification."
        )
    probabilities = output.softmax(dim=1)
    if rule == "margin":
        first, second = probabilities.topk(2, dim=1).values.unbind(dim=1)
        return first - second
    logs = output.log_softmax(dim=1)
    return 1 + (probabilities * logs).sum(dim=1) / math.log(output.shape[1])

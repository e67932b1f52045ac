"""When the readout of a sample is settled, so that its simulation can stop.

Thresholds come from training data, see `fit_early_stopping`; never from test data.
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
    """A sample is settled as soon as its readout is clear enough.

    Attributes:
        rule: "margin": largest minus second largest class probability is at least `threshold`;
            "entropy": the entropy of the class probabilities, over that of equal ones, is at most
            `threshold`. Probabilities are the softmax of the mean readout at t.
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
        """Which samples are settled at timestep t, (B,) of bool, for class scores (B, C).

        Raises:
            DataError: the output is not one row of scores per sample.
        """
        if t < self.least:
            return torch.zeros(len(output), dtype=torch.bool, device=output.device)
        clear = clearness(self.rule, output)
        return clear >= (self.threshold if self.rule == "margin" else 1 - self.threshold)


def clearness(rule: Literal["margin", "entropy"], output: Tensor) -> Tensor:
    """How clear class scores (B, C) are, (B,), from 0 to 1: the margin, or one minus the entropy.

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

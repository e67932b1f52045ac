"""Muon for convolutions and Nesterov momentum for the rest, in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Coefficients of the odd polynomial a X + b (X X') X + c (X X')^2 X, which brings singular values
# close to 1.
# Source: Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks".
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 3  # enough for convolutions of this size, as in Jordan's CIFAR-10 runs
_EPSILON = 1e-7


class Muon(Optimizer):
    """Orthogonal steps for groups with `orthogonal=True`, and Nesterov momentum for the others.

    The weight of a convolution is a matrix with one row per output channel. Before each step it is
    scaled to the norm sqrt(rows). Its scale has no effect because BatchNorm follows, so `lr` is the
    size of the step relative to the weight.

    Args:
        groups: parameter groups. Each can set `lr`, `momentum`, `orthogonal` and, if it is not
            orthogonal, `weight_decay`.

    Source: Jordan et al., 2024. It differs in two points, both as in Jordan's CIFAR-10 recipe of
    that year: there are three iterations, and the weight is normalized.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        defaults = {"lr": 0.1, "momentum": 0.85, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group)
        return loss

    def _update(self, weight: Tensor, group: dict[str, Any]) -> None:
        gradient = weight.grad
        assert gradient is not None
        if not group["orthogonal"]:
            gradient = gradient.add(weight, alpha=group["weight_decay"])
        state = self.state[weight]
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(weight)
        momentum = state["momentum"]
        momentum.mul_(group["momentum"]).add_(gradient)
        direction = gradient.add(momentum, alpha=group["momentum"])
        if group["orthogonal"]:
            weight.mul_(len(weight) ** 0.5 / weight.norm().clamp_min(_EPSILON))
            direction = orthogonal(direction.flatten(1)).view_as(direction)
        weight.add_(direction, alpha=-group["lr"])


def orthogonal(matrix: Tensor) -> Tensor:
    """Approximate U V' of the singular value decomposition U S V' by Newton-Schulz iterations.

    Args:
        matrix: (rows, columns).

    Returns:
        A matrix of the same shape. Its singular values are between about 0.3 and 1.2, except those
        that were almost 0. Training does not need the exact value 1.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + _EPSILON)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


def linear_decay(optimizer: Optimizer, steps: int, warm_up: float = 0.0) -> Any:
    """Let all rates rise from 0, and then fall to 0 in a straight line.

    Args:
        optimizer: the optimizer whose rates change.
        steps: number of all steps.
        warm_up: share of the steps in which the rates rise.

    Returns:
        What `configure_optimizers` of lightning returns.
    """

    def factor(step: int) -> float:
        left = max(0.0, 1 - step / steps)
        return min((step + 1) / (warm_up * steps), left) if warm_up else left

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return [optimizer], [{"scheduler": schedule, "interval": "step"}]


__all__ = ["Muon", "linear_decay", "orthogonal"]

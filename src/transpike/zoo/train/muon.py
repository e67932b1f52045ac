"""Muon for convolutions and Nesterov momentum for the rest, in one optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

# Of the odd polynomial a X + b (X X') X + c (X X')^2 X that pulls singular values to about 1;
# Jordan et al., 2024, "Muon: An optimizer for hidden layers in neural networks".
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ITERATIONS = 3  # enough for convolutions of this size, as in Jordan's CIFAR-10 runs
_EPSILON = 1e-7


class Muon(Optimizer):
    """Orthogonal steps for the groups with `orthogonal=True`, Nesterov momentum for the others.

    A convolution's weight is seen as one row per output channel. Before each step it is scaled to
    the norm sqrt(rows): BatchNorm behind it makes its scale irrelevant, and so `lr` is the size of
    the step relative to the weight.

    Args:
        groups: parameter groups; each may set `lr`, `momentum`, `weight_decay` (for the groups
            that are not orthogonal) and `orthogonal`.

    Source: Jordan et al., 2024; differs: three iterations, and the weight is normalized, both as
    in Jordan's CIFAR-10 recipe of that year.
    """

    def __init__(self, groups: Iterable[dict[str, Any]]) -> None:
        defaults = {"lr": 0.1, "momentum": 0.85, "weight_decay": 0.0, "orthogonal": False}
        super().__init__(groups, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step for every parameter that has a gradient."""
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
    """About U V' of the singular value decomposition U S V', by Newton-Schulz iterations.

    Args:
        matrix: (rows, columns).

    Returns:
        The same shape; singular values between about 0.3 and 1.2 (not exactly 1, which training
        does not need), except those too small to be seen.
    """
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + _EPSILON)
    for _ in range(_ITERATIONS):
        gram = x @ x.T
        x = _A * x + (_B * gram + _C * gram @ gram) @ x
    result: Tensor = x.T if tall else x
    return result


__all__ = ["Muon", "orthogonal"]

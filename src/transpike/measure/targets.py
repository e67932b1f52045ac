"""Whether targets are class indices that fit an output."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# Operators of torch and torchmetrics do not take these, though they hold class indices.
_AS_INT64 = frozenset({torch.bool, torch.uint16, torch.uint32, torch.uint64})


def as_indices(target: Tensor) -> Tensor:
    """Class indices in a type that torch computes with: boolean masks become 0 and 1."""
    return target.to(torch.int64) if target.dtype in _AS_INT64 else target


def without_channel(target: Tensor, output: Tensor) -> Tensor:
    """Remove the channel axis of a mask (B, 1, ...), if the output has one channel, too."""
    if output.shape[1] == 1 and target.shape == output.shape:
        return target.squeeze(1)
    return target


def target_problem(target: Any, output: Tensor) -> str | None:
    """Say why targets are not class indices for an output.

    Args:
        target: class indices (B, ...), without a channel axis.
        output: (B, C, ...).

    Returns:
        What was needed and what was given, or None if the targets fit.
    """
    if not isinstance(target, Tensor):
        return f"target: needed a tensor, got {type(target).__name__}."
    if target.is_complex():
        return f"target: needed class indices, got {target.dtype}."
    needed = (output.shape[0], *output.shape[2:])
    if tuple(target.shape) != needed:
        return (
            f"target shape: needed {needed} for an output of shape {tuple(output.shape)}, got "
            f"{tuple(target.shape)}."
        )
    classes = max(2, output.shape[1])
    whole = target == target.floor() if target.is_floating_point() else True
    if not bool(((target >= 0) & (target < classes) & whole).all()):
        return (
            f"target: needed class indices 0..{classes - 1}, got values from "
            f"{target.min().item()} to {target.max().item()}."
        )
    return None


__all__ = ["as_indices", "target_problem", "without_channel"]

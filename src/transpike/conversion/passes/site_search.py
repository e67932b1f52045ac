"""Search step, initial membrane and offset of every channel."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from transpike.conversion.passes.sweep import Sampled, Values, check_rounds
from transpike.errors import ArgumentError

# Half-widths of the grids in the first round. They are halved after every round.
_STEP_OCTAVES, _START_STEPS, _OFFSET_LEVELS = 0.7, 1.5, 2.0
_POINTS = 8  # points of a grid, besides its center


@dataclass(frozen=True)
class SiteSearch:
    """Search step, start and offset of every channel for the smallest error at T.

    The search changes one quantity at a time. It minimizes E[e^2] + weight E[e]^2, where e is the
    spiking output at T minus the activation. The neuron is simulated with the currents of the
    corrected spiking network, so e contains the real clipping, quantization and unevenness errors.
    The mean error has an extra weight, because later layers average out independent errors but
    not a common error.

    Attributes:
        rounds: number of grids per quantity, 1 to 6. Each grid is half as wide as the one before.
        weight: weight of the squared mean error, >= 0.

    Raises:
        ArgumentError: a setting is out of range.

    Source: this library.
    """

    rounds: int = 3
    weight: float = 3.0

    def __post_init__(self) -> None:
        check_rounds(self.rounds)
        if not 0 <= self.weight < float("inf"):
            raise ArgumentError(f"weight: needed a number >= 0, got {self.weight!r}.")


def searched(site: Sampled, values: Values, one: SiteSearch) -> Values:
    """The values with the smallest cost per channel."""

    def cost(candidate: Values) -> Tensor:
        error = site.error(candidate)
        return error.square().mean(dim=0) + one.weight * error.mean(dim=0).square()

    least = cost(values)
    points = [x / (_POINTS // 2) for x in range(-_POINTS // 2, _POINTS // 2 + 1) if x != 0]
    for turn in range(one.rounds):
        for quantity in ("step", "start", "offset"):
            center = values
            for point in points:
                candidate = _moved(center, quantity, point / 2**turn, site.scale)
                found = cost(candidate)
                better = found < least
                least = torch.where(better, found, least)
                values = _where(better, candidate, values)
    return values


def _moved(values: Values, quantity: str, amount: float, scale: int) -> Values:
    if quantity == "step":
        return replace(values, step=values.step * 2 ** (_STEP_OCTAVES * amount))
    if quantity == "start":
        return replace(values, start=values.start + _START_STEPS * amount)
    return replace(values, offset=values.offset + _OFFSET_LEVELS * amount / scale)


def _where(choose: Tensor, one: Values, other: Values) -> Values:
    return Values(*(torch.where(choose, getattr(one, f), getattr(other, f)) for f in vars(one)))

"""One neuron with settings: step, largest count per timestep, sign, initial membrane.

Everything the field calls integrate-and-fire, burst, group, multi-threshold or signed neuron is a
setting of it; the presets at the end say which. Membranes are held in units of the step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from transpike.errors import ArgumentError


@dataclass(frozen=True, kw_only=True)
class Neuron:
    """Settings of the general neuron.

    With step d, membrane V and running total N of the counts, at every timestep: V += current;
    unsigned n = clamp(floor(V/d), 0, K); signed n = max(clamp(floor(V/d), -K, K), -N);
    V -= n d (reset by subtraction); the next operation sees n d.

    Attributes:
        max_count: K, largest count per timestep, >= 1.
        signed: whether counts may be negative, taking back what was emitted before.
        step: "threshold": d = threshold; "fraction": d = threshold / K.
        initial_membrane: V before the first timestep, as a fraction of the step, in [0, 1).
        telescoped: emit Q_t(C_t) - Q_{t-1}(C_{t-1}) of the cumulative input C with
            Q_t(c) = d clamp(floor(c/d), 0, K t): the reference, exactly the quantised network.
            Its counts are signed and not bounded by K per timestep.

    Raises:
        ArgumentError: a setting is out of range.
    """

    max_count: int = 1
    signed: bool = False
    step: Literal["threshold", "fraction"] = "threshold"
    initial_membrane: float = 0.5
    telescoped: bool = False

    def __post_init__(self) -> None:
        count = self.max_count
        if isinstance(count, bool) or not isinstance(count, int) or count < 1:
            raise ArgumentError(f"max_count: needed an integer >= 1, got {self.max_count!r}.")
        if self.step not in ("threshold", "fraction"):
            raise ArgumentError(f"step: needed 'threshold' or 'fraction', got {self.step!r}.")
        v0 = self.initial_membrane
        if not (math.isfinite(v0) and 0 <= v0 < 1):
            raise ArgumentError(f"initial_membrane: needed a fraction 0 <= v0 < 1, got {v0!r}.")

    @property
    def name(self) -> str:
        """How tables call this neuron."""
        if self.telescoped:
            return f"reference (telescoped, K={self.max_count})"
        if self.max_count == 1:
            return "signed" if self.signed else "IF"
        kind = "signed burst" if self.signed else "burst"
        mode = "resolution" if self.step == "fraction" else "range"
        return f"{kind} K={self.max_count} ({mode})"

    @property
    def range_factor(self) -> int:
        """Thresholds the neuron reaches per timestep."""
        return self.max_count if self.step == "threshold" else 1

    def step_of(self, threshold: Tensor) -> Tensor:
        """The step d for a threshold, activation units."""
        return threshold / self.max_count if self.step == "fraction" else threshold


def IF(*, initial_membrane: float = 0.5) -> Neuron:
    """Integrate-and-fire with reset by subtraction: step = threshold, at most one spike.

    Source: Rueckauer et al. 2017; the half-step start is from Deng & Gu 2021.
    """
    return Neuron(initial_membrane=initial_membrane)


def Burst(
    max_count: int = 5,
    *,
    mode: Literal["range", "resolution"] = "range",
    initial_membrane: float = 0.5,
) -> Neuron:
    """Burst neuron: up to `max_count` spikes per timestep.

    Args:
        max_count: K, largest count per timestep.
        mode: "range": step = threshold, so that K counts reach K thresholds (as published);
            "resolution": step = threshold / K, so that K counts reach the threshold.
        initial_membrane: fraction of the step.

    Source: Li & Zeng 2022 (range; there the initial membrane is 0); resolution equals the group
    neuron, and with K = 2^n - 1 the multi-threshold neuron with n binary-coded thresholds.
    """
    if mode not in ("range", "resolution"):
        raise ArgumentError(f"mode: needed 'range' or 'resolution', got {mode!r}.")
    step: Literal["threshold", "fraction"] = "threshold" if mode == "range" else "fraction"
    return Neuron(max_count=max_count, step=step, initial_membrane=initial_membrane)


def Signed(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """Signed neuron with memory: takes back earlier spikes; step = threshold / max_count.

    Fires -1 as soon as V < 0 while the running total is positive, so the total stays >= 0.

    Source: Hu et al. 2023 (Fast-SNN, signed IF); differs: several counts per timestep.
    """
    return Neuron(
        max_count=max_count, signed=True, step="fraction", initial_membrane=initial_membrane
    )


def Telescoped(max_count: int = 1, *, initial_membrane: float = 0.5) -> Neuron:
    """The reference neuron, whose output equals the quantised network with K T levels exactly."""
    return Neuron(
        max_count=max_count,
        signed=True,
        step="fraction",
        initial_membrane=initial_membrane,
        telescoped=True,
    )


@dataclass
class State:
    """State of one population, in units of the step; created for every call.

    Attributes:
        membrane: (B, ...); for the telescoped neuron the cumulative input.
        total: (B, ...) running total of the counts, or None where no rule needs it.
    """

    membrane: Tensor
    total: Tensor | None


def initial_state(neuron: Neuron, bounded: bool, like: Tensor) -> State:
    """State before the first timestep, for a current of the shape of `like`."""
    needs_total = neuron.signed or neuron.telescoped or bounded
    return State(
        membrane=torch.full_like(like, neuron.initial_membrane),
        total=torch.zeros_like(like) if needs_total else None,
    )


def level_limit(neuron: Neuron, t: int, bound: Tensor | None) -> Tensor | float:
    """Largest total after t timesteps; `bound` is c/d of an activation clamp(x, 0, c)."""
    if bound is None:
        return float(neuron.max_count * t)
    limit = torch.floor(bound * t + neuron.initial_membrane)
    return torch.clamp(limit, max=float(neuron.max_count * t))


def fire(neuron: Neuron, state: State, t: int, bound: Tensor | None) -> Tensor:
    """Counts of timestep t (1-based) from a membrane that already holds this step's current.

    Updates the state in place. `bound` is c/d, broadcastable over the membrane, or None.
    """
    level = torch.floor(state.membrane)
    if neuron.telescoped:
        assert state.total is not None
        reached = torch.minimum(level.clamp_(min=0), torch.as_tensor(level_limit(neuron, t, bound)))
        count = reached - state.total
        state.total = reached
        return count
    count = level.clamp_(min=-neuron.max_count if neuron.signed else 0, max=neuron.max_count)
    if state.total is not None:
        if neuron.signed:
            count = torch.maximum(count, -state.total)
        if bound is not None:
            # The activation's own bound c: N <= floor(c t / d + v0).
            limit = torch.floor(bound * t + neuron.initial_membrane)
            count = torch.minimum(count, limit - state.total)
        state.total = state.total + count
    state.membrane = state.membrane - count
    return count

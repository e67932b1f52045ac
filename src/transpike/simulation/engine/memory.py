"""Choose how many samples and timesteps are computed together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transpike.errors import ArgumentError
from transpike.simulation.engine.plan import Plan

DEFAULT_CHUNK = 8
# Bytes of the largest value of a portion. On a CPU, values of this size stay in the last-level
# cache. The allocator also keeps their memory when they are released, and does not return it to the
# system. If the chunk of one sample takes more than twice as much, the chunk becomes shorter.
_CPU_VALUE = 8 * 2**20
_ACCELERATOR_VALUE = 512 * 2**20


@dataclass(frozen=True)
class Portion:
    """Number of samples and timesteps that are computed together."""

    samples: int
    timesteps: int


def portion(
    plan: Plan,
    timesteps: int,
    batch: int,
    device: torch.device,
    *,
    itemsize: int,
    chunk: int | None,
    budget: int | None,
) -> Portion:
    """Choose how many samples and timesteps are computed together.

    Args:
        plan: the plan of the network.
        timesteps: T.
        batch: number of samples.
        device: the device that computes.
        itemsize: bytes of one number.
        chunk: number of timesteps, if the user set it.
        budget: bytes that values and states may take, if the user set a limit.

    Raises:
        ArgumentError: one sample does not fit the budget.
    """
    length = min(chunk or DEFAULT_CHUNK, timesteps)
    if budget is None:
        value = _CPU_VALUE if device.type == "cpu" else _ACCELERATOR_VALUE
        largest = max(1, plan.largest_value(itemsize))
        if chunk is None and device.type == "cpu":
            length = max(1, min(length, 2 * value // largest))
        return Portion(_even(batch, value // (largest * length)), length)
    state, value = plan.bytes_per_sample(itemsize), plan.bytes_per_timestep(itemsize)
    while chunk is None and length > 1 and state + length * value > budget:
        length = (length + 1) // 2
    if state + length * value > budget:
        raise ArgumentError(
            f"memory_budget: one sample of this network needs {state + length * value:,} bytes for "
            f"{length} timestep(s) at once, got {budget:,}. Raise it"
            + (", lower chunk," if chunk else "")
            + " or use transpike.simulate_tiled for large images."
        )
    fitting = budget // (state + length * value)
    if chunk is None and fitting >= batch:
        while length < timesteps and batch * (state + 2 * length * value) <= budget:
            length = min(2 * length, timesteps)
    return Portion(_even(batch, fitting), length)


def _even(batch: int, fitting: int) -> int:
    """Number of samples per portion, at most `fitting`, such that all portions are about equal."""
    portions = -(-batch // max(1, fitting))
    return -(-batch // portions)

"""How many samples and timesteps are computed together."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from transpike.errors import ArgumentError
from transpike.simulation.engine.plan import Plan

DEFAULT_CHUNK = 8
# Bytes of the largest value of a portion. On a CPU values then stay in the last-level cache and
# below the size from which the allocator returns memory to the system at every release; where one
# sample's chunk takes more than twice that, the chunk is shorter.
_CPU_VALUE = 8 * 2**20
_ACCELERATOR_VALUE = 512 * 2**20


@dataclass(frozen=True)
class Portion:
    """What is computed together: `samples` samples times `timesteps` timesteps."""

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
        plan: of the network.
        timesteps: T.
        batch: samples.
        device: where it runs.
        itemsize: bytes of one number.
        chunk: timesteps, if the user fixed them.
        budget: bytes that values and states may take, if the user fixed them.

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
    """Samples per portion, at most `fitting`, so that all portions are about the same."""
    portions = -(-batch // max(1, fitting))
    return -(-batch // portions)

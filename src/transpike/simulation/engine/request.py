"""What one run of the engine is asked for, and what it leaves."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.record import Record
from transpike.simulation.result import SiteRecord, Totals

Output = Callable[[slice | Tensor, int, list[Tensor]], None]
"""Receives the flat outputs (rows, ...) at a timestep of some rows of the batch."""


@dataclass(frozen=True)
class Request:
    """What one simulation is asked for.

    Attributes:
        timesteps: T.
        output_at: timesteps to read out, each once and ascending.
        record: what else to keep.
        time_axis: the input's first axis is time.
        chunk: timesteps computed together, or None.
        memory_budget: bytes, or None.
        early_stopping: stopping rule, or None.
        progress: called with timesteps x samples done, and in all.
    """

    timesteps: int
    output_at: tuple[int, ...]
    record: Record
    time_axis: bool = False
    chunk: int | None = None
    memory_budget: int | None = None
    early_stopping: EarlyStopping | None = None
    progress: Callable[[int, int], None] | None = None


@dataclass
class Outcome:
    """What a simulation leaves besides its outputs.

    Attributes:
        counts: per site, (T, B) spikes.
        records: per recorded site.
        totals: per site.
        decided_at: (B,) timestep at which each sample's output was settled, T if never.
        computed: (B,) timesteps computed for each sample.
    """

    counts: dict[str, Tensor]
    records: dict[str, SiteRecord]
    totals: dict[str, Totals]
    decided_at: Tensor
    computed: Tensor

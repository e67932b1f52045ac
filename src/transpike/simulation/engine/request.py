"""What one run of the engine has to do, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.record import Record
from transpike.simulation.result import SiteRecord, Totals

Output = Callable[[slice | Tensor, int, list[Tensor]], None]
"""It receives rows of the batch, a timestep, and the flat outputs (rows, ...) of these rows."""


@dataclass(frozen=True)
class Request:
    """What one simulation has to do.

    Attributes:
        timesteps: T.
        output_at: timesteps to read out, each once and ascending.
        record: what else to keep.
        time_axis: whether the first axis of the input is time.
        chunk: number of timesteps computed together, or None for the default.
        memory_budget: bytes, or None for the default.
        early_stopping: the rule that stops samples, or None.
        progress: called with the number of timesteps x samples done, and with that of all.
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
    """What a simulation returns besides its outputs.

    Attributes:
        counts: spikes of every site, (T, B).
        records: what each recorded site did.
        totals: sums of each site.
        decided_at: timestep at which the output of each sample was settled, (B,); T if never.
        computed: number of timesteps computed for each sample, (B,).
    """

    counts: dict[str, Tensor]
    records: dict[str, SiteRecord]
    totals: dict[str, Totals]
    decided_at: Tensor
    computed: Tensor

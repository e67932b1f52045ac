"""Update one population of neurons for all timesteps of a chunk.

There are three forms: a kernel in C, a Triton kernel, and eager PyTorch. All of them do the
arithmetic of `neuron.fire` in the same order, so their results are identical. In shapes, L is the
number of timesteps, B the batch size, and N the number of neurons of a sample in memory order. Time
is the first axis.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise

import torch
from torch import Tensor

from transpike.simulation.engine import native
from transpike.spiking.neuron import Neuron, in_steps, level_of, refined_start, whole_steps
from transpike.spiking.schedule import Schedule

# Values per block of the eager update: its buffers of float32 fit a 512 KiB second-level cache.
_BLOCK = 24_576
_UNSIGNED, _SIGNED, _TELESCOPED = 0, 1, 2  # as in scan.c and scan_cuda.py


@dataclass(frozen=True)
class Constants:
    """What does not change in one population.

    Attributes:
        neuron: settings of the neurons.
        step: d, (N,), in activation units.
        start: initial membrane, (N,), in units of the step.
        offset: extra current per timestep, (N,), in units of the step, or None.
        bound: c/d of a bounded activation, (N,), or None.
        lower: the lower bound over d, (N,), <= 0, or None for 0.
        unit: the step of a timestep in units of `step`, a power of two.
        later: constants for the other steps of a schedule whose step changes, by the factor by
            which the first step is larger than the smallest one so far, and by the unit.
    """

    neuron: Neuron
    step: Tensor
    start: Tensor
    offset: Tensor | None
    bound: Tensor | None
    lower: Tensor | None = None
    unit: int = 1
    later: dict[tuple[int, int], Constants] = field(default_factory=dict, repr=False)

    def at(self, t: int) -> Constants:
        """The constants at timestep t (from 1), as those of a neuron with a constant step."""
        neuron = self.neuron
        finer, unit = neuron.finer_at(t), neuron.unit_at(t)
        if (finer, unit) not in self.later:
            shrinks = neuron.schedule.shrinks
            self.later[finer, unit] = Constants(
                replace(neuron, levels=neuron.levels_at(t), schedule=Schedule()),
                self.step if finer == 1 else self.step / finer,
                # It is read for the bound only. If the step shrinks, a calibrated start does not
                # move the bound, as in `neuron.level_limit`.
                torch.full_like(self.start, neuron.initial_membrane) if shrinks else self.start,
                None if self.offset is None else self.offset * finer,
                None if self.bound is None else self.bound * finer,
                None if self.lower is None else self.lower * finer,
                unit,
            )
        return self.later[finer, unit]

    @property
    def needs_total(self) -> bool:
        """Whether the neuron needs the running total of its counts."""
        return self.neuron.signed or self.neuron.telescoped or self.bound is not None


@dataclass
class Population:
    """State of one population for one batch, in units of the step.

    Attributes:
        membrane: (B, N); for a telescoped neuron it is the cumulative input.
        total: (B, N) running total of the counts, or None.
    """

    membrane: Tensor
    total: Tensor | None

    @classmethod
    def at_rest(cls, constants: Constants, batch: int) -> Population:
        """The state before the first timestep."""
        start = refined_start(constants.neuron, constants.start, 1)
        membrane = start.expand(batch, -1).clone()
        total = torch.zeros_like(membrane) if constants.needs_total else None
        return cls(membrane, total)

    def keep(self, rows: Tensor) -> None:
        """Keep only some samples."""
        self.membrane = self.membrane[rows]
        self.total = None if self.total is None else self.total[rows]

    @property
    def bytes(self) -> int:
        """Bytes that the state takes."""
        held = [self.membrane, *([] if self.total is None else [self.total])]
        return sum(tensor.numel() * tensor.element_size() for tensor in held)


@dataclass(frozen=True)
class Chunk:
    """Currents and results of L timesteps.

    Attributes:
        current: (L, B, N) in activation units, or (1, B, N) if it is constant in time.
        other: a second current that is added to the first, in one of these shapes, or None.
        out: receives counts times the step, (L, B, N); it may share the memory of `current`.
        membranes: receives the membranes after every timestep, (L, B, N), or None.
        first: number of timesteps done before.
        offset: whether the offset of the constants is added.
    """

    current: Tensor
    other: Tensor | None
    out: Tensor
    membranes: Tensor | None
    first: int
    offset: bool = True


def scan(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    """Run a population through a chunk: fill `chunk.out` and update the population.

    Returns:
        Spikes of every sample and timestep, (L, B), float64.
    """
    if not constants.neuron.schedule.varies:
        return _scan(constants, population, chunk)
    return torch.cat([_part_of(constants, population, part) for part in _alike(constants, chunk)])


def _alike(constants: Constants, chunk: Chunk) -> Iterator[Chunk]:
    """Split a chunk into parts of equal step that lie wholly inside or outside of the window."""
    neuron, length = constants.neuron, len(chunk.out)
    times = range(chunk.first + 1, chunk.first + length + 1)
    kinds = [(neuron.finer_at(t), neuron.divisor_at(t), neuron.schedule.fires_at(t)) for t in times]
    cuts = [i for i in range(1, length) if kinds[i] != kinds[i - 1]]
    for low, high in pairwise([0, *cuts, length]):
        membranes = None if chunk.membranes is None else chunk.membranes[low:high]
        yield Chunk(
            current=_rows(chunk.current, low, high),
            other=None if chunk.other is None else _rows(chunk.other, low, high),
            out=chunk.out[low:high],
            membranes=membranes,
            first=chunk.first + low,
            offset=chunk.offset and low == 0,
        )


def _rows(series: Tensor, low: int, high: int) -> Tensor:
    return series if len(series) == 1 else series[low:high]


def _part_of(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    """Run a part of equal step: update the neurons, or only charge them outside of the window."""
    neuron, t = constants.neuron, chunk.first + 1
    finer, v0 = neuron.finer_at(t), neuron.initial_membrane
    if t > 1 and finer != neuron.finer_at(t - 1):
        kept = population.membrane
        factor = finer // neuron.finer_at(t - 1)
        torch.add(kept.new_tensor(v0 * (1 - factor)), kept, alpha=factor, out=kept)
        if population.total is not None:
            population.total.mul_(factor)
    if neuron.schedule.fires_at(t):
        counts = _scan(constants.at(t), population, chunk)
    else:
        charge(constants, population, chunk)
        chunk.out.zero_()
        counts = torch.zeros(chunk.out.shape[:2], dtype=torch.float64, device=chunk.out.device)
    if chunk.membranes is not None and finer > 1:
        chunk.membranes.sub_(v0).div_(finer).add_(v0)
    return counts


def charge(constants: Constants, population: Population, chunk: Chunk) -> None:
    """Add the currents of a chunk to the membranes; outside of the window nothing is sent."""
    now = constants.at(chunk.first + 1)
    for index in range(len(chunk.out)):
        population.membrane.add_(_drive(now, chunk, index))
        if chunk.membranes is not None:
            chunk.membranes[index] = population.membrane


def _scan(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    """Run timesteps of equal step in the fastest form that can do it."""
    if constants.lower is not None:
        return _eager(constants, population, chunk)
    device = chunk.out.device.type
    if device == "cuda":
        return _on_cuda(constants, population, chunk)
    if device == "cpu":
        small = constants.neuron.levels_at(chunk.first + len(chunk.out)) < native.MOST_COUNTS
        if chunk.current.dtype != torch.float64 and small and native.kernel() is not None:
            return _native(constants, population, chunk)
    return _eager(constants, population, chunk)


def _kind(neuron: Neuron) -> int:
    return _TELESCOPED if neuron.telescoped else _SIGNED if neuron.signed else _UNSIGNED


def _native(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    length, batch, neurons = chunk.out.shape
    neuron = constants.neuron
    offset = constants.offset if chunk.offset else None
    binary = neuron.code == "binary"
    bound, total = constants.bound, population.total
    if bound is None and (neuron.levels is not None or binary):
        bound = torch.full_like(constants.step, torch.inf)
        total = torch.zeros_like(population.membrane) if total is None else total
    counts = torch.zeros(length, batch, dtype=torch.int64)
    half = torch.bfloat16
    current, other = chunk.current, chunk.other
    native.run(
        native.Scan(
            current=native.pointer(current),
            other=native.pointer(other),
            current_stride=batch * neurons if len(current) > 1 or length == 1 else 0,
            other_stride=batch * neurons if other is not None and len(other) > 1 else 0,
            offset=native.pointer(offset),
            step=native.pointer(constants.step),
            bound=native.pointer(bound),
            start=native.pointer(constants.start),
            membrane=native.pointer(population.membrane),
            total=native.pointer(total),
            out=native.pointer(chunk.out),
            membranes=native.pointer(chunk.membranes),
            counts=native.pointer(counts),
            length=length,
            batch=batch,
            neurons=neurons,
            first=chunk.first,
            max_count=neuron.max_count,
            levels=neuron.levels or 0,
            hysteresis=neuron.hysteresis,
            unit=constants.unit,
            shift=neuron.initial_membrane * (constants.unit - 1),
            kind=_kind(neuron),
            binary=binary,
            half_current=current.dtype == half,
            half_other=other is not None and other.dtype == half,
            half_out=chunk.out.dtype == half,
        )
    )
    return counts.double()


def _eager(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    """Do the same in PyTorch, block by block, so that a block stays in the cache."""
    length, batch, neurons = chunk.out.shape
    counts = torch.zeros(length, batch, dtype=torch.float64, device=chunk.out.device)
    rows = max(1, _BLOCK // neurons)
    columns = min(neurons, _BLOCK)
    for low in range(0, batch, rows):
        for left in range(0, neurons, columns):
            block = (slice(low, low + rows), slice(left, left + columns))
            _eager_block(constants, population, chunk, block, counts)
    return counts


def _eager_block(
    constants: Constants,
    population: Population,
    chunk: Chunk,
    block: tuple[slice, slice],
    counts: Tensor,
) -> None:
    here, columns = block
    membrane = population.membrane[here, columns]
    total = None if population.total is None else population.total[here, columns]
    part = _part(constants, columns)
    for index in range(len(chunk.out)):
        drive = _drive(part, chunk, index, block)
        membrane += drive
        count, reached = _fired(part, membrane, total, chunk.first + index + 1)
        if not constants.neuron.telescoped:
            membrane -= count * part.unit
        if total is not None and reached is not None:
            total.copy_(reached)
        if chunk.membranes is not None:
            chunk.membranes[index, here, columns] = membrane
        chunk.out[index, here, columns] = count * part.unit * part.step
        counts[index, here] += spikes(constants.neuron, count).sum(dim=1, dtype=torch.float64)


def _part(constants: Constants, columns: slice) -> Constants:
    def cut(values: Tensor | None) -> Tensor | None:
        return None if values is None else values[columns]

    step, start = constants.step[columns], constants.start[columns]
    offset, bound, lower = map(cut, (constants.offset, constants.bound, constants.lower))
    return Constants(constants.neuron, step, start, offset, bound, lower, constants.unit)


def _drive(constants: Constants, chunk: Chunk, index: int, block: tuple[slice, ...] = ()) -> Tensor:
    """Current of one timestep, in units of the step."""
    current, other = chunk.current, chunk.other
    kept = constants.step.dtype
    drive = current[index if len(current) > 1 else 0][block].to(kept)
    if other is not None:
        drive = drive + other[index if len(other) > 1 else 0][block].to(kept)
    drive = drive / constants.step
    if constants.offset is not None and chunk.offset:
        drive = drive + constants.offset
    return drive


def _fired(
    constants: Constants, membrane: Tensor, total: Tensor | None, t: int | Tensor
) -> tuple[Tensor, Tensor | None]:
    """Counts of timestep t and the new total, as in `neuron.fire` but not in place."""
    neuron, unit = constants.neuron, constants.unit
    level = level_of(neuron, in_steps(neuron, membrane, unit))
    if neuron.telescoped:
        assert total is not None
        least = _least(constants, level, t)
        reached = torch.minimum(level.clamp(min=least), _limit(constants, level, t))
        return reached - total, reached
    count = level.clamp(min=-neuron.max_count if neuron.signed else 0, max=neuron.max_count)
    if total is None:
        return count, None
    if neuron.signed:
        least = _least(constants, level, t)
        above = total if isinstance(least, int) else total - least
        count = torch.maximum(count, -whole_steps(above, unit))
    if constants.bound is not None or neuron.levels is not None:
        left = _limit(constants, level, t) - total
        count = torch.minimum(count, whole_steps(left, unit))
    return count, total + count * unit


def _limit(constants: Constants, like: Tensor, t: int | Tensor) -> Tensor:
    """Largest total of the counts after t timesteps, as in `neuron.level_limit`."""
    neuron = constants.neuron
    levels = neuron.max_count * t if neuron.levels is None else neuron.levels
    most = torch.as_tensor(levels, dtype=like.dtype, device=like.device)
    if constants.bound is None:
        return most
    reach = constants.bound if neuron.levels is not None else constants.bound * t
    return torch.minimum(torch.floor(reach + constants.start).clamp(min=0), most)


def _least(constants: Constants, like: Tensor, t: int | Tensor) -> Tensor | int:
    """Least total of the counts after t timesteps, as in `neuron.lower_limit`."""
    neuron, lower = constants.neuron, constants.lower
    if lower is None:
        return 0
    most = neuron.max_count * t if neuron.levels is None else neuron.levels
    reach = lower if neuron.levels is not None else lower * t
    least = torch.as_tensor(-most, dtype=like.dtype, device=like.device)
    return torch.maximum(torch.floor(reach + constants.start).clamp(max=0), least)


def spikes(neuron: Neuron, count: Tensor) -> Tensor:
    """Number of spikes that send each count: |n|, or the bits set in |n|; at most 2^31 - 1."""
    magnitude = count.abs()
    if neuron.code == "unit":
        return magnitude
    left = magnitude.int()
    bits = torch.zeros_like(left)
    for _ in range(int(neuron.max_count).bit_length()):
        bits = bits + (left & 1)
        left = left >> 1
    return bits


def _on_cuda(constants: Constants, population: Population, chunk: Chunk) -> Tensor:
    """Run the whole chunk as one kernel."""
    from transpike.simulation.engine import (
        scan_cuda,  # needs Triton, which only CUDA's torch brings
    )

    neuron = constants.neuron
    return scan_cuda.run(
        current=chunk.current,
        other=chunk.other,
        offset=constants.offset if chunk.offset else None,
        step=constants.step,
        bound=constants.bound,
        start=constants.start,
        membrane=population.membrane,
        total=population.total,
        out=chunk.out,
        membranes=chunk.membranes,
        first=chunk.first,
        max_count=neuron.max_count,
        levels=neuron.levels or 0,
        hysteresis=neuron.hysteresis,
        unit=constants.unit,
        shift=neuron.initial_membrane * (constants.unit - 1),
        kind=_kind(neuron),
        binary=neuron.code == "binary",
        limited=population.total is not None
        and (constants.bound is not None or neuron.levels is not None),
    )

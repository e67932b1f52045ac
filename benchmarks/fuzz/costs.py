"""Count the operations of a spiking program by brute force, from the spikes of the oracle.

Every linear instruction is a dense matrix. A spike of a neuron reaches as many targets as its row
has entries that are not zero. The rules are those of `transpike.measure.fanout`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from benchmarks.fuzz.programs import Instruction
from benchmarks.fuzz.reading import JOINING, POOLING, READOUT, Array, Run, Spiking, patterns, spikes

_LAYERS = ("conv", "transposed", "linear")
_SPREADING = ("avg_pool", "adaptive_avg", "mean")
_TINY = 1e-12  # an interpolation weight below this is a rounding error of zero


@dataclass
class Flow:
    """What reaches the elements of one value, each (N,).

    Attributes:
        unit: spikes, summed over samples and timesteps, if a count of n is n spikes.
        binary: the same if it is sent as its binary digits.
        sent: the same with the code of each neuron.
        spiking: whether spikes can arrive.
        static: whether it follows from the input alone.
        current: whether it is a current that changes over time.
        live: whether it can differ from zero in the analog network.
        step: the worth of a spike, where all spikes are worth the same, else NaN.
        sums: (T, B, N) counts so far in first steps of their site, where counts pass unchanged.
        finer: (T,) first step divided by the smallest step up to t of those counts.
        units: (T,) the step at t in units of that smallest step.
    """

    unit: Array
    binary: Array
    sent: Array
    spiking: Array
    static: Array
    current: Array
    live: Array
    step: Array
    sums: Array | None = None
    finer: Array | None = None
    units: Array | None = None
    schedule: Any = None


def count(spiking: Spiking, run: Run, timesteps: int) -> Counter[str]:
    """Operations per sample, by the names of `transpike.measure.counts.Counts`."""
    return _Walk(spiking, run, timesteps).total


class _Walk:
    def __init__(self, spiking: Spiking, run: Run, timesteps: int) -> None:
        self.spiking, self.reading, self.timesteps = spiking, spiking.reading, timesteps
        self.program = spiking.reading.program
        self.samples = run.counts[0].shape[1]
        self.total: Counter[str] = Counter()
        self.counts = dict(zip(spiking.populaces, run.counts, strict=True))
        self.tail = self.program.tail()
        size = int(np.prod(self.program.shape))
        size = int(np.prod(self.reading.shapes[0]))
        self.flows = {0: replace(_nothing(size), static=np.ones(size), live=np.ones(size))}
        self.once: dict[int, Flow] = {}
        self.read_out = self._frontier()
        if 0 in self.read_out:
            self._average(0)
        for one in self.program.instructions:
            self.flows[one.out] = self._flow(one)
            if one.out in self.read_out:
                self._average(one.out)

    def _frontier(self) -> set[int]:
        read = {i for one in self.program.instructions if one.out in self.tail for i in one.reads}
        return {i for i in read | set(self.program.outputs) if i not in self.tail}

    def _average(self, value: int) -> None:
        """A time average takes one accumulate per spike; behind it everything is done once."""
        flow = self.flows[value]
        self._arrive(flow)
        self.once[value] = replace(_nothing(len(flow.unit)), static=flow.live, live=flow.live)

    def _arrive(self, flow: Flow) -> None:
        for name, events in (
            ("accumulates", flow.sent),
            ("accumulates_unit", flow.unit),
            ("accumulates_binary", flow.binary),
        ):
            self.total[name] += events.sum() / self.samples

    def _flow(self, one: Instruction) -> Flow:
        read = [
            self.once[i] if one.out in self.tail and i in self.once else self.flows[i]
            for i in one.reads
        ]
        if one.op == "site":
            return self._site(one, read[0])
        if one.op in POOLING:
            return self._pool(one, read[0])
        if one.op in READOUT:
            size = len(read[0].unit)
            return replace(_nothing(size), static=np.ones(size), live=np.ones(size))
        if one.op == "cat":
            return self._cat(one, read)
        if one.op in JOINING:
            return _added(*read)
        if one.op in _LAYERS:
            return self._layer(one, read[0])
        return self._moved(one, read[0])

    def _site(self, one: Instruction, flow: Flow) -> Flow:
        of, counts = self.spiking.populaces[one.out], self.counts[one.out]
        self._arrive(flow)
        fires = [of.fires(t) for t in range(1, self.timesteps + 1)]
        self.total["neuron_updates"] += counts.shape[2] * sum(fires)
        codes = [spikes(of.settings, counts, code) for code in (None, "unit", "binary")]
        sent, unit, binary = (found.sum(axis=(0, 1)).astype(np.float64) for found in codes)
        divisors = np.array([of.divisor(t) for t in range(1, self.timesteps + 1)])
        finer = np.array([of.finer(t) for t in range(1, self.timesteps + 1)], dtype=np.float64)
        ones = np.ones(counts.shape[2])
        return Flow(
            unit=unit, binary=binary, sent=sent, spiking=ones, static=0 * ones, current=0 * ones,
            live=ones, step=of.step, sums=np.cumsum(counts / divisors[:, None, None], axis=0),
            finer=finer, units=finer / divisors,
            schedule=(of.settings["delay"], of.settings["code"]),
        )  # fmt: skip

    def _pool(self, one: Instruction, flow: Flow) -> Flow:
        self._arrive(flow)
        size = int(np.prod(self.reading.shapes[one.out]))
        out = replace(_nothing(size), live=np.ones(size))
        if flow.sums is not None and flow.finer is not None and flow.units is not None:
            most = self.reading.direct(one, [flow.step[None]])[0]
            least = -self.reading.direct(one, [-flow.step[None]])[0]
            if np.array_equal(most, least):
                flat = flow.sums.reshape(-1, flow.sums.shape[2])
                top = self.reading.direct(one, [flat]).reshape(*flow.sums.shape[:2], -1)
                change = np.diff(top, axis=0, prepend=np.zeros_like(top[:1]))
                change = np.abs(change) * flow.finer[:, None, None]
                units = flow.units[:, None, None]
                whole = np.floor(change / units)  # whole steps of t, and smaller ones for the rest
                unit = (whole + change - whole * units).sum(axis=(0, 1))
                binary = spikes({}, change, "binary").sum(axis=(0, 1)).astype(np.float64)
                return replace(
                    out,
                    unit=unit,
                    binary=binary,
                    sent=unit if flow.schedule[1] == "unit" else binary,
                    spiking=np.ones(size),
                    step=most,
                    sums=top,
                    finer=flow.finer,
                    units=flow.units,
                    schedule=flow.schedule,
                )
        return replace(out, current=np.ones(size))

    def _cat(self, one: Instruction, read: list[Flow]) -> Flow:
        joined = {
            name: np.concatenate([getattr(flow, name) for flow in read])
            for name in ("unit", "binary", "sent", "spiking", "static", "current", "live", "step")
        }
        shapes = [self.reading.shapes[i] for i in one.reads]
        sums, finer, units, schedule = None, None, None, None
        alike = all(
            flow.sums is not None
            and read[0].finer is not None
            and flow.finer is not None
            and np.array_equal(flow.finer, read[0].finer)
            and flow.schedule == read[0].schedule
            for flow in read
        )
        if alike:
            sums = np.concatenate([flow.sums for flow in read if flow.sums is not None], axis=2)
            finer, units, schedule = read[0].finer, read[0].units, read[0].schedule
        del shapes  # channels come first, so flat values are joined end to end
        return Flow(**joined, sums=sums, finer=finer, units=units, schedule=schedule)

    def _layer(self, one: Instruction, flow: Flow) -> Flow:
        part = self.program.parts[one.settings["part"]]
        if one.op == "conv":  # A border that repeats values sends every copy on.
            copied, read = patterns(part, self.reading.shapes[one.reads[0]])
            pattern = copied @ read
        else:
            pattern = (self.reading.matrices[one.out] != 0).astype(np.float64)
        reached = pattern.sum(axis=1)
        for name, events in (
            ("accumulates", flow.sent),
            ("accumulates_unit", flow.unit),
            ("accumulates_binary", flow.binary),
        ):
            self.total[name] += (events * reached).sum() / self.samples
        static = (flow.static * reached).sum()
        self.total["macs_readout" if one.out in self.tail else "macs_input"] += static
        self.total["macs_current"] += (flow.current * reached).sum() * self.timesteps
        self.total["ann_macs"] += (flow.live * reached).sum()
        out = _nothing(pattern.shape[1])
        moving = np.maximum(flow.spiking, flow.current)
        biased = self.reading.constants[one.out] != 0
        return replace(
            out,
            static=_any(flow.static @ pattern),
            current=_any(moving @ pattern),
            live=_any(flow.live @ pattern + biased),
        )

    def _moved(self, one: Instruction, flow: Flow) -> Flow:
        """An instruction without weights of its own: it copies, scales, or spreads."""
        matrix = self.reading.matrices[one.out]
        spreads = one.op in _SPREADING or (one.op == "resize" and one.settings["mode"] != "nearest")
        pattern = (np.abs(matrix) > (_TINY if spreads else 0)).astype(np.float64)
        biased = self.reading.constants[one.out] != 0
        out = Flow(
            unit=flow.unit @ pattern,
            binary=flow.binary @ pattern,
            sent=flow.sent @ pattern,
            spiking=_any(flow.spiking @ pattern),
            static=_any(flow.static @ pattern),
            current=_any(flow.current @ pattern),
            live=_any(flow.live @ pattern + biased),
            step=np.full(pattern.shape[1], np.nan),
        )
        if spreads:
            self._arrive(out)
        elif one.op not in ("scale", "norm", "shift") and not biased.any():
            out.step, out.schedule = flow.step @ pattern, flow.schedule
            out.finer, out.units = flow.finer, flow.units
            out.sums = None if flow.sums is None else flow.sums @ pattern
        return out


def _nothing(size: int) -> Flow:
    zeros = np.zeros(size)
    return Flow(*[zeros] * 7, step=np.full(size, np.nan))


def _any(values: Array) -> Array:
    return (values != 0).astype(np.float64)


def _added(one: Flow, other: Flow) -> Flow:
    out = _nothing(len(one.unit))
    for name in ("unit", "binary", "sent"):
        setattr(out, name, getattr(one, name) + getattr(other, name))
    for name in ("spiking", "static", "current", "live"):
        setattr(out, name, np.maximum(getattr(one, name), getattr(other, name)))
    return out

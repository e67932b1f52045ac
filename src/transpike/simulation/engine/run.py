"""Run an engine: portions of the batch, chunks of timesteps, readout and early stopping."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from transpike.graph.limits import check_fits
from transpike.graph.network import INPUT, Network, Site
from transpike.graph.regions import Region
from transpike.simulation.early_stopping import EarlyStopping
from transpike.simulation.engine.engine import Engine, Phase
from transpike.simulation.engine.memory import portion
from transpike.simulation.engine.plan import Step, dense, flat, room
from transpike.simulation.engine.precision import tensor_cores
from transpike.simulation.engine.request import Outcome, Output, Request
from transpike.simulation.engine.scan import Chunk, Population, charge, scan
from transpike.simulation.readout import BLOCK, RunningSum, read_out
from transpike.simulation.result import SiteRecord, Totals, add_totals


def run(engine: Engine, x: Tensor, request: Request, output: Output) -> Outcome:
    """Simulate, and hand the outputs to `output` as soon as they are known."""
    moving = request.time_axis
    batch = x.shape[1] if moving else x.shape[0]
    if request.early_stopping is not None:
        # Before the first output there is nothing that could be settled.
        least = max(request.early_stopping.least, engine.first_output)
        request = replace(request, early_stopping=replace(request.early_stopping, least=least))
    free = request.chunk is None and request.memory_budget is None
    size = portion(
        engine.first.plan(moving),
        request.timesteps,
        batch,
        x.device,
        itemsize=x.element_size(),
        chunk=1 if free and engine.windows and not request.record.totals else request.chunk,
        budget=request.memory_budget,
    )
    ledger = _Ledger(request, engine.network, batch)
    with torch.inference_mode(), tensor_cores(engine.arithmetic, x.device):
        for low in range(0, batch, size.samples):
            part = x[:, low : low + size.samples] if moving else x[low : low + size.samples]
            _Portion(engine, part, request, low, ledger).run(size.timesteps, output)
    return ledger.outcome()


class _Ledger:
    """The results of all portions."""

    def __init__(self, request: Request, network: Network, batch: int) -> None:
        self.request, self.network, self.batch = request, network, batch
        shape = (request.timesteps, batch)
        device = network.device
        size = 8 * request.timesteps * batch * len(network.sites)
        check_fits(size, "spike counts", device, "Use fewer timesteps or fewer samples at once.")
        self.counts = {
            site.name: torch.zeros(shape, dtype=torch.float64, device=device)
            for site in network.sites
        }
        self.records: dict[str, list[SiteRecord]] = {name: [] for name in request.record.sites}
        self.totals: dict[str, list[Totals]] = {}
        self.decided_at = torch.full((batch,), request.timesteps, device=device)
        self.computed = torch.zeros(batch, dtype=torch.int64, device=device)
        self.done = 0

    def advance(self, rows: int, timesteps: int) -> None:
        """Count timesteps x samples, including those that a settled sample does not need."""
        self.done += rows * timesteps
        if rows * timesteps and self.request.progress is not None:
            self.request.progress(self.done, self.batch * self.request.timesteps)

    def outcome(self) -> Outcome:
        """Join the results of all portions along the batch."""
        return Outcome(
            counts=self.counts,
            records={
                name: SiteRecord(*(torch.cat(parts, dim=1) for parts in _columns(found)))
                for name, found in self.records.items()
            },
            totals={
                name: Totals(*(torch.cat(parts) for parts in _columns(found)))
                for name, found in self.totals.items()
            },
            decided_at=self.decided_at,
            computed=self.computed,
        )


def _columns(found: Sequence[SiteRecord | Totals]) -> Iterator[tuple[Tensor, ...]]:
    """The first fields of all records, then the second fields, and so on."""
    return zip(*(vars(one).values() for one in found), strict=True)


@dataclass
class _Portion:
    """One run of some samples through all timesteps.

    Attributes:
        start: row of the batch at which the portion begins.
        rows: rows of the batch that are still being simulated.
    """

    engine: Engine
    x: Tensor
    request: Request
    start: int
    ledger: _Ledger
    populations: dict[str, Population] = field(default_factory=dict)
    sums: dict[str, Tensor] = field(default_factory=dict)
    readout: dict[str, RunningSum] = field(default_factory=dict)
    recorded: dict[str, list[tuple[Tensor, Tensor]]] = field(default_factory=dict)
    site_totals: dict[str, Totals] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.x = self.x if self.request.time_axis else dense(self.x)
        self.batch = self.x.shape[1 if self.request.time_axis else 0]
        self.rows = torch.arange(self.start, self.start + self.batch, device=self.x.device)
        self.static: dict[str, Any] = {}
        self.enter(self.engine.first)

    def enter(self, phase: Phase) -> None:
        """Compute the values that are the same at every timestep of a phase."""
        self.phase, self.plan = phase, phase.plan(self.request.time_axis)
        values: dict[str, Any] = {}
        if not self.request.time_axis:
            first = phase is self.engine.first
            values[INPUT] = self.x if first else torch.zeros_like(self.x)
        for node in self.plan.static:
            values[node.name] = phase.network.compute(node, values, self.batch)
        self.static = {name: values[name] for name in self.plan.kept}

    def run(self, chunk: int, output: Output) -> None:
        done, total = 0, self.request.timesteps
        while done < total and len(self.rows):
            # In differential coding biases enter at t = 1 only, so it is a chunk of its own.
            alone = self.engine.differential and done == 0
            # A block of the readout and of cumulative sums ends with a chunk.
            length = 1 if alone else min(chunk, total - done, BLOCK - done % BLOCK)
            values = self.pass_chunk(done, length)
            self.ledger.computed[self.rows] += length
            rows = len(self.rows)
            self.read_chunk(values, done, length, output)
            del values  # Otherwise they would stay in memory beside those of the next chunk.
            done += length
            self.ledger.advance(rows, length)
            self.ledger.advance(rows - len(self.rows), total - done)
            if alone and len(self.rows):
                self.enter(self.engine.later)
        self.close()

    def close(self) -> None:
        for name, parts in self.recorded.items():
            counts, membrane = (torch.cat(series) for series in zip(*parts, strict=True))
            self.ledger.records[name].append(SiteRecord(counts, membrane))
        for name, totals in self.site_totals.items():
            self.ledger.totals.setdefault(name, []).append(totals)

    def pass_chunk(self, done: int, length: int) -> dict[str, Any]:
        """Run the timesteps done+1 .. done+length through every node before the readout."""
        values: dict[str, Any] = {}
        if self.request.time_axis:
            values[INPUT] = dense(self.presented(done, length).flatten(0, 1))
        silent: set[str] = set()
        for step in self.plan.steps:
            if self.engine.windows and self.nothing_comes(step, silent, done, length):
                silent.update(step.sends)
            elif self.engine.windows and self.nothing_goes(step, done, length):
                self.wait(step, values, done, length)
                silent.add(step.node.name)
            else:
                values |= {name: self.zeros(name, length) for name in silent & set(step.reads)}
                values |= self.computed(step, values, done, length)
            for name in step.dead:
                values.pop(name, None)
        return values

    def computed(
        self, step: Step, values: dict[str, Any], done: int, length: int
    ) -> dict[str, Any]:
        """Compute what a step sends in a chunk, by name."""
        if step.region is not None:
            return self.region(step.region, values, done, length)
        name = step.node.name
        if step.kind == "site":
            return {name: self.site(step, values, done, length)}
        if step.kind == "cumulative":
            return {name: self.cumulative(step, values, done, length)}
        return {name: self.linear(step, values, length)}

    def nothing_comes(self, step: Step, silent: set[str], done: int, length: int) -> bool:
        """Whether a node reads and sends nothing but zeros in this chunk.

        From t = 2 on there are no biases, and every value that is constant in time is zero.
        """
        shapes = [self.phase.network.by_name[name].shape for name in step.sends]
        if done == 0 or any(shape is None or shape[:1] != (-1,) for shape in shapes):
            return False
        moving = [name for name in step.reads if name not in self.static]
        if not silent.issuperset(moving) or not set(step.sends).isdisjoint(self.plan.readout):
            return False
        return step.kind != "site" or self.nothing_goes(step, done, length)

    def nothing_goes(self, step: Step, done: int, length: int) -> bool:
        """Whether a site is silent for the whole chunk and is not recorded."""
        if (
            step.site is None
            or self.request.record.totals
            or step.site.name in self.request.record.sites
        ):
            return False
        neuron = self.engine.neurons[step.site.name]
        fires = any(neuron.schedule.fires_at(t) for t in range(done + 1, done + length + 1))
        return done > 0 and not fires and step.node.name not in self.plan.readout

    def wait(self, step: Step, values: dict[str, Any], done: int, length: int) -> None:
        """Add the currents of a site to its membranes outside of its window."""
        assert step.site is not None
        name, moving = step.site.name, [read for read in step.reads if read in values]
        first, *others = [self.currents(read, values, length)[1] for read in moving]
        other = others[0] if others else None
        chunk = Chunk(first, other, out=first, membranes=None, first=done, offset=False)
        charge(self.engine.constants[name], self.populations[name], chunk)

    def zeros(self, name: str, length: int) -> Tensor:
        """The output of a silent node, (L*B, ...)."""
        shape = self.phase.network.by_name[name].shape
        assert shape is not None
        like = torch.empty(1, *shape[1:], device=self.x.device)
        return room(length * self.batch, like, self.engine.arithmetic.signal).zero_()

    def presented(self, done: int, length: int) -> Tensor:
        """The input of a chunk, (L, B, ...). In differential coding it consists of changes."""
        now = self.x[done : done + length]
        if not self.engine.differential or done == 0:
            return now
        return now - self.x[done - 1 : done + length - 1]

    def over_time(self, name: str, values: dict[str, Any], length: int) -> Any:
        """A value as (L*B, ...); one that is constant in time is repeated."""
        if name in values:
            return values[name]
        value = self.static[name]
        if isinstance(value, tuple | list):
            return [_repeated(item, length) for item in value]
        return _repeated(value, length)

    def by_time(self, name: str, values: dict[str, Any], length: int) -> Tensor:
        """A value as (L, B, ...), or as (B, ...) if it is constant in time."""
        if name not in values:
            constant: Tensor = self.static[name]
            return constant
        value: Tensor = values[name]
        return _split_time(value, length)

    def linear(self, step: Step, values: dict[str, Any], length: int) -> Any:
        call = self.phase.call(step.node)
        if step.broadcast:
            # A value that is constant in time is added without repeating it.
            split = {name: self.by_time(name, values, length) for name in step.reads}
            result: Tensor = call(split, self.batch)
            return result.flatten(0, 1)
        inputs = {name: self.over_time(name, values, length) for name in step.reads}
        return call(inputs, length * self.batch)

    def currents(self, name: str, values: dict[str, Any], length: int) -> tuple[Tensor, Tensor]:
        """A current in dense form and in flat form (L, B, N), or (1, B, N) if it is constant."""
        moving = name in values
        value = dense(values[name] if moving else self.static[name])
        return value, flat(value, length if moving else 1)

    def site(self, step: Step, values: dict[str, Any], done: int, length: int) -> Tensor:
        """Run one site through a chunk and return counts times the step, (L*B, ...)."""
        assert step.site is not None
        name = step.site.name
        constants = self.engine.constants[name]
        if name not in self.populations:
            self.populations[name] = Population.at_rest(constants, self.batch)
        value, current = self.currents(step.reads[0], values, length)
        other = self.currents(step.reads[1], values, length)[1] if len(step.reads) > 1 else None
        signal, recorded = self.engine.arithmetic.signal, name in self.request.record.sites
        observed = recorded or self.request.record.totals
        moving = step.reads[0] in values
        if moving and step.reusable and not observed and value.dtype == signal:
            out = value
        else:
            out = room(length * self.batch, value, signal)
        membranes = room(len(out), value, constants.step.dtype) if recorded else None
        chunk = Chunk(
            current=current,
            other=other,
            out=flat(out, length),
            membranes=None if membranes is None else flat(membranes, length),
            first=done,
            offset=self.phase is self.engine.first,
        )
        counts = scan(constants, self.populations[name], chunk)
        self.ledger.counts[name][done : done + length, self.rows] = counts
        if observed:
            self.observe(step.site, chunk, out, membranes)
        return out

    def observe(self, site: Site, chunk: Chunk, out: Tensor, membranes: Tensor | None) -> None:
        """Keep the counts, membranes and sums of one chunk that were asked for."""
        length = len(chunk.out)
        d = site.along_channels(self.engine.steps[site.name])
        neuron = self.engine.neurons[site.name]
        divisors = [neuron.divisor_at(chunk.first + index + 1) for index in range(length)]
        steps = torch.stack([d / divisor for divisor in divisors])
        counts = torch.round(_split_time(out, length).to(d.dtype) / steps)
        if membranes is not None:
            parts = self.recorded.setdefault(site.name, [])
            parts.append((counts, _split_time(membranes, length) * d))
        if self.request.record.totals:
            drive = chunk.current if chunk.other is None else chunk.current + chunk.other
            current = room(len(out), out, d.dtype)
            flat(current, length).copy_(drive)
            current = _split_time(current, length)
            before = self.site_totals.get(site.name)
            for index in range(length):
                before = add_totals(before, current[index], counts[index], divisors[index])
            assert before is not None
            self.site_totals[site.name] = before

    def cumulative(self, step: Step, values: dict[str, Any], done: int, length: int) -> Tensor:
        """Compute f(S_t) - f(S_{t-1}) for all timesteps of a chunk at once."""
        source = _split_time(self.over_time(step.reads[0], values, length), length)
        name, arithmetic = step.node.name, self.engine.arithmetic
        rows = (length + 1) * self.batch
        sums = room(rows, source[0], arithmetic.kept if done < BLOCK else torch.float64)
        by_time = _split_time(sums, length + 1)
        before = self.sums.get(name)
        by_time[0] = 0 if before is None else before
        for index in range(length):
            torch.add(by_time[index], source[index], out=by_time[index + 1])
        self.sums[name] = by_time[length].clone()
        reached = self.phase.call(step.node)({step.reads[0]: sums}, rows)
        reached = _split_time(reached, length + 1)
        result: Tensor = reached[1:] - reached[:-1]
        if before is None:
            result[0] = reached[1]
        return result.flatten(0, 1).to(arithmetic.signal)

    def region(
        self, region: Region, values: dict[str, Any], done: int, length: int
    ) -> dict[str, Tensor]:
        """Compute R_t - R_{t-1} of a region for all timesteps of a chunk at once.

        R_t is t g(S_t / t) in rate coding and g(S_t) in differential coding.
        """
        kept, signal = self.engine.arithmetic.kept, self.engine.arithmetic.signal
        times = torch.arange(done + 1, done + length + 1, dtype=kept, device=self.x.device)
        scale = torch.ones_like(times) if self.engine.differential else times
        found: dict[str, Any] = {
            name: self.over_time(name, values, length) for name in region.constants
        }
        for name in region.signals:
            sums = self.running_sums(f"{region.name}:{name}", name, values, length)
            found[name] = (sums / _over(scale, sums)).flatten(0, 1)
        for node in region.nodes:
            found[node.name] = self.phase.call(node)(found, length * self.batch)
        sent: dict[str, Tensor] = {}
        for name in region.outputs:
            reached = _split_time(found[name], length)
            reached = reached * _over(scale, reached)
            change = torch.empty_like(reached)
            torch.sub(reached[1:], reached[:-1], out=change[1:])
            before = self.sums.get(f"{region.name}={name}")
            change[0] = reached[0] if before is None else reached[0] - before
            self.sums[f"{region.name}={name}"] = reached[-1].clone()
            sent[name] = change.flatten(0, 1).to(signal)
        return sent

    def running_sums(self, key: str, name: str, values: dict[str, Any], length: int) -> Tensor:
        """The sums of a value up to each timestep of a chunk, (L, B, ...), kept under `key`."""
        source = _split_time(self.over_time(name, values, length), length)
        sums = torch.empty_like(source, dtype=self.engine.arithmetic.kept)
        before = self.sums.get(key)
        for index in range(length):
            if before is None:
                sums[index] = source[index]
            else:
                torch.add(before, source[index], out=sums[index])
            before = sums[index]
        self.sums[key] = sums[-1].clone()
        return sums

    def read_chunk(self, values: dict[str, Any], done: int, length: int, output: Output) -> None:
        """Average over time for the wanted timesteps of this chunk, and run the tail."""
        early_stopping = self.request.early_stopping
        wanted = set(self.request.output_at)
        every = range(done + 1, done + length + 1)
        asked = [t for t in every if early_stopping is not None or t in wanted]
        kept = self.engine.arithmetic.kept
        means: dict[str, list[Tensor]] = {name: [] for name in self.plan.readout}
        for name in self.plan.readout:
            series = self.by_time(name, values, length)
            for index, t in enumerate(every):
                value = (series[index] if name in values else series).to(kept)
                fresh = name not in self.readout or t == self.engine.readout_start + 1
                if fresh:
                    self.readout[name] = RunningSum(value.clone())
                else:
                    self.readout[name].add(value, t)
                if t in asked:
                    means[name].append(self.averaged(self.readout[name], t))
        if not asked:
            return
        joined = {name: torch.cat(parts) for name, parts in means.items()}
        found = read_out(self.engine.network, joined, len(asked) * self.batch)
        by_t = [_split_time(item, len(asked)) for item in found]
        if early_stopping is None:
            rows = slice(self.start, self.start + self.batch)
            for index, t in enumerate(asked):
                output(rows, t, [item[index] for item in by_t])
        else:
            self.stop(early_stopping, by_t, asked, output)

    def averaged(self, total: RunningSum, t: int) -> Tensor:
        """Output at t, given the sum since the start of the readout."""
        if self.engine.differential:
            return total.mean(1)
        start = self.engine.readout_start
        return total.mean(t - start if t > start else t)

    def stop(
        self, early_stopping: EarlyStopping, by_t: list[Tensor], asked: list[int], output: Output
    ) -> None:
        """Hand over outputs, hold those of settled samples, and stop simulating these samples."""
        device = self.x.device
        settled = torch.stack([early_stopping.settled(by_t[0][i], t) for i, t in enumerate(asked)])
        done = settled.any(dim=0)
        first = settled.int().argmax(dim=0)
        every = torch.arange(self.batch, device=device)
        for index, t in enumerate(asked):
            if t in self.request.output_at:
                at = torch.where(done, first.clamp(max=index), index)
                output(self.rows, t, [item[at, every] for item in by_t])
        if not bool(done.any()):
            return
        gone = every[done]
        self.ledger.decided_at[self.rows[gone]] = torch.tensor(asked, device=device)[first[gone]]
        final = [item[first[gone], gone] for item in by_t]
        for t in self.request.output_at:
            if t > asked[-1]:
                output(self.rows[gone], t, final)
        self.keep(every[~done])

    def keep(self, stay: Tensor) -> None:
        """Continue with some samples only."""
        self.rows, self.batch = self.rows[stay], len(stay)
        self.x = self.x[:, stay] if self.request.time_axis else self.x[stay]
        for population in self.populations.values():
            population.keep(stay)
        for total in self.readout.values():
            total.keep(stay)
        caches: list[dict[str, Any]] = [self.sums, self.static]
        for held in caches:
            for name, value in held.items():
                parts = isinstance(value, list | tuple)
                held[name] = [part[stay] for part in value] if parts else value[stay]


def _repeated(value: Tensor, length: int) -> Tensor:
    return value.expand(length, *value.shape).flatten(0, 1)


def _over(times: Tensor, like: Tensor) -> Tensor:
    """One number per timestep, shaped to broadcast over (L, B, ...)."""
    return times.reshape(-1, *[1] * (like.ndim - 1))


def _split_time(value: Tensor, length: int) -> Tensor:
    """(L*B, ...) -> (L, B, ...)."""
    return value.reshape(length, value.shape[0] // length, *value.shape[1:])

"""The checks of one random network against the oracle."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch import Tensor
from torch.export import exported_program

import transpike as tp
from benchmarks.fuzz.costs import count
from benchmarks.fuzz.drawing import draw_program, draw_weights
from benchmarks.fuzz.programs import Instruction, Program
from benchmarks.fuzz.reading import Array, Reading, Run, Spiking, spikes
from benchmarks.fuzz.settings import converted, draw_inputs, draw_neuron, spiking_oracle

# Largest difference of two outputs, relative to the largest value.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}
COUNTED = ("accumulates", "accumulates_unit", "accumulates_binary", "macs_input", "macs_readout")
COUNTED += ("macs_current", "ann_macs", "neuron_updates")
_NEAR = 2e-3  # how close to a threshold a float32 membrane must be to fire otherwise


@dataclass
class Tally:
    """What was found.

    Attributes:
        counts: how often each kind of check was made.
        disagreements: (seed, what disagrees, the network).
    """

    counts: Counter[str] = field(default_factory=Counter)
    disagreements: list[tuple[int, str, str]] = field(default_factory=list)

    def refuse(self, what: str, error: Exception) -> None:
        """Count a refusal by its first words."""
        reason = str(error).split(": needed")[0].split("\n")[-1][:60].strip()
        self.counts[f"refused: {what}: {reason}"] += 1


@contextmanager
def listed_once() -> Iterator[None]:
    """Let torch.export list all of PyTorch's operations once and not at every call.

    No operation is added here, and the list takes a good part of the time of a small network.
    """
    lists = "_collect_all_valid_cia_ops"
    if not hasattr(exported_program, lists):
        yield
        return
    once = cache(getattr(exported_program, lists))
    with mock.patch.object(exported_program, lists, once):
        yield


def leaves(output: Any) -> list[Tensor]:
    """The tensors of a nested output in order."""
    if isinstance(output, Tensor):
        return [output]
    values = output.values() if isinstance(output, dict) else output
    return [leaf for value in values for leaf in leaves(value)]


def clamped(one: Instruction, z: Array) -> Array:
    """The analog activation."""
    return np.clip(z, 0, one.settings["bound"])


class Case:
    """One random network with all its checks.

    Args:
        seed: of all random choices.
        tally: where results go.
        instructions: about how many operations a network has at most.
    """

    def __init__(self, seed: int, tally: Tally, instructions: int = 14) -> None:
        self.seed, self.tally = seed, tally
        self.rng = random.Random(seed)
        self.program = draw_program(self.rng, instructions)
        self.reading = Reading(self.program)
        self.tolerance = _TOLERANCE[self.program.dtype]
        self.neuron: tp.Neuron | None = None

    def run(self, simulations: int = 2, weights: int = 1) -> None:
        """Make all checks.

        Args:
            simulations: number of neurons that a network is converted with.
            weights: number of networks with the same graph and other weights. A graph is captured
                once, because capture takes most of the time. A graph whose BatchNorm was folded
                has one network only.
        """
        module = self.program.module()
        example = draw_inputs(self.rng, self.program, self.rng.randint(1, 3))
        self.tally.counts["networks"] += 1
        try:
            network = tp.capture(module, example)
        except tp.TranspikeError as error:
            self.tally.refuse("capture", error)
            return
        self.tally.counts["captures"] += 1
        self.check(module, network, simulations)
        self.other_size(module, network)
        if any(one.op == "norm" for one in self.program.instructions):
            return
        for _ in range(weights - 1):
            self.tally.counts["networks"] += 1
            for part in self.program.parts.values():
                draw_weights(part, self.rng, self.program.dyadic)
            state = module.state_dict()
            tensors = {name: state.get(name, old) for name, old in network.tensors.items()}
            self.reading = Reading(self.program)
            self.check(module, network.with_tensors(tensors, network.input_dtype), simulations)

    def check(self, module: torch.nn.Module, network: tp.Network, simulations: int) -> None:
        """Compare a network as it is, and with neurons that are drawn."""
        self.neuron = None
        self.analog(module, network)
        for _ in range(simulations):
            self.neuron = draw_neuron(self.rng)
            self.spiking(network)

    def fail(self, what: str) -> None:
        """Keep a disagreement."""
        shown = str(self.program)
        if self.neuron is not None:
            shown += f"\n{self.neuron}"
        self.tally.disagreements.append((self.seed, what, shown))

    def same(self, what: str, found: Tensor, wanted: Array | Tensor, tolerance: float) -> None:
        """Compare two arrays; a tolerance of 0 asks for the same bits."""
        a = found.double().numpy() if isinstance(found, Tensor) else found
        b = wanted.double().numpy() if isinstance(wanted, Tensor) else wanted
        if a.shape != b.shape:
            self.fail(f"{what}: shape {a.shape}, wanted {b.shape}")
        elif tolerance == 0:
            if not np.array_equal(a, b):
                wrong = int((a != b).sum())
                self.fail(f"{what}: {wrong} of {a.size} values differ, by {np.abs(a - b).max()}")
        elif not np.abs(a - b).max() <= tolerance * (1 + np.abs(b).max()):
            self.fail(f"{what}: differs by {np.abs(a - b).max():.3g}")

    def analog(self, module: torch.nn.Module, network: tp.Network) -> None:
        """The captured network, the eager module and the oracle agree, at several batch sizes."""
        for batch in (1, 2, 5):
            x = draw_inputs(self.rng, self.program, batch)
            with torch.no_grad():
                eager = leaves(module(x.clone()))
            found = leaves(network(x))
            wanted = self.reading.analog(x.double().numpy(), clamped)
            self.tally.counts["analog"] += 1
            for one, other, oracle in zip(found, eager, wanted, strict=True):
                self.same(f"captured network, batch {batch}", one, other, self.tolerance)
                self.same(f"eager module, batch {batch}", other, oracle, self.tolerance)

    def spiking(self, network: tp.Network) -> None:
        """Every check of one converted network."""
        assert self.neuron is not None
        snn = converted(self.rng, self.program, network, self.neuron)
        try:
            oracle = spiking_oracle(self.reading, snn)
        except ValueError as error:
            self.fail(f"sites: {error}")
            return
        timesteps = max(self.rng.randint(1, 9), snn.first_output + self.rng.randint(0, 3))
        self.tally.counts[f"neuron: {self.neuron.name.split(' ')[0]}"] += 1
        moving = self.rng.random() < 0.3 and self.neuron.schedule.follows
        batch = self.rng.randint(1, 4)
        x = draw_inputs(self.rng, self.program, *((timesteps, batch) if moving else (batch,)))
        case = Simulated(self, snn, oracle, x, timesteps, moving)
        case.check()

    def other_size(self, module: torch.nn.Module, network: tp.Network) -> None:
        """At another size of the input, the network and the oracle agree if both take it."""
        if len(self.program.shape) == 1 or not network.sizes.vary:
            return
        size = tuple(n + self.rng.choice((0, 1, 2)) for n in self.program.shape[1:])
        if size == self.program.shape[1:]:
            return
        try:
            resized = network.at(size)
        except tp.DataError as error:
            self.tally.refuse("another size", error)
            return
        program = Program(**{**vars(self.program), "shape": (self.program.shape[0], *size)})
        x = draw_inputs(self.rng, program, 2)
        with torch.no_grad():
            eager = leaves(module(x.clone()))
        self.tally.counts["other sizes"] += 1
        wanted = Reading(self.program, size).analog(x.double().numpy(), clamped)
        found = leaves(resized(x))
        for one, other, oracle in zip(found, eager, wanted, strict=True):
            self.same(f"captured network at {size}", one, other, self.tolerance)
            self.same(f"oracle at {size}", one, oracle, self.tolerance)


@dataclass
class Simulated:
    """One converted network, one input, and its checks."""

    case: Case
    snn: tp.SpikingNetwork
    oracle: Spiking
    x: Tensor
    timesteps: int
    moving: bool

    def __post_init__(self) -> None:
        self.rng, self.tally = self.case.rng, self.case.tally
        self.names = [site.name for site in self.snn.network.sites]
        self.program = self.case.program
        # In these networks every membrane is equal to the oracle's, not only close to it.
        self.exact = self.program.dyadic
        self.followed = self.exact or self.program.dtype == torch.float64

    def check(self) -> None:
        array = self.x.double().numpy()
        self.wanted = self.oracle.simulate(array, self.timesteps, self.moving)
        if self.exact and self.program.dtype == torch.float32 and self.bits(array) > 24:
            self.tally.counts["more than 24 bits"] += 1
            self.exact = self.followed = False
        everything = tp.Record(sites=self.names, totals=True)
        slow = self.simulate(tp.simulate_reference, record=everything)
        self.reference = slow
        if self.followed:
            self.compare("reference", slow)
        self.engine(everything)
        if not self.moving:
            self.quantized()
            self.cost()
        self.batch_independence()
        self.early_stopping()
        self.saved()
        self.fast()

    def simulate(self, function: Any, **settings: Any) -> tp.Simulation:
        self.tally.counts["simulations"] += 1
        found: tp.Simulation = function(
            self.snn, self.x, self.timesteps, time_axis=self.moving, **settings
        )
        return found

    def bits(self, array: Array) -> int:
        """Bits that a sum of this simulation may need."""
        return self.oracle.most_bits(array, self.timesteps, self.moving)

    def compare(self, what: str, run: tp.Simulation) -> None:
        """Compare a simulation with the oracle's."""
        exact = 0 if self.exact else self.case.tolerance
        shapes = [self.case.reading.shapes[one.out] for one in self.program.sites]
        for index, (name, shape) in enumerate(zip(self.names, shapes, strict=True)):
            counts = self.wanted.counts[index]
            of = list(self.oracle.populaces.values())[index]
            sent = spikes(of.settings, counts).sum(axis=2)
            self.case.same(f"{what}: spikes of {name}", run.counts_per_timestep[name], sent, 0)
            if name in run.records:
                lead = counts.shape[:2]
                found = run.records[name]
                self.case.same(f"{what}: counts", found.counts, counts.reshape(*lead, *shape), 0)
                membrane = self.wanted.membranes[index].reshape(*lead, *shape)
                self.case.same(f"{what}: membrane", found.membrane, membrane, exact)
            if name in run.totals:
                self.totals(f"{what}: totals of {name}", run.totals[name], index)
        for found, wanted in zip(leaves(run.output), self.wanted.outputs, strict=True):
            self.case.same(f"{what}: output", found, wanted, self.case.tolerance)

    def totals(self, what: str, found: tp.Totals, index: int) -> None:
        of = list(self.oracle.populaces.values())[index]
        counts = self.wanted.counts[index]
        fine = np.array([of.divisor(t) for t in range(1, self.timesteps + 1)]).reshape(-1, 1, 1)
        wanted = {
            "current": self.wanted.currents[index].sum(axis=0),
            "net": (counts / fine).sum(axis=0),
            "unit": spikes(of.settings, counts, "unit").sum(axis=0),
            "binary": spikes(of.settings, counts, "binary").sum(axis=0),
        }
        for name, value in wanted.items():
            shaped = getattr(found, name).flatten(1)
            exact = self.exact or name != "current"
            tolerance = 0 if exact else self.case.tolerance
            self.case.same(f"{what}.{name}", shaped, value, tolerance)

    def engine(self, everything: tp.Record) -> None:
        """The fast engine, in several portions."""
        chunk = self.rng.choice((None, 1, 2, 3, 5, self.timesteps + 3))
        run = self.simulate(tp.simulate, chunk=chunk)
        recorded = self.simulate(tp.simulate, record=everything, chunk=self.rng.choice((1, 2, 4)))
        budget = self.rng.choice((20_000, 100_000, 10**6))
        settings: dict[str, Any] = {"memory_budget": budget}
        if self.rng.random() < 0.5:
            settings["record"] = tp.Record(output_at=[self.timesteps], sites=self.names[-1:])
        runs = {f"chunk={chunk}": run, "recorded": recorded}
        try:
            runs[f"memory_budget={budget}"] = self.simulate(tp.simulate, **settings)
        except tp.ArgumentError as error:
            self.tally.refuse("budget", error)
        for what, found in runs.items():
            if self.followed:
                self.compare_some(what, found)
            else:
                self.flips(what, found)

    def compare_some(self, what: str, run: tp.Simulation) -> None:
        """Compare with the oracle at the timesteps that were read out."""
        whole = self.wanted
        at = [t - 1 for t in run.output_at]
        self.wanted = Run(
            [out[at] for out in whole.outputs], whole.counts, whole.membranes, whole.currents
        )
        self.compare(what, run)
        self.wanted = whole

    def flips(self, what: str, run: tp.Simulation) -> None:
        """In float32, the first count that differs comes from a membrane close to a threshold."""
        slow, batch = self.reference, self.x.shape[1 if self.moving else 0]
        tainted = np.zeros((self.timesteps, batch), dtype=bool)
        for name, of in zip(self.names, self.oracle.populaces.values(), strict=True):
            if name not in run.records:
                continue
            one, other = (r.records[name].counts.flatten(2).double().numpy() for r in (slow, run))
            membrane = slow.records[name].membrane.flatten(2).double().numpy()
            differ = one != other
            earlier = np.cumsum(differ, axis=0) - differ > 0
            fresh = differ & ~tainted[:, :, None] & ~earlier
            self.tally.counts["float32 counts"] += int(differ.size)
            self.tally.counts["float32 flips"] += int(fresh.sum())
            for t, b, n in np.argwhere(fresh):
                fine, v0 = of.divisor(t + 1), of.settings["initial_membrane"]
                before = (membrane[t, b, n] / of.step[n] - v0) * fine + v0
                if not of.settings["telescoped"]:
                    before = before + one[t, b, n]
                places = [before, before + of.settings["hysteresis"]]
                near = min(abs(v - round(v)) for v in places)
                if near > _NEAR * max(1.0, abs(before)):
                    self.case.fail(f"{what}: {name} differs away from a threshold, V={before}")
                    return
            tainted |= np.logical_or.accumulate(differ.any(axis=2), axis=0)

    def quantized(self) -> None:
        """The quantized network equals the oracle's, and a telescoped network equals it."""
        if not self.followed:
            return
        self.tally.counts["quantized"] += 1
        array = self.x.double().numpy()
        wanted = self.oracle.quantized(array, self.timesteps)
        found = leaves(tp.quantized_ann(self.snn, self.x, self.timesteps))
        # Here values are divided by T, so dyadic numbers round too, and may then cross a level.
        exact = self.program.dtype == torch.float64 and not self.exact
        power = self.timesteps & (self.timesteps - 1) == 0
        if not (exact or (self.exact and power)):
            return
        for one, other in zip(found, wanted, strict=True):
            self.case.same("quantized network", one, other, self.case.tolerance)
        telescoped = all(of.settings["telescoped"] for of in self.oracle.populaces.values())
        if telescoped and not self.snn.readout_start:
            for one, run in zip(found, leaves(self.reference.output), strict=True):
                self.case.same("telescoped = quantized", run[-1], one, self.case.tolerance)
            # One pass divides by t too.
            at = [t for t in range(1, self.timesteps + 1) if not self.exact or t & (t - 1) == 0]
            once = self.simulate(tp.simulate, record=tp.Record(spikes=False, output_at=at))
            for one, run in zip(leaves(once.output), self.wanted.outputs, strict=True):
                self.case.same("one pass", one, run[[t - 1 for t in at]], self.case.tolerance)

    def cost(self) -> None:
        """The counted operations equal those of the oracle's spikes through dense matrices."""
        if not self.followed or self.rng.random() < 0.3:
            return
        try:
            found = tp.measure_cost(self.snn, [self.x], self.timesteps).total
        except tp.ArgumentError as error:
            self.tally.refuse("cost", error)
            return
        self.tally.counts["cost checks"] += 1
        wanted = count(self.oracle, self.wanted, self.timesteps)
        for name in COUNTED:
            one, other = getattr(found, name), float(wanted[name])
            if abs(one - other) > 1e-9 * max(1.0, other):
                self.case.fail(f"cost: {name} is {one}, wanted {other}")

    def batch_independence(self) -> None:
        """The samples of a batch do not see each other."""
        batch = self.x.shape[1 if self.moving else 0]
        if batch == 1 or not self.followed:
            return
        self.tally.counts["batch independence"] += 1
        at = self.rng.randrange(batch)
        one = self.x[:, at : at + 1] if self.moving else self.x[at : at + 1]
        alone = tp.simulate(self.snn, one, self.timesteps, time_axis=self.moving)
        for found, wanted in zip(leaves(alone.output), self.wanted.outputs, strict=True):
            self.case.same("alone", found, wanted[:, at : at + 1], self.case.tolerance)
        for name in self.names:
            counts = self.reference.counts_per_timestep[name][:, at : at + 1]
            self.case.same(f"alone: {name}", alone.counts_per_timestep[name], counts, 0)

    def early_stopping(self) -> None:
        """A sample stops at its first settled timestep, and its output is held."""
        outputs = self.wanted.outputs
        if len(outputs) > 1 or outputs[0].ndim != 3 or outputs[0].shape[2] < 2:
            return
        if not self.followed or self.program.structure != "tensor":
            return
        chunk, least = self.rng.randint(1, 4), self.rng.randint(1, 3)
        rule = self.rng.choice(("margin", "entropy"))
        limit = round(self.rng.uniform(0.02, 0.9), 3)
        stopping = tp.EarlyStopping(rule, limit, least=least)
        run = self.simulate(tp.simulate, early_stopping=stopping, chunk=chunk)
        self.tally.counts["early stopping"] += 1
        clear = clearness(outputs[0], rule)
        needed = limit if rule == "margin" else 1 - limit
        settled = clear >= needed
        settled[: max(least, self.snn.first_output) - 1] = False
        assert run.decided_at is not None and run.computed is not None
        for b in range(settled.shape[1]):
            if np.abs(clear[:, b] - needed).min() < 1e-5:
                continue  # rounding decides
            at = int(np.argmax(settled[:, b])) + 1 if settled[:, b].any() else self.timesteps
            first = 1 if self.oracle.differential else 0  # its first timestep is a chunk
            end = at if at <= first else first + -(-(at - first) // chunk) * chunk
            found = int(run.decided_at[b]), int(run.computed[b])
            if found != (at, min(end, self.timesteps)):
                self.case.fail(f"early stopping {stopping}: {found}, wanted {at, end}")
            held = np.concatenate([outputs[0][:at, b], outputs[0][at - 1 : at, b]])
            wanted = held[np.minimum(np.arange(self.timesteps), at - 1)]
            self.case.same("early output", run.output[:, b], wanted, self.case.tolerance)

    def saved(self) -> None:
        """A network that was saved and loaded computes the same bits."""
        if self.rng.random() < 0.5:
            return
        self.tally.counts["saved and loaded"] += 1
        before = self.simulate(tp.simulate)
        with tempfile.TemporaryDirectory() as folder:
            tp.save(self.snn, Path(folder) / "net")
            loaded = tp.load(Path(folder) / "net")
        after = tp.simulate(loaded, self.x, self.timesteps, time_axis=self.moving)
        for found, wanted in zip(leaves(after.output), leaves(before.output), strict=True):
            self.case.same("loaded", found, wanted, 0)
        for name in self.names:
            counts = before.counts_per_timestep[name]
            self.case.same(f"loaded: {name}", after.counts_per_timestep[name], counts, 0)

    def fast(self) -> None:
        """In bfloat16, the currents of the first sites differ by the rounding of the factors."""
        if self.program.dtype != torch.float32 or self.rng.random() < 0.5:
            return
        run = self.simulate(tp.simulate, precision="fast", record=tp.Record(totals=True))
        self.tally.counts["bfloat16"] += 1
        errors = self.oracle.rounding(self.x.double().numpy(), self.moving, 2.0**-7)
        for index, (name, one) in enumerate(zip(self.names, self.program.sites, strict=True)):
            if one.reads[0] not in errors:
                continue
            found = run.totals[name].current.flatten(1).double().numpy()
            wanted = self.wanted.currents[index].sum(axis=0)
            most = errors[one.reads[0]] * self.timesteps + 1e-5
            if not (np.abs(found - wanted) <= most).all():
                self.case.fail(f"fast: current of {name} differs by more than bfloat16 rounds")


def clearness(outputs: Array, rule: str) -> Array:
    """How clear class scores (T, B, C) are, from 0 to 1."""
    powers = np.exp(outputs - outputs.max(axis=2, keepdims=True))
    shares = powers / powers.sum(axis=2, keepdims=True)
    if rule == "margin":
        ordered = np.sort(shares, axis=2)
        return np.asarray(ordered[..., -1] - ordered[..., -2])
    logs = np.log(np.maximum(shares, 1e-300))
    return np.asarray(1 + (shares * logs).sum(axis=2) / np.log(outputs.shape[2]))

"""How recipes do on held-out inputs, and whether two of them can be told apart."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from transpike.conversion.calibrate import Calibration, calibrate
from transpike.conversion.passes import AllocateCounts, DelayedReadout, apply_pass
from transpike.conversion.passes.distillation import Distillation
from transpike.conversion.recipe import Recipe
from transpike.conversion.thresholds import ThresholdRule
from transpike.errors import ArgumentError
from transpike.graph.network import Network
from transpike.graph.outputs import Reading, cut_of, divergence, prediction
from transpike.graph.structure import flat_values
from transpike.measure.intervals import Z95, Interval, wilson_interval
from transpike.simulation.fidelity import relative, squared_distance
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork, quantized_ann

_BATCH = 64
# A code is stuck if the distance of its output from that of the quantized network at T is more than
# this share of the latter, and if more than half of it is left at 2 T.
_GAP, _LEFT = 0.1, 0.5
# The budget of spikes is kept on calibration inputs. Held-out inputs may exceed it by this share.
_TOLERANCE = 0.02


@dataclass(frozen=True)
class Judgment:
    """How a spiking network does on some inputs.

    Attributes:
        divergence: of the spiking output at T from the ANN's. For class scores and masks it is the
            Kullback-Leibler divergence in nats, mean over predictions. For outputs read as values
            it is the squared distance, relative to the ANN's output.
        agreement: fraction of equal predictions, as `evaluate` reads them; None for values.
        spikes_per_neuron: over all T timesteps.
        per_input: the divergence of every input; its mean is `divergence`.
        stuck: whether the output is far from that of the quantized network at T and stays far from
            it at 2 T. Only a step that shrinks for good can be stuck.
    """

    divergence: float
    agreement: float | None
    spikes_per_neuron: float
    per_input: tuple[float, ...] = field(default=(), repr=False)
    stuck: bool = False


@dataclass(frozen=True)
class Trial:
    """One recipe and how it did.

    Attributes:
        recipe: the recipe.
        judgment: on the held-out inputs.
        n: number of held-out inputs.
        within: whether it keeps the budget of spikes.
    """

    recipe: Recipe
    judgment: Judgment
    n: int
    within: bool

    @property
    def divergence(self) -> float:
        """See `Judgment.divergence`."""
        return self.judgment.divergence

    @property
    def agreement(self) -> float | None:
        """See `Judgment.agreement`."""
        return self.judgment.agreement

    @property
    def spikes_per_neuron(self) -> float:
        """See `Judgment.spikes_per_neuron`."""
        return self.judgment.spikes_per_neuron

    @property
    def stuck(self) -> bool:
        """See `Judgment.stuck`."""
        return self.judgment.stuck

    @property
    def agreement_interval(self) -> Interval | None:
        """Wilson 95 % interval of the agreement, with one observation per input.

        The pixels of one mask are not independent, but the inputs are. The share of equal pixels
        of an input lies in 0..1, so its variance is at most that of a single prediction. The
        interval of a mask is therefore wide enough, and that of class scores is the usual one.
        """
        if self.agreement is None:
            return None
        return wilson_interval(self.agreement * self.n, self.n)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        interval = self.agreement_interval
        return {
            "recipe": self.recipe.to_dict(),
            "name": self.recipe.name,
            "divergence": self.divergence,
            "agreement": self.agreement,
            "agreement_interval": None if interval is None else list(interval),
            "spikes_per_neuron": self.spikes_per_neuron,
            "n": self.n,
            "within": self.within,
            "stuck": self.stuck,
        }


@dataclass(frozen=True)
class Lead:
    """How far the best recipe is ahead of the runner-up on the same held-out inputs.

    Attributes:
        runner_up: the best trial that measures differently from the best one.
        difference: divergence of the runner-up minus that of the best.
        interval: 95 % interval of the difference, paired over inputs (normal approximation).
    """

    runner_up: Trial
    difference: float
    interval: Interval

    @property
    def told_apart(self) -> bool:
        """Whether the interval excludes that both are equally good."""
        return self.interval[0] > 0

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "runner_up": self.runner_up.recipe.name,
            "difference": self.difference,
            "interval": list(self.interval),
            "told_apart": self.told_apart,
        }

    def __str__(self) -> str:
        """One or two sentences."""
        low, high = self.interval
        numbers = f"{self.difference:.4f} (95 % interval {low:.4f} to {high:.4f})"
        name, n = self.runner_up.recipe.name, self.runner_up.n
        if self.told_apart:
            return f"The divergence of the runner-up, {name}, is larger by {numbers}."
        return (
            f"The best recipe and the runner-up, {name}, cannot be told apart on {n} held-out "
            f"inputs: their divergences differ by {numbers}. Take the one with fewer spikes, or "
            "tune on more inputs (--calibration-size)."
        )


def lead(best: Trial, runner_up: Trial) -> Lead:
    """Compare two trials that were measured on the same inputs."""
    pairs = zip(best.judgment.per_input, runner_up.judgment.per_input, strict=True)
    gaps = torch.tensor([second - first for first, second in pairs], dtype=torch.float64)
    middle = float(gaps.mean())
    spread = Z95 * float(gaps.std()) / math.sqrt(len(gaps))
    return Lead(runner_up, middle, (middle - spread, middle + spread))


@dataclass
class Jury:
    """Converts and measures recipes on growing parts of the same inputs.

    Attributes:
        network: the captured network.
        used: inputs for calibration.
        held: inputs that judge; none of them is in `used`.
        spikes: budget of spikes per neuron, or None.
        reading: how outputs are read.
    """

    network: Network
    used: Tensor
    held: Tensor
    spikes: float | None
    reading: Reading

    def __post_init__(self) -> None:
        self._statistics: dict[int, Calibration] = {}
        self._converted: dict[Recipe, SpikingNetwork] = {}
        self._size = 0
        self._impossible: set[tuple[Neuron, ThresholdRule]] = set()

    def trial(self, recipe: Recipe, size: int) -> Trial | None:
        """Measure one recipe on at most `size` inputs.

        Returns:
            None in two cases. The recipe cannot keep the budget, or its delayed readout or
            distillation changes nothing, so that it equals the recipe without that pass.
        """
        if size != self._size:
            self._converted, self._size = {}, size
        start = (recipe.neuron, recipe.threshold)
        if start in self._impossible:
            return None
        try:
            # A copy, so that what the engine prepares for it is freed with it.
            snn = self.converted(recipe, self.used[:size]).changed()
        except ArgumentError:
            if any(isinstance(one, AllocateCounts) for one in recipe.passes):
                self._impossible.add(start)
                return None
            raise
        if self._changed_nothing(recipe, snn, self.used[:size]):
            return None
        held = self.held[:size]
        judgment = judge(snn, held, recipe.timesteps, self.reading)
        within = self.spikes is None or (
            judgment.spikes_per_neuron <= self.spikes * (1 + _TOLERANCE)
        )
        return Trial(recipe, judgment, len(held), within)

    def _changed_nothing(self, recipe: Recipe, snn: SpikingNetwork, used: Tensor) -> bool:
        kinds = [type(one) for one in recipe.passes]
        if DelayedReadout in kinds and snn.readout_start == 0:
            return True
        if Distillation not in kinds:
            return False
        passes = recipe.passes[: kinds.index(Distillation)]
        before = self.converted(replace(recipe, passes=passes), used).steps
        return all(torch.equal(step, before[name]) for name, step in snn.steps.items())

    def converted(self, recipe: Recipe, used: Tensor) -> SpikingNetwork:
        """Convert as `Recipe.convert` does; what several recipes begin with is computed once."""
        if recipe not in self._converted:
            if recipe.passes:
                *before, last = recipe.passes
                snn = self.converted(replace(recipe, passes=tuple(before)), used)
                snn = apply_pass(last, snn, used, recipe.timesteps)
            else:
                if len(used) not in self._statistics:
                    self._statistics[len(used)] = calibrate(self.network, in_batches(used))
                statistics = self._statistics[len(used)]
                snn = recipe.convert(self.network, [], calibration=statistics)
            self._converted[recipe] = snn
        return self._converted[recipe]


def in_batches(images: Tensor) -> list[Tensor]:
    """Split inputs (N, ...) into batches of at most 64."""
    return list(torch.split(images, _BATCH))


def judge(
    snn: SpikingNetwork, images: Tensor, timesteps: int, reading: Reading = "scores"
) -> Judgment:
    """Compare a spiking network with its analog network at T.

    Args:
        snn: the converted network.
        images: inputs (N, ...).
        timesteps: T.
        reading: "scores" or "values", see `tune`.

    Raises:
        ArgumentError: the network has several outputs, or its output has no channels and is read
            as scores.
    """
    cut = cut_of(snn.network)
    gap = size = same = rate = 0.0
    parts: list[Tensor] = []
    gaps_of = _Gaps(snn, timesteps)
    for part in in_batches(images):
        record = Record(output_at=gaps_of.output_at)
        run = simulate(snn, part, gaps_of.output_at[-1], record=record)
        with torch.inference_mode():
            analog = _checked(snn.network(part), reading)
        (found,) = flat_values(run.output)
        spiking = found[0]
        gaps_of.add(part, found)
        if reading == "scores":
            equal = prediction(analog, cut) == prediction(spiking, cut)
            gaps = divergence(analog, spiking, cut)
            gap += float(gaps.sum())
            size += equal.numel()
            same += float(equal.sum())
        else:
            whole, its_size = squared_distance(spiking, analog, torch.float64)
            gap += float(whole)
            size += float(its_size)
            gaps = (spiking - analog).double().square()
        parts.append(gaps.reshape(len(part), -1).sum(dim=1).cpu())
        rate += float(run.spikes_per_neuron[timesteps - 1]) * len(part)
    agreement = same / size if reading == "scores" else None
    per_input = torch.cat(parts) * len(images)
    return Judgment(
        relative(gap, size),
        agreement,
        rate / len(images),
        tuple(relative(float(one), size) for one in per_input),
        gaps_of.stuck,
    )


class _Gaps:
    """Distances from the quantized network at T and 2 T, where the step shrinks for good.

    Attributes:
        output_at: the timesteps at which the output is needed: T, and 2 T for such a step.
    """

    def __init__(self, snn: SpikingNetwork, timesteps: int) -> None:
        self.snn = snn
        schedules = [neuron.schedule for neuron in snn.neurons.values()]
        checked = any(one.window is None and not one.returns for one in schedules)
        self.output_at = [timesteps, 2 * timesteps] if checked else [timesteps]
        self._sums = {t: (0.0, 0.0) for t in self.output_at if checked}

    def add(self, x: Tensor, outputs: Tensor) -> None:
        """Add the outputs (T', B, ...) for inputs (B, ...)."""
        for output, (t, (gap, size)) in zip(outputs, list(self._sums.items()), strict=False):
            (wanted,) = flat_values(quantized_ann(self.snn, x, t))
            more, its_size = squared_distance(output, wanted, torch.float64)
            self._sums[t] = gap + float(more), size + float(its_size)

    @property
    def stuck(self) -> bool:
        """Whether the output is far from that of the quantized network and does not get closer."""
        if not self._sums:
            return False
        now, later = (math.sqrt(relative(*sums)) for sums in self._sums.values())
        return now > _GAP and later > _LEFT * now


def _checked(analog: Any, reading: Reading) -> Tensor:
    """The output of the analog network, if it can be read."""
    if not isinstance(analog, Tensor):
        raise ArgumentError(
            f"tune: needed a model with one output tensor, got {type(analog).__name__}. Wrap "
            "the model to return one tensor."
        )
    if reading == "scores" and analog.ndim < 2:
        raise ArgumentError(
            f"tune: needed class scores (B, C, ...), got an output of shape "
            f"{tuple(analog.shape)}. Pass reading='values' (--reading values)."
        )
    return analog


__all__ = ["Judgment", "Jury", "Lead", "Trial", "judge", "lead"]

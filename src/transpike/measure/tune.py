"""Choose a recipe for a budget by fidelity to the analog network on held-out training inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from transpike.conversion.calibrate import Calibration, calibrate
from transpike.conversion.passes import (
    AllocateCounts,
    BiasCorrection,
    CalibrationPass,
    DelayedReadout,
    MembraneCorrection,
    SiteSearch,
    apply_pass,
    joined_inputs,
)
from transpike.conversion.passes.distillation import Distillation
from transpike.conversion.recipe import Recipe
from transpike.conversion.thresholds import (
    GaussianIteration,
    LeastSquares,
    Percentile,
    ThresholdRule,
)
from transpike.errors import ArgumentError, DataError
from transpike.graph.capture import capture
from transpike.graph.network import Network, check_timesteps
from transpike.graph.outputs import Reading, check_reading, cut_of, divergence, prediction
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import LONGEST_WINDOW, Burst, Refining, Signed, Staggered
from transpike.spiking.spiking_network import SpikingNetwork

# Fraction of the inputs that is held out from calibration.
_HELD_OUT = 1 / 3
# Inputs per round (calibration and held out alike); each round keeps the best third.
_ROUNDS = (48, 128, 512)
_KEPT = 1 / 3
_BATCH = 64
# Excess over the budget of spikes that held-out inputs may show, relative.
_TOLERANCE = 0.02
_SMALLEST = 6  # inputs that tuning needs at least
_DISTILLED = 2  # recipes at the top of the last round that are tried with Distillation too

_RULES: tuple[ThresholdRule, ...] = (
    Percentile(99.9),
    LeastSquares(),
    GaussianIteration(),
    LeastSquares(granularity="layer"),
)
_PASSES: tuple[tuple[CalibrationPass, ...], ...] = (
    (),
    (BiasCorrection(),),
    (MembraneCorrection(),),
    (SiteSearch(),),
    (SiteSearch(), BiasCorrection()),
    (SiteSearch(), DelayedReadout()),
)


@dataclass(frozen=True)
class Trial:
    """One recipe, measured.

    Attributes:
        recipe: the recipe.
        divergence: of the spiking from the analog network's output at T on held-out inputs:
            Kullback-Leibler in nats, mean over predictions, or for outputs read as values the
            squared distance relative to the analog output.
        agreement: fraction of equal predictions, as `evaluate` reads them; None for values.
        spikes_per_neuron: over all T timesteps.
        n: held-out inputs.
        within: the budget of spikes is kept.
    """

    recipe: Recipe
    divergence: float
    agreement: float | None
    spikes_per_neuron: float
    n: int
    within: bool

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        numbers = {key: value for key, value in vars(self).items() if key != "recipe"}
        return {"recipe": self.recipe.to_dict(), "name": self.recipe.name, **numbers}


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        recipe: the best one within the budget, `found` filled in.
        trials: every recipe as last measured, best first; recipes dropped early were measured on
            fewer inputs (`Trial.n`). Left out: what cannot keep the budget, and delayed readouts
            and distillations that turned out to change nothing.
        pareto: trials of the last round that no other beats: none is at least as good in divergence
            and in spikes, and better in one.
    """

    recipe: Recipe
    trials: tuple[Trial, ...]
    pareto: tuple[Trial, ...]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "recipe": self.recipe.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "pareto": [trial.to_dict() for trial in self.pareto],
        }

    def __str__(self) -> str:
        """The best recipe, runners-up, and the Pareto front."""
        head = f"{'divergence':>10} {'agree %':>8} {'spikes/neuron':>14} {'n':>5}  recipe"
        lines = [f"best: {self.recipe.name}, T={self.recipe.timesteps}", "", head]
        lines += [_row(trial) for trial in self.trials[:8]]
        lines += ["", "Pareto front (divergence against spikes):", head]
        return "\n".join([*lines, *(_row(trial) for trial in self.pareto)])


def _row(trial: Trial) -> str:
    over = "" if trial.within else "  (over the budget)"
    agreement = "-" if trial.agreement is None else f"{100 * trial.agreement:.2f}"
    return (
        f"{trial.divergence:10.4f} {agreement:>8} {trial.spikes_per_neuron:14.3f} "
        f"{trial.n:>5}  {trial.recipe.name}{over}"
    )


def tune(
    network: nn.Module | Network,
    batches: Iterable[Any],
    *,
    timesteps: int,
    max_count: int = 1,
    spikes: float | None = None,
    signed: bool | None = None,
    refining: bool = False,
    reading: Reading = "scores",
    seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
) -> Tuning:
    """Choose neuron, threshold rule, granularity, passes and counts for a budget.

    Candidates are converted on one part of the inputs and compared with the analog network on the
    rest, in rounds of more and more inputs that each keep the best third (successive halving). The
    two at the top of the last round are tried with `Distillation` too, on the inputs of that round:
    at most 512, where it wants thousands, so with many inputs try it behind the recipe found.
    Labels are not used.

    Args:
        network: a captured network, or a module.
        batches: training data, never test data. A third is held out from calibration.
        timesteps: T, every timestep counted.
        max_count: K, largest count per timestep of any neuron.
        spikes: budget of spikes per neuron over all T timesteps, or None.
        signed: only signed neurons (True), only unsigned ones (False), or both (None).
        refining: also `Refining` (max_count >= 2) and, where T is larger than the network is deep,
            `Staggered` neurons, where signed ones are allowed: for hardware that can shift its
            membranes between timesteps.
        reading: "scores": the output is class scores along axis 1 or, of one channel, the logit of
            a mask (behind a sigmoid its probability), as `evaluate` reads it; "values": any
            numbers, a regression.
        seed: of the draw of held-out inputs.
        progress: called with (candidates done, candidates in all; less when some drop out).

    Returns:
        The best recipe, all trials, and the Pareto front.

    Raises:
        ArgumentError: an argument is out of range, no candidate keeps the budget, or the output is
            not what `reading` says.
        DataError: too few inputs.

    Source: Karnin et al. 2013 (successive halving).
    """
    check_timesteps(timesteps)
    check_reading(reading)
    if spikes is not None and not 0 < spikes < float("inf"):
        raise ArgumentError(f"spikes: needed a number > 0, got {spikes!r}.")
    images = joined_inputs(batches)
    if len(images) < _SMALLEST:
        raise DataError(f"tune: needed at least {_SMALLEST} inputs, got {len(images)}.")
    if not isinstance(network, Network):
        network = capture(network, images[:2])
    depth = max(network.depth.values()) if refining else 0
    candidates = _candidates(timesteps, max_count, spikes, signed, refining, depth)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    cut = max(1, round(len(images) * _HELD_OUT))
    held, used = images[order[:cut]], images[order[cut:]]
    jury = _Jury(network, used.to(network.device), held.to(network.device), spikes, reading)
    last, measured = _rounds(jury, candidates, _sizes(max(len(used), len(held))), progress)
    return _result(last, measured, spikes, seed, len(used), max_count, reading)


def _rounds(
    jury: _Jury,
    candidates: list[Recipe],
    sizes: list[int],
    progress: Callable[[int, int | None], None] | None,
) -> tuple[list[Trial], list[Trial]]:
    """Trials of the last round, best first, and of every recipe as last measured."""
    done, measured = 0, {}

    def tried(recipes: list[Recipe], size: int, later: int) -> list[Trial]:
        nonlocal done
        trials, total = [], done + len(recipes) + later
        for recipe in recipes:
            trials.append(jury.trial(recipe, size))
            done += 1
            if progress is not None:
                progress(done, total)
        found = [trial for trial in trials if trial is not None]
        measured.update({trial.recipe: trial for trial in found})
        return sorted(found, key=_rank)

    for left, size in zip(reversed(range(len(sizes))), sizes, strict=True):
        kept = min(len(candidates), _keep(len(candidates)))
        ranked = tried(candidates, size, _work(kept, left) + _DISTILLED)
        candidates = [trial.recipe for trial in ranked[: _keep(len(ranked))]]
    distillation = Distillation(reading=jury.reading)
    best = [_with_pass(trial.recipe, distillation) for trial in _different(ranked)[:_DISTILLED]]
    return sorted([*ranked, *tried(best, sizes[-1], 0)], key=_rank), list(measured.values())


def _different(ranked: list[Trial]) -> list[Trial]:
    """Without trials that measure the same as one before: conversions that came out equal."""
    seen = {(trial.divergence, trial.spikes_per_neuron): trial for trial in reversed(ranked)}
    return [trial for trial in ranked if seen[trial.divergence, trial.spikes_per_neuron] is trial]


def _with_pass(recipe: Recipe, one: CalibrationPass) -> Recipe:
    """The recipe with one pass more, the last but for a delayed readout."""
    passes = list(recipe.passes)
    delay = [passes.pop()] if passes and isinstance(passes[-1], DelayedReadout) else []
    return replace(recipe, passes=(*passes, one, *delay))


def _candidates(
    timesteps: int,
    max_count: int,
    spikes: float | None,
    signed: bool | None,
    refining: bool,
    depth: int,
) -> list[Recipe]:
    shrinking = (
        [*_refining(max_count), *_staggered(timesteps, max_count, depth)] if refining else []
    )
    if refining and (signed is False or timesteps == 1 or not shrinking):
        raise ArgumentError(
            "tune: refining needs signed neurons, timesteps >= 2, and max_count >= 2 or timesteps "
            f"> the network's depth ({depth})."
        )
    neurons: list[Neuron] = []
    if signed is not False:
        neurons.append(Signed(max_count))
    if signed is not True:
        neurons.append(Burst(max_count, mode="resolution"))
    shared: tuple[CalibrationPass, ...] = ()
    if spikes is not None and max_count > 1:
        shared = (AllocateCounts(spikes),)
    rate = [
        Recipe(timesteps, neuron, rule, (*shared, *passes))
        for neuron in neurons
        for rule in _RULES
        for passes in _PASSES
    ]
    if not refining:
        return rate
    return rate + [
        Recipe(timesteps, neuron, rule, passes)
        for neuron in shrinking
        for rule in _RULES
        for passes in _PASSES
        if not any(isinstance(one, DelayedReadout) for one in passes)
    ]


def _refining(max_count: int) -> list[Neuron]:
    """The preset, which reaches its threshold in two steps, and some that do in fewer.

    None with single spikes, which leave no room to correct what was sent.
    """
    if max_count == 1:
        return []
    most = Refining(max_count)
    halves = range(3)  # of what the second step adds to K
    levels = {max_count + max_count * half // (2 * most.schedule.ratio) for half in halves}
    return [Refining(max_count, levels=count) for count in sorted(levels)]


def _staggered(timesteps: int, max_count: int, depth: int) -> list[Neuron]:
    """Windows that fill T, for every lag that leaves them long enough; few levels and many."""
    found = []
    for lag in (1, 2, 3) if depth > 1 else (1,):
        window = timesteps - lag * (depth - 1)
        if window > max(lag, 1):  # with lag = window - 1 a layer knows its whole input
            most = min(window, LONGEST_WINDOW)
            found += [
                Staggered(max_count, window=most, lag=lag, levels=levels)
                for levels in sorted({max_count, max_count * 3 // 2})
            ]
    return found


def _keep(count: int) -> int:
    return max(2, round(count * _KEPT))


def _sizes(available: int) -> list[int]:
    """Inputs per round; a round that would see nothing new is left out."""
    return [size for i, size in enumerate(_ROUNDS) if i == 0 or _ROUNDS[i - 1] < available]


def _work(count: int, rounds: int) -> int:
    """Candidates over all rounds."""
    total = 0
    for _ in range(rounds):
        total += count
        count = min(count, _keep(count))
    return total


def _rank(trial: Trial) -> tuple[bool, float]:
    return not trial.within, trial.divergence


@dataclass
class _Jury:
    """Converts and judges recipes on growing parts of the same inputs."""

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
        """One recipe on at most `size` inputs.

        None where it cannot keep the budget, or where a delayed readout or a distillation changes
        nothing, so that it is the same as the recipe without that pass.
        """
        if size != self._size:
            self._converted, self._size = {}, size
        start = (recipe.neuron, recipe.threshold)
        if start in self._impossible:
            return None
        try:
            # A copy, so that what the engine prepares for it does not stay.
            snn = self.converted(recipe, self.used[:size]).changed()
        except ArgumentError:
            if any(isinstance(one, AllocateCounts) for one in recipe.passes):
                self._impossible.add(start)
                return None
            raise
        if self._changed_nothing(recipe, snn, self.used[:size]):
            return None
        divergence, agreement, rate = judge(snn, self.held[:size], recipe.timesteps, self.reading)
        # The budget is kept on calibration inputs; others may need a little more.
        within = self.spikes is None or rate <= self.spikes * (1 + _TOLERANCE)
        return Trial(recipe, divergence, agreement, rate, len(self.held[:size]), within)

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
        """As `Recipe.convert`; what several recipes begin with is done once."""
        if recipe not in self._converted:
            if recipe.passes:
                *before, last = recipe.passes
                snn = self.converted(replace(recipe, passes=tuple(before)), used)
                snn = apply_pass(last, snn, used, recipe.timesteps)
            else:
                if len(used) not in self._statistics:
                    self._statistics[len(used)] = calibrate(self.network, _batches(used))
                statistics = self._statistics[len(used)]
                snn = recipe.convert(self.network, [], calibration=statistics)
            self._converted[recipe] = snn
        return self._converted[recipe]


def _batches(images: Tensor) -> list[Tensor]:
    return list(torch.split(images, _BATCH))


def judge(
    snn: SpikingNetwork, images: Tensor, timesteps: int, reading: Reading = "scores"
) -> tuple[float, float | None, float]:
    """(divergence, agreement, spikes per neuron) at T, as in `Trial`.

    Raises:
        ArgumentError: the network has several outputs, or one without channels.
    """
    cut = cut_of(snn.network)
    gap = size = same = rate = 0.0
    for part in _batches(images):
        run = simulate(snn, part, timesteps, record=Record(output_at=[timesteps]))
        with torch.inference_mode():
            analog = snn.network(part)
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
        (found,) = pytree.tree_leaves(run.output)
        spiking = found[0]
        if reading == "scores":
            equal = prediction(analog, cut) == prediction(spiking, cut)
            gap += float(divergence(analog, spiking, cut).sum())
            size += equal.numel()
            same += float(equal.sum())
        else:
            gap += float((analog - spiking).double().square().sum())
            size += float(analog.double().square().sum())
        rate += float(run.spikes_per_neuron[-1]) * len(part)
    agreement = same / size if reading == "scores" else None
    return gap / max(size, torch.finfo(torch.float64).tiny), agreement, rate / len(images)


def _beats(one: Trial, other: Trial) -> bool:
    """At least as good in divergence and in spikes, and better in one of them."""
    mine = (one.divergence, one.spikes_per_neuron)
    its = (other.divergence, other.spikes_per_neuron)
    return mine != its and mine[0] <= its[0] and mine[1] <= its[1]


def _result(
    last: list[Trial],
    measured: list[Trial],
    spikes: float | None,
    seed: int,
    calibrated: int,
    max_count: int,
    reading: Reading,
) -> Tuning:
    if not last or not last[0].within:
        raise ArgumentError(
            f"tune: no candidate keeps {spikes} spikes per neuron. Raise spikes, or lower "
            "timesteps."
        )
    best = last[0]
    found = {
        "by": "transpike.tune",
        "divergence": best.divergence,
        "agreement": best.agreement,
        "spikes_per_neuron": best.spikes_per_neuron,
        "held_out": best.n,
        "calibration_inputs": min(calibrated, _ROUNDS[-1]),
        "seed": seed,
        "max_count": max_count,
        "spikes": spikes,
        "reading": reading,
    }
    front = [trial for trial in last if not any(_beats(other, trial) for other in last)]
    rest = sorted(measured, key=lambda trial: (-trial.n, _rank(trial)))
    pareto = tuple(sorted(front, key=lambda trial: trial.spikes_per_neuron))
    return Tuning(replace(best.recipe, found=found), tuple(rest), pareto)

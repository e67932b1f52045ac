"""Choose a recipe for a budget by fidelity to the analog network on held-out training inputs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from transpike.conversion.passes.distillation import Distillation
from transpike.conversion.recipe import Recipe
from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.capture import capture
from transpike.graph.network import Network
from transpike.graph.outputs import Reading, check_reading
from transpike.measure.candidates import Space, candidates, with_pass
from transpike.measure.trials import Jury, Lead, Trial, lead

Progress = Callable[[int, int | None], None]

# Fraction of the inputs that is held out from calibration.
_HELD_OUT = 1 / 3
# Inputs that have to be held out. Even if a recipe agrees with the ANN on all of them, the 95 %
# Wilson interval of the agreement reaches down to n / (n + 3.84). With 35 inputs that is 90 %, the
# limit under which `diagnose` calls an output far from the ANN's. Fewer inputs cannot show that
# any recipe keeps this limit.
_LEAST_HELD_OUT = 35
_LEAST_INPUTS = 104  # the smallest number of which a third, rounded, is 35
# Inputs per round (calibration and held out alike); each round keeps the best third.
_ROUNDS = (48, 128, 512)
_KEPT = 1 / 3
_DISTILLED = 2  # recipes at the top of the last round that are tried with Distillation too
_SHOWN = 8  # trials in the text


@dataclass(frozen=True)
class Tuning:
    """What `tune` found.

    Attributes:
        recipe: the best one within the budget, with `found` filled in.
        trials: every recipe as last measured, best first. Recipes that were dropped early were
            measured on fewer inputs (`Trial.n`). Recipes that cannot keep the budget are left out,
            and so are delayed readouts and distillations that changed nothing.
        pareto: trials of the last round that no other trial beats. A trial beats another if it is
            at least as good in divergence and in spikes, and better in one of them.
        lead: how far the best recipe is ahead of the runner-up; None where there is only one.
        interrupted: the user stopped it from the keyboard. Then everything is as of the last
            complete round, or of the first round as far as it came.
    """

    recipe: Recipe
    trials: tuple[Trial, ...]
    pareto: tuple[Trial, ...]
    lead: Lead | None = None
    interrupted: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "recipe": self.recipe.to_dict(),
            "trials": [trial.to_dict() for trial in self.trials],
            "pareto": [trial.to_dict() for trial in self.pareto],
            "lead": None if self.lead is None else self.lead.to_dict(),
            "interrupted": self.interrupted,
        }

    def __str__(self) -> str:
        """The best recipe with its interval, runners-up, and the Pareto front."""
        best = self.trials[0]
        best_of = "best so far" if self.interrupted else "best"
        lines = [f"{best_of}: {self.recipe.name}, T={self.recipe.timesteps}"]
        if best.agreement is not None and best.agreement_interval is not None:
            low, high = best.agreement_interval
            lines.append(
                f"It agrees with the ANN on {100 * best.agreement:.2f} % of the predictions for "
                f"{best.n} held-out inputs (95 % interval {100 * low:.2f} to {100 * high:.2f} %)."
            )
        if self.lead is not None:
            lines.append(str(self.lead))
        head = f"{'divergence':>10} {'agree %':>8} {'spikes/neuron':>14} {'n':>5}  recipe"
        lines += ["", head, *map(_row, self.trials[:_SHOWN])]
        return "\n".join(
            [*lines, "", "Pareto front (divergence against spikes):", head, *map(_row, self.pareto)]
        )


def _row(trial: Trial) -> str:
    over = "" if trial.within else "  (over the budget)"
    over += "  (stuck: late corrections do not fit)" if trial.stuck else ""
    agreement = "-" if trial.agreement is None else f"{100 * trial.agreement:.2f}"
    return (
        f"{trial.divergence:10.4f} {agreement:>8} {trial.spikes_per_neuron:14.3f} "
        f"{trial.n:>5}  {trial.recipe.name}{over}"
    )


@isolated()
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
    progress: Progress | None = None,
) -> Tuning:
    """Choose neuron, threshold rule, granularity, passes and counts for a budget.

    Candidates are converted on one part of the inputs and compared with the analog network on the
    rest. There are up to three rounds, each on more inputs, and each keeps the best third
    (successive halving). The two best recipes of the last round are tried with `Distillation`, too.
    It sees the inputs of that round, at most 512, but works better with thousands: with many
    inputs, append it to the recipe that was found and compare. Labels are not used.

    Args:
        network: a captured network, or a module.
        batches: training data, at least 104 inputs, never test data; a third is held out.
        timesteps: T, every timestep counted.
        max_count: K, largest count per timestep of any neuron.
        spikes: budget of spikes per neuron over all T timesteps, or None.
        signed: only signed neurons (True), only unsigned ones (False), or both (None).
        refining: also try neurons whose step changes: `Refining` (max_count >= 2), `Cyclic` and,
            where T is larger than the network is deep, `Staggered`. They are signed, and need
            hardware that can shift its membranes or weights. A step that shrinks for good can stay
            far from its quantized network. Where it does so on the held-out inputs, it is not
            chosen.
        reading: "scores" for class scores along axis 1 or, with one channel, the logit of a mask
            (behind a sigmoid its probability), as `evaluate` reads them. "values" for any numbers,
            as in a regression.
        seed: seed of the draw of held-out inputs.
        progress: called with (candidates done, candidates in all; less when some drop out).

    Returns:
        The best recipe, all trials, the Pareto front, and the lead over the runner-up. The best
        recipe was chosen on the inputs it was measured on, so its numbers are slightly too good.

    Raises:
        ArgumentError: an argument or the output does not fit, or no candidate keeps the budget.
        DataError: too few inputs.
        KeyboardInterrupt: interrupted before a recipe within the budget was measured. Later, an
            interrupt ends the search, and the result holds what was found until then.

    Source: Karnin et al. 2013 (successive halving).
    """
    check_reading(reading)
    space = Space(timesteps, max_count, spikes, signed, refining)
    used, held = _parted(Batches(batches).joined(), seed)
    if not isinstance(network, Network):
        network = capture(network, used[:2])
    recipes = candidates(
        space,
        max(network.depth.values()) if refining else 0,
        bounded=any(site.upper_bound is not None for site in network.sites),
    )
    jury = Jury(network, used.to(network.device), held.to(network.device), spikes, reading)
    rounds = _Rounds(jury, progress).run(recipes)
    asked = {"seed": seed, "max_count": max_count, "spikes": spikes, "reading": reading}
    return _result(rounds, min(len(used), rounds.size), asked)


def _parted(images: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Split inputs into those for calibration and those held out."""
    held_out = round(len(images) * _HELD_OUT)
    if held_out < _LEAST_HELD_OUT:
        raise DataError(
            f"tune: needed at least {_LEAST_INPUTS} inputs, of which {_LEAST_HELD_OUT} are held "
            f"out to choose by, got {len(images)}. Give {_LEAST_INPUTS} or more in `batches` "
            f"(--calibration-size {_LEAST_INPUTS})."
        )
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
    return images[order[held_out:]], images[order[:held_out]]


@dataclass
class _Rounds:
    """Rounds of trials; what was measured is kept when the user interrupts them.

    Attributes:
        jury: measures the recipes.
        progress: called after every trial.
        last: trials of the last complete round, best first. Where the first round was interrupted,
            its trials so far.
        measured: every recipe of the complete rounds, as last measured.
        size: inputs of the last complete round.
        interrupted: whether the user interrupted the rounds.
    """

    jury: Jury
    progress: Progress | None
    last: list[Trial] = field(default_factory=list)
    measured: dict[Recipe, Trial] = field(default_factory=dict)
    size: int = 0
    interrupted: bool = False
    _done: int = 0
    _current: list[Trial] = field(default_factory=list)

    def run(self, recipes: list[Recipe]) -> _Rounds:
        """Run all rounds and return them.

        Raises:
            KeyboardInterrupt: no recipe within the budget was measured before it.
        """
        try:
            self._run(recipes, _sizes(max(len(self.jury.used), len(self.jury.held))))
        except KeyboardInterrupt:
            if not self.last:
                self._close(self._current, _ROUNDS[0])
            if not self.last or not self.last[0].within:
                raise
            self.interrupted = True
        return self

    def _run(self, recipes: list[Recipe], sizes: list[int]) -> None:
        for left, size in zip(reversed(range(len(sizes))), sizes, strict=True):
            kept = min(len(recipes), _keep(len(recipes)))
            self._close(self._tried(recipes, size, _work(kept, left) + _DISTILLED), size)
            recipes = [trial.recipe for trial in self.last[: _keep(len(self.last))]]
        distillation = Distillation(reading=self.jury.reading)
        leading = _different(self.last)[:_DISTILLED]
        best = [with_pass(trial.recipe, distillation) for trial in leading]
        self._close([*self.last, *self._tried(best, sizes[-1], 0)], sizes[-1])

    def _close(self, trials: list[Trial], size: int) -> None:
        """Keep the trials of a round."""
        self.last, self.size = sorted(trials, key=_rank), size
        self.measured.update({trial.recipe: trial for trial in trials})

    def _tried(self, recipes: list[Recipe], size: int, later: int) -> list[Trial]:
        """Measure recipes; those that cannot keep the budget or change nothing drop out."""
        self._current, total = [], self._done + len(recipes) + later
        for recipe in recipes:
            trial = self.jury.trial(recipe, size)
            if trial is not None:
                self._current.append(trial)
            self._done += 1
            if self.progress is not None:
                self.progress(self._done, total)
        return self._current


def _different(ranked: list[Trial]) -> list[Trial]:
    """Leave out trials that measure as an earlier one does: their conversions came out equal."""
    seen = {(trial.divergence, trial.spikes_per_neuron): trial for trial in reversed(ranked)}
    return [trial for trial in ranked if seen[trial.divergence, trial.spikes_per_neuron] is trial]


def _keep(count: int) -> int:
    return max(2, round(count * _KEPT))


def _sizes(available: int) -> list[int]:
    """Number of inputs per round; a round that would see no further inputs is left out."""
    return [size for i, size in enumerate(_ROUNDS) if i == 0 or _ROUNDS[i - 1] < available]


def _work(count: int, rounds: int) -> int:
    """Number of trials over so many rounds."""
    total = 0
    for _ in range(rounds):
        total += count
        count = min(count, _keep(count))
    return total


def _rank(trial: Trial) -> tuple[bool, bool, float]:
    return not trial.within, trial.stuck, trial.divergence


def _beats(one: Trial, other: Trial) -> bool:
    """Whether a trial is at least as good in divergence and in spikes, and better in one."""
    mine = (one.divergence, one.spikes_per_neuron)
    its = (other.divergence, other.spikes_per_neuron)
    return mine != its and mine[0] <= its[0] and mine[1] <= its[1]


def _result(rounds: _Rounds, calibrated: int, asked: dict[str, Any]) -> Tuning:
    """Make the result from the trials of all rounds."""
    last = rounds.last
    if not last or not last[0].within:
        raise ArgumentError(
            f"tune: no candidate keeps {asked['spikes']} spikes per neuron. Raise spikes, or lower "
            "timesteps."
        )
    best = last[0]
    others = [trial for trial in _different(last)[1:] if trial.within and not trial.stuck]
    ahead = lead(best, others[0]) if others else None
    interval = best.agreement_interval
    found = {
        "by": "transpike.tune",
        "divergence": best.divergence,
        "agreement": best.agreement,
        "agreement_interval": None if interval is None else list(interval),
        "told_apart": None if ahead is None else ahead.told_apart,
        "spikes_per_neuron": best.spikes_per_neuron,
        "held_out": best.n,
        "calibration_inputs": calibrated,
        **asked,
    }
    if rounds.interrupted:
        found["interrupted"] = True
    settled = [trial for trial in last if not trial.stuck]
    front = [trial for trial in settled if not any(_beats(other, trial) for other in settled)]
    final = {trial.recipe for trial in last}
    rest = sorted(
        rounds.measured.values(), key=lambda one: (one.recipe not in final, -one.n, _rank(one))
    )
    pareto = tuple(sorted(front, key=lambda trial: trial.spikes_per_neuron))
    recipe = replace(best.recipe, found=found)
    return Tuning(recipe, tuple(rest), pareto, ahead, rounds.interrupted)


__all__ = ["Trial", "Tuning", "tune"]

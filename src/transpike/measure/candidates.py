"""The recipes that tuning tries: neurons, threshold rules and calibration passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from transpike.conversion.passes import (
    AllocateCounts,
    BiasCorrection,
    CalibrationPass,
    DelayedReadout,
    MembraneCorrection,
    SiteSearch,
)
from transpike.conversion.recipe import Recipe
from transpike.conversion.thresholds import (
    GaussianIteration,
    LeastSquares,
    Percentile,
    ThresholdRule,
    UpperBound,
)
from transpike.errors import ArgumentError
from transpike.graph.network import check_timesteps
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import LONGEST_WINDOW, Burst, Cyclic, Refining, Signed, Staggered

RULES: tuple[ThresholdRule, ...] = (
    Percentile(99.9),
    LeastSquares(),
    GaussianIteration(),
    LeastSquares(granularity="layer"),
)
PASSES: tuple[tuple[CalibrationPass, ...], ...] = (
    (),
    (BiasCorrection(),),
    (MembraneCorrection(),),
    (SiteSearch(),),
    (SiteSearch(), BiasCorrection()),
    (SiteSearch(), DelayedReadout()),
)


@dataclass(frozen=True)
class Space:
    """What tuning may choose from.

    Attributes:
        timesteps: T.
        max_count: K, the largest count per timestep of any neuron.
        spikes: budget of spikes per neuron over all T timesteps, or None.
        signed: only signed neurons (True), only unsigned neurons (False), or both (None).
        refining: neurons whose step changes are allowed, too.
    """

    timesteps: int
    max_count: int = 1
    spikes: float | None = None
    signed: bool | None = None
    refining: bool = False

    def __post_init__(self) -> None:
        """Check what no neuron checks."""
        check_timesteps(self.timesteps)
        if self.spikes is not None and not 0 < self.spikes < float("inf"):
            raise ArgumentError(f"spikes: needed a number > 0, got {self.spikes!r}.")


def candidates(space: Space, depth: int, *, bounded: bool = False) -> list[Recipe]:
    """List every recipe of a space.

    Args:
        space: what may be chosen.
        depth: number of sites on the longest path of the network.
        bounded: whether a site of the network has an upper bound, as ReLU6 has.

    Raises:
        ArgumentError: refining neurons are asked for, and the other settings leave none.
    """
    timesteps, max_count, signed = space.timesteps, space.max_count, space.signed
    shrinking: list[Neuron] = []
    if space.refining:
        shrinking = [
            *refining_neurons(max_count),
            *cyclic_neurons(timesteps, max_count),
            *staggered_neurons(timesteps, max_count, depth),
        ]
    if space.refining and (signed is False or timesteps == 1 or not shrinking):
        raise ArgumentError(
            "tune: refining needs signed neurons, timesteps >= 2, and max_count >= 2 or timesteps "
            f"> the network's depth ({depth})."
        )
    neurons: list[Neuron] = []
    if signed is not False:
        neurons.append(Signed(max_count))
    if signed is not True:
        neurons.append(Burst(max_count, mode="resolution"))
    first: tuple[CalibrationPass, ...] = ()
    if space.spikes is not None and max_count > 1:
        first = (AllocateCounts(space.spikes),)
    passes = [(*first, *more) for more in PASSES]
    # Where the step shrinks, readouts are not delayed and counts are not allocated.
    without_delay = [
        more for more in PASSES if not any(isinstance(one, DelayedReadout) for one in more)
    ]
    rules = (*RULES, UpperBound()) if bounded else RULES
    return [
        *_combined(timesteps, neurons, rules, passes),
        *_combined(timesteps, shrinking, rules, without_delay),
    ]


def _combined(
    timesteps: int,
    neurons: Sequence[Neuron],
    rules: Sequence[ThresholdRule],
    passes: Sequence[tuple[CalibrationPass, ...]],
) -> list[Recipe]:
    return [
        Recipe(timesteps, neuron, rule, some)
        for neuron in neurons
        for rule in rules
        for some in passes
    ]


def refining_neurons(max_count: int) -> list[Neuron]:
    """List refining neurons: the preset, which reaches its threshold in two steps, and faster ones.

    The list is empty for K = 1: single spikes leave no room to correct what was sent.
    """
    if max_count == 1:
        return []
    preset = Refining(max_count)
    halves = range(3)  # of what the second step adds to K
    levels = {max_count + max_count * half // (2 * preset.schedule.ratio) for half in halves}
    return [Refining(max_count, levels=count) for count in sorted(levels)]


def cyclic_neurons(timesteps: int, max_count: int) -> list[Neuron]:
    """List cyclic neurons: cycles of two and three steps that fit in T twice.

    Single spikes need more cycles, so for K = 1 the list is empty if T has fewer than four.
    """
    ratio = max(Cyclic(max_count).schedule.divisors or (2,))
    cycles = [tuple(ratio**power for power in range(length)) for length in (2, 3)]
    least = 2 if max_count > 1 else 4
    return [Cyclic(max_count, one) for one in cycles if timesteps >= least * len(one)]


def staggered_neurons(timesteps: int, max_count: int, depth: int) -> list[Neuron]:
    """For each lag, use the longest window that fits in T, and try two level counts."""
    found = []
    for lag in (1, 2, 3) if depth > 1 else (1,):
        window = timesteps - lag * (depth - 1)
        if window > max(lag, 1):  # with lag = window - 1 a layer knows its whole input
            longest = min(window, LONGEST_WINDOW)
            found += [
                Staggered(max_count, window=longest, lag=lag, levels=levels)
                for levels in sorted({max_count, max_count * 3 // 2})
            ]
    return found


def with_pass(recipe: Recipe, one: CalibrationPass) -> Recipe:
    """Append a pass to a recipe; a delayed readout stays the last one."""
    passes = list(recipe.passes)
    delay = [passes.pop()] if passes and isinstance(passes[-1], DelayedReadout) else []
    return replace(recipe, passes=(*passes, one, *delay))


__all__ = ["PASSES", "RULES", "Space", "candidates", "with_pass"]

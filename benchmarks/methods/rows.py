"""The rows that `table.py` measures, each with its recipe."""

from __future__ import annotations

from dataclasses import dataclass, replace

import transpike as tp
from transpike.conversion.thresholds import ThresholdRule
from transpike.spiking.neuron import Neuron

Passes = tuple[object, ...]

PERCENTILE, LSQ = tp.Percentile(99.9), tp.LeastSquares()
BIAS, SEARCH, DELAY = tp.BiasCorrection(), tp.SiteSearch(), tp.DelayedReadout()

RESNET_20 = 19  # layers of neurons on its longest path


@dataclass(frozen=True)
class Target:
    """A neuron, and the loss that its recipes may have.

    Attributes:
        name: how the target is called in the tables.
        neuron: the neuron; every layer has its full K.
        most: the largest loss that is allowed, in percentage points, by T.
        refining: a neuron of the same K whose step shrinks, or None. Its ratio and levels were
            chosen by the divergence on held-out training images.
    """

    name: str
    neuron: Neuron
    most: dict[int, float]
    refining: Neuron | None = None


TARGETS = (
    Target("signed1", tp.Signed(1), {8: 2.0, 16: 0.5, 32: 0.2}),
    Target("signed4", tp.Signed(4), {2: 1.5, 4: 0.4}, tp.Refining(4)),
    Target("signed8", tp.Signed(8), {2: 0.4, 4: 0.2}, tp.Refining(8)),
    Target("unsigned1", tp.IF(), {32: 1.5}),
)
# The recipes of every target. Tuning chooses one more.
FIXED: dict[str, tuple[ThresholdRule, Passes]] = {
    "plain": (PERCENTILE, ()),
    "lsq-bias": (LSQ, (BIAS,)),
    "search": (LSQ, (SEARCH,)),
    "distilled": (LSQ, (BIAS, tp.Distillation())),
}


# The recipes of a target's refining neuron.
FIXED_REFINING: dict[str, tuple[ThresholdRule, Passes]] = {
    "refining lsq-bias": (LSQ, (BIAS,)),
    "refining search": (LSQ, (SEARCH,)),
}


@dataclass(frozen=True)
class Row:
    """One line of a table.

    Attributes:
        group: the table to which it belongs: targets, ablation, parts, codes, spikes or pooling.
        name: how the row is called in its table.
        timesteps: the T at which it is read.
        recipe: how to convert; None for the recipe that tuning chooses for `target`.
        target: name of the target, or "".
        pooling: "max" for the pooling of the trained model, "average" for average pooling in place
            of every max-pooling.
        refining: whether tuning may choose neurons whose step shrinks.
    """

    group: str
    name: str
    timesteps: int
    recipe: tp.Recipe | None
    target: str = ""
    pooling: str = "max"
    refining: bool = False


def rows(budget: float, depth: int = RESNET_20) -> list[Row]:
    """All rows.

    Args:
        budget: spikes per neuron over T = 2 that the row with allocated counts may have.
        depth: layers of neurons on the longest path. It determines the T of networks whose layers
            fire one after the other.
    """
    return [
        *_targets(),
        *_ablation(),
        *_parts(),
        *_codes(budget),
        *_spikes(depth),
        *_pooling(),
    ]


def _recipe(t: int, neuron: Neuron, rule: ThresholdRule, *passes: object) -> tp.Recipe:
    return tp.Recipe(t, neuron, rule, passes)  # type: ignore[arg-type]


def _targets() -> list[Row]:
    found = []
    for target in TARGETS:
        for t in target.most:
            recipes = {
                name: _recipe(t, target.neuron, rule, *passes)
                for name, (rule, passes) in FIXED.items()
            }
            if target.refining is not None:
                recipes |= {
                    name: _recipe(t, target.refining, rule, *passes)
                    for name, (rule, passes) in FIXED_REFINING.items()
                }
            for name, recipe in recipes.items():
                found.append(Row("targets", f"{target.name} {name}", t, recipe, target.name))
            found.append(Row("targets", f"{target.name} tuned", t, None, target.name))
            if target.refining is not None:
                name = f"{target.name} refining tuned"
                found.append(Row("targets", name, t, None, target.name, refining=True))
    return found


def _ablation() -> list[Row]:
    """From the plainest neuron to the tuned recipe; each row adds one part to the row before."""
    bare = tp.IF(initial_membrane=0.0)
    found = []
    for t in (8, 32):
        for target, neuron in (("unsigned1", tp.IF()), ("signed1", tp.Signed(1))):
            if (target, t) == ("unsigned1", 8):
                continue
            chain: dict[str, tp.Recipe | None] = {
                "plainest": _recipe(t, bare, tp.MaxAbs("layer")),
                "+ percentile": _recipe(t, bare, tp.Percentile(99.9, "layer")),
                "+ per channel": _recipe(t, bare, PERCENTILE),
                "+ half a step": _recipe(t, tp.IF(), PERCENTILE),
            }
            if neuron.signed:
                chain["+ signed"] = _recipe(t, neuron, PERCENTILE)
            chain["+ least squares"] = _recipe(t, neuron, LSQ)
            chain["+ bias correction"] = _recipe(t, neuron, LSQ, BIAS)
            chain["site search in its place"] = _recipe(t, neuron, LSQ, SEARCH)
            chain["tuned"] = None
            found += [Row("ablation", name, t, recipe, target) for name, recipe in chain.items()]
    return found


def _parts() -> list[Row]:
    """Every row has another threshold rule or other calibration passes."""
    choices: dict[str, tuple[ThresholdRule, Passes]] = {
        "max": (tp.MaxAbs(), ()),
        "percentile": (PERCENTILE, ()),
        "percentile per layer": (tp.Percentile(99.9, "layer"), ()),
        "local threshold balancing": (tp.LocalThresholdBalancing(), ()),
        "lsq": (LSQ, ()),
        "lsq per layer": (tp.LeastSquares(granularity="layer"), ()),
        "Gaussian iteration": (tp.GaussianIteration(), ()),
        "bias": (LSQ, (BIAS,)),
        "membrane": (LSQ, (tp.MembraneCorrection(),)),
        "search": (LSQ, (SEARCH,)),
        "search, bias": (LSQ, (SEARCH, BIAS)),
        "delay": (LSQ, (DELAY,)),
        "search, delay": (LSQ, (SEARCH, DELAY)),
    }
    return [
        Row("parts", name, t, _recipe(t, neuron, rule, *passes))
        for t, neuron in ((8, tp.Signed(1)), (32, tp.IF()))
        for name, (rule, passes) in choices.items()
    ]


def _codes(budget: float) -> list[Row]:
    one = tp.Refining(1, period=3)
    original = _recipe(32, tp.Burst(5, initial_membrane=0.0), tp.Percentile(99, "layer"))
    return [
        Row("codes", "burst range K=5, as the original study", 32, original),
        Row("codes", "burst range K=5", 32, _recipe(32, tp.Burst(5), PERCENTILE)),
        Row("codes", "burst resolution K=4", 4, _recipe(4, tp.Burst(4, mode="resolution"), LSQ)),
        Row("codes", "multi-threshold, 2 bits", 4, _recipe(4, tp.MultiThreshold(2), LSQ)),
        Row("codes", "multi-threshold, 3 bits", 4, _recipe(4, tp.MultiThreshold(3), LSQ)),
        Row("codes", "differential", 8, _recipe(8, tp.Differential(16, 4), LSQ)),
        Row("codes", "differential", 32, _recipe(32, tp.Differential(16, 1), LSQ)),
        Row("codes", "refining, 4 counts", 3, _recipe(3, tp.Refining(4), LSQ, BIAS)),
        Row("codes", "refining, 2 counts", 4, _recipe(4, tp.Refining(2), LSQ, BIAS)),
        Row("codes", "refining, 1 count", 8, _recipe(8, one, LSQ, BIAS)),
        Row("codes", "counts not shared out", 2, _recipe(2, tp.Signed(8), LSQ)),
        Row(
            "codes",
            "allocated counts",
            2,
            _recipe(2, tp.Signed(8), LSQ, tp.AllocateCounts(budget)),
        ),
    ]


def _spikes(depth: int) -> list[Row]:
    """Layers that fire one after the other, with all windows up to 7, so that none is chosen.

    For two counts, the levels and the hysteresis were chosen by the divergence on held-out training
    images.
    """

    def row(name: str, neuron: Neuron, rule: ThresholdRule = LSQ) -> Row:
        assert neuron.schedule.window is not None
        t = neuron.schedule.lag * (depth - 1) + neuron.schedule.window
        return Row("spikes", f"staggered, {name}", t, _recipe(t, neuron, rule, BIAS))

    one = {window: tp.Staggered(1, window=window) for window in range(1, 8)}
    rough: dict[str, tuple[ThresholdRule, tuple[int, ...]]] = {
        "percentile": (PERCENTILE, (1, 2, 3, 4)),
        "max": (tp.MaxAbs(), (2, 3)),
    }
    return [
        *(row(f"1 count, window {window}", one[window]) for window in range(2, 8)),
        *(
            row(f"1 count, window {window}, {name}", one[window], rule)
            for name, (rule, windows) in rough.items()
            for window in windows
        ),
        row("2 counts", tp.Staggered(2)),
        row("2 counts, complete input", tp.Staggered(2, lag=3)),
        *(
            row(f"2 counts, window {window}", tp.Staggered(2, window=window, levels=2))
            for window in range(3, 8)
        ),
    ]


def _pooling() -> list[Row]:
    return [
        Row("pooling", f"{pooling} pooling", t, _recipe(t, tp.Signed(1), PERCENTILE), "", pooling)
        for pooling in ("max", "average")
        for t in (8, 32)
    ]


def needs_timesteps(recipe: tp.Recipe) -> bool:
    """Whether the converted network depends on T."""
    rule = recipe.threshold
    by_levels = isinstance(rule, (tp.LeastSquares, tp.GaussianIteration)) and rule.levels is None
    fixed_levels = recipe.neuron.levels is not None and recipe.neuron.schedule.ratio == 1
    return bool(recipe.passes) or (by_levels and not fixed_levels)


def shared(wanted: list[Row]) -> list[Row]:
    """The same rows, so that one run serves all rows whose conversion does not depend on T.

    Such rows get the longest T that any row asks of their recipe. A run gives the results at every
    earlier t as well.
    """
    longest: dict[tuple[Neuron, ThresholdRule, str], int] = {}
    for row in wanted:
        if row.recipe is not None and not needs_timesteps(row.recipe):
            key = (row.recipe.neuron, row.recipe.threshold, row.pooling)
            longest[key] = max(row.timesteps, longest.get(key, 0))
    found = []
    for row in wanted:
        if row.recipe is not None and not needs_timesteps(row.recipe):
            t = longest[row.recipe.neuron, row.recipe.threshold, row.pooling]
            row = replace(row, recipe=replace(row.recipe, timesteps=t))
        found.append(row)
    return found

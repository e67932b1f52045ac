"""Several methods on one network, in one table."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from transpike.conversion.calibrate import calibrate
from transpike.conversion.passes import BiasCorrection, CalibrationPass, SiteSearch
from transpike.conversion.recipe import Recipe
from transpike.conversion.thresholds import (
    GaussianIteration,
    LeastSquares,
    LocalThresholdBalancing,
    MaxAbs,
    Percentile,
    ThresholdRule,
)
from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.batches import Batches
from transpike.graph.capture import capture
from transpike.graph.network import Network, check_timesteps
from transpike.measure.evaluate import Evaluation, evaluate
from transpike.simulation.record import Record
from transpike.simulation.simulate import simulate
from transpike.spiking.neuron import Neuron
from transpike.spiking.presets import (
    IF,
    LONGEST_WINDOW,
    Burst,
    Cyclic,
    Differential,
    MultiThreshold,
    Refining,
    Signed,
    Staggered,
)
from transpike.spiking.spiking_network import SpikingNetwork


@dataclass(frozen=True)
class Row:
    """One method.

    Attributes:
        name: name of the method.
        recipe: how the network was converted.
        evaluation: its evaluation up to T.
        unit: spikes per neuron on the first test batch if a count of n is sent as n spikes.
        binary: the same if a count is sent as a binary number.
        first_batch: number of samples in that batch.
    """

    name: str
    recipe: Recipe
    evaluation: Evaluation
    unit: float
    binary: float
    first_batch: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {
            "name": self.name,
            "recipe": self.recipe.to_dict(),
            "evaluation": self.evaluation.to_dict(),
            "unit_spikes_per_neuron": self.unit,
            "binary_spikes_per_neuron": self.binary,
            "binary_n": self.first_batch,
        }


@dataclass(frozen=True)
class Comparison:
    """Methods on the same network and the same test samples.

    Attributes:
        rows: one per method.
        calibration_n: number of training inputs that every method was given.
    """

    rows: tuple[Row, ...]
    calibration_n: int = field(default=0)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        rows = [row.to_dict() for row in self.rows]
        return {"calibration_n": self.calibration_n, "rows": rows}

    def __str__(self) -> str:
        """A table with one row per method, at T."""
        first = self.rows[0].evaluation
        lines = [
            f"ANN {100 * first.ann_accuracy:.2f} %, n={first.n}, calibrated on "
            f"{self.calibration_n} training inputs",
            f"unit, binary: spikes per neuron up to T on the first {self.rows[0].first_batch} "
            "samples, if a count of n is sent as n spikes or as a binary number",
            f"{'T':>4} {'K':>3} {'SNN %':>7} {'95 %':>16} {'loss':>6} {'95 %':>15} {'agree %':>8} "
            f"{'quantized %':>11} {'unit':>8} {'binary':>8}  method",
        ]
        return "\n".join([*lines, *(_line(row) for row in self.rows)])


def _line(row: Row) -> str:
    e, t = row.evaluation, row.evaluation.timesteps
    low, high = (100 * x for x in e.accuracy_interval[-1])
    least, most = (100 * x for x in e.loss_interval[-1])
    return (
        f"{t:>4} {e.max_count:>3} {100 * e.accuracy[-1]:7.2f} {f'[{low:.2f}, {high:.2f}]':>16} "
        f"{100 * e.loss[-1]:6.2f} {f'[{least:.2f}, {most:.2f}]':>15} "
        f"{100 * e.agreement[-1]:8.2f} {100 * e.quantized[str(t)]:11.2f} "
        f"{row.unit:8.3f} {row.binary:8.3f}  {row.name}"
    )


def methods(timesteps: int, max_count: int = 1, depth: int | None = None) -> dict[str, Recipe]:
    """List the methods of the literature and of this library for T timesteps.

    Args:
        timesteps: T.
        max_count: K of the neurons that have one. Burst in range mode takes max(K, 2).
        depth: number of sites on the network's longest path, `max(network.depth.values())`. If it
            is given and T is larger, `Staggered` neurons are among the methods.
    """
    check_timesteps(timesteps)
    bits = max(1, (max_count + 1).bit_length() - 1)
    burst, signed = Burst(max_count, mode="resolution"), Signed(max_count)
    plain = Percentile(99.9)
    published = Burst(max(2, max_count), initial_membrane=0.0)
    recipes: dict[str, tuple[Neuron, ThresholdRule, tuple[CalibrationPass, ...]]] = {
        "max-norm, IF, no initial membrane": (IF(initial_membrane=0.0), MaxAbs("layer"), ()),
        "percentile per layer, burst (range)": (published, Percentile(99, "layer"), ()),
        "percentile per channel, IF": (IF(), plain, ()),
        "local threshold balancing, IF": (IF(), LocalThresholdBalancing(), ()),
        "percentile per channel, unsigned": (burst, plain, ()),
        "least squares, unsigned, bias": (burst, LeastSquares(), (BiasCorrection(),)),
        "least squares, unsigned, search": (burst, LeastSquares(), (SiteSearch(),)),
        "Gaussian, multi-threshold": (MultiThreshold(bits), GaussianIteration(), ()),
        "percentile per channel, signed": (signed, plain, ()),
        "least squares, signed, bias": (signed, LeastSquares(), (BiasCorrection(),)),
        "least squares, signed, search": (signed, LeastSquares(), (SiteSearch(),)),
        "differential": (
            Differential(max(1, max_count * timesteps), max_count),
            LeastSquares(),
            (),
        ),
    }
    if max_count > 1 and timesteps > 1:
        refining = (Refining(max_count), LeastSquares(), (BiasCorrection(),))
        recipes["least squares, refining, bias"] = refining
    if timesteps > 2:
        cyclic = (Cyclic(max_count), LeastSquares(), (BiasCorrection(),))
        recipes["least squares, cyclic, bias"] = cyclic
    if depth is not None and timesteps > depth:
        window = min(timesteps - depth + 1, LONGEST_WINDOW)
        staggered = Staggered(max_count, window=window)
        recipes["least squares, staggered, bias"] = (staggered, LeastSquares(), (BiasCorrection(),))
    if max_count == 1:  # the same as IF
        del recipes["percentile per channel, unsigned"]
    return {
        name: Recipe(timesteps, neuron, rule, passes)
        for name, (neuron, rule, passes) in recipes.items()
    }


@isolated()
def compare(
    model: nn.Module | Network,
    batches: Iterable[Any],
    test: Iterable[Any],
    recipes: Mapping[str, Recipe],
    *,
    progress: Callable[[int, int | None], None] | None = None,
) -> Comparison:
    """Convert one network by several recipes and evaluate all on the same samples.

    Args:
        model: a captured network, or a module.
        batches: training data for calibration.
        test: (input, target) pairs.
        recipes: recipes by the name to show, such as `methods(timesteps=8)`.
        progress: called with (methods done, methods in all).

    Raises:
        ArgumentError: no recipe.
        DataError: no data.
    """
    if not recipes:
        raise ArgumentError("compare: needed at least one recipe, such as methods(timesteps=8).")
    training, tested = list(Batches(batches).inputs()), Batches(list(test))
    if not training or not tested.count:
        raise DataError("compare: needed at least one batch of training and of test data.")
    network = model if isinstance(model, Network) else capture(model, training[0])
    statistics = calibrate(network, training)
    rows = []
    for name, recipe in recipes.items():
        snn = recipe.convert(network, training, calibration=statistics)
        first = tested.first()
        unit, binary = _spikes(snn, first, recipe.timesteps)
        result = evaluate(snn, tested, recipe.timesteps)
        rows.append(Row(name, recipe, result, unit, binary, len(first)))
        if progress is not None:
            progress(len(rows), len(recipes))
    return Comparison(tuple(rows), statistics.n)


def _spikes(snn: SpikingNetwork, x: Any, timesteps: int) -> tuple[float, float]:
    """Count spikes per neuron on a batch, as unit spikes and in binary."""
    x = x.to(snn.network.device)
    snn = snn.sized_for(x)
    run = simulate(snn, x, timesteps, record=Record(output_at=[timesteps], totals=True))
    neurons = snn.network.neurons * len(x)
    unit = sum(float(total.unit.double().sum()) for total in run.totals.values())
    binary = sum(float(total.binary.double().sum()) for total in run.totals.values())
    return unit / neurons, binary / neurons

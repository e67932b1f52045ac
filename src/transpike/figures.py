"""Draws results; needs matplotlib, and no display."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from transpike.errors import ArgumentError
from transpike.evaluate import Evaluation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE_INCHES = (7.0, 4.5)
_BAND_OPACITY = 0.15
_PERCENT = 100.0


def accuracy_figure(results: Mapping[str, Evaluation], title: str = "") -> Figure:
    """Draws accuracy against timesteps, one curve per result.

    Each curve carries its 95 % Wilson band and, as open circles, its quantised-ANN ceiling. The
    dashed line is the ANN of the first result.

    Args:
        results: label of the curve to result; at least one.
        title: above the axes.

    Returns:
        A matplotlib figure; save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: `results` is empty, or matplotlib is not installed.
    """
    if not results:
        raise ArgumentError("accuracy_figure: needed at least one result, got none.")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ArgumentError(
            "matplotlib is not installed: install it with pip install 'transpike[plot]'."
        ) from error
    figure = Figure(figsize=_SIZE_INCHES, layout="constrained")
    axes = figure.subplots()
    first = next(iter(results.values()))
    for label, result in results.items():
        _draw_curve(axes, label, result)
    axes.axhline(
        _PERCENT * first.ann_accuracy,
        color="black",
        linestyle="--",
        linewidth=1,
        label=f"ANN {first.ann_accuracy:.2%}",
    )
    axes.plot([], [], "o", color="gray", fillstyle="none", label="quantised-ANN ceiling")
    _label_axes(axes, max(result.timesteps for result in results.values()))
    axes.set_title(title or f"n = {first.n}, bands: 95 % Wilson interval")
    return figure


def _draw_curve(axes: Axes, label: str, result: Evaluation) -> None:
    timesteps = list(range(1, result.timesteps + 1))
    (line,) = axes.plot(timesteps, [_PERCENT * value for value in result.accuracy], label=label)
    axes.fill_between(
        timesteps,
        [_PERCENT * low for low, _ in result.accuracy_interval],
        [_PERCENT * high for _, high in result.accuracy_interval],
        color=line.get_color(),
        alpha=_BAND_OPACITY,
        linewidth=0,
    )
    axes.plot(
        [int(t) for t in result.ceiling],
        [_PERCENT * value for value in result.ceiling.values()],
        "o",
        color=line.get_color(),
        fillstyle="none",
    )


def _label_axes(axes: Axes, timesteps: int) -> None:
    ticks = [2**power for power in range(timesteps.bit_length())]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, labels=[str(tick) for tick in ticks])
    axes.set_xlabel("timesteps")
    axes.set_ylabel("accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right", fontsize="small")


__all__ = ["accuracy_figure"]

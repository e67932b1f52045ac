"""Figures of results. They need matplotlib, but no display."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from transpike.errors import ArgumentError, missing_package
from transpike.files import replacing
from transpike.measure.cost import Cost
from transpike.measure.diagnose import Diagnosis
from transpike.measure.energy import Energy
from transpike.measure.evaluate import Evaluation
from transpike.measure.findings import PART_LABELS, PARTS
from transpike.measure.site_errors import RATE_BINS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_SIZE_INCHES = (7.0, 4.5)
_BAND_OPACITY = 0.15
_PERCENT = 100.0
_DPI = 150  # pixels per inch of a figure in a file


def accuracy_figure(results: Mapping[str, Evaluation], title: str = "") -> Figure:
    """Draw accuracy against timesteps, one curve per result.

    Each curve has the band of its 95 % intervals. Open circles show its quantized ANN. The dashed
    line is the ANN of the first result.

    Args:
        results: results by the label of their curve; at least one.
        title: title above the axes.

    Returns:
        A matplotlib figure. Save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: `results` is empty, or matplotlib is not installed.
    """
    if not results:
        raise ArgumentError("accuracy_figure: needed at least one result, got none.")
    figure = blank_figure(_SIZE_INCHES)
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
    axes.plot([], [], "o", color="gray", fillstyle="none", label="quantized ANN")
    _label_axes(axes, max(result.timesteps for result in results.values()))
    kinds = {result.intervals_over for result in results.values()}
    over = f"over {kinds.pop()}" if len(kinds) == 1 else "over samples or images"
    axes.set_title(title or f"n = {first.n}, bands: 95 % intervals {over}")
    return figure


def blank_figure(size_inches: tuple[float, float]) -> Figure:
    """An empty figure.

    Args:
        size_inches: width and height in inches.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise missing_package("matplotlib") from error
    return Figure(figsize=size_inches, layout="constrained")


def _draw_curve(axes: Axes, label: str, result: Evaluation) -> None:
    first = result.first_output
    timesteps = list(range(first, result.timesteps + 1))
    accuracy = [_PERCENT * value for value in result.accuracy[first - 1 :]]
    intervals = result.accuracy_interval[first - 1 :]
    (line,) = axes.plot(timesteps, accuracy, label=label)
    axes.fill_between(
        timesteps,
        [_PERCENT * low for low, _ in intervals],
        [_PERCENT * high for _, high in intervals],
        color=line.get_color(),
        alpha=_BAND_OPACITY,
        linewidth=0,
    )
    axes.plot(
        [int(t) for t in result.quantized],
        [_PERCENT * value for value in result.quantized.values()],
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


_SMALLEST_ERROR = 1e-3  # smaller values are not drawn on the logarithmic axis


def diagnosis_figure(diagnosis: Diagnosis, title: str = "") -> Figure:
    """Draw the error of every site, its parts and the firing rates.

    Sites with a finding are shaded. The first of them is darker, and the title states its cause.

    Args:
        diagnosis: result of `diagnose`.
        title: title above all axes.

    Returns:
        A matplotlib figure. Save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    names = [site.name for site in diagnosis.sites]
    figure = blank_figure((max(7.0, 2.5 + 0.34 * len(names)), 8.0))
    upper, middle, lower = figure.subplots(3, 1, sharex=True, height_ratios=(3, 1.2, 2))
    _draw_parts(upper, diagnosis)
    positions = range(len(names))
    middle.plot(positions, [site.correlation for site in diagnosis.sites], "k.-", linewidth=1)
    middle.set_ylabel("correlation")
    middle.grid(alpha=0.3)
    rates = [site.firing_rates for site in diagnosis.sites]
    image = lower.imshow(
        [list(row) for row in zip(*rates, strict=True)],
        aspect="auto",
        origin="lower",
        cmap="Blues",
        vmin=0,
        vmax=1,
    )
    ticks = [0, 1, RATE_BINS // 2, RATE_BINS]
    lower.set_yticks(ticks, labels=["silent", "0.1", "0.5", "1"])
    lower.set_ylabel("firing rate / K")
    lower.set_xticks(list(positions), labels=names, rotation=60, ha="right", fontsize="small")
    figure.colorbar(image, ax=lower, label="share of neurons", pad=0.01)
    settings = f"T = {diagnosis.timesteps}, K = {diagnosis.max_count}, n = {diagnosis.n}"
    figure.suptitle(title or f"analog against spiking, {settings}")
    return figure


def _draw_parts(axes: Axes, diagnosis: Diagnosis) -> None:
    positions = list(range(len(diagnosis.sites)))
    whole = [site.relative_error for site in diagnosis.sites]
    axes.plot(positions, whole, color="black", linewidth=2, label="whole error")
    markers = dict(zip(PARTS, "x^v<o>", strict=True))
    for name in PARTS:
        values = [site.parts[name].rms for site in diagnosis.sites]
        if max(values) > _SMALLEST_ERROR:
            drawn = [value if value > _SMALLEST_ERROR else float("nan") for value in values]
            label = PART_LABELS[name]
            axes.plot(positions, drawn, marker=markers[name], linewidth=1, label=label)
    index = {site.name: position for position, site in enumerate(diagnosis.sites)}
    for number, finding in enumerate(diagnosis.findings):
        for name in finding.sites:
            if name in index:
                first = number == 0 and name == finding.site
                axes.axvspan(
                    index[name] - 0.5,
                    index[name] + 0.5,
                    color="tab:red",
                    alpha=0.3 if first else 0.08,
                    linewidth=0,
                )
    verdict = list(diagnosis.verdict)
    if diagnosis.first is not None:
        verdict.append(f"First wrong at {diagnosis.first.site}: {diagnosis.first.cause}.")
    axes.set_title("\n".join(verdict), fontsize="medium")
    axes.set_yscale("log")
    axes.set_ylabel("rms error / rms activation")
    axes.grid(alpha=0.3)
    axes.legend(fontsize="small", ncols=2)


def cost_figure(cost: Cost, title: str = "") -> Figure:
    """Draw the operations of every layer, and the energy beside that of the analog networks.

    Args:
        cost: result of `measure_cost`.
        title: title above all axes.

    Returns:
        A matplotlib figure. Save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: matplotlib is not installed.
    """
    weighted = [row for row in cost.operations if row.counts.ann_macs > 0]
    figure = blank_figure((max(8.0, 4.5 + 0.3 * len(weighted)), 4.8))
    left, right = figure.subplots(1, 2, width_ratios=(max(4.0, 0.3 * len(weighted)), 3.2))
    positions = range(len(weighted))
    spikes = [row.counts.accumulates / 1e6 for row in weighted]
    analog = [
        (row.counts.macs_input + row.counts.macs_readout + row.counts.macs_current) / 1e6
        for row in weighted
    ]
    left.bar(positions, spikes, color="tab:blue", label="SNN accumulates")
    left.bar(positions, analog, bottom=spikes, color="tab:orange", label="SNN multiply-accumulates")
    macs = [row.counts.ann_macs / 1e6 for row in weighted]
    left.plot(positions, macs, "k_", markersize=12, label="ANN multiply-accumulates")
    labels = [row.name for row in weighted]
    left.set_xticks(list(positions), labels=labels, rotation=60, ha="right", fontsize="small")
    left.set_ylabel("million operations per sample")
    left.set_ylim(top=1.25 * max(*macs, *(a + b for a, b in zip(spikes, analog, strict=True))))
    left.grid(alpha=0.3, axis="y")
    left.legend(fontsize="small", loc="upper right", ncols=2)
    _draw_energy(right, cost)
    if cost.quality is not None:
        quality = str(cost.quality).replace("; ", "\n").replace(" of ", "\nof ")
        right.set_title(f"at T = {cost.timesteps}: {quality}", fontsize="small")
    settings = f"T = {cost.timesteps}, K = {cost.max_count}, n = {cost.n}"
    spikes_per_neuron = f"{cost.spikes_per_neuron:.2f} spikes per neuron"
    figure.suptitle(title or f"cost of one inference, {settings}, {spikes_per_neuron}")
    return figure


def _draw_energy(axes: Axes, cost: Cost) -> None:
    """Draw the energy of each table, divided by the energy of its analog network."""

    def bars(row: Energy) -> tuple[float, float, float]:
        return row.snn_pj, row.quantized_ann_pj, row.ann_pj

    labels = ("SNN", "bit-matched ANN", "ANN")
    colors = ("tab:blue", "tab:gray", "black")
    width = 0.26
    for number, (label, color) in enumerate(zip(labels, colors, strict=True)):
        values = [bars(row)[number] / row.ann_pj for row in cost.energy]
        places = [index + (number - 1) * width for index in range(len(values))]
        drawn = axes.bar(places, values, width, color=color, label=label)
        texts = [f"{bars(row)[number] / 1e6:.3g}" for row in cost.energy]
        axes.bar_label(drawn, texts, fontsize="small")
    axes.set_xticks(range(len(cost.energy)), labels=[row.table for row in cost.energy])
    axes.set_ylabel("energy / energy of the ANN\n(numbers above the bars: µJ)")
    axes.set_ylim(top=1.3 * max(max(bars(row)) / row.ann_pj for row in cost.energy))
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize="small", loc="upper center", ncols=3)


def save_figure(figure: Figure, file: Path) -> None:
    """Write a matplotlib figure. The end of the name says in which format, as in matplotlib.

    Args:
        figure: the figure.
        file: file to write. Without an end of the name, it gets that of PNG.

    Raises:
        OSError: the file cannot be written.
        ValueError: matplotlib does not know the format.
    """
    file = file if file.suffix else file.with_name(f"{file.name}.png")
    with replacing(file) as opened:
        figure.savefig(opened, format=file.suffix[1:], dpi=_DPI)


__all__ = ["accuracy_figure", "blank_figure", "cost_figure", "diagnosis_figure", "save_figure"]

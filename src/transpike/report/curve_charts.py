"""Charts against timesteps: accuracies, further metrics, and F1 of masks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from transpike.measure.evaluate import curve_points
from transpike.report.chart_parts import (
    CURVE_PIXELS,
    INK,
    LEGEND_ROW_PIXELS,
    PERCENT,
    SERIES,
    Chart,
    finite,
    layout_of,
    legend_name,
    line,
    series,
    time_axis,
)
from transpike.report.kinds import first_output, intervals_over
from transpike.report.mask_scores import FEWEST_IMAGES
from transpike.report.read import Evaluated
from transpike.report.samples import Samples
from transpike.report.text import (
    metric_label,
    metric_names,
    metric_of_ann,
    metric_values,
)

_DASHES = ("solid", "dash", "dot", "dashdot")
_MANY = 3  # more curves than this have error bars, and their quantized ANNs begin hidden
_DODGE = 1.012  # factor on the time axis between the error bars of two curves


def accuracy_chart(evaluations: Sequence[Evaluated]) -> Chart:
    """Accuracy against timesteps: curves with intervals, quantized ANNs and analog networks."""
    data: list[dict[str, Any]] = []
    for number, one in enumerate(evaluations):
        data += _curve(number, one, len(evaluations))
    longest = max(one.content["timesteps"] for one in evaluations)
    data += _ann_lines(evaluations, list(range(1, longest + 1)))
    rows = len(data) - sum(not trace.get("showlegend", True) for trace in data)
    layout = layout_of(time_axis(longest), {"title": {"text": "accuracy, %"}}, rows)
    height = CURVE_PIXELS + LEGEND_ROW_PIXELS * rows
    return Chart("accuracy", _accuracy_caption(evaluations), data, layout, height)


def metric_chart(evaluations: Iterable[Evaluated]) -> Chart | None:
    """Further metrics against timesteps; None if there are none."""
    data: list[dict[str, Any]] = []
    longest = 1
    for one in evaluations:
        e = one.content
        for name in metric_names(e):
            number, label = len(data) // 2, f"{one.name}: {metric_label(name)}"
            first = first_output(e)
            times = list(range(first, e["timesteps"] + 1))
            longest = max(longest, e["timesteps"])
            ann = metric_of_ann(e, name)
            values = [finite(value) for value in metric_values(e, name)[first - 1 :]]
            data.append(line(label, times, values, series(number), "solid", ": %{y:.4f}"))
            level = [finite(ann)] * len(times)
            data.append(line(f"{label}, ANN", times, level, series(number), "dash", ": %{y:.4f}"))
    if not data:
        return None
    caption = (
        "Metrics after t timesteps. Dashed lines are the analog network. No interval is drawn, "
        "because the file holds each metric of all samples together and not of each one."
    )
    layout = layout_of(time_axis(longest), {"title": {"text": "metric"}}, len(data))
    height = CURVE_PIXELS + LEGEND_ROW_PIXELS * len(data)
    return Chart("metric", caption, data, layout, height)


def mask_chart(name: str, samples: Samples, scores: Mapping[str, Any]) -> Chart:
    """F1 of recorded images against timesteps."""
    times = list(samples.timesteps)
    hover = ": %{y:.4f}"
    ann = [scores["f1_ann"]] * len(times)
    data = [
        line("SNN against the labels", times, scores["f1"], series(0), "solid", hover),
        line("SNN against the ANN", times, scores["f1_to_ann"], series(1), "dot", hover),
        line("ANN against the labels", times, ann, INK, "dash", hover),
    ]
    if len(times) <= 2 * SERIES:
        for trace in data[:2]:
            trace["mode"] = "lines+markers"
    caption = f"F1 over all pixels of the {len(samples)} recorded images, after t timesteps."
    pairs = scores["f1_interval"]
    if all(pair is not None for pair in pairs):
        low, high = ([pair[side] for pair in pairs] for side in (0, 1))
        data[0]["legendgroup"] = "labels"
        data.insert(0, _band(times, low, high, series(0), "labels"))
        caption += (
            " The band is a 95 % interval from a bootstrap over the images, because the pixels of "
            "one image are not independent."
        )
    elif len(samples) < FEWEST_IMAGES:
        caption += (
            f" No interval is drawn: pixels of one image are not independent, and fewer than "
            f"{FEWEST_IMAGES} images say too little about other images."
        )
    return f1_chart(name, caption, data, time_axis(times[-1]))


def f1_chart(
    name: str, caption: str, data: list[dict[str, Any]], x_axis: Mapping[str, Any]
) -> Chart:
    """A chart of F1 scores."""
    axis = {"title": {"text": "F1"}, "rangemode": "tozero"}
    height = CURVE_PIXELS + LEGEND_ROW_PIXELS * len(data)
    return Chart(name, caption, data, layout_of(x_axis, axis, len(data)), height)


def _accuracy_caption(evaluations: Sequence[Evaluated]) -> str:
    sizes = sorted({one.content["n"] for one in evaluations})
    kinds = {intervals_over(one.content) for one in evaluations}
    many = len(evaluations) > _MANY
    drawn = "Error bars" if many else "Bands"
    sentences = [f"Accuracy after t timesteps, n = {_listed(sizes, 'or')}."]
    if "samples" in kinds:
        sentences.append(f"{drawn} are 95 % Wilson intervals over the samples.")
    if "images" in kinds:
        sentences.append(
            f"{drawn} of pixel accuracies are 95 % intervals over the images, because the pixels "
            "of one image are not independent."
        )
    if None in kinds:
        sentences.append(
            "A pixel accuracy without an interval comes from a file of an earlier version. An "
            "interval over pixels would be too narrow, because the pixels of one image are not "
            "independent. Evaluate again to get an interval over the images."
        )
    sentences.append(
        "Circles are the quantized ANN, the analog network with K·t activation levels (with "
        "differential coding, with its own levels). Dashed lines are the analog network."
    )
    if many:
        sentences.append("The circles begin hidden: click their entry in the legend.")
    return " ".join(sentences)


def _listed(values: Sequence[int], word: str) -> str:
    """Numbers as a list in a sentence."""
    texts = [f"{value:,}" for value in values]
    return f" {word} ".join([", ".join(texts[:-1]), texts[-1]] if len(texts) > 1 else texts)


def _ann_lines(evaluations: Sequence[Evaluated], times: Sequence[int]) -> list[dict[str, Any]]:
    """One dashed line for every accuracy of an analog network that differs as it is shown."""
    values: dict[str, float] = {}
    sizes: dict[str, set[int]] = {}
    models: dict[str, set[str]] = {}
    for one in evaluations:
        share = PERCENT * one.content["ann_accuracy"]
        shown = f"{share:.2f} %"
        values.setdefault(shown, share)
        sizes.setdefault(shown, set()).add(one.content["n"])
        models.setdefault(shown, set()).add(str(one.content.get("model") or "the network"))
    several = len(values) > 1
    differ = len(set().union(*models.values())) > 1
    lines = []
    for shown, share in values.items():
        whose = f" of {', '.join(sorted(models[shown]))}" if several and differ else ""
        count = f", n = {_listed(sorted(sizes[shown]), 'and')}" if several else ""
        name = f"ANN{whose}: {shown}{count}"
        lines.append(line(name, times, [share] * len(times), INK, "dash", ""))
    return lines


def _curve(number: int, one: Evaluated, curves: int) -> list[dict[str, Any]]:
    """Interval, line and quantized ANN of one evaluation; the interval is left out if unknown."""
    e = one.content
    first = first_output(e)
    times = list(range(first, e["timesteps"] + 1))
    color, dash = series(number), _DASHES[number // SERIES % len(_DASHES)]
    values = [PERCENT * value for value in e["accuracy"][first - 1 :]]
    curve = line(one.name, times, values, color, dash, ": %{y:.2f} %")
    traces = [curve]
    if intervals_over(e) is not None:
        low, high = (
            [PERCENT * pair[side] for pair in e["accuracy_interval"][first - 1 :]]
            for side in (0, 1)
        )
        hover = ": %{y:.2f} % [%{customdata[0]:.2f}, %{customdata[1]:.2f}]"
        traces = [line(one.name, times, values, color, dash, hover)]
        curve = traces[0]
        curve["customdata"] = list(zip(low, high, strict=True))
        if curves <= _MANY:
            traces.insert(0, _band(times, low, high, color, f"curve{number}"))
        else:
            traces.insert(0, _error_bars(e, low, high, number, curves))
    curve["legendgroup"] = f"curve{number}"
    if len(times) == 1:
        curve["mode"] = "markers"
    return [*traces, _quantized(number, one, curves)]


def _band(
    times: Sequence[int], low: Sequence[float], high: Sequence[float], color: str, group: str
) -> dict[str, Any]:
    """The area between two curves."""
    return {
        "type": "scatter",
        "mode": "lines",
        "x": [*times, *reversed(times)],
        "y": [*high, *reversed(low)],
        "fill": "toself",
        "fillcolor": f"{color}-band",
        "line": {"width": 0, "color": color},
        "hoverinfo": "skip",
        "showlegend": False,
        "legendgroup": group,
    }


def _error_bars(
    e: Mapping[str, Any], low: Sequence[float], high: Sequence[float], number: int, curves: int
) -> dict[str, Any]:
    """Intervals at t = 1, 2, 4, ... and T, side by side; bands of many curves would overlap."""
    first = first_output(e)
    points = curve_points(e["timesteps"], first)
    places = [t - first for t in points]
    values = [PERCENT * e["accuracy"][t - 1] for t in points]
    shift = _DODGE ** (number - (curves - 1) / 2)
    return {
        "type": "scatter",
        "mode": "markers",
        "name": "95 % intervals",
        "x": [t * shift for t in points],
        "y": values,
        "marker": {"color": series(number), "size": 3},
        "error_y": {
            "type": "data",
            "symmetric": False,
            "array": [high[k] - value for k, value in zip(places, values, strict=True)],
            "arrayminus": [value - low[k] for k, value in zip(places, values, strict=True)],
            "color": series(number),
            "thickness": 1.5,
            "width": 3,
        },
        "hoverinfo": "skip",
        "legendgroup": "intervals",
        "showlegend": number == 0,
    }


def _quantized(number: int, one: Evaluated, curves: int) -> dict[str, Any]:
    """The quantized ANN of one evaluation; of many curves all of them share a legend entry."""
    points = curve_points(one.content["timesteps"], first_output(one.content))
    found: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": legend_name(f"{one.name}: quantized ANN"),
        "x": points,
        "y": [PERCENT * one.content["quantized"][str(t)] for t in points],
        "marker": {
            "color": series(number),
            "symbol": "circle-open",
            "size": 9,
            "line": {"width": 2},
        },
        "hovertemplate": "quantized ANN %{y:.2f} %<extra></extra>",
    }
    if curves > _MANY:
        found |= {
            "legendgroup": "quantized",
            "visible": "legendonly",
            "name": "all quantized ANNs",
            "showlegend": number == 0,
        }
    return found


__all__ = ["accuracy_chart", "f1_chart", "mask_chart", "metric_chart"]

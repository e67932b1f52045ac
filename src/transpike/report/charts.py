"""Charts as data for Plotly; colors are names that the page replaces by those of its theme."""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PART_LABELS, PARTS
from transpike.report.kinds import first_output
from transpike.report.read import Evaluated
from transpike.report.samples import Samples
from transpike.report.text import (
    metric_label,
    metric_names,
    metric_of_ann,
    metric_values,
)

_PERCENT = 100.0
SERIES = 8  # colors of the page's theme, @1 to @8
_DASHES = ("solid", "dash", "dot", "dashdot")
INK, _MUTED, _GRID, _CLEAR = "@ink", "@muted", "@grid", "rgba(0,0,0,0)"
_ROW_PIXELS = 22  # of a site
_LEGEND_ROW_PIXELS = 24
_LEGEND_COLUMNS = 38  # characters
_CURVE_PIXELS = 420
_MANY = 3  # more curves than this begin without their quantized ANNs and intervals
_SMALLEST_ERROR = 1e-3  # rms; parts that are smaller at every site are left out


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: unique on the page.
        caption: what it shows, with n.
        data: Plotly's traces.
        layout: Plotly's layout.
        height: pixels.
    """

    name: str
    caption: str
    data: list[dict[str, Any]]
    layout: dict[str, Any]
    height: int

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return {"name": self.name, "data": self.data, "layout": self.layout, "height": self.height}


def accuracy_chart(evaluations: Sequence[Evaluated]) -> Chart:
    """Accuracy against timesteps: every curve with its 95 % band, quantized ANN and ANN."""
    data: list[dict[str, Any]] = []
    lines: dict[tuple[float, int], None] = {}
    few = len(evaluations) <= _MANY
    for number, one in enumerate(evaluations):
        data += _curve(number, one, few)
        lines[(one.content["ann_accuracy"], one.content["n"])] = None
    longest = max(one.content["timesteps"] for one in evaluations)
    times = list(range(1, longest + 1))
    for accuracy, n in lines:
        share = _PERCENT * accuracy
        name = f"ANN {share:.2f} %" + (f", n = {n:,}" if len(lines) > 1 else "")
        data.append(line(name, times, [share] * longest, INK, "dash", ""))
    sizes = " or ".join(f"{size:,}" for size in sorted({size for _, size in lines}))
    caption = (
        f"Accuracy after t timesteps, n = {sizes}. Bands: 95 % Wilson intervals; circles: the "
        "quantized ANN, the analog network with K·t activation levels (with differential coding, "
        "its own number of levels); dashed: the analog network."
    )
    if not few:
        caption += " Intervals and quantized ANNs begin hidden: click their entry of the legend."
    rows = len(data) - sum(not trace.get("showlegend", True) for trace in data)
    layout = _layout(time_axis(longest), {"title": {"text": "accuracy, %"}}, rows)
    return Chart("accuracy", caption, data, layout, _CURVE_PIXELS + _LEGEND_ROW_PIXELS * rows)


def metric_chart(evaluations: Iterable[Evaluated]) -> Chart | None:
    """Further metrics against timesteps, or None where there are none."""
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
    caption = "Metrics after t timesteps; dashed: the analog network."
    layout = _layout(time_axis(longest), {"title": {"text": "metric"}}, len(data))
    height = _CURVE_PIXELS + _LEGEND_ROW_PIXELS * len(data)
    return Chart("metric", caption, data, layout, height)


def mask_chart(name: str, samples: Samples, scores: Mapping[str, Any]) -> Chart:
    """F1 of recorded slices against timesteps."""
    times = list(samples.timesteps)
    data = [
        line("SNN against the labels", times, scores["f1"], series(0), "solid", ": %{y:.4f}"),
        line("SNN against the ANN", times, scores["f1_to_ann"], series(1), "dot", ": %{y:.4f}"),
        line(
            "ANN against the labels",
            times,
            [scores["f1_ann"]] * len(times),
            INK,
            "dash",
            ": %{y:.4f}",
        ),
    ]
    if len(times) <= 2 * SERIES:
        for trace in data[:2]:
            trace["mode"] = "lines+markers"
    caption = f"F1 over all pixels of the {len(samples)} recorded images, after t timesteps."
    return f1_chart(name, caption, data, time_axis(times[-1]))


def f1_chart(
    name: str, caption: str, data: list[dict[str, Any]], x_axis: Mapping[str, Any]
) -> Chart:
    """A chart of F1 scores."""
    axis = {"title": {"text": "F1"}, "rangemode": "tozero"}
    height = _CURVE_PIXELS + _LEGEND_ROW_PIXELS * len(data)
    return Chart(name, caption, data, _layout(x_axis, axis, len(data)), height)


def error_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """The error of every site in its parts."""
    sites = content["sites"]
    places = [html.escape(site["name"], quote=False) for site in sites]
    data: list[dict[str, Any]] = []
    for number, part in enumerate(PARTS):
        rms = [finite(site["parts"][part]["rms"]) or 0.0 for site in sites]
        if max(rms) < _SMALLEST_ERROR:
            continue
        data.append(
            {
                "type": "bar",
                "orientation": "h",
                "name": PART_LABELS[part],
                "y": places,
                "x": [_PERCENT * value**2 for value in rms],
                "marker": {"color": series(number)},
                "hovertemplate": "%{y}: %{x:.2f} %<extra>" + PART_LABELS[part] + "</extra>",
            }
        )
    whole = [finite(site["relative_error"]) or 0.0 for site in sites]
    data.append(
        {
            "type": "scatter",
            "mode": "markers",
            "name": "whole error",
            "y": places,
            "x": [_PERCENT * value**2 for value in whole],
            "marker": {"color": INK, "symbol": "diamond", "size": 7},
            "hovertemplate": "%{y}: %{x:.2f} %<extra>whole error</extra>",
        }
    )
    caption = (
        "Mean squared error of every site in its parts, in % of the mean squared activation, "
        f"n = {content['n']:,}. Parts go together or cancel, so that the whole error can be more "
        "or less than their sum."
    )
    axis = {"title": {"text": "squared error, %"}}
    layout = {**_layout(axis, _site_axis(), len(data)), "barmode": "stack", "hovermode": "closest"}
    layout["legend"] = {**layout["legend"], "traceorder": "normal"}
    height = 130 + _ROW_PIXELS * len(sites) + _LEGEND_ROW_PIXELS * len(data)
    return Chart(name, caption, data, layout, height)


def rates_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """How often the neurons of every site fire."""
    sites = content["sites"]
    bins = len(sites[0]["firing_rates"]) - 1
    labels = ["silent", *(f"{(k + 1) / bins:.1f}" for k in range(bins))]
    shares = [[_PERCENT * (finite(rate) or 0.0) for rate in s["firing_rates"]] for s in sites]
    trace = {
        "type": "heatmap",
        "x": labels,
        "y": [html.escape(site["name"], quote=False) for site in sites],
        "z": shares,
        "zmin": 0,
        "zmax": 100,
        "colorscale": [[0, "@low"], [1, "@high"]],
        "xgap": 1,
        "ygap": 1,
        "hovertemplate": "%{y}, rate up to %{x}: %{z:.1f} % of the neurons<extra></extra>",
        "colorbar": {
            "title": {"text": "neurons, %", "side": "right", "font": {"color": INK}},
            "tickfont": {"color": INK},
            "thickness": 12,
            "outlinewidth": 0,
        },
    }
    caption = (
        "Share of neurons by firing rate: silent, or a mean count up to so much of K per timestep."
    )
    axis = {"title": {"text": "firing rate / K"}, "type": "category", "showgrid": False}
    layout = _layout(axis, _site_axis(), 0)
    layout["hovermode"] = "closest"
    return Chart(name, caption, [trace], layout, 130 + _ROW_PIXELS * len(sites))


def energy_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """Energy of the networks over that of the analog one."""
    rows = [row for row in content["energy"] if row["ann_pj"]]
    kinds = (("SNN", "snn_pj"), ("bit-matched ANN", "quantized_ann_pj"), ("ANN", "ann_pj"))
    data: list[dict[str, Any]] = [
        {
            "type": "bar",
            "name": label,
            "x": [html.escape(row["table"], quote=False) for row in rows],
            "y": [row[kind] / row["ann_pj"] for row in rows],
            "text": [f"{row[kind] / row['ann_pj']:.2f}" for row in rows],
            "customdata": [row[kind] / 1e6 for row in rows],
            "textposition": "outside",
            "textfont": {"color": INK},
            "cliponaxis": False,
            "constraintext": "none",
            "marker": {"color": color},
            "hovertemplate": "%{x}: %{customdata:,.3f} µJ<extra>" + label + "</extra>",
        }
        for (label, kind), color in zip(kinds, (series(0), _MUTED, INK), strict=True)
    ]
    caption = (
        f"Estimated energy of one inference, over the analog network's; T = {content['timesteps']}."
    )
    layout = _layout({"type": "category"}, {"title": {"text": "energy / ANN's"}}, len(data))
    layout |= {"barmode": "group", "hovermode": "closest"}
    return Chart(name, caption, data, layout, _CURVE_PIXELS)


def mask_scores(samples: Samples) -> dict[str, Any]:
    """F1 over all pixels at every recorded timestep, and true and false pixels image by image."""
    label, ann = samples.label > 0, samples.ann > 0
    spiking = [one > 0 for one in samples.snn]
    return {
        "f1": [_f1(counts(one, label)) for one in spiking],
        "f1_to_ann": [_f1(counts(one, ann)) for one in spiking],
        "f1_ann": _f1(counts(ann, label)),
        "images": [
            {
                "ann": score(counts(ann[k], label[k])),
                "snn": [score(counts(one[k], label[k])) for one in spiking],
            }
            for k in range(len(samples))
        ],
    }


def counts(guess: Any, truth: Any) -> tuple[int, int, int]:
    """True positive, false positive and false negative pixels."""
    return (
        int(np.sum(guess & truth)),
        int(np.sum(guess & ~truth)),
        int(np.sum(~guess & truth)),
    )


def score(pixels: tuple[int, int, int]) -> dict[str, Any]:
    """The pixels with F1 and the Jaccard index; None where there is nothing to find."""
    right, wrong, missed = pixels
    whole = right + wrong + missed
    return {
        "tp": right,
        "fp": wrong,
        "fn": missed,
        "f1": _f1(pixels),
        "jaccard": right / whole if whole else None,
    }


def _f1(pixels: tuple[int, int, int]) -> float | None:
    right, wrong, missed = pixels
    whole = 2 * right + wrong + missed
    return 2 * right / whole if whole else None


def finite(value: Any) -> Any:
    """The number, or None where JSON has no form for it."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _curve(number: int, one: Evaluated, few: bool) -> list[dict[str, Any]]:
    """Band, line and quantized ANN of one evaluation."""
    e = one.content
    first = first_output(e)
    times = list(range(first, e["timesteps"] + 1))
    color, dash = series(number), _DASHES[number // SERIES % len(_DASHES)]
    low = [_PERCENT * pair[0] for pair in e["accuracy_interval"][first - 1 :]]
    high = [_PERCENT * pair[1] for pair in e["accuracy_interval"][first - 1 :]]
    group = f"curve{number}"
    band: dict[str, Any] = {
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
    hover = ": %{y:.2f} % [%{customdata[0]:.2f}, %{customdata[1]:.2f}]"
    values = [_PERCENT * value for value in e["accuracy"][first - 1 :]]
    curve = line(one.name, times, values, color, dash, hover)
    curve |= {"customdata": list(zip(low, high, strict=True)), "legendgroup": group}
    if len(times) == 1:
        curve["mode"] = "markers"
    points = curve_points(e["timesteps"], first)
    quantized: dict[str, Any] = {
        "type": "scatter",
        "mode": "markers",
        "name": _legend_name(f"{one.name}: quantized ANN"),
        "x": points,
        "y": [_PERCENT * e["quantized"][str(t)] for t in points],
        "marker": {"color": color, "symbol": "circle-open", "size": 9, "line": {"width": 2}},
        "hovertemplate": "quantized ANN %{y:.2f} %<extra></extra>",
    }
    if not few:  # one entry of the legend shows and hides them for all curves
        hidden: dict[str, Any] = {
            "legendgroup": "intervals",
            "visible": "legendonly",
            "showlegend": False,
        }
        band |= hidden
        quantized |= {
            **hidden,
            "name": "all intervals and quantized ANNs",
            "showlegend": number == 0,
        }
    return [band, curve, quantized]


def line(
    name: str, x: Sequence[Any], y: Sequence[Any], color: str, dash: str, hover: str
) -> dict[str, Any]:
    return {
        "type": "scatter",
        "mode": "lines",
        "name": _legend_name(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": color, "dash": dash, "width": 2},
        "hovertemplate": "%{fullData.name}" + hover + "<extra></extra>",
    }


def _legend_name(name: str) -> str:
    """The name in lines that fit a narrow screen; Plotly reads a little markup in it."""
    return "<br>".join(
        html.escape(line, quote=False) for line in textwrap.wrap(name, _LEGEND_COLUMNS)
    )


def series(number: int) -> str:
    return f"@{number % SERIES + 1}"


def time_axis(timesteps: int) -> dict[str, Any]:
    """Timesteps, every doubling one step."""
    ticks = curve_points(timesteps)
    return {
        "type": "log",
        "title": {"text": "timesteps t"},
        "tickvals": ticks,
        "ticktext": [str(t) for t in ticks],
        "range": [-0.04, math.log10(timesteps) + 0.04] if timesteps > 1 else [-0.3, 0.3],
    }


def _site_axis() -> dict[str, Any]:
    return {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True}


def _layout(x: Mapping[str, Any], y: Mapping[str, Any], legend_rows: int) -> dict[str, Any]:
    axis = {"gridcolor": _GRID, "linecolor": _MUTED, "zerolinecolor": _GRID, "automargin": True}
    return {
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "margin": {"l": 48, "r": 12, "t": 12, "b": 48},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "@page", "font": {"color": INK}, "bordercolor": _MUTED},
        "dragmode": False,
        "showlegend": legend_rows > 0,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": _CLEAR},
    }


__all__ = ["Chart"]

"""Charts as data for Plotly.

A color is a name such as `@ink`. The page replaces it by the color of its theme.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PART_LABELS, PARTS
from transpike.report.kinds import first_output, intervals_over
from transpike.report.mask_scores import FEWEST_IMAGES
from transpike.report.read import Evaluated
from transpike.report.samples import Samples
from transpike.report.text import (
    metric_label,
    metric_names,
    metric_of_ann,
    metric_values,
    quality_sentence,
)

_PERCENT = 100.0
SERIES = 8  # the theme of the page has the colors @1 to @8 for curves
_DASHES = ("solid", "dash", "dot", "dashdot")
INK, _MUTED, _GRID, _CLEAR = "@ink", "@muted", "@grid", "rgba(0,0,0,0)"
_ROW_PIXELS = 22  # height of the row of a site
_LEGEND_ROW_PIXELS = 24
_LEGEND_COLUMNS = 38  # characters in a line of the legend
_CURVE_PIXELS = 420
_MANY = 3  # more curves than this have error bars, and their quantized ANNs begin hidden
_DODGE = 1.012  # factor on the time axis between the error bars of two curves
_SMALLEST_ERROR = 1e-3  # a part whose rms is smaller at every site is left out


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: name of the chart; no two charts of a page have the same.
        caption: what it shows, with n.
        data: traces of Plotly.
        layout: layout of Plotly.
        height: height in pixels.
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
    """Accuracy against timesteps: curves with intervals, quantized ANNs and analog networks."""
    data: list[dict[str, Any]] = []
    for number, one in enumerate(evaluations):
        data += _curve(number, one, len(evaluations))
    longest = max(one.content["timesteps"] for one in evaluations)
    data += _ann_lines(evaluations, list(range(1, longest + 1)))
    rows = len(data) - sum(not trace.get("showlegend", True) for trace in data)
    layout = _layout(time_axis(longest), {"title": {"text": "accuracy, %"}}, rows)
    height = _CURVE_PIXELS + _LEGEND_ROW_PIXELS * rows
    return Chart("accuracy", _accuracy_caption(evaluations), data, layout, height)


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
        share = _PERCENT * one.content["ann_accuracy"]
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
    layout = _layout(time_axis(longest), {"title": {"text": "metric"}}, len(data))
    height = _CURVE_PIXELS + _LEGEND_ROW_PIXELS * len(data)
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
    height = _CURVE_PIXELS + _LEGEND_ROW_PIXELS * len(data)
    return Chart(name, caption, data, _layout(x_axis, axis, len(data)), height)


def error_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """The parts of the error of every site."""
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
        "Parts of the mean squared error of every site, in % of the mean squared activation, "
        f"n = {content['n']:,}. Two parts can add up or cancel each other, so the whole error can "
        "be larger or smaller than the sum of the parts."
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
        "Share of neurons by firing rate. A column holds the neurons whose mean count per timestep "
        "is at most this share of K; silent neurons never fire."
    )
    axis = {"title": {"text": "firing rate / K"}, "type": "category", "showgrid": False}
    layout = _layout(axis, _site_axis(), 0)
    layout["hovermode"] = "closest"
    return Chart(name, caption, [trace], layout, 130 + _ROW_PIXELS * len(sites))


def energy_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """Energy of each network divided by that of the analog one."""
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
        f"Estimated energy of one inference at T = {content['timesteps']}, divided by that of the "
        f"analog network.{quality_sentence(content)}"
    )
    layout = _layout(
        {"type": "category"}, {"title": {"text": "energy / energy of the ANN"}}, len(data)
    )
    layout |= {"barmode": "group", "hovermode": "closest"}
    return Chart(name, caption, data, layout, _CURVE_PIXELS)


def finite(value: Any) -> Any:
    """The number; None if JSON cannot express it."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def _curve(number: int, one: Evaluated, curves: int) -> list[dict[str, Any]]:
    """Interval, line and quantized ANN of one evaluation; the interval is left out if unknown."""
    e = one.content
    first = first_output(e)
    times = list(range(first, e["timesteps"] + 1))
    color, dash = series(number), _DASHES[number // SERIES % len(_DASHES)]
    values = [_PERCENT * value for value in e["accuracy"][first - 1 :]]
    curve = line(one.name, times, values, color, dash, ": %{y:.2f} %")
    traces = [curve]
    if intervals_over(e) is not None:
        low, high = (
            [_PERCENT * pair[side] for pair in e["accuracy_interval"][first - 1 :]]
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
    values = [_PERCENT * e["accuracy"][t - 1] for t in points]
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
        "name": _legend_name(f"{one.name}: quantized ANN"),
        "x": points,
        "y": [_PERCENT * one.content["quantized"][str(t)] for t in points],
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
    """The name in lines that fit a narrow screen, escaped, because Plotly reads some markup."""
    return "<br>".join(
        html.escape(line, quote=False) for line in textwrap.wrap(name, _LEGEND_COLUMNS)
    )


def series(number: int) -> str:
    return f"@{number % SERIES + 1}"


def time_axis(timesteps: int) -> dict[str, Any]:
    """Timesteps on a logarithmic axis, where every doubling is one step."""
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

"""Charts of a diagnosis and of a cost: errors and firing rates of every site, and energies."""

from __future__ import annotations

import html
from collections.abc import Mapping
from typing import Any

from transpike.measure.findings import PART_LABELS, PARTS
from transpike.report.chart_parts import (
    CURVE_PIXELS,
    INK,
    LEGEND_ROW_PIXELS,
    MUTED,
    PERCENT,
    Chart,
    finite,
    layout_of,
    series,
)
from transpike.report.text import quality_sentence

_ROW_PIXELS = 22  # height of the row of a site
_SMALLEST_ERROR = 1e-3  # a part whose rms is smaller at every site is left out


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
                "x": [PERCENT * value**2 for value in rms],
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
            "x": [PERCENT * value**2 for value in whole],
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
    layout = {
        **layout_of(axis, _site_axis(), len(data)),
        "barmode": "stack",
        "hovermode": "closest",
    }
    layout["legend"] = {**layout["legend"], "traceorder": "normal"}
    height = 130 + _ROW_PIXELS * len(sites) + LEGEND_ROW_PIXELS * len(data)
    return Chart(name, caption, data, layout, height)


def rates_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """How often the neurons of every site fire."""
    sites = content["sites"]
    bins = len(sites[0]["firing_rates"]) - 1
    labels = ["silent", *(f"{(k + 1) / bins:.1f}" for k in range(bins))]
    shares = [[PERCENT * (finite(rate) or 0.0) for rate in s["firing_rates"]] for s in sites]
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
    layout = layout_of(axis, _site_axis(), 0)
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
        for (label, kind), color in zip(kinds, (series(0), MUTED, INK), strict=True)
    ]
    caption = (
        f"Estimated energy of one inference at T = {content['timesteps']}, divided by that of the "
        f"analog network.{quality_sentence(content)}"
    )
    layout = layout_of(
        {"type": "category"}, {"title": {"text": "energy / energy of the ANN"}}, len(data)
    )
    layout |= {"barmode": "group", "hovermode": "closest"}
    return Chart(name, caption, data, layout, CURVE_PIXELS)


def _site_axis() -> dict[str, Any]:
    return {"type": "category", "autorange": "reversed", "showgrid": False, "automargin": True}


__all__ = ["energy_chart", "error_chart", "rates_chart"]

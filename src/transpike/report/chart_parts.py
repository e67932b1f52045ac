"""A chart for Plotly, and the lines, axes and colors that all charts share.

A color is a name such as `@ink`. The page replaces it by the color of its theme.
"""

from __future__ import annotations

import html
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from transpike.measure.evaluate import curve_points

PERCENT = 100.0
SERIES = 8  # the theme of the page has the colors @1 to @8 for curves
INK, MUTED, _GRID, _CLEAR = "@ink", "@muted", "@grid", "rgba(0,0,0,0)"
LEGEND_ROW_PIXELS = 24
_LEGEND_COLUMNS = 38  # characters in a line of the legend
CURVE_PIXELS = 420


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


def finite(value: Any) -> Any:
    """The number; None if JSON cannot express it."""
    return value if isinstance(value, (int, float)) and math.isfinite(value) else None


def line(
    name: str, x: Sequence[Any], y: Sequence[Any], color: str, dash: str, hover: str
) -> dict[str, Any]:
    """A line with an entry in the legend.

    Args:
        name: text of the legend.
        x: values along the x axis.
        y: values along the y axis.
        color: name of a color of the page.
        dash: kind of line, as Plotly names it.
        hover: text behind the name where the mouse is, with the placeholders of Plotly.
    """
    return {
        "type": "scatter",
        "mode": "lines",
        "name": legend_name(name),
        "x": list(x),
        "y": list(y),
        "line": {"color": color, "dash": dash, "width": 2},
        "hovertemplate": "%{fullData.name}" + hover + "<extra></extra>",
    }


def legend_name(name: str) -> str:
    """The name in lines that fit a narrow screen, escaped, because Plotly reads some markup."""
    return "<br>".join(
        html.escape(line, quote=False) for line in textwrap.wrap(name, _LEGEND_COLUMNS)
    )


def series(number: int) -> str:
    """Name of the color of a curve; after `SERIES` curves the colors begin again."""
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


def layout_of(x: Mapping[str, Any], y: Mapping[str, Any], legend_rows: int) -> dict[str, Any]:
    """The layout of a chart.

    Args:
        x: settings of the x axis.
        y: settings of the y axis.
        legend_rows: entries of the legend; 0 hides the legend.
    """
    axis = {"gridcolor": _GRID, "linecolor": MUTED, "zerolinecolor": _GRID, "automargin": True}
    return {
        "xaxis": {**axis, **x},
        "yaxis": {**axis, **y},
        "font": {"color": INK, "family": "system-ui, sans-serif", "size": 13},
        "paper_bgcolor": _CLEAR,
        "plot_bgcolor": _CLEAR,
        "margin": {"l": 48, "r": 12, "t": 12, "b": 48},
        "hovermode": "x unified",
        "hoverlabel": {"bgcolor": "@page", "font": {"color": INK}, "bordercolor": MUTED},
        "dragmode": False,
        "showlegend": legend_rows > 0,
        "legend": {"orientation": "h", "x": 0, "y": 1.02, "yanchor": "bottom", "bgcolor": _CLEAR},
    }


__all__ = ["Chart", "finite", "layout_of", "legend_name", "line", "series", "time_axis"]

"""Draws segmented slices beside what they were made from; needs matplotlib, and no display."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from transpike.errors import ArgumentError
from transpike.report.figures import blank_figure
from transpike.segment import Mask, PixelCounts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Told apart by any kind of color vision; source: Okabe & Ito 2008, "Color universal design".
ERROR_COLORS: Mapping[str, tuple[int, int, int]] = {
    "true positive": (86, 180, 233),  # sky blue
    "false positive": (213, 94, 0),  # vermillion
    "false negative": (240, 228, 66),  # yellow
}
DIFFERENCE_COLORS: Mapping[str, tuple[int, int, int]] = {
    "SNN only": ERROR_COLORS["false positive"],
    "ANN only": ERROR_COLORS["false negative"],
}
# Against the analog network's mask the colors mean what they mean against a label.
_LABELLED_LEGEND: Mapping[str, tuple[int, int, int]] = {
    "true positive": ERROR_COLORS["true positive"],
    "false positive, or SNN only": ERROR_COLORS["false positive"],
    "false negative, or ANN only": ERROR_COLORS["false negative"],
}
_BYTE = 255.0
_OPACITY = {"true positive": 0.5}  # of a color over the slice; else 1
_PANEL_INCHES = 3.4  # width of one picture
_DOTS = 520  # of a side on which single pixels are colored, about those of a printed panel
_DIMMED = 0.6  # brightness of a slice behind colors
_LARGEST = 1500  # pixels of a drawn side; larger slices are thinned out
_CONTRAST = (0.1, 99.9)  # percentiles of the slice that are drawn black and white
_PER_ROW = 5  # pictures of a strip


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice to draw.

    Args:
        name: the slice's, as `Volume.name` gives it.
        pixels: (H, W).
        ann: mask of the analog network, (H, W), bool.
        snn: mask of the spiking network.
        label: the true mask, if there is one.
    """

    name: str
    pixels: NDArray[Any]
    ann: Mask
    snn: Mask
    label: Mask | None = None


def overview_figure(shown: Sequence[Shown], title: str = "") -> Figure:
    """Draws slices in rows: raw, both networks' masks, where they differ, and, with labels, errors.

    Args:
        shown: at least one slice, all with labels or none.
        title: above everything.

    Returns:
        A matplotlib figure; save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: there is no slice, or matplotlib is not installed.
    """
    if not shown:
        raise ArgumentError("overview_figure: needed at least one slice, got none.")
    labeled = shown[0].label is not None
    columns = 6 if labeled else 4
    figure = blank_figure(_size(shown[0].pixels, len(shown), columns))
    panels = figure.subplots(len(shown), columns, squeeze=False)
    for row, one in zip(panels, shown, strict=True):
        _draw_row(row, one)
        row[0].set_ylabel(f"slice {one.name}")
    titles = ("raw", "ANN mask", "SNN mask", "SNN against ANN", "label", "SNN against label")
    for axes, text in zip(panels[0], titles, strict=False):
        axes.set_title(text, fontsize="medium")
    _legend(figure, _LABELLED_LEGEND if labeled else DIFFERENCE_COLORS)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def timesteps_figure(
    masks: Mapping[int, Mask], ann: Mask, label: Mask | None = None, title: str = ""
) -> Figure:
    """Draws the spiking network's mask of one slice after some timesteps, the ANN's at the end.

    Args:
        masks: by timesteps, ascending; at least one.
        ann: mask of the analog network.
        label: the true mask; with it F1 against it is written below, else agreement with the ANN.
        title: above everything.

    Returns:
        A matplotlib figure; save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: there is no mask, or matplotlib is not installed.
    """
    if not masks:
        raise ArgumentError("timesteps_figure: needed at least one mask, got none.")
    pictures = [(f"T = {t}", mask) for t, mask in masks.items()] + [("ANN", ann)]
    rows = math.ceil(len(pictures) / _PER_ROW)
    columns = math.ceil(len(pictures) / rows)
    figure = blank_figure(_size(ann, rows, columns))
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, (name, mask) in zip(panels, pictures, strict=False):
        _draw(axes, mask)
        axes.set_title(name, fontsize="medium")
        axes.set_xlabel(_score(mask, ann, label))
    for axes in panels[len(pictures) :]:
        axes.set_axis_off()
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def _draw_row(row: Sequence[Axes], one: Shown) -> None:
    _draw(row[0], one.pixels)
    for axes, mask in ((row[1], one.ann), (row[2], one.snn)):
        _draw(axes, mask)
        if one.label is not None:
            axes.set_xlabel(_score(mask, one.ann, one.label))
    only = {"SNN only": one.snn & ~one.ann, "ANN only": one.ann & ~one.snn}
    _draw(row[3], _colored(one.pixels, only, DIFFERENCE_COLORS))
    row[3].set_xlabel(f"{100 * float((one.snn ^ one.ann).mean()):.2f} % of pixels differ")
    if one.label is not None:
        _draw(row[4], one.label)
        row[4].set_xlabel(f"{100 * float(one.label.mean()):.2f} % of pixels")
        errors = {
            "true positive": one.snn & one.label,
            "false positive": one.snn & ~one.label,
            "false negative": one.label & ~one.snn,
        }
        _draw(row[5], _colored(one.pixels, errors, ERROR_COLORS))
        wrong = float((one.snn ^ one.label).mean())
        row[5].set_xlabel(f"{100 * wrong:.2f} % of pixels wrong")


def _score(mask: Mask, ann: Mask, label: Mask | None) -> str:
    if label is not None:
        return f"F1 {PixelCounts.of(mask, label).scores()['f1']:.4f}"
    return f"{100 * float((mask == ann).mean()):.2f} % as the ANN"


def _draw(axes: Axes, picture: NDArray[Any]) -> None:
    thinned = _thinned(picture)
    if picture.dtype == np.bool_:
        axes.imshow(thinned, cmap="gray", vmin=0, vmax=1)
    elif picture.ndim == 3:
        axes.imshow(thinned)
    else:
        axes.imshow(_gray(thinned), cmap="gray", vmin=0, vmax=1)
    axes.set_xticks([])
    axes.set_yticks([])


def _thinned(picture: NDArray[Any]) -> NDArray[Any]:
    step = math.ceil(max(picture.shape[:2]) / _LARGEST)
    return picture[::step, ::step]


def _gray(pixels: NDArray[Any]) -> NDArray[np.float64]:
    """Values in 0..1, stretched between the contrast percentiles."""
    low, high = np.percentile(pixels, _CONTRAST)
    gray: NDArray[np.float64] = (pixels.astype(np.float64) - low) / max(high - low, 1.0)
    return gray.clip(0, 1)


def _colored(
    pixels: NDArray[Any],
    parts: Mapping[str, Mask],
    colors: Mapping[str, tuple[int, int, int]],
) -> NDArray[np.float64]:
    """The slice in dimmed gray with parts in color, (h, w, 3), 0..1.

    Thinned out to the dots of a panel. A dot has the color of an error if any of its pixels is
    one, so that errors a pixel wide are seen; they look larger than they are.
    """
    step = max(1, round(max(pixels.shape) / _DOTS))
    picture = np.repeat(_DIMMED * _gray(pixels[::step, ::step])[..., None], 3, axis=2)
    for name, mask in parts.items():
        where = _any_of_block(mask, step) if name not in _OPACITY else mask[::step, ::step]
        color, opacity = np.asarray(colors[name]) / _BYTE, _OPACITY.get(name, 1.0)
        picture[where] = (1 - opacity) * picture[where] + opacity * color
    return picture


def _any_of_block(mask: Mask, step: int) -> Mask:
    """Whether any pixel of a block of step x step pixels is set, (ceil(H / step), ...)."""
    height, width = mask.shape
    padded = np.pad(mask, ((0, -height % step), (0, -width % step)))
    blocks = padded.reshape(padded.shape[0] // step, step, padded.shape[1] // step, step)
    found: Mask = np.any(blocks, axis=(1, 3))
    return found


def _legend(figure: Figure, colors: Mapping[str, tuple[int, int, int]]) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=(r / _BYTE, g / _BYTE, b / _BYTE), edgecolor="black", label=name)
        for name, (r, g, b) in colors.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)


def _size(picture: NDArray[Any], rows: int, columns: int) -> tuple[float, float]:
    """Of the figure in inches: panels of the picture's shape, and room for words."""
    height = _PANEL_INCHES * picture.shape[0] / picture.shape[1]
    return columns * _PANEL_INCHES, rows * (height + 0.45) + 0.6


__all__ = [
    "DIFFERENCE_COLORS",
    "ERROR_COLORS",
    "Shown",
    "overview_figure",
    "timesteps_figure",
]

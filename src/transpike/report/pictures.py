"""Pictures of segmented slices. They need matplotlib, but no display."""

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

# Every kind of color vision can tell these apart. Source: Okabe & Ito 2008, "Color universal
# design".
ERROR_COLORS: Mapping[str, tuple[int, int, int]] = {
    "true positive": (86, 180, 233),  # sky blue
    "false positive": (213, 94, 0),  # vermillion
    "false negative": (240, 228, 66),  # yellow
}
DIFFERENCE_COLORS: Mapping[str, tuple[int, int, int]] = {
    "SNN only": ERROR_COLORS["false positive"],
    "ANN only": ERROR_COLORS["false negative"],
}
# A comparison with the mask of the analog network uses the colors of one with a label.
_LABELLED_LEGEND: Mapping[str, tuple[int, int, int]] = {
    "true positive": ERROR_COLORS["true positive"],
    "false positive, or SNN only": ERROR_COLORS["false positive"],
    "false negative, or ANN only": ERROR_COLORS["false negative"],
}
_BYTE = 255.0
_OPACITY = {"true positive": 0.5}  # opacity of a color over the slice; all others have 1
_PANEL_INCHES = 3.4  # width of one picture
_DOTS = 520  # dots along the longer side of a colored picture, as many as a panel has in the file
_SEEN_DOTS = 7  # smallest width of a drawn difference: 1.2 mm where the panel is 3.4 inches wide
_ZOOMED_PIXELS = 96  # longer side of the part of a slice that is drawn enlarged
_DIMMED = 0.6  # brightness of a slice behind colors
_LARGEST = 1500  # longer side of a drawn picture in pixels; larger slices are thinned out
_CONTRAST = (0.1, 99.9)  # percentiles of the slice that are drawn black and white
_PER_ROW = 5  # pictures in a row of `timesteps_figure`


@dataclass(frozen=True, eq=False)
class Shown:
    """A slice to draw.

    Args:
        name: name of the slice, see `Volume.name`.
        pixels: (H, W).
        ann: mask of the analog network, (H, W), bool.
        snn: mask of the spiking network, (H, W), bool.
        label: the true mask, (H, W), bool; None if there is none.
    """

    name: str
    pixels: NDArray[Any]
    ann: Mask
    snn: Mask
    label: Mask | None = None


def overview_figure(shown: Sequence[Shown], title: str = "") -> Figure:
    """Draw one row of pictures per slice.

    A row shows the slice, the masks of both networks, the pixels where the masks differ, and an
    enlarged part of the slice around most of these pixels. If there are labels, the label and the
    errors of the spiking network follow. Differing pixels are drawn larger than they are, because
    differences are often a single pixel wide.

    Args:
        shown: at least one slice; either all have labels or none has.
        title: drawn above all rows.

    Returns:
        A matplotlib figure. Save it with `figure.savefig(path)`.

    Raises:
        ArgumentError: there is no slice, or matplotlib is not installed.
    """
    if not shown:
        raise ArgumentError("overview_figure: needed at least one slice, got none.")
    labeled = shown[0].label is not None
    columns = 7 if labeled else 5
    figure = blank_figure(_size(shown[0].pixels, len(shown), columns))
    panels = figure.subplots(len(shown), columns, squeeze=False)
    for row, one in zip(panels, shown, strict=True):
        _draw_row(row, one)
        row[0].set_ylabel(f"slice {one.name}")
    titles = (
        "raw", "ANN mask", "SNN mask", "SNN against ANN, enlarged differences",
        "part with most differences", "label", "SNN against label",
    )  # fmt: skip
    for axes, text in zip(panels[0], titles, strict=False):
        axes.set_title(text, fontsize="medium")
    _legend(figure, _LABELLED_LEGEND if labeled else DIFFERENCE_COLORS)
    if title:
        figure.suptitle(title, fontsize="medium")
    return figure


def timesteps_figure(
    masks: Mapping[int, Mask], ann: Mask, label: Mask | None = None, title: str = ""
) -> Figure:
    """Draw the masks of one slice after several numbers of timesteps, and the ANN's mask last.

    Args:
        masks: masks of the spiking network by number of timesteps, ascending; at least one.
        ann: mask of the analog network, (H, W), bool.
        label: the true mask. If given, the F1 score against it stands below each mask; otherwise
            the agreement with the analog network does.
        title: drawn above all masks.

    Returns:
        A matplotlib figure. Save it with `figure.savefig(path)`.

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
    _draw_differences(row[3], row[4], one)
    if one.label is not None:
        _draw(row[5], one.label)
        row[5].set_xlabel(f"{100 * float(one.label.mean()):.2f} % of pixels")
        errors = {
            "true positive": one.snn & one.label,
            "false positive": one.snn & ~one.label,
            "false negative": one.label & ~one.snn,
        }
        _draw(row[6], _colored(one.pixels, errors, ERROR_COLORS))
        wrong = float((one.snn ^ one.label).mean())
        row[6].set_xlabel(f"{100 * wrong:.2f} % of pixels wrong")


def _draw_differences(whole: Axes, part: Axes, one: Shown) -> None:
    """Draw where the masks differ: enlarged in the whole slice, and pixel by pixel in a part."""
    from matplotlib.patches import Rectangle

    only = {"SNN only": one.snn & ~one.ann, "ANN only": one.ann & ~one.snn}
    picture = _colored(one.pixels, only, DIFFERENCE_COLORS, enlarged=True)
    _draw(whole, picture)
    differs = one.snn ^ one.ann
    share = 100 * float(differs.mean())
    whole.set_xlabel(f"differing pixels: {int(differs.sum()):,}, {share:.2f} %")
    rows, columns = _most_differences(differs)
    inside = {name: mask[rows, columns] for name, mask in only.items()}
    _draw(part, _colored(one.pixels[rows, columns], inside, DIFFERENCE_COLORS))
    part.set_xlabel(
        f"rows {rows.start} to {rows.stop - 1}, columns {columns.start} to {columns.stop - 1}"
    )
    scale = picture.shape[0] / differs.shape[0]
    corner = (columns.start * scale - 0.5, rows.start * scale - 0.5)
    size = ((columns.stop - columns.start) * scale, (rows.stop - rows.start) * scale)
    whole.add_patch(Rectangle(corner, *size, fill=False, edgecolor="white", linewidth=1))


def _most_differences(differs: Mask) -> tuple[slice, slice]:
    """Rows and columns of the part with most differing pixels, the middle where none differs."""
    height, width = differs.shape
    share = min(1.0, _ZOOMED_PIXELS / max(height, width))
    rows, columns = max(1, round(share * height)), max(1, round(share * width))
    if not differs.any():
        top, left = (height - rows) // 2, (width - columns) // 2
    else:
        sums = np.pad(differs.astype(np.int64), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
        counts = sums[rows:, columns:] + sums[:-rows, :-columns]
        counts -= sums[rows:, :-columns] + sums[:-rows, columns:]
        # Of the windows with most differences, the one in the middle shows what is around them.
        best = np.argwhere(counts == counts.max())
        top, left = (int(place) for place in best[len(best) // 2])
    return slice(top, top + rows), slice(left, left + columns)


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
    """Gray values in 0..1; the percentiles of the contrast become 0 and 1."""
    low, high = np.percentile(pixels, _CONTRAST)
    gray: NDArray[np.float64] = (pixels.astype(np.float64) - low) / max(high - low, 1.0)
    return gray.clip(0, 1)


def _colored(
    pixels: NDArray[Any],
    parts: Mapping[str, Mask],
    colors: Mapping[str, tuple[int, int, int]],
    *,
    enlarged: bool = False,
) -> NDArray[np.float64]:
    """The slice in dimmed gray with parts in color, (h, w, 3), 0..1.

    A large slice is thinned out to the dots of a panel. A dot gets the color of a part if any of
    its pixels belongs to the part, so no pixel is lost.

    Args:
        pixels: (H, W).
        parts: masks by name, (H, W).
        colors: color of each part.
        enlarged: let every pixel of a part cover at least `_SEEN_DOTS` dots.
    """
    step = max(1, round(max(pixels.shape) / _DOTS))
    picture = np.repeat(_DIMMED * _gray(pixels[::step, ::step])[..., None], 3, axis=2)
    places = {
        name: mask[::step, ::step] if name in _OPACITY else _any_of_block(mask, step)
        for name, mask in parts.items()
    }
    dots_per_place = max(1.0, _DOTS / max(picture.shape[:2]))
    radius = math.ceil((_SEEN_DOTS / dots_per_place - 1) / 2) if enlarged else 0
    layers = [(name, _grown(where, radius)) for name, where in places.items() if radius]
    # The pixels themselves are drawn last: no neighbor covers them.
    for name, where in [*layers, *places.items()]:
        color, opacity = np.asarray(colors[name]) / _BYTE, _OPACITY.get(name, 1.0)
        picture[where] = (1 - opacity) * picture[where] + opacity * color
    return picture


def _grown(mask: Mask, radius: int) -> Mask:
    """Whether any pixel of the square of 2 radius + 1 pixels around a pixel is set, (H, W)."""
    height, width = mask.shape
    padded = np.pad(mask, radius)
    rows: Mask = np.any([padded[k : k + height] for k in range(2 * radius + 1)], axis=0)
    grown: Mask = np.any([rows[:, k : k + width] for k in range(2 * radius + 1)], axis=0)
    return grown


def _any_of_block(mask: Mask, step: int) -> Mask:
    """Whether any pixel of a block of step x step pixels is set.

    Returns:
        bool, (ceil(H / step), ceil(W / step)).
    """
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
    """Width and height of a figure in inches: panels of the picture's shape, and room for text."""
    height = _PANEL_INCHES * picture.shape[0] / picture.shape[1]
    return columns * _PANEL_INCHES, rows * (height + 0.45) + 0.6


__all__ = [
    "DIFFERENCE_COLORS",
    "ERROR_COLORS",
    "Shown",
    "overview_figure",
    "timesteps_figure",
]

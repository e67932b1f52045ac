"""What a report shows of `segment.json`, the result of `transpike segment`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from transpike.report.chart_parts import INK, Chart, line, series, time_axis
from transpike.report.curve_charts import f1_chart
from transpike.report.text import Table, number, percent

PICTURES: Mapping[str, str] = {
    "overview.png": "Slices with their masks, and where the two networks differ.",
    "timesteps.png": "The mask of one slice after several numbers of timesteps.",
}
_SCORE_LABELS = ("F1", "Jaccard index", "pixel accuracy")
_HOVER = ": %{y:.4f}"


def sentences(content: Mapping[str, Any]) -> list[str]:
    """What was segmented and how good the masks are, in sentences."""
    slices = len(content["per_slice"])
    height, width = content["shape"][1:]
    rows, columns = content["tile"]
    tiles = content["tiles_per_slice"]
    whole = "equal" if content["exact"] else "approximate"
    found = [
        f"{content.get('model') or 'The network'} segmented {_counted(slices, 'slice')} of "
        f"{content['volume']}, {height} × {width} pixels each, in T = {content['timesteps']} "
        f"timesteps with at most K = {content['max_count']} spikes per neuron and timestep.",
        f"Each slice was cut into {_counted(tiles, 'tile')} of {rows} × {columns} pixels. The "
        f"masks {whole} those of whole slices.",
        f"A neuron sent {number(float(content['spikes_per_neuron']))} spikes per slice on average.",
        f"The masks of the spiking network agree with those of the analog network with F1 "
        f"{number(content['against_ann']['f1'], 4)}; {percent(content['against_ann']['accuracy'])} "
        "of the pixels are the same.",
    ]
    if content.get("scores"):
        last = content["scores"]["snn"][str(content["timesteps"])]
        found.append(
            f"Against the labels the spiking network reaches F1 {number(last['f1'], 4)} and the "
            f"analog network F1 {number(content['scores']['ann']['f1'], 4)}, counted over all "
            f"{number(content['scores']['n'])} pixels."
        )
    if content.get("voxel_size_nm"):
        found.append(f"Size: {_voxel(content['voxel_size_nm'])}.")
    if content.get("interrupted"):
        found.append("The run was interrupted. The numbers are those of the finished slices.")
    return found


def timesteps_chart(name: str, content: Mapping[str, Any]) -> Chart | None:
    """F1 against the labels by timestep; None without labels."""
    scores = content.get("scores")
    if not scores:
        return None
    times = [int(t) for t in scores["snn"]]
    values = [one["f1"] for one in scores["snn"].values()]
    spiking = line("SNN", times, values, series(0), "solid", _HOVER)
    spiking["mode"] = "lines+markers"
    analog = line("ANN", times, [scores["ann"]["f1"]] * len(times), INK, "dash", _HOVER)
    slices = len(content["per_slice"])
    caption = (
        f"F1 against the labels after t timesteps, over all pixels of {_counted(slices, 'slice')}. "
        "No interval is drawn, because the pixels of one slice are not independent and the file "
        "holds no counts per slice at each t. The next chart shows how much the slices differ."
    )
    return f1_chart(name, caption, [spiking, analog], time_axis(times[-1]))


def slices_chart(name: str, content: Mapping[str, Any]) -> Chart:
    """F1 of every slice at T."""
    rows, names = content["per_slice"], slice_names(content)
    kinds = [("SNN against the ANN", "against_ann", series(1))]
    if content.get("scores"):
        kinds = [
            ("SNN against the labels", "snn", series(0)),
            ("ANN against the labels", "ann", INK),
            *kinds,
        ]
    data = []
    for label, key, color in kinds:
        points = line(label, names, [row[key]["f1"] for row in rows], color, "solid", _HOVER)
        data.append({**points, "mode": "lines+markers" if len(rows) > 1 else "markers"})
    caption = f"F1 of every slice at T = {content['timesteps']}."
    return f1_chart(name, caption, data, {"type": "category", "title": {"text": "slice"}})


def timesteps_table(content: Mapping[str, Any]) -> Table | None:
    """Scores against the labels by timestep; None without labels."""
    scores = content.get("scores")
    if not scores:
        return None
    rows = [(f"SNN, t = {t}", *_cells(one)) for t, one in scores["snn"].items()]
    rows.append(("ANN", *_cells(scores["ann"])))
    caption = f"Scores against the labels, over all {number(scores['n'])} pixels."
    return Table(caption, ("network", *_SCORE_LABELS), tuple(rows))


def slices_table(content: Mapping[str, Any]) -> Table:
    """Every slice at T."""
    scored = bool(content.get("scores"))
    rows = []
    for name, row in zip(slice_names(content), content["per_slice"], strict=True):
        cells = [number(row["against_ann"]["f1"], 4)]
        if scored:
            cells += [number(row[side]["f1"], 4) for side in ("snn", "ann")]
        cells += [number(row.get("positive", {}).get(side)) for side in ("snn", "ann")]
        cells.append(number(row.get("spikes_per_neuron")))
        rows.append((name, *cells))
    header = (
        "slice", "F1, SNN to ANN", *(("F1, SNN to labels", "F1, ANN to labels") * scored),
        "pixels in the SNN mask", "pixels in the ANN mask", "spikes per neuron",
    )  # fmt: skip
    caption = f"Every slice at T = {content['timesteps']}."
    return Table(caption, header, tuple(rows))


def slice_names(content: Mapping[str, Any]) -> list[str]:
    """Names of the slices. Files of earlier versions hold only the numbers."""
    return [str(row.get("name") or row.get("slice")) for row in content["per_slice"]]


def _cells(scores: Mapping[str, Any]) -> list[str]:
    return [number(scores["f1"], 4), number(scores["jaccard"], 4), percent(scores["accuracy"])]


def _counted(n: int, what: str) -> str:
    return f"{n} {what}" if n == 1 else f"{n} {what}s"


def _voxel(sizes: Sequence[float | None]) -> str:
    z, y, x = sizes
    between = "an unknown distance" if z is None else f"{z:g} nm"
    return f"a pixel is {x:g} nm wide and {y:g} nm high, with {between} between slices"


__all__ = [
    "PICTURES",
    "sentences",
    "slice_names",
    "slices_chart",
    "slices_table",
    "timesteps_chart",
    "timesteps_table",
]

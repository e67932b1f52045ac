"""Sentences and tables of the report."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PART_LABELS, PARTS, verdict
from transpike.report.kinds import first_output, intervals_over
from transpike.report.read import Evaluated, neuron_name, plain_settings
from transpike.report.samples import Samples

_PICO_PER_MICRO = 1e6
_TRIALS = 8  # rows of the table of a tuning, as many as `transpike tune` prints
_NONE = "–"
_QUANTIZED_NOTE = (
    "The quantized ANN is the analog network with K·t activation levels (with differential coding, "
    "its own number of levels). It is a reference, not an upper bound."
)
_OPERATIONS = (
    ("accumulates (spikes)", "accumulates", "ann_additions"),
    ("  if counts are sent as unit spikes", "accumulates_unit", None),
    ("  if counts are sent in binary", "accumulates_binary", None),
    ("multiply-accumulates on the input, once", "macs_input", None),
    ("multiply-accumulates behind the time average, once", "macs_readout", None),
    ("multiply-accumulates on currents, every timestep", "macs_current", None),
    ("multiply-accumulates of the analog network", None, "ann_macs"),
    ("other additions", "additions", None),
    ("comparisons", "comparisons", "ann_comparisons"),
    ("neuron updates", "neuron_updates", None),
)


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        caption: what the table shows, with n.
        header: names of the columns; the first column names the rows.
        rows: the cells as text.
    """

    caption: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Paragraphs:
    """Sentences under a heading."""

    heading: str
    sentences: tuple[str, ...]


def percent(value: Any, digits: int = 2) -> str:
    """A fraction in percent."""
    return _NONE if _missing(value) else f"{100 * value:.{digits}f} %"


def interval(pair: Any) -> str:
    """A pair of fractions in percent."""
    low, high = pair
    return f"{100 * low:.2f} to {100 * high:.2f} %"


def _points(pair: Any) -> str:
    low, high = pair
    return f"{100 * low:.2f} to {100 * high:.2f}"


def number(value: Any, digits: int = 3) -> str:
    """A number with commas between thousands; a whole number has no fraction."""
    if _missing(value):
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _missing(value: Any) -> bool:
    return not isinstance(value, (int, float)) or math.isnan(value)


def summaries(evaluations: Iterable[Evaluated]) -> list[Paragraphs]:
    """What was measured, in sentences; one entry per curve."""
    return [
        Paragraphs(one.name, tuple(filter(None, _sentences(one.content)))) for one in evaluations
    ]


def _sentences(e: Mapping[str, Any]) -> list[str]:
    timesteps = e["timesteps"]
    return [
        _network_sentence(e),
        *_accuracy_sentences(e),
        f"At T the quantized ANN is right on {percent(e['quantized'][str(timesteps)])}. "
        f"{_QUANTIZED_NOTE}",
        f"The network has {number(e['neurons'])} neurons. A neuron sends "
        f"{number(float(e['spikes_per_neuron'][-1]))} spikes on average in all {timesteps} "
        "timesteps together.",
        _metric_sentence(e),
        _calibration_sentence(e),
        _stopping_sentence(e),
        "The run was interrupted. All numbers are those of the finished samples."
        if e.get("interrupted")
        else "",
    ]


def _network_sentence(e: Mapping[str, Any]) -> str:
    what = str(e.get("model") or "The network")
    neuron = neuron_name(plain_settings(e))
    how = f" with the neuron “{neuron}”" if neuron else ""
    where = f" and evaluated on {e['data']}" if e.get("data") else ""
    return (
        f"{what} was converted{how}{where}. It ran for T = {e['timesteps']} timesteps with at most "
        f"K = {e['max_count']} spikes per neuron and timestep."
    )


def _accuracy_sentences(e: Mapping[str, Any]) -> list[str]:
    over = intervals_over(e)
    pairs = ("accuracy_interval", "ann_accuracy_interval", "loss_interval")
    spiking, ann, loss = "", "", ""
    if over is not None:
        spiking, ann = (
            f" (95 % interval {interval(pair)})" for pair in (e[pairs[0]][-1], e[pairs[1]])
        )
        loss = f" (95 % interval {_points(e[pairs[2]][-1])})"
    found = [
        f"At T = {e['timesteps']} the spiking network is right on "
        f"{percent(e['accuracy'][-1])}{spiking} and the analog network on "
        f"{percent(e['ann_accuracy'])}{ann}, n = {_things(e)}.",
        f"The loss is {100 * e['loss'][-1]:.2f} points{loss}. The two networks agree in "
        f"{percent(e['agreement'][-1])} of the predictions.",
    ]
    if over == "images":
        found.append(
            "The intervals are over the images, because the pixels of one image are not "
            "independent."
        )
    if over is None:
        found.append(
            "No interval is given: the file comes from an earlier version, whose intervals over "
            "pixels are too narrow. Evaluate again to get intervals over the images."
        )
    return found


def _things(e: Mapping[str, Any]) -> str:
    """The number of predictions with its unit."""
    if e["n"] == e["samples"]:
        return f"{number(e['n'])} samples"
    return f"{number(e['n'])} pixels of {number(e['samples'])} images"


def _shown_interval(e: Mapping[str, Any], t: int) -> str:
    """The interval of the accuracy at t, if it can be shown."""
    return _NONE if intervals_over(e) is None else interval(e["accuracy_interval"][t - 1])


def _metric_sentence(e: Mapping[str, Any]) -> str:
    names = metric_names(e)
    parts = [
        f"{metric_label(name)} {number(metric_values(e, name)[-1], 4)} (analog network "
        f"{number(metric_of_ann(e, name), 4)})"
        for name in names
    ]
    return f"Metrics at T: {', '.join(parts)}." if parts else ""


def _calibration_sentence(e: Mapping[str, Any]) -> str:
    used = e.get("calibration")
    if isinstance(used, dict):
        where = f"{used.get('split', '')} part of {used.get('data', '')}".strip()
        return (
            f"The thresholds were calibrated on {number(used.get('n'))} inputs of the {where} "
            f"(seed {used.get('seed')})."
        )
    if isinstance(used, str):
        return f"The thresholds were calibrated on {used}."
    n = plain_settings(e).get("calibration_n")
    if n is None:
        return ""
    return f"The thresholds were calibrated on {number(n)} inputs before the network was saved."


def _stopping_sentence(e: Mapping[str, Any]) -> str:
    if e.get("decided_timesteps") is None:
        return ""
    return (
        f"With early stopping a prediction is made after {number(e['decided_timesteps'][-1], 2)} "
        f"timesteps on average, and {number(e.get('computed_timesteps'), 2)} timesteps are "
        "computed on average."
    )


def metric_names(e: Mapping[str, Any]) -> list[str]:
    """Names of the metrics at every timestep; whole numbers are counts and no metrics."""
    values = e.get("metric")
    if not isinstance(values, list) or len(values) != e["timesteps"]:
        return []
    first = values[0]
    if isinstance(first, dict):
        return [str(name) for name, value in first.items() if isinstance(value, float)]
    return ["metric"] if isinstance(first, float) else []


def metric_label(name: str) -> str:
    """Name of a metric in tables and charts."""
    return {"f1": "F1", "jaccard": "Jaccard index"}.get(name, name)


def metric_values(e: Mapping[str, Any], name: str) -> list[Any]:
    """A metric at t = 1..T."""
    return [one.get(name) if isinstance(one, dict) else one for one in e["metric"]]


def metric_of_ann(e: Mapping[str, Any], name: str) -> Any:
    """A metric of the analog network."""
    value = e.get("ann_metric")
    return value.get(name) if isinstance(value, dict) else value


def methods_table(evaluations: Iterable[Evaluated]) -> Table:
    """All curves at their last timestep."""
    rows = []
    for one in evaluations:
        e = one.content
        last = str(e["timesteps"])
        rows.append(
            (
                one.name,
                last,
                number(e["max_count"]),
                percent(e["accuracy"][-1]),
                _shown_interval(e, e["timesteps"]),
                percent(e["ann_accuracy"]),
                f"{100 * e['loss'][-1]:.2f}",
                percent(e["agreement"][-1]),
                percent(e["quantized"][last]),
                number(float(e["spikes_per_neuron"][-1])),
                number(e["n"]),
            )
        )
    header = (
        "method", "T", "K", "SNN", "95 % interval", "ANN", "loss, points", "agreement", "quantized",
        "spikes/neuron", "n",
    )  # fmt: skip
    return Table("All evaluations at their last timestep.", header, tuple(rows))


def curve_table(one: Evaluated) -> Table:
    """One curve in numbers at t = 1, 2, 4, ... and T; it begins with the first output."""
    e = one.content
    rows = []
    names = metric_names(e)
    masks = _mask_agreement(e)
    for t in curve_points(e["timesteps"], first_output(e)):
        rows.append(
            (
                str(t),
                percent(e["accuracy"][t - 1]),
                _shown_interval(e, t),
                f"{100 * e['loss'][t - 1]:.2f}",
                percent(e["agreement"][t - 1]),
                percent(e["quantized"][str(t)]),
                number(float(e["spikes_per_neuron"][t - 1])),
                *(number(metric_values(e, name)[t - 1], 4) for name in names),
                *(number(scores["f1"], 4) for scores in masks[t - 1 : t]),
            )
        )
    header = (
        "t", "SNN", "95 % interval", "loss, points", "agreement", "quantized", "spikes/neuron",
        *map(metric_label, names), *(["F1 to the ANN"] if masks else []),
    )  # fmt: skip
    return Table(f"{one.name}, n = {number(e['n'])}.", header, tuple(rows))


def _mask_agreement(e: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Scores of the masks against those of the analog network at t = 1..T, if there are any."""
    values = e.get("mask_agreement")
    if not isinstance(values, list) or len(values) != e["timesteps"]:
        return []
    return [one for one in values if isinstance(one, dict) and "f1" in one]


def diagnosis_verdict(content: Mapping[str, Any]) -> tuple[str, ...]:
    """How close the output is to the ANN's, in sentences; files of earlier versions have it too."""
    output, found = content["output"], bool(content["findings"])
    return verdict(output.get("agreement"), output.get("relative_error"), found)


def diagnosis_table(content: Mapping[str, Any]) -> Table:
    """The errors of every site."""
    rows = []
    for site in content["sites"]:
        parts = [number(float(site["parts"][part]["rms"])) for part in PARTS]
        rows.append(
            (
                site["name"],
                number(site["max_count"]),
                number(float(site["correlation"])),
                number(float(site["relative_error"])),
                *parts,
                number(site["dead_channels"]),
                number(site["saturated_channels"]),
            )
        )
    header = ("site", "K", "correlation", "error", *PART_LABELS.values(), "dead", "saturated")
    caption = (
        "Each error is the root mean square (rms) of the error, divided by the rms of the analog "
        f"activation, n = {number(content['n'])}. The last two columns count channels."
    )
    return Table(caption, header, tuple(rows))


def rates_table(content: Mapping[str, Any]) -> Table:
    """Share of neurons with each firing rate."""
    sites = content["sites"]
    bins = len(sites[0]["firing_rates"]) - 1
    header = ("site", "silent", *(f"to {(k + 1) / bins:.1f}" for k in range(bins)))
    rows = [(site["name"], *(percent(rate, 1) for rate in site["firing_rates"])) for site in sites]
    return Table(
        "Share of neurons by their firing rate, given as a share of K.", header, tuple(rows)
    )


def mask_table(samples: Samples, scores: Mapping[str, Any]) -> Table:
    """F1 of recorded images at every recorded timestep."""
    rows = [
        (str(t), number(scores["f1"][k], 4), number(scores["f1_to_ann"][k], 4))
        for k, t in enumerate(samples.timesteps)
    ]
    caption = (
        f"F1 over all pixels of the {len(samples)} recorded images. The analog network has F1 "
        f"{number(scores['f1_ann'], 4)} against the labels."
    )
    return Table(caption, ("t", "SNN against the labels", "SNN against the ANN"), tuple(rows))


def energy_table(content: Mapping[str, Any]) -> Table:
    """Energy per inference of one sample."""
    kinds = (
        "snn_pj", "snn_uncached_pj", "snn_unit_pj", "snn_binary_pj", "ann_pj", "quantized_ann_pj",
    )  # fmt: skip
    rows = []
    for row in content["energy"]:
        values = [number(row[kind] / _PICO_PER_MICRO) for kind in kinds]
        ratios = [
            number(row["snn_pj"] / row[other]) if row[other] else _NONE
            for other in ("ann_pj", "quantized_ann_pj")
        ]
        rows.append((row["table"], *values, *ratios))
    header = (
        "table", "SNN, µJ", "first layer at every timestep, µJ", "unit spikes, µJ",
        "binary counts, µJ", "ANN, µJ", "bit-matched ANN, µJ", "SNN / ANN", "SNN / bit-matched ANN",
    )  # fmt: skip
    caption = (
        f"Estimated energy of one inference, the mean over n = {number(content['n'])} samples, at "
        f"T = {content['timesteps']}."
    )
    return Table(caption, header, tuple(rows))


def operations_table(content: Mapping[str, Any]) -> Table:
    """Operations per inference of one sample."""
    total = content["total"]

    def cell(name: str | None) -> str:
        return "" if name is None else number(total.get(name), 0)

    rows = tuple((label.strip(), cell(snn), cell(ann)) for label, snn, ann in _OPERATIONS)
    return Table(
        "Operations of one inference, the mean over the samples.", ("", "SNN", "ANN"), rows
    )


def assumptions(content: Mapping[str, Any]) -> list[str]:
    """What the energies are computed from, each table with its source."""
    used = {row["table"] for row in content["energy"]}
    lines = [
        f"{name}: {table['multiply_pj']} pJ per multiplication, {table['add_pj']} pJ per addition "
        f"or comparison, {table['operand_bits']}-bit operand. Source: {table['source']}."
        for name, table in content["energy_tables"].items()
        if name in used
    ]
    return [
        *lines,
        "The column “SNN” computes the first layer once, because the input does not change. The "
        "column “first layer at every timestep” computes it again in every timestep.",
        "The column “unit spikes” sends a count as that many spikes of one. The column “binary "
        "counts” sends it as one binary number.",
        "The bit-matched ANN has as many activation levels as the spiking network. Its "
        "multiplications cost in proportion to their bits.",
        "All energies are estimated from counted arithmetic. Nothing was measured on hardware.",
        *(f"Not counted: {item}." for item in content["not_counted"]),
    ]


def cost_sentence(content: Mapping[str, Any]) -> str:
    """Spikes, state and, if it was measured, the accuracy at the same T."""
    state = sum(content["memory_bytes"].values())
    return (
        f"A neuron sends {number(float(content['spikes_per_neuron']))} spikes in T = "
        f"{content['timesteps']} timesteps. The state of one sample takes {number(state)} bytes."
        f"{quality_sentence(content)}"
    )


def quality_sentence(content: Mapping[str, Any]) -> str:
    """How good the predictions at the measured T are, with a space before; empty if unknown.

    Files of earlier versions do not hold it.
    """
    quality = content.get("quality")
    if not isinstance(quality, Mapping):
        return ""
    n, snn, ann = (quality.get(key) for key in ("predictions", "snn_accuracy", "ann_accuracy"))
    if _missing(snn) or _missing(ann):
        same = percent(quality.get("agreement"))
        return f" At this T the two networks agree in {same} of {number(n)} predictions."
    return (
        f" At this T the spiking network is right on {percent(snn)} and the analog network on "
        f"{percent(ann)} of {number(n)} predictions."
    )


def tuning_table(content: Mapping[str, Any]) -> Table:
    """The best recipes that a tuning tried."""
    front = {trial["name"] for trial in content["pareto"]}
    rows = tuple(
        (
            trial["name"],
            number(float(trial["divergence"]), 4),
            percent(trial["agreement"]),
            number(float(trial["spikes_per_neuron"])),
            number(trial["n"]),
            "yes" if trial["name"] in front else "",
            "" if trial.get("within", True) else "over",
        )
        for trial in content["trials"][:_TRIALS]
    )
    header = ("recipe", "divergence", "agreement", "spikes/neuron", "n", "Pareto front", "budget")
    caption = (
        f"The best {len(rows)} of {len(content['trials'])} recipes, measured on held-out training "
        f"inputs.{_lead_sentences(content)}"
    )
    return Table(caption, header, rows)


def _lead_sentences(content: Mapping[str, Any]) -> str:
    """How sure the choice is, with a space before; files of earlier versions do not say it."""
    said = ""
    best = content["trials"][0].get("agreement_interval") if content["trials"] else None
    if isinstance(best, list):
        said += f" The 95 % interval of the agreement of the best recipe is {interval(best)}."
    lead = content.get("lead")
    if isinstance(lead, Mapping) and not lead.get("told_apart", True):
        said += f" It cannot be told apart from the runner-up, {lead.get('runner_up')}."
    return said


__all__ = ["Paragraphs", "Table"]

"""Results in sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PART_LABELS, PARTS, verdict
from transpike.report.kinds import first_output
from transpike.report.read import (
    Evaluated,
    Found,
    Results,
    curves,
    neuron_name,
    plain_settings,
)
from transpike.report.samples import Samples

_PICO_PER_MICRO = 1e6
_TRIALS = 8  # of a tuning, as many as `transpike tune` prints
_NONE = "–"
_LONG = 8  # entries of a mapping from which on it is one row of the settings
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
        caption: says what it is, with n.
        header: of the columns; the first column names the row.
        rows: cells as text.
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
    """A number with thousands apart; whole ones without a fraction."""
    if _missing(value):
        return _NONE
    return f"{value:,}" if isinstance(value, int) else f"{value:,.{digits}f}"


def _missing(value: Any) -> bool:
    return not isinstance(value, (int, float)) or math.isnan(value)


def summaries(evaluations: Iterable[Evaluated]) -> list[Paragraphs]:
    """What was measured, in sentences; one entry per curve."""
    return [
        Paragraphs(one.name, tuple(sentence for sentence in _sentences(one.content) if sentence))
        for one in evaluations
    ]


def _sentences(e: Mapping[str, Any]) -> list[str]:
    timesteps, count = e["timesteps"], e["max_count"]
    levels = f"T = {timesteps} timesteps, at most K = {count} spikes per neuron and timestep"
    neuron = neuron_name(plain_settings(e))
    what = str(e.get("model") or "The network")
    where = f" on {e['data']}" if e.get("data") else ""
    quantized = e["quantized"][str(timesteps)]
    things = _things(e)
    return [
        f"{what}{where}, converted{f' with the neuron “{neuron}”' if neuron else ''}: {levels}.",
        f"At T = {timesteps} the spiking network is right on {percent(e['accuracy'][-1])} "
        f"(95 % interval {interval(e['accuracy_interval'][-1])}) and the analog network on "
        f"{percent(e['ann_accuracy'])} ({interval(e['ann_accuracy_interval'])}), n = {things}.",
        f"The loss is {100 * e['loss'][-1]:.2f} points (paired 95 % interval "
        f"{_points(e['loss_interval'][-1])}); {percent(e['agreement'][-1])} of the predictions "
        "are those of the analog network.",
        f"The quantized ANN at T is right on {percent(quantized)}. {_QUANTIZED_NOTE}",
        f"A neuron sends {number(float(e['spikes_per_neuron'][-1]))} spikes on average over all "
        f"{timesteps} timesteps ({number(e['neurons'])} neurons).",
        _metric_sentence(e),
        _calibration_sentence(e),
        _stopping_sentence(e),
        "The run was interrupted: everything holds for the samples that were finished."
        if e.get("interrupted")
        else "",
    ]


def _things(e: Mapping[str, Any]) -> str:
    """How many, with the unit; pixels of one image are not independent."""
    if e["n"] == e["samples"]:
        return f"{number(e['n'])} samples"
    return (
        f"{number(e['n'])} pixels of {number(e['samples'])} images (pixels of one image are not "
        "independent, so the intervals are too narrow)"
    )


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
            f"Calibrated on {number(used.get('n'))} inputs of the {where} (seed "
            f"{used.get('seed')})."
        )
    if isinstance(used, str):
        return f"Calibrated on {used}."
    n = plain_settings(e).get("calibration_n")
    return "" if n is None else f"Calibrated on {number(n)} inputs, before the network was saved."


def _stopping_sentence(e: Mapping[str, Any]) -> str:
    if e.get("decided_timesteps") is None:
        return ""
    return (
        f"With early stopping an output is settled after {number(e['decided_timesteps'][-1], 2)} "
        f"timesteps; {number(e.get('computed_timesteps'), 2)} are computed (means over samples)."
    )


def metric_names(e: Mapping[str, Any]) -> list[str]:
    """Names of the metrics an evaluation holds at every timestep; whole numbers are counts."""
    values = e.get("metric")
    if not isinstance(values, list) or len(values) != e["timesteps"]:
        return []
    first = values[0]
    if isinstance(first, dict):
        return [str(name) for name, value in first.items() if isinstance(value, float)]
    return ["metric"] if isinstance(first, float) else []


def metric_label(name: str) -> str:
    """What tables and charts call a metric."""
    return {"f1": "F1", "jaccard": "Jaccard index"}.get(name, name)


def metric_values(e: Mapping[str, Any], name: str) -> list[Any]:
    """A metric at t = 1..T."""
    return [one.get(name) if isinstance(one, dict) else one for one in e["metric"]]


def metric_of_ann(e: Mapping[str, Any], name: str) -> Any:
    """The same of the analog network."""
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
                interval(e["accuracy_interval"][-1]),
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
    """One curve in numbers, at t = 1, 2, 4, ... and T, from the first output on."""
    e = one.content
    rows = []
    names = metric_names(e)
    masks = _mask_agreement(e)
    for t in curve_points(e["timesteps"], first_output(e)):
        rows.append(
            (
                str(t),
                percent(e["accuracy"][t - 1]),
                interval(e["accuracy_interval"][t - 1]),
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
    """Scores of the masks against the analog network's at t = 1..T, empty where there are none."""
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
        f"Errors as rms over the rms of the analog activation, n = {number(content['n'])}; dead "
        "and saturated: channels."
    )
    return Table(caption, header, tuple(rows))


def rates_table(content: Mapping[str, Any]) -> Table:
    """Shares of neurons by firing rate."""
    sites = content["sites"]
    bins = len(sites[0]["firing_rates"]) - 1
    header = ("site", "silent", *(f"to {(k + 1) / bins:.1f}" for k in range(bins)))
    rows = [(site["name"], *(percent(rate, 1) for rate in site["firing_rates"])) for site in sites]
    return Table("Share of neurons by firing rate over K.", header, tuple(rows))


def mask_table(samples: Samples, scores: Mapping[str, Any]) -> Table:
    """F1 of recorded images at every recorded timestep."""
    rows = [
        (str(t), number(scores["f1"][k], 4), number(scores["f1_to_ann"][k], 4))
        for k, t in enumerate(samples.timesteps)
    ]
    caption = (
        f"F1 over all pixels of the {len(samples)} recorded images; the analog network has "
        f"{number(scores['f1_ann'], 4)}."
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
        "table", "SNN, µJ", "first layer again", "unit spikes", "binary counts", "ANN, µJ",
        "bit-matched ANN, µJ", "SNN / ANN", "SNN / bit-matched",
    )  # fmt: skip
    caption = (
        f"Estimated energy of one inference, mean over n = {number(content['n'])} samples, "
        f"T = {content['timesteps']}."
    )
    return Table(caption, header, tuple(rows))


def operations_table(content: Mapping[str, Any]) -> Table:
    """Operations per inference of one sample."""
    total = content["total"]

    def cell(name: str | None) -> str:
        return "" if name is None else number(total.get(name), 0)

    rows = tuple((label.strip(), cell(snn), cell(ann)) for label, snn, ann in _OPERATIONS)
    return Table("Operations of one inference, mean over samples.", ("", "SNN", "ANN"), rows)


def assumptions(content: Mapping[str, Any]) -> list[str]:
    """What the energies rest on, each table with its source."""
    used = {row["table"] for row in content["energy"]}
    lines = [
        f"{name}: {table['multiply_pj']} pJ per multiplication, {table['add_pj']} pJ per addition "
        f"or comparison, {table['operand_bits']}-bit operand. Source: {table['source']}."
        for name, table in content["energy_tables"].items()
        if name in used
    ]
    return [
        *lines,
        "SNN: the first layer on the static input is computed once; “first layer again”: at every "
        "timestep.",
        "Bit-matched ANN: the analog network with as many activation levels as the spiking one, "
        "multiplications in proportion to their bits.",
        "Estimated from counted arithmetic; nothing was measured on hardware.",
        *(f"Not counted: {item}." for item in content["not_counted"]),
    ]


def cost_sentence(content: Mapping[str, Any]) -> str:
    """Spikes and state."""
    state = sum(content["memory_bytes"].values())
    return (
        f"{number(float(content['spikes_per_neuron']))} spikes per neuron over T = "
        f"{content['timesteps']} timesteps; {number(state)} bytes of state per sample."
    )


def tuning_table(content: Mapping[str, Any]) -> Table:
    """The best recipes a tuning tried."""
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
    caption = f"Best {len(rows)} of {len(content['trials'])} recipes, on held-out training inputs."
    return Table(caption, header, rows)


def settings_tables(results: Results) -> list[Table]:
    """Settings and versions of every file, without its measured values."""
    tables = []
    for found in results.files:
        rows: list[tuple[str, str]] = []
        for name, content in [(None, found.content)] if _alone(found) else curves(found):
            prefix = f"{name}: " if name else ""
            rows += [(prefix + key, text) for key, text in _facts(content)]
        tables.append(Table(found.file, ("setting", "value"), tuple(rows)))
    return tables


def _alone(found: Found) -> bool:
    return found.kind != "comparison"


_KEPT = (
    "command", "model", "data", "split", "timesteps", "limit", "seed", "n", "samples", "classes",
    "max_count", "coding", "against", "neuron", "threshold", "passes", "recipe", "found",
    "precision", "early_stopping", "normalization", "calibration", "test", "batch_size", "device",
    "tile", "volume", "labels", "masks", "voxel_size_nm", "overlap", "exact", "until",
    "normalisation", "facts", "settings", "versions",
)  # fmt: skip


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    chosen = {key: content[key] for key in _KEPT if key in content}
    return [(key, text) for key, text in _flat(chosen) if text]


def _flat(value: Any, place: str = "") -> list[tuple[str, str]]:
    """Every leaf with its dotted place; long lists of numbers by name in one row."""
    if isinstance(value, Mapping) and len(value) > _LONG and all(map(_scalar, value.values())):
        return [(place, ", ".join(f"{key}: {item}" for key, item in value.items()))]
    if isinstance(value, Mapping):
        pairs = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
        return [row for name, item in pairs for row in _flat(item, name)]
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        return [row for k, item in enumerate(value) for row in _flat(item, f"{place}[{k}]")]
    if isinstance(value, list):
        return [(place, ", ".join(map(str, value)))]
    return [(place, "" if value is None else str(value))]


def _scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["Paragraphs", "Table"]

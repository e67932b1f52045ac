"""Tells by its content what kind of result a file holds, and what a result lacks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PARTS
from transpike.report.samples import FORMAT as SAMPLES_FORMAT

Kind = Literal[
    "evaluation",
    "diagnosis",
    "cost",
    "comparison",
    "tuning",
    "segmentation",
    "recipe",
    "samples",
]

# A file is of the first kind whose keys it has all.
_MARKS: Mapping[Kind, tuple[str, ...]] = {
    "evaluation": ("timesteps", "accuracy", "ann_accuracy", "quantized"),
    "diagnosis": ("sites", "output", "findings", "advice"),
    "cost": ("sites", "operations", "energy", "energy_tables"),
    "comparison": ("rows", "calibration_n"),
    "tuning": ("trials", "pareto", "recipe"),
    "segmentation": ("volume", "per_slice", "against_ann"),
}
_PER_TIMESTEP = (
    "accuracy",
    "accuracy_interval",
    "loss",
    "loss_interval",
    "agreement",
    "spikes_per_neuron",
)
_MASK_SCORES = ("f1", "jaccard", "accuracy")


def kind_of(content: Any) -> Kind | None:
    """The kind of a file with this content; None if a report cannot show it."""
    if not isinstance(content, dict):
        return None
    if content.get("format") == SAMPLES_FORMAT:
        return "samples"
    if content.get("format") == "transpike recipe":
        return "recipe"
    for kind, marks in _MARKS.items():
        if all(mark in content for mark in marks):
            return kind
    results = content.get("results")  # the demo writes one curve per neuron
    if isinstance(results, dict) and results:
        if all(kind_of(one) == "evaluation" for one in results.values()):
            return "comparison"
    return None


def problem_of(kind: Kind, content: Mapping[str, Any]) -> str | None:
    """What a result of this kind lacks, as the end of a sentence; None if it is complete."""
    if kind not in _PROBLEMS:
        return None
    try:
        return _PROBLEMS[kind](content)
    except (AttributeError, KeyError, TypeError) as error:  # a list where a mapping belongs
        return f"it is damaged ({type(error).__name__}: {error})"


def first_output(evaluation: Mapping[str, Any]) -> Any:
    """First timestep with an output. Files of earlier versions do not state it and mean 1."""
    return evaluation.get("first_output", 1)


def intervals_over(evaluation: Mapping[str, Any]) -> str | None:
    """What the intervals of an evaluation take for independent: "samples" or "images".

    None for pixel accuracies of earlier versions. Their intervals took pixels for independent and
    are not shown, because they are too narrow.
    """
    found = evaluation.get("intervals_over")
    if found is None:
        return "samples" if evaluation["n"] == evaluation["samples"] else None
    return str(found)


def _evaluation_problem(content: Mapping[str, Any]) -> str | None:
    timesteps = content["timesteps"]
    if not isinstance(timesteps, int) or timesteps < 1:
        return f"its timesteps are {timesteps!r}, not a number >= 1"
    for name in _PER_TIMESTEP:
        values = content.get(name)
        if not isinstance(values, list) or len(values) != timesteps:
            return f"{name!r} does not hold one value for each of {timesteps} timesteps"
        good = _is_interval if name.endswith("interval") else _is_number
        if not all(good(value) for value in values):
            return f"{name!r} holds something that is no number"
    for name in ("n", "samples", "neurons", "max_count", "ann_accuracy"):
        if not _is_number(content.get(name)):
            return f"{name!r} is {content.get(name)!r}, not a number"
    if not _is_interval(content.get("ann_accuracy_interval")):
        return "'ann_accuracy_interval' is not a pair of numbers"
    quantized = content["quantized"]
    first = first_output(content)
    if isinstance(first, bool) or not isinstance(first, int) or not 1 <= first <= timesteps:
        return f"'first_output' is {first!r}, not one of {timesteps} timesteps"
    points = [str(t) for t in curve_points(timesteps, first)]
    if not isinstance(quantized, dict) or not all(_is_number(quantized.get(t)) for t in points):
        return f"'quantized' lacks one of the timesteps {', '.join(points)}"
    return None


def _comparison_problem(content: Mapping[str, Any]) -> str | None:
    if "rows" not in content:
        parts: list[Any] = list(content["results"].values())
    else:
        rows = content["rows"]
        if not isinstance(rows, list) or not rows:
            return "its rows are empty"
        if not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
            return "a row has no name"
        parts = [row.get("evaluation") for row in rows]
    for part in parts:
        if kind_of(part) != "evaluation":
            return "a row holds no evaluation"
        problem = _evaluation_problem(part)
        if problem:
            return f"in one of its rows {problem}"
    return None


def _diagnosis_problem(content: Mapping[str, Any]) -> str | None:
    numbers = ("correlation", "relative_error", "max_count", "dead_channels", "saturated_channels")
    if not isinstance(content["sites"], list) or not content["sites"]:
        return "it has no sites"
    for site in content["sites"]:
        parts = site.get("parts") if isinstance(site, dict) else None
        if not isinstance(parts, dict) or not isinstance(site.get("name"), str):
            return "a site has no name or no parts"
        if not all(_is_number(parts.get(part, {}).get("rms")) for part in PARTS):
            return f"at site {site['name']!r} one of the parts {', '.join(PARTS)} is missing"
        if not all(_is_number(site.get(name)) for name in numbers):
            return f"at site {site['name']!r} one of {', '.join(numbers)} is missing"
        rates = site.get("firing_rates")
        if not isinstance(rates, list) or not all(_is_number(rate) for rate in rates):
            return f"at site {site['name']!r} the firing rates are missing"
    for found in content["findings"]:
        if not all(isinstance(found.get(k), str) for k in ("site", "cause", "evidence", "remedy")):
            return "a finding lacks its site, cause, evidence or remedy"
    return None if _is_number(content.get("n")) else "it does not say how many samples"


def _cost_problem(content: Mapping[str, Any]) -> str | None:
    """An energy is shown only with the source of its table."""
    tables = content["energy_tables"]
    kinds = ("snn_pj", "snn_uncached_pj", "snn_unit_pj", "snn_binary_pj", "ann_pj")
    for row in content["energy"]:
        table = tables.get(row.get("table")) if isinstance(tables, dict) else None
        if not isinstance(table, dict) or not table.get("source"):
            return f"its energy table {row.get('table')!r} has no source"
        if not all(_is_number(row.get(kind)) for kind in (*kinds, "quantized_ann_pj")):
            return f"an energy under {row['table']!r} is missing"
        if not all(_is_number(table.get(k)) for k in ("multiply_pj", "add_pj", "operand_bits")):
            return f"its energy table {row['table']!r} lacks an energy per operation"
    if not isinstance(content.get("total"), dict) or not isinstance(content["operations"], list):
        return "it has no operations"
    if not isinstance(content.get("not_counted"), list):
        return "it does not say what is not counted"
    if not isinstance(content.get("memory_bytes"), dict):
        return "it has no state memory"
    missing = [k for k in ("n", "timesteps", "spikes_per_neuron") if not _is_number(content.get(k))]
    return f"{missing[0]!r} is missing" if missing else None


def _tuning_problem(content: Mapping[str, Any]) -> str | None:
    for trial in [*content["trials"], *content["pareto"]]:
        numbers = ["divergence", "spikes_per_neuron", "n"]
        if trial.get("agreement", "") is not None:  # None where outputs are values, not classes
            numbers.append("agreement")
        if not isinstance(trial.get("name"), str) or not all(
            _is_number(trial.get(name)) for name in numbers
        ):
            return "a trial lacks its name or a number"
    return None


def _segmentation_problem(content: Mapping[str, Any]) -> str | None:
    slices, timesteps = content["per_slice"], content["timesteps"]
    if not isinstance(slices, list) or not slices:
        return "it has no slices"
    numbers = ("timesteps", "max_count", "tiles_per_slice", "spikes_per_neuron")
    missing = [name for name in numbers if not _is_number(content.get(name))]
    if missing:
        return f"{missing[0]!r} is missing"
    if not all(isinstance(content[name], list) for name in ("shape", "tile")):
        return "the shape of the volume or of a tile is missing"
    scored = content.get("scores")
    for row in slices:
        for side in ("against_ann", *(("ann", "snn") if scored else ())):
            if not _is_mask_scores(row.get(side)):
                return f"slice {row.get('slice')!r} lacks a score under {side!r}"
    if scored and str(timesteps) not in scored["snn"]:
        return f"its scores lack the last timestep, {timesteps}"
    tables = [content["against_ann"], *([scored["ann"], *scored["snn"].values()] if scored else [])]
    return None if all(map(_is_mask_scores, tables)) else "a score of the masks is missing"


def _is_mask_scores(value: Any) -> bool:
    return isinstance(value, dict) and all(_is_number(value.get(name)) for name in _MASK_SCORES)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


_PROBLEMS: Mapping[Kind, Callable[[Mapping[str, Any]], str | None]] = {
    "evaluation": _evaluation_problem,
    "comparison": _comparison_problem,
    "diagnosis": _diagnosis_problem,
    "cost": _cost_problem,
    "tuning": _tuning_problem,
    "segmentation": _segmentation_problem,
}

__all__ = ["Kind", "first_output", "intervals_over", "kind_of", "problem_of"]

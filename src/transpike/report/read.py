"""Reads what the commands write, and tells by its content what a file is."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from transpike.errors import ArgumentError, FileError
from transpike.measure.evaluate import curve_points
from transpike.measure.findings import PARTS
from transpike.report import samples as recorded
from transpike.report.samples import Samples, read_samples
from transpike.spiking.neuron import Neuron

Kind = Literal["evaluation", "diagnosis", "cost", "comparison", "tuning", "recipe", "samples"]

# What tells a file's kind: no two kinds share all of theirs.
_MARKS: Mapping[Kind, tuple[str, ...]] = {
    "evaluation": ("timesteps", "accuracy", "ann_accuracy", "quantized"),
    "diagnosis": ("sites", "output", "findings", "advice"),
    "cost": ("sites", "operations", "energy", "energy_tables"),
    "comparison": ("rows", "calibration_n"),
    "tuning": ("trials", "pareto", "recipe"),
}
_PER_TIMESTEP = (
    "accuracy",
    "accuracy_interval",
    "loss",
    "loss_interval",
    "agreement",
    "spikes_per_neuron",
)
_WRITERS = (
    "transpike evaluate --json, compare --json, diagnose --json, cost --json, tune, demo, or "
    "evaluate --samples"
)


@dataclass(frozen=True)
class Evaluated:
    """One accuracy curve.

    Attributes:
        name: what tables and charts call it; different from all others.
        file: where it is from.
        content: fields of `transpike.Evaluation`, and those of the command around it.
    """

    name: str
    file: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """One file.

    Attributes:
        kind: what it is.
        file: its name.
        content: as read.
    """

    kind: Kind
    file: str
    content: Mapping[str, Any]

    @property
    def stem(self) -> str:
        """The name without its ending."""
        return Path(self.file).stem


@dataclass(frozen=True)
class Results:
    """Everything a report shows.

    Attributes:
        files: in the order given, those of a folder by name.
        evaluations: every accuracy curve in them.
        samples: predictions and pictures, by the name of their folder.
    """

    files: tuple[Found, ...]
    evaluations: tuple[Evaluated, ...]
    samples: Mapping[str, Samples]

    def of(self, kind: Kind) -> list[Found]:
        """The files of one kind."""
        return [found for found in self.files if found.kind == kind]


def read_results(paths: Iterable[str | Path]) -> Results:
    """Read results of other commands.

    Args:
        paths: JSON files, and folders of which every `*.json` directly inside is read.

    Raises:
        ArgumentError: no path.
        FileError: a file is missing, damaged, or no result; or a folder holds none.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        files += [file for file in _inside(path) if file not in files]
    if not files:
        raise ArgumentError("report: needed at least one file or folder of results.")
    found = [_recognized(file) for file in files]
    samples = {}
    for file, one in zip(files, found, strict=True):
        if one.kind == "samples":
            name = file.resolve().parent.name
            samples[name if name not in samples else str(file.parent)] = read_samples(file.parent)
    return Results(tuple(found), _evaluations(found), samples)


def _inside(path: Path) -> list[Path]:
    """The JSON files a path stands for."""
    if not path.is_dir():
        return [path]
    files = sorted(path.glob("*.json"))
    if not files:
        raise FileError(
            f"{str(path)!r} holds no JSON file: needed results of {_WRITERS}. Give the folder or "
            "the files they were written to."
        )
    return files


def _recognized(file: Path) -> Found:
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_hook=_current_keys)
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"cannot read {str(file)!r} as JSON: {reason}.") from error
    kind = _kind(content)
    if kind is None:
        raise FileError(
            f"{str(file)!r} is no result that a report can show: needed what {_WRITERS} write. "
            "Name the files to show one by one, or move this one out of the folder."
        )
    try:
        problem = _PROBLEMS[kind](content) if kind in _PROBLEMS else None
    except (AttributeError, KeyError, TypeError) as error:  # a list where a mapping belongs
        problem = f"is damaged ({type(error).__name__}: {error})"
    if problem:
        raise FileError(
            f"{str(file)!r} looks like a result ('{kind}'), but {problem}. Write it again with "
            "this version of transpike."
        )
    return Found(kind, file.name, content)


def _current_keys(content: dict[str, Any]) -> dict[str, Any]:
    """An object of a file under the keys of this version; earlier ones wrote `ceiling`."""
    if "ceiling" not in content or "ann_accuracy" not in content or "quantized" in content:
        return content
    return {"quantized" if key == "ceiling" else key: value for key, value in content.items()}


def _kind(content: Any) -> Kind | None:
    if not isinstance(content, dict):
        return None
    if content.get("format") == recorded.FORMAT:
        return "samples"
    if content.get("format") == "transpike recipe":
        return "recipe"
    for kind, marks in _MARKS.items():
        if all(mark in content for mark in marks):
            return kind
    results = content.get("results")  # of the demo: one curve per neuron
    if isinstance(results, dict) and results:
        if all(_kind(one) == "evaluation" for one in results.values()):
            return "comparison"
    return None


def first_output(evaluation: Mapping[str, Any]) -> Any:
    """First timestep with an output; files of earlier versions do not say it and mean 1."""
    return evaluation.get("first_output", 1)


def curves(found: Found) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The evaluations in a file, with the name the file gives them, if it gives one."""
    content = found.content
    if found.kind == "evaluation":
        return [(content.get("name"), content)]
    if found.kind != "comparison":
        return []
    around = {k: v for k, v in content.items() if k not in ("rows", "results", "calibration_n")}
    if "rows" in content:
        pairs = [(row["name"], row["evaluation"]) for row in content["rows"]]
    else:
        pairs = list(content["results"].items())
    return [(name, {**around, **evaluation}) for name, evaluation in pairs]


def neuron_name(settings: Any) -> str | None:
    """What tables call the neuron in a network's settings; None where they hold none."""
    try:
        return Neuron.from_dict(settings["neuron"]).name
    except (KeyError, TypeError, ValueError):
        return None


def _evaluations(found: Iterable[Found]) -> tuple[Evaluated, ...]:
    """Every curve under a name of its own."""
    named = [(one, name, content) for one in found for name, content in curves(one)]
    names = [name or _label(content) or one.stem for one, name, content in named]
    twice = {name for name in names if names.count(name) > 1}
    result: list[Evaluated] = []
    for (one, _, content), name in zip(named, names, strict=True):
        full = f"{name} ({one.stem})" if name in twice else name
        same = sum(other.name == full for other in result)
        result.append(Evaluated(f"{full} #{same + 1}" if same else full, one.file, content))
    return tuple(result)


def _label(content: Mapping[str, Any]) -> str | None:
    neuron = neuron_name(content.get("settings"))
    model = content.get("model")
    return f"{model}, {neuron}" if model and neuron else None


def _evaluation_problem(content: Mapping[str, Any]) -> str | None:
    """What is missing in an evaluation, or None."""
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
        if _kind(part) != "evaluation":
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
    """What is missing; energy without the source of its table is not shown."""
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
        if trial.get("agreement", "") is not None:  # None: outputs that are values, not classes
            numbers.append("agreement")
        if not isinstance(trial.get("name"), str) or not all(
            _is_number(trial.get(name)) for name in numbers
        ):
            return "a trial lacks its name or a number"
    return None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(map(_is_number, value))


def plain_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """How the network was made, empty where a file does not say."""
    settings = content.get("settings")
    return cast("dict[str, Any]", settings) if isinstance(settings, dict) else {}


_PROBLEMS = {
    "evaluation": _evaluation_problem,
    "comparison": _comparison_problem,
    "diagnosis": _diagnosis_problem,
    "cost": _cost_problem,
    "tuning": _tuning_problem,
}

__all__ = ["Evaluated", "Found", "Kind", "Results", "read_results"]

"""Reads the files that the commands write."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from transpike.errors import ArgumentError, FileError
from transpike.report.kinds import Kind, kind_of, problem_of
from transpike.report.samples import Samples, read_samples
from transpike.spiking.neuron import Neuron

_WRITERS = (
    "transpike evaluate --json, compare --json, diagnose --json, cost --json, tune, demo, segment, "
    "or evaluate --samples"
)
_SEGMENT_FILE = "segment.json"
_SEGMENT_PICTURES = ("overview.png", "timesteps.png")


@dataclass(frozen=True)
class Evaluated:
    """One accuracy curve.

    Attributes:
        name: name in tables and charts; no two curves have the same.
        file: name of the file that holds it.
        content: the fields of `transpike.Evaluation` and what the command wrote beside them.
    """

    name: str
    file: str
    content: Mapping[str, Any]


@dataclass(frozen=True)
class Found:
    """One file of results.

    Attributes:
        kind: what it holds.
        file: its name.
        content: its content.
        pictures: PNG files that the same command wrote beside it, by name.
    """

    kind: Kind
    file: str
    content: Mapping[str, Any]
    pictures: Mapping[str, bytes] = field(default_factory=dict)

    @property
    def stem(self) -> str:
        """Name of the file without its suffix."""
        return Path(self.file).stem


@dataclass(frozen=True)
class Results:
    """Everything a report shows.

    Attributes:
        files: in the order given; the files of a folder are sorted by name.
        evaluations: all accuracy curves in the files.
        samples: predictions and pictures by the name of their folder.
    """

    files: tuple[Found, ...]
    evaluations: tuple[Evaluated, ...]
    samples: Mapping[str, Samples]

    def of(self, kind: Kind) -> list[Found]:
        """The files of one kind."""
        return [found for found in self.files if found.kind == kind]


def read_results(paths: Iterable[str | Path]) -> Results:
    """Read the results that other commands wrote.

    Args:
        paths: JSON files and folders. Of a folder, every `*.json` directly inside it is read.

    Raises:
        ArgumentError: there is no path.
        FileError: a file is missing, damaged or not a result, or a folder holds no JSON file.
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
            f"{str(path)!r} holds no JSON file: needed results of {_WRITERS}. Name the folder or "
            "the files that hold the results."
        )
    return files


def _recognized(file: Path) -> Found:
    try:
        content = json.loads(file.read_text(encoding="utf-8"), object_hook=_current_keys)
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FileError(f"cannot read {str(file)!r} as JSON: {reason}.") from error
    kind = kind_of(content)
    if kind is None:
        raise FileError(
            f"{str(file)!r} is no result that a report can show: needed a file written by "
            f"{_WRITERS}. Name the files to show one by one, or move this one out of the folder."
        )
    problem = problem_of(kind, content)
    if problem:
        raise FileError(
            f"{str(file)!r} looks like a result of the kind '{kind}', but {problem}. Write it "
            "again with this version of transpike."
        )
    return Found(kind, file.name, content, _pictures(file) if kind == "segmentation" else {})


def _pictures(file: Path) -> dict[str, bytes]:
    """The pictures of the same run of `transpike segment`.

    A result with another name was copied, and pictures beside it can be of another run.
    """
    if file.name != _SEGMENT_FILE:
        return {}
    places = [file.parent / name for name in _SEGMENT_PICTURES]
    return {place.name: place.read_bytes() for place in places if place.is_file()}


def _current_keys(content: dict[str, Any]) -> dict[str, Any]:
    """A JSON object with the keys of this version; earlier versions wrote `ceiling`."""
    if "ceiling" not in content or "ann_accuracy" not in content or "quantized" in content:
        return content
    return {"quantized" if key == "ceiling" else key: value for key, value in content.items()}


def curves(found: Found) -> list[tuple[str | None, Mapping[str, Any]]]:
    """The evaluations in a file, each with the name that the file gives it, or None."""
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
    """Name of the neuron in the settings of a network, or None if they hold no neuron."""
    try:
        return Neuron.from_dict(settings["neuron"]).name
    except (KeyError, TypeError, ValueError):
        return None


def _evaluations(found: Iterable[Found]) -> tuple[Evaluated, ...]:
    """All curves, each with a name that no other one has."""
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


def plain_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of the conversion; empty if the file holds none."""
    settings = content.get("settings")
    return cast("dict[str, Any]", settings) if isinstance(settings, dict) else {}


__all__ = ["Evaluated", "Found", "Results", "read_results"]

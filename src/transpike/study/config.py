"""What a study compares: networks, training seeds, methods and timesteps, read from a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transpike.conversion.recipe import Recipe
from transpike.conversion.specs import parse_neuron, parse_passes, parse_threshold
from transpike.errors import ArgumentError, FileError, missing_package

_HALF_STEP = 0.5  # initial membrane of a neuron, as a fraction of the step


@dataclass(frozen=True)
class StudyNetwork:
    """One network, with all its trained weights.

    Args:
        name: name in tables.
        model: name of the model, see `build_model`.
        weights: file of weights. `{seed}` stands for the training seed.
        pretraining: how the network was trained; a label in tables.
        seeds: training seeds.
    """

    name: str
    model: str
    weights: str
    pretraining: str = "supervised"
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class StudyMethod:
    """One way to convert.

    Args:
        name: name in tables.
        neuron: short form of the neuron, see `parse_neuron`.
        threshold: short form of the threshold rule, see `parse_threshold`.
        granularity: `channel` or `layer`.
        initial_membrane: membrane before the first timestep, as a fraction of the step.
        passes: short forms of calibration passes, joined by commas.
        timesteps: T of this method; empty means those of the study.
    """

    name: str
    neuron: str
    threshold: str = "percentile:99.9"
    granularity: str = "channel"
    initial_membrane: float = _HALF_STEP
    passes: str = ""
    timesteps: tuple[int, ...] = ()

    def recipe(self, timesteps: int) -> Recipe:
        """The recipe of this method for T timesteps."""
        return Recipe(
            timesteps,
            parse_neuron(self.neuron, self.initial_membrane),
            parse_threshold(self.threshold, self.granularity),
            parse_passes(self.passes) if self.passes else (),
        )


@dataclass(frozen=True)
class Study:
    """A grid of networks x training seeds x methods x T x calibration draws.

    Args:
        data: name of the data, see `open_data`.
        networks: the networks.
        methods: the methods.
        timesteps: T of every method that has none of its own. It may be empty if all have.
        calibration: number of training images of a calibration.
        draws: seeds that draw the calibration images.
        test: number of test images; None means all.
        test_draw: seed that draws the test images.
        shard: test images that are measured and stored together.
        batch_size: images that run together.
        contrasts: pairs of names of networks, whose losses are compared on the same images.
    """

    data: str
    networks: tuple[StudyNetwork, ...]
    methods: tuple[StudyMethod, ...]
    timesteps: tuple[int, ...] = ()
    calibration: int = 512
    draws: tuple[int, ...] = (0,)
    test: int | None = None
    test_draw: int = 0
    shard: int = 500
    batch_size: int = 100
    contrasts: tuple[tuple[str, str], ...] = ()


def read_study(file: str | Path) -> Study:
    """Read a study from a YAML or JSON file.

    Args:
        file: a mapping with the fields of `Study`. Paths in it are relative to the working folder.

    Raises:
        ArgumentError: a field is missing, unknown or out of range, or PyYAML is not installed.
        FileError: the file cannot be read or is no YAML.
    """
    try:
        import yaml
    except ImportError as error:
        raise missing_package("pyyaml") from error
    file = Path(file)
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        shown = " ".join(str(error).split())
        raise FileError(f"cannot read the study {str(file)!r}: {shown}.") from error
    return study_of(content, str(file))


def study_of(content: Any, place: str) -> Study:
    """The study from the values of a file.

    Args:
        content: a mapping with the fields of `Study`.
        place: name of the file, for error messages.

    Raises:
        ArgumentError: a field is missing, unknown or out of range.
    """
    fields = dict(_fields(content, Study, place))
    networks = _entries(fields.get("networks"), StudyNetwork, f"{place}, networks")
    methods = _entries(fields.get("methods"), StudyMethod, f"{place}, methods")
    for name in ("timesteps", "draws"):
        if name in fields:
            fields[name] = _whole_numbers(fields[name], f"{place}, {name}")
    pairs = fields.pop("contrasts", [])
    study = Study(
        **{
            **fields,
            "networks": tuple(StudyNetwork(**one) for one in networks),
            "methods": tuple(StudyMethod(**one) for one in methods),
            "contrasts": tuple(tuple(pair) for pair in pairs),
        }
    )
    _check(study, place)
    return study


def _entries(given: Any, kind: type[Any], place: str) -> list[dict[str, Any]]:
    if not isinstance(given, list) or not given:
        raise ArgumentError(
            f"study at {place}: needed a list of at least one entry, got {given!r}."
        )
    found = []
    for number, one in enumerate(given, 1):
        fields = dict(_fields(one, kind, f"{place}, entry {number}"))
        for name in ("seeds", "timesteps"):
            if name in fields:
                fields[name] = _whole_numbers(fields[name], f"{place}, entry {number}, {name}")
        found.append(fields)
    return found


def _fields(given: Any, kind: type[Any], place: str) -> Mapping[str, Any]:
    """The fields of one entry, which are all known, and none that is needed is missing."""
    fields = kind.__dataclass_fields__
    if not isinstance(given, Mapping):
        raise ArgumentError(f"study at {place}: needed a mapping, got {given!r}.")
    unknown = sorted(str(name) for name in given if name not in fields)
    if unknown:
        raise ArgumentError(
            f"study at {place}: needed fields among {', '.join(fields)}, got {', '.join(unknown)}."
        )
    needed = [name for name, field in fields.items() if field.default is _NOTHING]
    missing = [name for name in needed if name not in given]
    if missing:
        raise ArgumentError(
            f"study at {place}: needed {', '.join(needed)}, got none for {', '.join(missing)}."
        )
    return given


_NOTHING = StudyNetwork.__dataclass_fields__["name"].default


def _whole_numbers(given: Any, place: str) -> tuple[int, ...]:
    whole = isinstance(given, list) and given and all(type(one) is int for one in given)
    if not whole or len(set(given)) != len(given):
        raise ArgumentError(
            f"study at {place}: needed a list of different whole numbers, got {given!r}."
        )
    return tuple(given)


def _check(study: Study, place: str) -> None:
    sizes = ("calibration", "shard", "batch_size", *(["test"] if study.test is not None else []))
    for name in sizes:
        value = getattr(study, name)
        if type(value) is not int or value < 1:
            raise ArgumentError(f"study at {place}, {name}: needed a number >= 1, got {value!r}.")
    for kind in ("networks", "methods"):
        names = [one.name for one in getattr(study, kind)]
        _check_unique(names, f"{place}, {kind}")
    known = {network.name for network in study.networks}
    for pair in study.contrasts:
        if len(pair) != 2 or not set(pair) <= known:
            raise ArgumentError(
                f"study at {place}, contrasts: needed pairs of {', '.join(sorted(known))}, got "
                f"{list(pair)!r}."
            )
    for network in study.networks:
        if len(network.seeds) > 1 and "{seed}" not in network.weights:
            raise ArgumentError(
                f"study at {place}, network {network.name!r}: needed {{seed}} in the weights of "
                f"{len(network.seeds)} training seeds, got {network.weights!r}."
            )
    for method in study.methods:
        if not (method.timesteps or study.timesteps):
            raise ArgumentError(
                f"study at {place}, method {method.name!r}: needed timesteps, got none. Give them "
                "to the method, or to the study for all methods."
            )
        for timesteps in method.timesteps or study.timesteps:
            method.recipe(timesteps)  # refuses what does not fit together


def _check_unique(names: Sequence[str], place: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ArgumentError(f"study at {place}: needed different names, got {twice[0]!r} twice.")


__all__ = ["Study", "StudyMethod", "StudyNetwork", "read_study", "study_of"]

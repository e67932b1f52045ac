"""Refuses a command whose output would replace what it reads."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import transpike as tp
from transpike.cli.options import Conversion, Source

# Results in a folder of data are no input, so a command may write them again.
_RESULTS = frozenset({".json", ".html", ".svg", ".pdf"})
NETWORK_FILES = ("config.json", "model.safetensors")
"""The files of a saved network. Newer ones have a digest in the name of the second."""


def check_outputs(
    files: Mapping[str, Path | None],
    reads: Iterable[str | Path | None],
    folders: Mapping[str, tuple[Path | None, Iterable[str]]] | None = None,
) -> None:
    """Refuses an output that is an input, or the same as another output.

    Args:
        files: the files that a command writes, by their option; None is skipped.
        reads: the files and folders that it reads: paths, names of data with a path such as
            `folder:PATH?gray`, or names of models; None is skipped.
        folders: the folders that it writes by their option, each with the files it writes there.

    Raises:
        ArgumentError: an output would replace an input or another output.
    """
    places = [place for text in reads if text is not None for place in _places(text)]
    written = {option: file for option, file in files.items() if file is not None}
    for option, (folder, names) in (folders or {}).items():
        if folder is None:
            continue
        same = [place for place in places if place.is_dir() and _same(place, folder)]
        if same:
            raise tp.ArgumentError(
                f"{option} {str(folder)!r}: needed another folder than {str(same[0])!r}, which is "
                "read. Choose a new folder."
            )
        written |= {f"{option} {folder}/{name}": folder / name for name in names}
    for option, file in written.items():
        for place in places:
            if _replaces(file, place):
                raise tp.ArgumentError(
                    f"{option}: needed another file than the input {str(file)!r}, which it would "
                    "replace. Choose another file."
                )
    _check_each_once(written)


def reads_of(
    model: str, source: Source, conversion: Conversion | None = None
) -> list[str | Path | None]:
    """What a command reads that takes a model, data and options of the conversion."""
    recipe = None if conversion is None else conversion.recipe
    return [model, source.data, source.weights, recipe]


def _check_each_once(written: Mapping[str, Path]) -> None:
    seen: dict[Path, str] = {}
    for option, file in written.items():
        other = seen.setdefault(file.resolve(), option)
        if other != option:
            raise tp.ArgumentError(
                f"{other} and {option}: needed two files, got {str(file)!r} for both. Choose "
                "another one for one of them."
            )


def _places(text: str | Path) -> list[Path]:
    """The files and folders that a name may stand for."""
    whole = str(text)
    path = whole.rpartition("?")[0] or whole
    parts = [whole, path, path.partition(":")[2], path.partition(":")[0]]
    return [Path(part) for part in dict.fromkeys(parts) if part and _exists(Path(part))]


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name that is too long for a file
        return False


def _replaces(file: Path, place: Path) -> bool:
    """Whether a file is the input, or a part of the input folder."""
    if not _exists(file):
        return False
    if place.is_file():
        return _same(file, place)
    if place.resolve() not in file.resolve().parents:
        return False
    if (place / NETWORK_FILES[0]).is_file():
        return file.name == NETWORK_FILES[0] or file.suffix == Path(NETWORK_FILES[1]).suffix
    inside_zarr = any(parent.suffix == ".zarr" for parent in file.resolve().parents)
    return inside_zarr or file.suffix.lower() not in _RESULTS


def _same(one: Path, other: Path) -> bool:
    """Whether two names stand for one file, also through links."""
    return one.resolve() == other.resolve() or (
        _exists(one) and _exists(other) and one.samefile(other)
    )


__all__ = ["NETWORK_FILES", "check_outputs", "reads_of"]

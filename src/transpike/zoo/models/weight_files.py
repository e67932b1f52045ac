"""Reads files of weights without running code in them, and finds the weights inside."""

from __future__ import annotations

import contextlib
import zipfile
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from transpike.errors import FileError
from transpike.spiking.tensor_header import LENGTH_BYTES, check_header

SAFETENSORS_SUFFIX = ".safetensors"
TORCH_SUFFIXES = (".pt", ".pth", ".th", ".ckpt", ".bin", ".pth.tar", ".pt.tar")
# Entries in which training scripts keep weights. If a file has some of them, only these count.
_WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "net",
    "state_dict_ema",
    "model_ema",
    "ema_state_dict",
    "ema",
)
_DEEPEST = 3  # wrappers within wrappers
_CHOICE = "?part="
_NAMES_SHOWN = 10
_NAME_LENGTH = 100
_SAVE_AGAIN = "Save it again with torch.save(model.state_dict(), path)."

Parts = dict[str, dict[str, Tensor]]
"""Sets of weights by the entry that holds them; the name is empty if there is no entry."""


def read_parts(path: str | Path) -> Parts:
    """Read every set of weights in a file, or the one that `?part=NAME` after the path chooses.

    `NAME` is an entry of the file, such as `model_ema`, or a prefix of names, such as `encoder`.
    The names of the tensors then lose this prefix.

    Raises:
        FileError: the file is missing or damaged, is of another kind, holds no weights, or has no
            such part.
    """
    file, wanted = _file_and_part(path)
    if not file.is_file():
        raise FileError(f"cannot read weights: no file {str(file)!r}. Check the path.")
    lower = file.name.lower()
    if lower.endswith(SAFETENSORS_SUFFIX):
        parts = {"": _read_safetensors(file)}
    elif lower.endswith(TORCH_SUFFIXES):
        parts = _parts_of(_read_torch(file), file)
    else:
        needed = ", ".join((SAFETENSORS_SUFFIX, *TORCH_SUFFIXES))
        raise FileError(
            f"cannot read weights from {str(file)!r}: needed a file ending in {needed}."
        )
    return {wanted: _chosen(parts, wanted, file)} if wanted else parts


def shown(names: list[str]) -> str:
    """The first names, and how many more there are."""
    more = len(names) - _NAMES_SHOWN
    return ", ".join(map(_printable, names[:_NAMES_SHOWN])) + (
        f" and {more} more" if more > 0 else ""
    )


def _printable(name: str) -> str:
    """A name from a file, without characters that a terminal obeys and not longer than a line."""
    text = "".join(one if one.isprintable() else ascii(one)[1:-1] for one in name[:_NAME_LENGTH])
    return text + ("..." if len(name) > _NAME_LENGTH else "")


def choices(path: str | Path, names: list[str]) -> str:
    """The remedy that names the parts of a file to choose from, as a sentence."""
    file, _ = _file_and_part(path)
    return f"Give {' or '.join(f'{file}{_CHOICE}{name}' for name in names)}."


def _file_and_part(path: str | Path) -> tuple[Path, str]:
    """Split a path with a choice; a file whose name looks like a choice is a file."""
    place, found, wanted = str(path).rpartition(_CHOICE)
    if not found or Path(path).is_file():
        return Path(path), ""
    return Path(place), wanted


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError, safe_open

    try:
        with file.open("rb") as raw:
            check_header(str(file), raw.read(LENGTH_BYTES))
        with safe_open(file, "pt") as opened:
            tensors = {name: opened.get_tensor(name) for name in opened.keys()}
            tied = dict(opened.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"cannot read {str(file)!r} as safetensors: {error}. Copy or download it again."
        ) from error
    # `save_model` of safetensors writes a shared tensor once. Its metadata name the other names.
    copies = {name: tensors[kept] for name, kept in tied.items() if kept in tensors}
    return copies | tensors


def _read_torch(file: Path) -> object:
    try:
        damaged = _damaged_member(file)
        # The options of a training script often are a Namespace, which has no code of its own.
        with torch.serialization.safe_globals([Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # A damaged file can make the reader raise almost anything.
        raise FileError(_unread(file, error)) from error
    if damaged is not None:
        raise FileError(
            f"{str(file)!r} is damaged: the checksum of {damaged} does not fit. Copy or download "
            "it again."
        )
    return content


def _damaged_member(file: Path) -> str | None:
    """The first part of a zip file whose checksum is wrong; torch does not look at them."""
    if not zipfile.is_zipfile(file):
        return None
    with zipfile.ZipFile(file) as archive:
        return archive.testzip()


def _unread(file: Path, error: Exception) -> str:
    """Why a file of torch was not read, and what to do."""
    text = str(error)
    if "TorchScript" in text:
        return (
            f"{str(file)!r} is not read: it holds a TorchScript program, and it would not be safe "
            "to run code in it. Save its weights with "
            "torch.save(torch.jit.load(path).state_dict(), other_path)."
        )
    foreign: list[str] = []
    with contextlib.suppress(Exception):  # The same file can fail here too.
        foreign = sorted(torch.serialization.get_unsafe_globals_in_checkpoint(file))
    if foreign:
        return (
            f"{str(file)!r} is not read: it holds more than weights, namely {shown(foreign)}. It "
            f"would not be safe to run code in it. {_SAVE_AGAIN}"
        )
    first = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    return (
        f"cannot read {str(file)!r} as a torch file: {first.rstrip('.')}. Copy or download it "
        "again."
    )


def _parts_of(content: object, file: Path) -> Parts:
    if not isinstance(content, Mapping) or not content:
        got = "an empty mapping" if isinstance(content, Mapping) else type(content).__name__
        raise FileError(
            f"{str(file)!r} holds no weights: needed a mapping of names to tensors, got {got}. "
            f"{_SAVE_AGAIN}"
        )
    found = _search(content, "", 0)
    if found:
        return found
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    raise FileError(f"{str(file)!r} holds more than tensors: {shown(foreign)}. {_SAVE_AGAIN}")


def _search(content: Mapping[Any, Any], name: str, depth: int) -> Parts:
    """Find the mappings of names to tensors in a mapping."""
    if not content or not all(isinstance(key, str) for key in content):
        return {}
    if all(isinstance(value, Tensor) for value in content.values()):
        return {name: dict(content)}
    if depth == _DEEPEST:
        return {}
    inner = {key: value for key, value in content.items() if isinstance(value, Mapping)}
    known = {key: inner[key] for key in _WRAPPERS if key in inner}
    found: Parts = {}
    for key, value in (known or inner).items():
        found |= _search(value, f"{name}.{key}" if name else key, depth + 1)
    return found


def _chosen(parts: Parts, wanted: str, file: Path) -> dict[str, Tensor]:
    """The tensors of an entry, or those whose names have a prefix, without the prefix."""
    if wanted in parts:
        return parts[wanted]
    found = []
    for name, tensors in parts.items():
        prefix = wanted.removeprefix(f"{name}.") + "."
        cut = {key.removeprefix(prefix): tensors[key] for key in tensors if key.startswith(prefix)}
        found += [cut] if cut else []
    if len(found) == 1:
        return found[0]
    entries = [name for name in parts if name]
    heads = {key.partition(".")[0] for tensors in parts.values() for key in tensors}
    raise FileError(
        f"{str(file)!r}: needed one part with the name {wanted!r}, got {len(found)}. The parts are "
        f"{shown([*entries, *sorted(heads)])}."
    )

"""Reads files of weights, without running code in them, and loads them into models."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from transpike.errors import CheckpointError, FileError

_TORCH_SUFFIXES = (".pt", ".pth", ".th")
_SAFETENSORS_SUFFIX = ".safetensors"
_WRAPPERS = ("state_dict", "model_state_dict", "model")  # training scripts wrap weights in these
_PARALLEL_PREFIX = "module."  # torch.nn.DataParallel adds it to every key
_NAMES_SHOWN = 10


def load_state_dict(path: str | Path) -> dict[str, Tensor]:
    """Read the weights in a `.safetensors`, `.pt`, `.pth` or `.th` file.

    Files of torch are read with `weights_only=True`, so no code in them is run. If the weights are
    wrapped in `state_dict`, `model_state_dict` or `model`, the wrapper is removed. If every key
    has the prefix `module.`, the prefix is removed.

    Args:
        path: file of weights.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        FileError: the file is missing or damaged, is of another kind, or holds no weights.
    """
    file = Path(path)
    if not file.is_file():
        raise FileError(f"cannot read weights: no file {str(file)!r}. Check the path.")
    suffix = file.suffix.lower()
    if suffix == _SAFETENSORS_SUFFIX:
        return _strip_prefix(_read_safetensors(file))
    if suffix in _TORCH_SUFFIXES:
        return _strip_prefix(_unwrap(_read_torch(file), file))
    needed = ", ".join((_SAFETENSORS_SUFFIX, *_TORCH_SUFFIXES))
    raise FileError(f"cannot read weights from {str(file)!r}: needed a file ending in {needed}.")


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read a file of weights into a model, in place. Every tensor must fit.

    Args:
        model: model that receives the weights.
        path: file of weights, see `load_state_dict`.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: a name is missing or unexpected, or a shape differs. The message lists all
            of them, and the model does not change.
    """
    state = load_state_dict(path)
    expected = model.state_dict()
    # A counter of batches, which only averages without momentum need; old checkpoints lack it.
    counters = {name for name in expected if name.endswith("num_batches_tracked")}
    missing = sorted(set(expected) - set(state) - counters)
    unexpected = sorted(set(state) - set(expected))
    mismatched = [
        f"{name} (needed {tuple(expected[name].shape)}, got {tuple(state[name].shape)})"
        for name in sorted(set(state) & set(expected))
        if state[name].shape != expected[name].shape
    ]
    problems = [
        f"{kind}: {_shown(names)}"
        for kind, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", mismatched),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{str(path)!r} does not fit {type(model).__name__}: {'; '.join(problems)}. "
            "Build the model that these weights were trained with, with the same number of classes."
        )
    model.load_state_dict(state, strict=False)


def _read_safetensors(file: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(
            f"cannot read {str(file)!r} as safetensors: {error}. Copy or download it again."
        ) from error
    return tensors


def _read_torch(file: Path) -> object:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise FileError(
            f"{str(file)!r} is not read: it holds more than weights or is damaged. It would not be "
            "safe to run code in it. Save it again with torch.save(model.state_dict(), path)."
        ) from error
    except (RuntimeError, OSError, EOFError, KeyError, ValueError) as error:
        raise FileError(
            f"cannot read {str(file)!r} as a torch file: {error}. Copy or download it again."
        ) from error


def _unwrap(content: object, file: Path) -> dict[str, Tensor]:
    for wrapper in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(wrapper), Mapping):
            content = content[wrapper]
            break
    if not isinstance(content, Mapping) or not content:
        got = "an empty mapping" if isinstance(content, Mapping) else type(content).__name__
        raise FileError(
            f"{str(file)!r} holds no weights: needed a mapping of names to tensors, got {got}. "
            "Save it again with torch.save(model.state_dict(), path)."
        )
    foreign = [str(name) for name, value in content.items() if not isinstance(value, Tensor)]
    if foreign:
        raise FileError(
            f"{str(file)!r} holds more than tensors: {_shown(foreign)}. "
            "Save it again with torch.save(model.state_dict(), path)."
        )
    return {str(name): value for name, value in content.items()}


def _strip_prefix(state: dict[str, Tensor]) -> dict[str, Tensor]:
    if all(name.startswith(_PARALLEL_PREFIX) for name in state):
        return {name.removeprefix(_PARALLEL_PREFIX): value for name, value in state.items()}
    return state


def _shown(names: list[str]) -> str:
    more = len(names) - _NAMES_SHOWN
    return ", ".join(names[:_NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


__all__ = ["load_state_dict", "load_weights"]

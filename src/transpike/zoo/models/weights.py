"""Loads files of weights into models: names, shapes, types and values are checked first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from transpike.errors import CheckpointError, FileError
from transpike.zoo.models.weight_files import Parts, choices, read_parts, shown

_COMPILED = "_orig_mod"  # torch.compile adds this part to names
_PARALLEL = "module"  # torch.nn.DataParallel and AveragedModel add this part to names
# A counter of batches, which only averages without momentum need; old checkpoints lack it.
_BATCH_COUNTER = "num_batches_tracked"
# What AveragedModel and thop add to the weights; no model computes with it.
_TRAINING_COUNTERS = ("n_averaged", "total_ops", "total_params")
_REAL = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_COMPLEX = (torch.complex32, torch.complex64, torch.complex128)
_FIT = "Build the model that these weights were trained with, with the same number of classes."
_DENSE = (
    "Save the values as dense tensors of the needed types: call dequantize() on quantized tensors "
    "and to_dense() on sparse ones, and multiply integers by their scale."
)

State = dict[str, Tensor]


def load_state_dict(path: str | Path) -> State:
    """Read the weights in a `.safetensors`, `.pt`, `.pth`, `.th`, `.ckpt`, `.bin` or `.tar` file.

    Files of torch are read with `weights_only=True`, so no code in them is run. Entries that
    training scripts wrap weights in are removed, such as `state_dict`, `model`, `net` and
    `model_ema`. What `torch.compile` and `DataParallel` add to names (`_orig_mod.` and `module.`)
    is removed if every name starts with it, and so are the counters of `AveragedModel` and thop.

    Args:
        path: file of weights. `?part=NAME` after it chooses an entry, such as `model_ema`, or the
            tensors whose names start with `NAME.`; their names then lose this prefix.

    Returns:
        The tensors by name, on the CPU.

    Raises:
        FileError: the file is missing or damaged, is of another kind, or holds no weights or
            several sets of weights.
    """
    parts = read_parts(path)
    if len(parts) > 1:
        raise FileError(
            f"{str(path)!r} holds {len(parts)} sets of weights: {shown(list(parts))}. "
            f"{choices(path, list(parts))}"
        )
    state = _without_counters(next(iter(parts.values())), set())
    while all(name.startswith((f"{_COMPILED}.", f"{_PARALLEL}.")) for name in state):
        state = {name.partition(".")[2]: value for name, value in state.items()}
    return state


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Read a file of weights into a model, in place. Every tensor must fit.

    The file may have every form that `load_state_dict` reads. A prefix that all names share, such
    as the `model.` of Lightning, is removed if the names of the model need it. Half-precision
    numbers are converted to the type of the model.

    Args:
        model: model that receives the weights.
        path: file of weights, see `load_state_dict`.

    Raises:
        FileError: the file cannot be read.
        CheckpointError: a name is missing or unexpected, a shape or a type differs, a value is not
            finite, or several sets of weights fit. The message lists all of them, and the model
            does not change.
    """
    expected = _expected(model, path)
    parts = read_parts(path)
    states = {part: _renamed(tensors, expected) for part, tensors in parts.items()}
    fitting = [part for part in states if not _misfit(expected, states[part])]
    if len(fitting) > 1:
        raise CheckpointError(
            f"{str(path)!r} holds {len(fitting)} sets of weights that fit {type(model).__name__}: "
            f"{shown(fitting)}. {choices(path, fitting)}"
        )
    nearest = min(states, key=lambda part: len(set(expected) ^ set(states[part])))
    state = states[fitting[0] if fitting else nearest]
    problems = _misfit(expected, state) | _unfit(expected, state)
    if problems:
        found = "; ".join(f"{kind}: {shown(names)}" for kind, names in problems.items())
        raise CheckpointError(
            f"{str(path)!r} does not fit {type(model).__name__}: {found}. "
            f"{_remedy(path, problems, parts, expected)}"
        )
    model.load_state_dict(state, strict=False)


def _expected(model: nn.Module, path: str | Path) -> State:
    """The tensors of a model, by name."""
    state = model.state_dict()
    empty = [
        name
        for name, value in state.items()
        if nn.parameter.is_lazy(value) or (isinstance(value, Tensor) and value.is_meta)
    ]
    if empty:
        raise CheckpointError(
            f"{str(path)!r} is not loaded: {type(model).__name__} holds no values yet at "
            f"{shown(empty)}. Run lazy modules on an example once, and build the model on the CPU."
        )
    return state


def _renamed(tensors: Mapping[str, Tensor], expected: State) -> State:
    """The tensors under the names of the model, as far as a wrapper of training changed them."""
    forms = list(_forms(_without_counters(tensors, set(expected))))
    for form in forms:
        if not _misnamed(expected, form):
            return form
    return max(forms, key=lambda form: len(set(form) & set(expected)))


def _forms(state: State) -> Iterator[State]:
    """The names as they are, and without what wrappers add to them."""
    yield state
    for added in ({_COMPILED}, {_COMPILED, _PARALLEL}):
        names = [".".join(p for p in name.split(".") if p not in added) for name in state]
        if len(set(names)) == len(names):
            plain = dict(zip(names, state.values(), strict=True))
            yield from _shorter(plain)
    yield from _shorter(state)


def _shorter(state: State) -> Iterator[State]:
    """Remove the prefix that all names share, one part after the other."""
    yield state
    while len({name.partition(".")[0] for name in state}) == 1 and all("." in n for n in state):
        state = {name.partition(".")[2]: value for name, value in state.items()}
        yield state


def _without_counters(tensors: Mapping[str, Tensor], needed: set[str]) -> State:
    """Leave out what training tools count, unless the model has a buffer of that name."""
    return {
        name: value
        for name, value in tensors.items()
        if name in needed or name.rpartition(".")[2] not in _TRAINING_COUNTERS or value.numel() != 1
    }


def _misnamed(expected: State, state: State) -> dict[str, list[str]]:
    missing = set(expected) - set(state)
    missing -= {name for name in missing if name.rpartition(".")[2] == _BATCH_COUNTER}
    for group in _tied(expected):
        if group & set(state):  # One name of a shared tensor is enough.
            missing -= group
    unexpected = set(state) - set(expected)
    found = {"missing": sorted(missing), "unexpected": sorted(unexpected)}
    return {kind: names for kind, names in found.items() if names}


def _misfit(expected: State, state: State) -> dict[str, list[str]]:
    """The names and shapes that do not fit, by kind."""
    found = _misnamed(expected, state)
    reshaped = [
        f"{name} (needed {tuple(expected[name].shape)}, got {tuple(state[name].shape)})"
        for name in sorted(set(state) & set(expected))
        if state[name].shape != expected[name].shape
    ]
    return found | ({"of another shape": reshaped} if reshaped else {})


def _unfit(expected: State, state: State) -> dict[str, list[str]]:
    """The types and values that do not fit, by kind, among names and shapes that do."""
    found: dict[str, list[str]] = {}
    for name in sorted(set(state) & set(expected)):
        needed, got = expected[name], state[name]
        if got.shape != needed.shape:
            continue
        if (kind := _other_type(needed, got)) is not None:
            text = f"{name} (needed {str(needed.dtype).removeprefix('torch.')}, got {kind})"
            found.setdefault("of another type", []).append(text)
        elif not _finite(needed, got):
            found.setdefault("with NaN or infinite values", []).append(name)
    for group in [] if found else _tied(expected):
        values = [state[name] for name in sorted(group & set(state))]
        if not all(torch.equal(values[0], value) for value in values):
            text = " and ".join(sorted(group))
            found.setdefault("different, but shared in the model", []).append(text)
    return found


def _other_type(needed: Tensor, got: Tensor) -> str | None:
    """The type of a tensor that the needed one cannot take over exactly or by rounding."""
    kind = str(got.dtype).removeprefix("torch.")
    if got.is_meta:
        return f"{kind} without values (meta)"
    if got.layout != torch.strided:
        return f"{kind} in the layout {str(got.layout).removeprefix('torch.')}"
    if needed.is_floating_point():
        fits = got.dtype in _REAL
    elif needed.is_complex():
        fits = got.dtype in _COMPLEX
    elif needed.dtype == torch.bool or got.is_quantized or got.dtype == torch.bool:
        fits = got.dtype == needed.dtype
    else:
        whole = not (got.is_floating_point() or got.is_complex())
        fits = whole and torch.equal(got.to(needed.dtype).to(got.dtype), got)
    return None if fits else kind


def _finite(needed: Tensor, got: Tensor) -> bool:
    """Whether all values are finite, except where those of the model are not, as in masks."""
    if not (needed.is_floating_point() or needed.is_complex()):
        return True
    fits = torch.isfinite(got.to(needed.dtype)) | ~torch.isfinite(needed).to(got.device)
    return bool(fits.all())


def _tied(expected: State) -> list[set[str]]:
    """Groups of names that share one tensor."""
    groups: dict[tuple[object, ...], set[str]] = {}
    for name, value in expected.items():
        if isinstance(value, Tensor) and value.numel():
            place = (value.data_ptr(), tuple(value.shape), value.stride(), value.dtype)
            groups.setdefault(place, set()).add(name)
    return [group for group in groups.values() if len(group) > 1]


def _remedy(path: str | Path, problems: dict[str, list[str]], parts: Parts, expected: State) -> str:
    """What to do about the first kind of problem."""
    if "missing" in problems or "unexpected" in problems:
        fitting = sorted(
            f"{part}.{prefix}" if part else prefix
            for part, state in parts.items()
            for prefix in _prefixes(state)
            if not _misnamed(expected, _under(prefix, state))
        )
        return choices(path, fitting) if fitting else _FIT
    if "of another shape" in problems:
        return _FIT
    if "of another type" in problems:
        return _DENSE
    if "different, but shared in the model" in problems:
        return "Build the model without sharing these tensors."
    return "Use a checkpoint from before the training diverged."


def _prefixes(state: State) -> set[str]:
    parts = [name.split(".")[:-1] for name in state]
    return {".".join(own[:depth]) for own in parts for depth in range(1, len(own) + 1)}


def _under(prefix: str, state: State) -> State:
    start = f"{prefix}."
    return {name.removeprefix(start): state[name] for name in state if name.startswith(start)}


__all__ = ["load_state_dict", "load_weights"]

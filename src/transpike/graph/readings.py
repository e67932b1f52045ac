"""Values of weights and buffers that a forward() reads as plain Python values.

A forward() may contain `self.scale.item()`, `if self.mask.any()` or `x[:, self.kept]`. torch.export
knows the shapes of weights but not their values, so it stops there. Here the model runs twice,
with other data and another batch size, and whatever is read from weights alone is written down.
While the model is exported, the same calls return what was written down.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from transpike.graph.network import leaves

_TORCH = str(Path(torch.__file__).parent)
# Functions that turn a tensor into a plain value.
_READS = frozenset(
    "item numpy equal allclose is_nonzero __bool__ __int__ __float__ __complex__ __index__ "
    "__contains__ __format__ __array__".split()
)
# Functions whose result has a shape that depends on values.
_SHAPES = frozenset(
    "nonzero argwhere masked_select unique_consecutive bincount one_hot repeat_interleave where"
    "".split()
)
_INDEXING = frozenset(("__getitem__", "__setitem__"))
_Place = tuple[str, str, int]


class _Unknown:
    """Stands for a value that depends on the input."""


class Readings:
    """What forward() reads from weights alone, by function, line of code, and order of calls."""

    def __init__(self, calls: dict[_Place, list[Any]] | None = None) -> None:
        self._calls = calls or {}

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Return the same values again, in a run of the model with tensors without values."""
        if not self._calls:
            yield
            return
        with _Replay(self._calls):
            yield


def read(model: nn.Module, example: Tensor) -> tuple[Readings, Any]:
    """Run the model and write down what it reads from its weights. Return its output, too.

    Args:
        model: the model in evaluation mode. Errors of its forward() are passed on.
        example: a batch that the model accepts, (B, ...).
    """
    first, output = _run(model, example)
    if not first:
        return Readings(), output
    # What depends on the data or on the batch size differs here, whatever way it came.
    try:
        second, _ = _run(model, torch.cat([example, 0.5 * example[:1]]).flip(0))
    except Exception:  # The user's forward() may raise any error.
        return Readings(), output
    pairs = {place: (calls, second.get(place, [])) for place, calls in first.items()}
    known = {
        place: [a if _alike(a, b) else _Unknown for a, b in zip(*both, strict=True)]
        for place, both in pairs.items()
        if len(both[0]) == len(both[1])
    }
    return Readings(known), output


def _run(model: nn.Module, x: Tensor) -> tuple[dict[_Place, list[Any]], Any]:
    x = x.clone()
    recorder = _Record(x)
    with torch.no_grad(), recorder:
        output = model(x)
    return dict(recorder.calls), output


def _alike(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    if isinstance(one, Tensor):
        return one.shape == other.shape and one.dtype == other.dtype and torch.equal(one, other)
    if isinstance(one, tuple | list):
        return len(one) == len(other) and all(map(_alike, one, other))
    return bool(one is other or getattr(one == other, "all", lambda: one == other)())


class _Record(TorchFunctionMode):
    """Writes down what is read, and follows which tensors depend on the input."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.calls: dict[_Place, list[Any]] = defaultdict(list)
        self.signals = _storage(x)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        reached = any(map(self._is_signal, _tensors((args, kwargs))))
        if name in _INDEXING:
            self.calls[_place(name)].append(self._indices(args))
        result = func(*args, **kwargs)
        if name == "tolist":  # While the model is exported, it is one call of item() per number.
            numbers = leaves(result)
            self.calls[_place("item")] += [_Unknown] * len(numbers) if reached else numbers
        elif name in _READS or _has_free_shape(name, args, kwargs):
            self.calls[_place(name)].append(_Unknown if reached else _copied(result))
        if reached:
            changed = args[0] if _in_place(name) or name == "__set__" else ()
            for tensor in _tensors((result, changed, kwargs.get("out"))):
                self.signals |= _storage(tensor)
        return result

    def _is_signal(self, tensor: Tensor) -> bool:
        storage = _storage(tensor)
        return not storage or storage <= self.signals

    def _indices(self, args: Any) -> Any:
        """Return the known indices, one entry for each part of the key."""
        if not isinstance(args[0], Tensor) or all(map(self._is_signal, _tensors(args[1]))):
            return _Unknown
        return [self._known_part(part) for part in _parts(args[1])]

    def _known_part(self, part: Any) -> tuple[Any, ...] | None:
        """Return what stands for one part of a key; None if it stays as it is."""
        if isinstance(part, slice):
            bounds = (part.start, part.stop, part.step)
            if any(map(self._is_signal, _tensors(bounds))) or not _tensors(bounds):
                return None
            whole = (int(bound) if isinstance(bound, Tensor) else bound for bound in bounds)
            return (slice(*whole),)
        if not isinstance(part, Tensor) or self._is_signal(part):
            return None
        if part.dtype == torch.bool and part.ndim:
            return tuple(part.nonzero(as_tuple=True))
        if part.ndim == 0 and not part.is_floating_point() and part.dtype != torch.bool:
            return (int(part),)
        return None


class _Replay(TorchFunctionMode):
    """Returns the values that were written down."""

    def __init__(self, calls: dict[_Place, list[Any]]) -> None:
        super().__init__()
        self.calls = calls
        self.seen: dict[_Place, int] = defaultdict(int)

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "tolist":  # A tensor with values; others are read by item().
            self.seen[_place("item")] += args[0].numel()
        if name not in _INDEXING | _READS and not _has_free_shape(name, args, kwargs):
            return func(*args, **kwargs)
        place = _place(name)
        number = self.seen[place]
        self.seen[place] += 1
        known = self.calls.get(place, [])
        if number >= len(known) or known[number] is _Unknown:
            return func(*args, **kwargs)
        if name not in _INDEXING:
            return _copied(known[number])
        pairs = list(zip(_parts(args[1]), known[number], strict=True))
        if all(part is None for _, part in pairs):
            return func(*args, **kwargs)
        key = tuple(item for own, part in pairs for item in ((own,) if part is None else part))
        return func(args[0], key, *args[2:], **kwargs)


def _has_free_shape(name: str, args: Any, kwargs: Any) -> bool:
    if name == "where":
        return len(args) + len(kwargs) == 1
    if name == "repeat_interleave":
        return any(isinstance(part, Tensor) for part in (*args[1:], *kwargs.values()))
    return name in _SHAPES


def _place(name: str) -> _Place:
    """The function and the line of code that calls it, outside of PyTorch and of this file."""
    frame = sys._getframe(2)
    while frame.f_back is not None and frame.f_code.co_filename.startswith((_TORCH, __file__)):
        frame = frame.f_back
    return name, frame.f_code.co_filename, frame.f_lineno


def _parts(key: Any) -> list[Any]:
    return list(key) if isinstance(key, tuple) else [key]


def _tensors(argument: Any) -> list[Tensor]:
    found = leaves(argument)
    bounds = [b for leaf in found if isinstance(leaf, slice) for b in (leaf.start, leaf.stop)]
    return [leaf for leaf in found + bounds if isinstance(leaf, Tensor)]


def _storage(tensor: Tensor) -> set[StorageWeakRef]:
    """The memory of a tensor, which its views share; empty for tensors without, such as sparse."""
    try:
        return {StorageWeakRef(tensor.untyped_storage())}  # type: ignore[no-untyped-call]
    except (NotImplementedError, RuntimeError):
        return set()


def _in_place(name: str) -> bool:
    plain = name.endswith("_") and not name.endswith("__")
    return plain or name == "__setitem__" or (name.startswith("__i") and name != "__int__")


def _copied(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, tuple):
        return tuple(map(_copied, value))
    return value.copy() if hasattr(value, "copy") else value


__all__ = ["Readings", "read"]

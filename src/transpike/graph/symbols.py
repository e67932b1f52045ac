"""Translate the symbolic sizes of an exported program into plain data."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from transpike.errors import Refusal, UnsupportedError
from transpike.graph.network import Batch
from transpike.graph.sizes import Size

# The classes of expressions in SymPy and PyTorch, and the operation of each in a `Size`.
_OPERATIONS = {
    "Add": "+",
    "Mul": "*",
    "FloorDiv": "//",
    "CleanDiv": "//",
    "Mod": "%",
    "PythonMod": "%",
    "Max": "max",
    "Min": "min",
}


class Symbols:
    """The symbols of one exported program: the batch size and the free sizes of the input.

    torch.export makes further symbols for numbers that are read from weights. They are known as
    soon as `learn` is told their values.

    Args:
        shape: the shape of the exported input, (B, C, ...), with a symbol for each free size.
        example: the shape of the example input.
    """

    def __init__(self, shape: Sequence[Any], example: Sequence[int]) -> None:
        self.example = tuple(example)
        self.own = self.example[2:]
        self.batch = {size.node.expr for size in shape[:1] if isinstance(size, torch.SymInt)}
        self.known: dict[Any, int] = {}
        self.axes: dict[Any, int] = {}
        for axis, size in enumerate(shape[2:]):
            if isinstance(size, torch.SymInt):
                self.axes.setdefault(size.node.expr, axis)

    def number(self, size: torch.SymInt | int) -> int | Batch | Size:
        """Translate a size into a number, a multiple of the batch size, or a formula.

        Raises:
            UnsupportedError: the size is none of these.
        """
        if not isinstance(size, torch.SymInt):
            return int(size)
        if not _symbols(size):
            return int(size.node.expr)
        expression = size.node.expr.subs(self.known)
        symbols = expression.free_symbols
        if not symbols:
            return int(expression)
        if symbols <= self.axes.keys():
            return Size(self._formula(expression))
        if symbols != self.batch:
            raise _refused(expression, "the values of a tensor or several sizes")
        return _batch_multiple(expression)

    def understands(self, size: torch.SymInt | int) -> bool:
        """Whether a size consists of the batch size, sizes of the input and known numbers."""
        return _symbols(size) <= self.axes.keys() | self.batch | self.known.keys()

    def learn(self, meta: Any, value: Any) -> None:
        """Take the symbols of a result from its computed value, a number or a tensor."""
        sizes = [(meta, value)] if isinstance(value, int) else []
        if isinstance(value, Tensor) and isinstance(meta, Tensor):
            sizes = list(zip(meta.shape, value.shape, strict=True))
        for size, number in sizes:
            if _symbols(size) and size.node.expr.is_Symbol and not self.understands(size):
                self.known[size.node.expr] = int(number)

    def shape(self, value: Any) -> tuple[int, ...] | None:
        """Return the shape of a value. Its entry is -k for k times the batch size."""
        if not isinstance(value, Tensor):
            return None
        return tuple(self._extent(size) for size in value.shape)

    def _extent(self, size: Any) -> int:
        number = self.number(size)
        if isinstance(number, Batch):
            return -number.multiple
        return number.at(self.own, {}) if isinstance(number, Size) else number

    def _formula(self, expression: Any) -> Any:
        if expression in self.axes:
            return "size", self.axes[expression]
        if expression.is_Integer:
            return int(expression)
        name = type(expression).__name__
        parts = [self._formula(part) for part in expression.args]
        if name == "Pow" and isinstance(parts[1], int) and parts[1] > 0:
            return reduce(lambda left, right: ("*", left, right), [parts[0]] * parts[1])
        if name not in _OPERATIONS or len(parts) < 2:
            raise _refused(expression, "the size of the input")
        return reduce(lambda left, right: (_OPERATIONS[name], left, right), parts)


def _symbols(size: Any) -> set[Any]:
    if not isinstance(size, torch.SymInt):
        return set()
    return set(getattr(size.node.expr, "free_symbols", ()))


def _batch_multiple(expression: Any) -> Batch:
    (symbol,) = expression.free_symbols
    one, two, three = (int(expression.subs(symbol, n)) for n in (6, 12, 18))
    if two != 2 * one or three != 3 * one or one % 6:
        raise _refused(expression, "the batch size")
    return Batch(one // 6)


def _refused(expression: Any, source: str) -> UnsupportedError:
    return UnsupportedError(
        [
            Refusal(
                f"size {expression}",
                "",
                f"a size is computed from {source} in a way that is not a multiple.",
                "Use -1 or a plain multiple of x.shape[0] in view/reshape.",
            )
        ]
    )

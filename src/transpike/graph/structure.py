"""The structure of a model's output as plain data, and functions on values with a structure.

A structure is made of tensors, None, tuples, lists, dicts, and records. A record stands for a named
tuple or a dataclass. It keeps the names of the fields and no class, so that a saved network can be
loaded without the user's code. A network returns a record as `Fields`.
"""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from torch import Tensor

from transpike.errors import DataError

Group = Literal["tensor", "none", "tuple", "list", "dict", "record"]
_OWN_KEYS = ("dict", "record")  # the kinds whose parts have keys


@dataclass(frozen=True)
class Structure:
    """How the tensors of an output are arranged.

    Attributes:
        kind: "tensor" or "none" is a single value. "tuple", "list", "dict" and "record" hold parts.
        parts: the structures of the parts, in order.
        keys: the keys of a dict (strings or integers) or the field names of a record.

    Raises:
        DataError: the parts and keys do not fit the kind.
    """

    kind: Group = "tensor"
    parts: tuple[Structure, ...] = ()
    keys: tuple[str | int, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in get_args(Group):
            raise DataError(f"output structure: needed one of {get_args(Group)}, got {self.kind}.")
        keyed = len(self.keys) == (len(self.parts) if self.kind in _OWN_KEYS else 0)
        if not keyed or (self.parts and self.kind in ("tensor", "none")):
            raise DataError(
                f"output structure: a {self.kind} cannot have {len(self.parts)} parts and the keys "
                f"{self.keys}."
            )
        rule = _is_field if self.kind == "record" else _is_key
        wrong = [key for key in self.keys if not rule(key)]
        if wrong or len(set(self.keys)) != len(self.keys):
            needed = "names" if self.kind == "record" else "strings or integers"
            raise DataError(
                f"output structure: needed different {needed} as the keys of a {self.kind}, got "
                f"{self.keys}."
            )

    @property
    def tensors(self) -> int:
        """The number of tensors."""
        return (self.kind == "tensor") + sum(part.tensors for part in self.parts)

    def arrange(self, flat: Sequence[Any]) -> Any:
        """Arrange values in this structure, one for each tensor.

        Raises:
            DataError: the number of values is another one.
        """
        if len(flat) != self.tensors:
            raise DataError(f"output: needed {self.tensors} values, got {len(flat)}.")
        return self._filled(iter(flat))

    def _filled(self, values: Iterator[Any]) -> Any:
        if self.kind == "tensor":
            return next(values)
        if self.kind == "none":
            return None
        parts = [part._filled(values) for part in self.parts]
        return _group(self.kind, parts, self.keys)


def _is_key(key: object) -> bool:
    return isinstance(key, str | int) and not isinstance(key, bool)


def _is_field(key: object) -> bool:
    return isinstance(key, str) and key.isidentifier() and not key.startswith("_")


class Fields(tuple[Any, ...]):
    """A tuple whose items also have names: `output[0]` and `output.scores` are the same.

    It takes the place of a named tuple or a dataclass in the output of a network.
    """

    def __new__(cls, names: Sequence[str], items: Sequence[Any]) -> Fields:
        """Make a tuple of the items, with one name for each of them."""
        made = super().__new__(cls, items)
        made.__dict__.update(zip(names, made, strict=True))
        return made

    @property
    def _fields(self) -> tuple[str, ...]:
        """The names, as on a named tuple."""
        return tuple(self.__dict__)

    def __getnewargs__(self) -> tuple[tuple[str, ...], tuple[Any, ...]]:
        """Let the tuple be copied."""
        return self._fields, tuple(self)

    def __repr__(self) -> str:
        """Show the names and the items."""
        return f"Fields({', '.join(f'{name}={item!r}' for name, item in self.__dict__.items())})"


def _group(kind: str, parts: Sequence[Any], keys: Sequence[Any]) -> Any:
    if kind == "dict":
        return dict(zip(keys, parts, strict=True))
    if kind == "record":
        return Fields(keys, parts)
    return list(parts) if kind == "list" else tuple(parts)


def _opened(value: Any) -> tuple[str, list[Any], list[Any]] | None:
    """Return the kind, the parts and the keys of a group of values, or None for a single value."""
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return "record", list(value), list(value._fields)
    if isinstance(value, tuple):
        return "tuple", list(value), []
    if isinstance(value, list):
        return "list", list(value), []
    if isinstance(value, Mapping):
        return "dict", list(value.values()), list(value.keys())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value)]
        return "record", [getattr(value, name) for name in names], names
    return None


def structure_of(value: Any, single: type | tuple[type, ...] = Tensor) -> Structure:
    """Return the structure of the output of a model.

    A mapping of any class counts as a dict, and a named tuple or a dataclass as a record.

    Args:
        value: the output.
        single: the types of the values that count as tensors.

    Raises:
        DataError: the output holds something else, or a key that is neither a string nor an
            integer.
    """
    if value is None:
        return Structure("none")
    if isinstance(value, single):
        return Structure()
    opened = _opened(value)
    if opened is None:
        raise DataError(
            "output structure: needed tensors in tuples, lists, dicts, named tuples or "
            f"dataclasses, got {type(value).__name__}. Return tensors from forward()."
        )
    kind, parts, keys = opened
    inner = tuple(structure_of(part, single) for part in parts)
    return Structure(kind, inner, tuple(keys))  # type: ignore[arg-type]


def flat_values(value: Any) -> list[Any]:
    """Return the single values of an output in order, without None."""
    if value is None:
        return []
    opened = _opened(value)
    return [value] if opened is None else [leaf for part in opened[1] for leaf in flat_values(part)]


def map_values(function: Callable[..., Any], first: Any, *others: Any) -> Any:
    """Apply a function to the single values at the same place in each argument.

    Args:
        function: takes as many single values as there are arguments.
        first: a value with a structure.
        *others: values with the same structure.

    Returns:
        The results in the structure of `first`. None stays None.
    """
    if first is None:
        return None
    opened = _opened(first)
    if opened is None:
        return function(first, *others)
    kind, parts, keys = opened
    pick = operator.itemgetter if kind == "dict" else None
    rest = [
        [pick(key)(other) for key in keys] if pick else list(_opened(other)[1])  # type: ignore[index]
        for other in others
    ]
    mapped = [map_values(function, *same) for same in zip(parts, *rest, strict=True)]
    return _group(kind, mapped, keys)


__all__ = ["Fields", "Structure", "flat_values", "map_values", "structure_of"]

"""Read a JSON document value by value, and refuse each value that breaks its rule, by its place."""

from __future__ import annotations

import math
import types
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, is_dataclass
from typing import Any, Literal, NoReturn, Union, get_args, get_origin, get_type_hints

from transpike.errors import FileError

_LARGEST = 2**63 - 1  # the largest integer that PyTorch holds
_SHOWN = 60  # characters of a wrong value that an error shows


@dataclass(frozen=True)
class Entry:
    """One value of a JSON document.

    Attributes:
        value: the value as the parser gave it.
        place: where it stands, such as "nodes[3].shape". It is empty for the whole document.
    """

    value: Any
    place: str

    def refuse(self, rule: str) -> NoReturn:
        """Refuse the value.

        Raises:
            FileError: always. It names the place, the rule and the value.
        """
        shown = repr(self.value)
        if len(shown) > _SHOWN:
            shown = f"{shown[:_SHOWN]}..."
        raise FileError(f"{self.place}: needed {rule}, got {shown}.")

    def keyed(self) -> dict[str, Entry]:
        """The values of an object by their keys."""
        if not isinstance(self.value, dict):
            self.refuse("an object")
        lead = f"{self.place}." if self.place else ""
        return {key: Entry(part, f"{lead}{key}") for key, part in self.value.items()}

    def listed(self) -> list[Entry]:
        """The values of a list."""
        if not isinstance(self.value, list):
            self.refuse("a list")
        return [Entry(part, f"{self.place}[{i}]") for i, part in enumerate(self.value)]

    def exactly(self, needed: Sequence[str], optional: Sequence[str] = ()) -> dict[str, Entry]:
        """The values of an object that has the needed keys, and no others but the optional ones."""
        parts = self.keyed()
        wrong = [key for key in needed if key not in parts]
        wrong += [key for key in parts if key not in (*needed, *optional)]
        if wrong:
            raise FileError(
                f"{self.place or 'the document'}: needed the keys {', '.join(needed)}, got "
                f"{', '.join(parts)}."
            )
        return parts

    def text(self) -> str:
        """A string."""
        if not isinstance(self.value, str):
            self.refuse("a string")
        return self.value

    def flag(self) -> bool:
        """True or false."""
        if not isinstance(self.value, bool):
            self.refuse("true or false")
        return self.value

    def whole(self, least: int = -_LARGEST) -> int:
        """An integer >= `least` that PyTorch can hold."""
        value = self.value
        whole = isinstance(value, int) and not isinstance(value, bool)
        if not (whole and least <= value <= _LARGEST):
            self.refuse("an integer" if least == -_LARGEST else f"an integer >= {least}")
        return int(value)

    def number(self) -> float:
        """A finite number. An integer stays one."""
        value = self.value
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse("a number")
        if abs(value) > _LARGEST if isinstance(value, int) else not math.isfinite(value):
            self.refuse("a finite number")
        return value

    def choice(self, options: Sequence[str]) -> str:
        """One of several strings."""
        if not isinstance(self.value, str) or self.value not in options:
            self.refuse(f"one of {', '.join(options)}")
        return self.value

    def typed(self, hint: Any) -> Any:
        """A value of a type.

        Args:
            hint: bool, int, float, str, a Literal, a tuple of one type, a dataclass, or one of
                them and None.
        """
        origin, inner = get_origin(hint), get_args(hint)
        if origin in (Union, types.UnionType):
            if self.value is None and type(None) in inner:
                return None
            (hint,) = (one for one in inner if one is not type(None))
            return self.typed(hint)
        if origin is Literal:
            return self.choice(inner)
        if origin is tuple:
            return tuple(part.typed(inner[0]) for part in self.listed())
        if is_dataclass(hint) and isinstance(hint, type):
            return hint(**self.fields_of(hint))
        if hint is bool:
            return self.flag()
        if hint is int:
            return self.whole()
        return self.number() if hint is float else self.text()

    def fields_of(
        self, kind: type, *, without: Sequence[str] = (), earlier: bool = False
    ) -> dict[str, Any]:
        """The values for the fields of a dataclass, each of its type.

        Args:
            kind: the dataclass. Its fields have the types that `typed` reads.
            without: names of fields that do not stand here.
            earlier: whether fields with a default may be missing, because the file was written
                before they were added.
        """
        own = [one for one in fields(kind) if one.name not in without]
        free = [one.name for one in own if (one.default, one.default_factory) != (MISSING, MISSING)]
        free = free if earlier else []
        parts = self.exactly([one.name for one in own if one.name not in free], free)
        hints = get_type_hints(kind)
        return {name: part.typed(hints[name]) for name, part in parts.items()}


def json_ready(value: Any) -> Any:
    """Return a value with lists in place of tuples and a text in place of NaN and infinity.

    `from_json_ready` gives the numbers back.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if isinstance(value, Mapping):
        return {key: json_ready(part) for key, part in value.items()}
    if isinstance(value, tuple | list):
        return [json_ready(part) for part in value]
    return value


def from_json_ready(value: Any) -> Any:
    """Return a value with the numbers in place of the texts that `json_ready` wrote."""
    if isinstance(value, dict):
        if value.keys() == {"float"} and value["float"] in ("nan", "inf", "-inf"):
            return float(value["float"])
        return {key: from_json_ready(part) for key, part in value.items()}
    if isinstance(value, list):
        return [from_json_ready(part) for part in value]
    return value


__all__ = ["Entry", "from_json_ready", "json_ready"]

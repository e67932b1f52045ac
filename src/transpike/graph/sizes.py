"""The sizes of the input that a network takes.

`capture` records a graph at one size of the input, such as one height and width. A `Sizes` says
which other sizes the same graph takes, and which arguments of its operations change with the size.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from transpike.errors import DataError

_AXIS_NAMES = {1: ("length",), 2: ("height", "width"), 3: ("depth", "height", "width")}
_OPERATIONS: dict[str, Callable[[int, int], int]] = {
    "+": operator.add,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "max": max,
    "min": min,
}


Shapes = Mapping[str, Sequence[int]]
"""The shapes of the values of a network by name, with the batch first."""


@dataclass(frozen=True)
class Size:
    """A whole number that depends on the size of the input.

    Attributes:
        formula: one of four forms. An integer stands for itself. ("size", axis) is the size of an
            axis of the input, where axis 0 follows the channels. ("extent", value, axis) is the
            size of an axis of another value, where axis 0 is the batch. (operation, left, right)
            combines two formulas by one of + * // % max min.
    """

    formula: Any

    def at(self, size: Sequence[int], shapes: Shapes) -> int:
        """Compute the number for an input of this size and values of these shapes."""
        return _value(self.formula, size, shapes)

    def well_formed(self, axes: int, values: Collection[str]) -> bool:
        """Whether the formula can be computed with so many axes and with values of these names."""
        return _well_formed(self.formula, axes, values)


def _value(formula: Any, size: Sequence[int], shapes: Shapes) -> int:
    match formula:
        case int(number):
            return number
        case ("size", int(axis)):
            return size[axis]
        case ("extent", str(name), int(axis)):
            return shapes[name][axis]
        case (str(name), left, right):
            return _OPERATIONS[name](_value(left, size, shapes), _value(right, size, shapes))
    raise ValueError(f"unknown formula {formula!r}")


def _well_formed(formula: Any, axes: int, values: Collection[str]) -> bool:
    match formula:
        case bool():
            return False
        case int():
            return True
        case ("size", int(axis)):
            return 0 <= axis < axes
        case ("extent", str(name), int(axis)):
            return name in values and axis >= 0
        case (str(name), left, right) if name in _OPERATIONS:
            return all(_well_formed(part, axes, values) for part in (left, right))
    return False


@dataclass(frozen=True)
class Sizes:
    """The sizes that a network takes besides the one it was captured at.

    Attributes:
        steps: for each axis after the channels, the size may differ from the captured one by a
            multiple of this number. It is 0 if the axis has one size. It is empty if all axes have
            one size.
        arguments: for each node with arguments that depend on the size, by name, its positional and
            keyword arguments. They hold a `Size` in place of each such number.
        together: whether all axes must differ from the captured size by the same number.
        reason: why an axis has one size, or which operation needs the multiples. It may be empty.
    """

    steps: tuple[int, ...] = ()
    arguments: Mapping[str, tuple[tuple[Any, ...], Mapping[str, Any]]] = field(default_factory=dict)
    together: bool = False
    reason: str = ""

    @property
    def vary(self) -> bool:
        """Whether any axis may have another size."""
        return any(self.steps)

    def check(self, size: Sequence[int], captured: Sequence[int]) -> None:
        """Refuse a size that breaks these rules.

        Args:
            size: the size of the input, without batch and channels.
            captured: the size that the network was captured at, with as many axes.

        Raises:
            DataError: the size breaks a rule. The error names the axis and the rule.
        """
        steps = self.steps or (0,) * len(captured)
        because = f" ({self.reason})" if self.reason else ""
        facts = zip(axis_names(len(captured)), size, captured, steps, strict=True)
        for name, got, own, step in facts:
            if got == own or (step and got >= 1 and (got - own) % step == 0):
                continue
            if not step:
                remedy = f"Resize, crop or pad the input to {own}."
                raise DataError(f"the {name} must be {own}, got {got}{because}. {remedy}")
            below = got - (got - own) % step
            fitting = f"{below} or {below + step}" if below > 0 else f"{below + step}"
            raise DataError(
                f"the {name} must be {multiples(own, step)}, got {got}{because}. Resize, crop or "
                f"pad the input to {fitting}."
            )
        pairs = zip(size, captured, strict=True)
        if self.together and len({got - own for got, own in pairs}) > 1:
            names = " and ".join(axis_names(len(captured)))
            rule = "be equal" if len(set(captured)) == 1 else f"differ from {captured} alike"
            raise DataError(
                f"the {names} must {rule}, got {tuple(size)}{because}. Crop or pad the input."
            )

    def describe(self, captured: Sequence[int]) -> str:
        """Describe the sizes, as in "height a multiple of 16, width a multiple of 16"."""
        steps = self.steps or (0,) * len(captured)
        facts = zip(axis_names(len(captured)), captured, steps, strict=True)
        text = ", ".join(f"{name} {multiples(own, step)}" for name, own, step in facts)
        return f"{text}, and they differ from the captured size alike" if self.together else text


def axis_names(axes: int) -> tuple[str, ...]:
    """Return the names of the axes after the channels."""
    return _AXIS_NAMES.get(axes, tuple(f"axis {number + 2}" for number in range(axes)))


def multiples(own: int, step: int) -> str:
    """Describe the sizes that differ from `own` by a multiple of `step`."""
    if step == 0:
        return f"{own}"
    if step == 1:
        return "any"
    rest = own % step
    return f"a multiple of {step}" if rest == 0 else f"{rest} more than a multiple of {step}"


__all__ = ["Shapes", "Size", "Sizes", "axis_names", "multiples"]

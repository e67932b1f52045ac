"""Every error transpike raises on purpose.

TranspikeError
├── UnsupportedError   the model holds an operation that has no exact spiking form
├── ArgumentError      an argument is wrong (also a ValueError)
├── DataError          data or weights are wrong: shape, NaN, empty set (also a ValueError)
└── FileError          a file is missing, damaged or foreign
    └── CheckpointError   weights do not fit the model
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_LISTED = 3  # operations and places named in the line of a group of equal refusals


class TranspikeError(Exception):
    """Base of all errors raised by transpike."""


@dataclass(frozen=True)
class Refusal:
    """One operation that is not converted: what, where in the user's model, and what to do."""

    op: str
    place: str
    reason: str
    remedy: str

    def __str__(self) -> str:
        """One line: op, place, reason and remedy."""
        return f"{self.op} at '{self.place or '<model>'}': {self.reason} {self.remedy}"


def grouped(refusals: Sequence[Refusal]) -> list[str]:
    """One line for each kind of refusal.

    Refusals with the same reason and remedy share a line. It gives the first operations, the number
    of refusals, as in "x12", and the first places.

    Args:
        refusals: what was refused, in the order of execution.

    Returns:
        The lines, in the order in which each kind occurs first.
    """
    groups: dict[tuple[str, str], list[Refusal]] = {}
    for refusal in refusals:
        groups.setdefault((refusal.reason, refusal.remedy), []).append(refusal)
    return [_group_line(group) for group in groups.values()]


def _group_line(group: Sequence[Refusal]) -> str:
    first = group[0]
    if len(group) == 1:
        return str(first)
    operations = _listed([refusal.op for refusal in group])
    places = _listed([f"'{refusal.place or '<model>'}'" for refusal in group])
    return f"{operations} x{len(group)} at {places}: {first.reason} {first.remedy}"


def _listed(names: Sequence[str]) -> str:
    """The first different names, and the number of the others."""
    different = list(dict.fromkeys(names))
    listed = ", ".join(different[:_LISTED])
    if len(different) > _LISTED:
        listed += f" and {len(different) - _LISTED} more"
    return listed


class UnsupportedError(TranspikeError):
    """The model cannot be converted exactly.

    The message has one line for each kind of refusal; `refusals` holds every refused operation.
    """

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        count = len(self.refusals)
        head = f"cannot convert the model: {count} refused operation{'s' if count != 1 else ''}."
        super().__init__("\n".join([head, *(f"  - {line}" for line in grouped(self.refusals))]))


class ArgumentError(TranspikeError, ValueError):
    """An argument is out of its allowed range or of the wrong kind."""


def missing_package(name: str) -> ArgumentError:
    """The error for an optional package that cannot be imported.

    The remedy names the package itself and no extra of transpike, so it works in a checkout and
    behind an installed wheel alike.

    Args:
        name: what pip calls the package, for example `pillow` and not `PIL`.
    """
    return ArgumentError(f"{name} is not installed: install it with pip install {name}.")


class DataError(TranspikeError, ValueError):
    """Data or weights are unusable: wrong shape or dtype, NaN or infinite, or empty."""


class FileError(TranspikeError):
    """A file is missing, unreadable, damaged, or not what it should be."""


class CheckpointError(FileError):
    """A checkpoint does not fit the model it is loaded into."""

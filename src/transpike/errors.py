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


class UnsupportedError(TranspikeError):
    """The model cannot be converted exactly; lists every refused operation."""

    def __init__(self, refusals: Sequence[Refusal]) -> None:
        self.refusals = tuple(refusals)
        count = len(self.refusals)
        head = f"cannot convert the model: {count} refused operation{'s' if count != 1 else ''}."
        super().__init__("\n".join([head, *(f"  - {refusal}" for refusal in self.refusals)]))


class ArgumentError(TranspikeError, ValueError):
    """An argument is out of its allowed range or of the wrong kind."""


class DataError(TranspikeError, ValueError):
    """Data or weights are unusable: wrong shape or dtype, NaN or infinite, or empty."""


class FileError(TranspikeError):
    """A file is missing, unreadable, damaged, or not what it should be."""


class CheckpointError(FileError):
    """A checkpoint does not fit the model it is loaded into."""

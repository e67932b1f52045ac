"""Which axis of a file counts the slices, and what a user chooses where there are more axes.

Axes have one letter, as in OME and ImageJ: X column, Y row, Z slice, C channel, T time, S sample of
a color, and Q for an axis that the file does not name.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transpike.errors import ArgumentError, DataError

_NAMES = {"C": "channel", "T": "time", "Z": "z"}  # how a user calls the axes
_LETTERS = {name: letter for letter, name in _NAMES.items()}
_COLOR, _UNNAMED = "S", "Q"
_EXAMPLE = "PTCZ"  # in a message, names for axes that have none


@dataclass(frozen=True)
class Choice:
    """What a user chose behind the name of a file, as in `stack.tif?series=0&channel=1`.

    Args:
        series: number of the series in a TIFF file, or of the image in a Zarr group.
        level: resolution level of an OME-Zarr group; 0 is the finest.
        axes: letters of all axes, which replace those that the file states.
        at: index along an axis by its letter.
    """

    series: int | None = None
    level: int | None = None
    axes: str | None = None
    at: Mapping[str, int] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.at) or any(one is not None for one in (self.series, self.level, self.axes))


def split_place(place: str | Path) -> tuple[Path, Choice]:
    """The file and the choice in `stack.tif?series=0&channel=1`.

    A file whose own name holds a question mark is taken as it is.

    Args:
        place: name of a file or folder, with options or without.

    Raises:
        ArgumentError: an option is unknown or has no whole number.
    """
    text = str(place)
    name, mark, query = text.rpartition("?")
    if not mark or "=" not in query or Path(text).exists():
        return Path(text), Choice()
    at: dict[str, int] = {}
    named: dict[str, Any] = {}
    for option in query.split("&"):
        key, _, value = option.partition("=")
        if key == "axes":
            named[key] = _checked_axes(text, value)
        elif key in ("series", "level"):
            named[key] = _index(text, key, value)
        elif key in _LETTERS or (len(key) == 1 and key.isalpha()):
            at[_LETTERS.get(key, key.upper())] = _index(text, key, value)
        else:
            raise ArgumentError(
                f"{text!r}: needed options among series, level, axes, channel, time, z and other "
                f"letters of axes, got {key!r}. Write them as in stack.tif?channel=0&time=3."
            )
    return Path(name), Choice(at=at, **named)


def _index(text: str, key: str, value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise ArgumentError(
            f"{text!r}: needed a whole number from 0 for {key}, got {value!r}. Write it as in "
            f"stack.tif?{key}=0."
        )
    return int(value)


def _checked_axes(text: str, value: str) -> str:
    letters = value.upper()
    if not letters.isalpha() or len(set(letters)) < len(letters) or not {"Y", "X"} <= set(letters):
        raise ArgumentError(
            f"{text!r}: needed one letter for every axis, with Y and X among them, got {value!r}. "
            "Write them as in stack.tif?axes=ZCYX."
        )
    return letters


@dataclass(frozen=True)
class Layout:
    """Where the slices, rows and columns are in an array.

    Args:
        stack: the axis that counts the slices; None if there is one slice.
        row: the axis of the rows.
        column: the axis of the columns.
        fixed: the index along every other axis.
        sizes: shape of the array.
    """

    stack: int | None
    row: int
    column: int
    fixed: Mapping[int, int]
    sizes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of slices, height and width."""
        slices = 1 if self.stack is None else self.sizes[self.stack]
        return slices, self.sizes[self.row], self.sizes[self.column]

    @property
    def plain(self) -> bool:
        """Whether the array is (slices, height, width) already."""
        return (self.stack, self.row, self.column, len(self.sizes)) == (0, 1, 2, 3)

    def key(self, index: int, rows: slice, columns: slice) -> tuple[int | slice, ...]:
        """The index of a region in the array."""
        places: dict[int, int | slice] = {**self.fixed, self.row: rows, self.column: columns}
        if self.stack is not None:
            places[self.stack] = index
        return tuple(places[axis] for axis in range(len(self.sizes)))

    def upright(self, region: Any) -> Any:
        """The region as (height, width), if the array has its columns first."""
        return region.T if self.column < self.row else region


def layout_of(name: str, axes: str, sizes: Sequence[int], choice: Choice) -> Layout:
    """Find the slices in an array.

    Besides rows and columns one axis may be longer than 1: that of the slices. Along all others the
    user has to choose an index.

    Args:
        name: the file, for messages.
        axes: one letter for every axis.
        sizes: shape of the array.
        choice: what the user chose.

    Raises:
        DataError: there are several axes, or the image has colors.
        ArgumentError: the choice names an axis or index that there is not.
    """
    letters = _renamed(name, axes, sizes, choice.axes)
    if letters.count("Y") != 1 or letters.count("X") != 1:
        raise DataError(
            f"{name!r}: needed shape (slices, height, width), got {tuple(sizes)} with the axes "
            f"{letters}. Name them, as in '{Path(name).name}?axes=ZYX'."
        )
    _check_choice(name, letters, sizes, choice)
    row, column = letters.index("Y"), letters.index("X")
    others = [axis for axis in range(len(sizes)) if axis not in (row, column)]
    fixed = {axis: choice.at[letters[axis]] for axis in others if letters[axis] in choice.at}
    open_axes = [axis for axis in others if axis not in fixed and sizes[axis] != 1]
    fixed |= {axis: 0 for axis in others if axis not in fixed and axis not in open_axes}
    if any(letters[axis] == _COLOR for axis in open_axes):
        raise DataError(
            f"{name!r}: needed shape (slices, height, width), got {tuple(sizes)}. It holds color: "
            "convert it to grayscale."
        )
    if len(open_axes) > 1:
        raise DataError(_several(name, letters, sizes, open_axes))
    return Layout(open_axes[0] if open_axes else None, row, column, fixed, tuple(sizes))


def _renamed(name: str, axes: str, sizes: Sequence[int], wanted: str | None) -> str:
    """The letters of the axes, with those of the user in place of those of the file."""
    if wanted is None:
        return axes
    if len(wanted) == len(axes):
        return wanted
    # A file may state axes of length 1 that its user does not know of.
    long = [axis for axis, size in enumerate(sizes) if size != 1]
    if len(wanted) != len(long):
        raise ArgumentError(
            f"{name!r}: needed a letter for each of {len(long)} axes of the sizes "
            f"{tuple(sizes[axis] for axis in long)}, got axes={wanted}. Name all of them."
        )
    letters = dict(zip(long, wanted, strict=True))
    return "".join(letters.get(axis, _UNNAMED) for axis in range(len(sizes)))


def _check_choice(name: str, letters: str, sizes: Sequence[int], choice: Choice) -> None:
    for letter, index in choice.at.items():
        key = _called(letter)
        if letter in "YX" or letters.count(letter) != 1:
            known = ", ".join(f"{one} ({size})" for one, size in zip(letters, sizes, strict=True))
            raise ArgumentError(
                f"{name!r}: needed a choice among its axes {known}, got {key}={index}. Leave it "
                "out, or name the axes with axes=."
            )
        size = sizes[letters.index(letter)]
        if index >= size:
            raise ArgumentError(f"{name!r}: needed {key}=0..{size - 1}, got {index}.")


def _called(letter: str) -> str:
    return _NAMES.get(letter, letter.lower())


def _several(name: str, letters: str, sizes: Sequence[int], axes: Sequence[int]) -> str:
    """Why several axes are refused, and how to choose."""
    file, known = Path(name).name, [letters[axis] for axis in axes]
    if len(set(known)) < len(known) or _UNNAMED in known:
        lengths = " and ".join(str(sizes[axis]) for axis in axes)
        example = _EXAMPLE[-len(axes) :]
        chosen = "&".join(f"{_called(one)}=0" for one in example[:-1])
        return (
            f"{name!r}: needed one axis besides height and width, got {len(axes)} of the sizes "
            f"{lengths} without names. Name the axes in the order of the file and choose, as in "
            f"'{file}?axes={example}YX&{chosen}'."
        )
    kept = "Z" if "Z" in known else next((one for one in known if one != "C"), known[0])
    found = " and ".join(f"{letters[axis]} ({sizes[axis]})" for axis in axes)
    chosen = "&".join(f"{_called(one)}=0" for one in known if one != kept)
    return (
        f"{name!r}: needed one axis besides height and width, got {found}. Choose along the "
        f"others, as in '{file}?{chosen}', or save a stack of its own."
    )


def check_sizes(name: str, sizes: Sequence[int]) -> None:
    """Refuse an empty array.

    Raises:
        DataError: an axis has the length 0.
    """
    if not math.prod(sizes):
        raise DataError(f"{name!r}: needed at least one pixel, got the shape {tuple(sizes)}.")


__all__ = ["Choice", "Layout", "check_sizes", "layout_of", "split_place"]

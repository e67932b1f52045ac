"""The size of a voxel, and how TIFF files state it."""

from __future__ import annotations

import math
import xml.etree.ElementTree as xml
from dataclasses import dataclass
from typing import Any

from transpike.errors import ArgumentError

X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, DESCRIPTION = 282, 283, 296, 270  # tags of TIFF 6.0
_NANOMETERS_PER_TAG_UNIT = {2: 25.4e6, 3: 1e7}  # inch and centimeter; 1 means no unit
_NANOMETERS = {
    "nm": 1.0,
    "nanometer": 1.0,
    "um": 1e3,
    "\u00b5m": 1e3,  # micro sign
    "\u03bcm": 1e3,  # Greek letter mu
    "\\u00b5m": 1e3,  # as ImageJ escapes the micro sign
    "micron": 1e3,
    "micrometer": 1e3,
    "mm": 1e6,
    "millimeter": 1e6,
    "cm": 1e7,
    "m": 1e9,
    "inch": 25.4e6,
}
_OME_DEFAULT_UNIT = "\u00b5m"  # of PhysicalSizeX, PhysicalSizeY and PhysicalSizeZ


@dataclass(frozen=True)
class VoxelSize:
    """Size of a voxel in nanometers.

    Args:
        z: distance between neighboring slices; None if it is unknown.
        y: height of a pixel.
        x: width of a pixel.

    Raises:
        ArgumentError: a size is not a finite number above 0.
    """

    z: float | None
    y: float
    x: float

    def __post_init__(self) -> None:
        sizes = [self.y, self.x] if self.z is None else [self.z, self.y, self.x]
        if not all(math.isfinite(size) and size > 0 for size in sizes):
            raise ArgumentError(f"voxel size: needed numbers above 0 in nanometers, got {sizes}.")

    @classmethod
    def parse(cls, text: str) -> VoxelSize:
        """Read `Z,Y,X` or `Y,X` in nanometers.

        Raises:
            ArgumentError: the text has another form.
        """
        try:
            sizes = [float(part) for part in text.split(",")]
        except ValueError:
            sizes = []
        if len(sizes) not in (2, 3):
            raise ArgumentError(
                f"voxel size: needed Z,Y,X or Y,X in nanometers, got {text!r}. Write it like "
                "50,4.6,4.6."
            )
        return cls(*sizes) if len(sizes) == 3 else cls(None, *sizes)

    def to_list(self) -> list[float | None]:
        """The sizes along z, y and x in nanometers, for JSON."""
        return [self.z, self.y, self.x]


def voxel_size_of(
    x_resolution: float | None,
    y_resolution: float | None,
    unit: int | None,
    description: str,
) -> VoxelSize | None:
    """The voxel size that the tags of a TIFF state, or None if they state none.

    The description is read first, because ImageJ and OME write a unit there that the tags cannot
    express. A resolution without a unit says nothing about the size.

    Args:
        x_resolution: pixels per unit along a row.
        y_resolution: pixels per unit along a column.
        unit: value of the tag ResolutionUnit.
        description: value of the tag ImageDescription.

    Source: TIFF 6.0, tags XResolution, YResolution and ResolutionUnit; OME-TIFF, attributes
    PhysicalSizeX, PhysicalSizeY and PhysicalSizeZ; ImageJ, keys `unit` and `spacing`.
    """
    if description.lstrip().startswith("<"):
        found = _of_ome(description)
        if found is not None:
            return found
    known = x_resolution and y_resolution
    if not known or not _positive(x_resolution) or not _positive(y_resolution):
        return None
    assert x_resolution is not None and y_resolution is not None
    if description.startswith("ImageJ="):
        return _of_imagej(x_resolution, y_resolution, description)
    scale = _NANOMETERS_PER_TAG_UNIT.get(unit or 0)
    return None if scale is None else VoxelSize(None, scale / y_resolution, scale / x_resolution)


def _of_imagej(x_resolution: float, y_resolution: float, description: str) -> VoxelSize | None:
    pairs = (line.split("=", 1) for line in description.splitlines() if "=" in line)
    facts = {key.strip(): value.strip() for key, value in pairs}
    scale = _NANOMETERS.get(facts.get("unit", "").lower())
    if scale is None:
        return None
    spacing = _number(facts.get("spacing"))
    return VoxelSize(
        None if spacing is None else scale * spacing, scale / y_resolution, scale / x_resolution
    )


def _of_ome(description: str) -> VoxelSize | None:
    try:
        root = xml.fromstring(description)
    except (xml.ParseError, ValueError):
        return None
    pixels = next((one for one in root.iter() if one.tag.rpartition("}")[2] == "Pixels"), None)
    if pixels is None:
        return None
    sizes: list[float | None] = []
    for axis in "ZYX":
        size = _number(pixels.get(f"PhysicalSize{axis}"))
        unit = pixels.get(f"PhysicalSize{axis}Unit", _OME_DEFAULT_UNIT)
        scale = _NANOMETERS.get(unit.lower())
        sizes.append(None if size is None or scale is None else scale * size)
    z, y, x = sizes
    return None if y is None or x is None else VoxelSize(z, y, x)


def _number(text: str | None) -> float | None:
    """A finite number above 0, or None."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if _positive(value) else None


def _positive(value: Any) -> bool:
    return math.isfinite(value) and value > 0


__all__ = ["VoxelSize", "voxel_size_of"]

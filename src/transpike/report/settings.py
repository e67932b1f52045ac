"""Tables of the settings behind the results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transpike.report.read import Found, Results, curves
from transpike.report.text import Table

_LONG = 8  # a mapping of more numbers than this becomes one row


def settings_tables(results: Results) -> list[Table]:
    """One table per file with its settings and versions, without the measured values."""
    tables = []
    for found in results.files:
        rows: list[tuple[str, str]] = []
        for name, content in [(None, found.content)] if _alone(found) else curves(found):
            prefix = f"{name}: " if name else ""
            rows += [(prefix + key, text) for key, text in _facts(content)]
        tables.append(Table(found.file, ("setting", "value"), tuple(rows)))
    return tables


def _alone(found: Found) -> bool:
    return found.kind != "comparison"


_KEPT = (
    "command", "model", "data", "split", "timesteps", "limit", "seed", "n", "samples", "classes",
    "max_count", "coding", "against", "neuron", "threshold", "passes", "recipe", "found",
    "precision", "early_stopping", "normalization", "calibration", "test", "batch_size", "device",
    "tile", "volume", "labels", "masks", "voxel_size_nm", "overlap", "exact", "until",
    "normalisation", "facts", "settings", "versions",
)  # fmt: skip


def _facts(content: Mapping[str, Any]) -> list[tuple[str, str]]:
    chosen = {key: content[key] for key in _KEPT if key in content}
    return [(key, text) for key, text in _flat(chosen) if text]


def _flat(value: Any, place: str = "") -> list[tuple[str, str]]:
    """All values with their dotted places; a long mapping of numbers becomes one row."""
    if isinstance(value, Mapping) and len(value) > _LONG and all(map(_scalar, value.values())):
        return [(place, ", ".join(f"{key}: {item}" for key, item in value.items()))]
    if isinstance(value, Mapping):
        pairs = [(f"{place}.{key}" if place else str(key), item) for key, item in value.items()]
        return [row for name, item in pairs for row in _flat(item, name)]
    if isinstance(value, list) and any(isinstance(item, (Mapping, list)) for item in value):
        return [row for k, item in enumerate(value) for row in _flat(item, f"{place}[{k}]")]
    if isinstance(value, list):
        return [(place, ", ".join(map(str, value)))]
    return [(place, "" if value is None else str(value))]


def _scalar(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


__all__ = ["settings_tables"]

"""The structure of an output in config.json, and how earlier versions wrote it."""

from __future__ import annotations

import json
from typing import Any, get_args

from transpike.errors import DataError, FileError
from transpike.graph.structure import Group, Structure
from transpike.spiking.entries import Entry

# Earlier versions wrote the specification of PyTorch. These are the classes in it that are read.
# Nothing is imported, and every other class is refused.
_EARLIER: dict[str | None, Group] = {
    None: "tensor",
    "builtins.tuple": "tuple",
    "builtins.list": "list",
    "builtins.dict": "dict",
    "collections.OrderedDict": "dict",
}


def structure_to_json(structure: Structure) -> Any:
    """Return the JSON form: "tensor", null, or an object with the kind, the parts and the keys."""
    if structure.kind in ("tensor", "none"):
        return "tensor" if structure.kind == "tensor" else None
    parts = [structure_to_json(part) for part in structure.parts]
    keys = {"keys": list(structure.keys)} if structure.kind in ("dict", "record") else {}
    return {"kind": structure.kind, "parts": parts, **keys}


def structure_from_json(entry: Entry) -> Structure:
    """Read what `structure_to_json` wrote.

    Raises:
        FileError: the entry is no structure.
    """
    if entry.value is None:
        return Structure("none")
    if entry.value == "tensor":
        return Structure()
    read = entry.exactly(("kind", "parts"), ("keys",))
    kind = read["kind"].choice([kind for kind in get_args(Group) if kind not in ("tensor", "none")])
    parts = [structure_from_json(part) for part in read["parts"].listed()]
    keys = [key.value for key in read["keys"].listed()] if "keys" in read else []
    return _made(entry, kind, parts, keys)


def structure_from_earlier(entry: Entry) -> Structure:
    """Read the specification of PyTorch that schemas 2 and 3 hold as a text.

    Raises:
        FileError: the text holds anything but tensors, tuples, lists and dicts.
    """
    rule = "a structure of tensors, tuples, lists and dicts"
    try:
        content = json.loads(entry.text())
    except ValueError:
        entry.refuse(rule)
    match content:
        case [1, dict(outer)]:
            return _earlier(Entry(outer, entry.place), rule)
    entry.refuse(rule)


def _earlier(entry: Entry, rule: str) -> Structure:
    read = entry.exactly(("type", "context", "children_spec"))
    name, context = read["type"].value, read["context"].value
    if not isinstance(name, str | None) or name not in _EARLIER:
        read["type"].refuse(rule)
    kind = _EARLIER[name]
    keys: Any = []
    if kind == "dict":
        try:
            keys = json.loads(read["context"].text())
        except ValueError:
            read["context"].refuse("the keys of a dict")
        if not isinstance(keys, list):
            read["context"].refuse("the keys of a dict")
    elif context not in (None, "null"):
        read["context"].refuse("null")
    return _made(entry, kind, [_earlier(p, rule) for p in read["children_spec"].listed()], keys)


def _made(entry: Entry, kind: Any, parts: list[Structure], keys: list[Any]) -> Structure:
    try:
        return Structure(kind, tuple(parts), tuple(keys))
    except (DataError, TypeError) as error:
        raise FileError(f"{entry.place}: {error}") from error


__all__ = ["structure_from_earlier", "structure_from_json", "structure_to_json"]

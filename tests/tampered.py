"""Saved networks for the tests of damaged folders, and ways to damage every value in them."""

import copy
import hashlib
import json
import math
from pathlib import Path

import torch
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes

import transpike as tp

HOSTILE = {
    "null": None,
    "true": True,
    "zero": 0,
    "minus one": -1,
    "one and a half": 1.5,
    "too large": 2**70,
    "nan": math.nan,
    "no text": "",
    "text": "os",
    "no list": [],
    "no object": {},
    "nested": [[[{"value": "input"}]]],
}
MISSING = object()


SAVED = Path(__file__).parent / "spiking" / "saved"


def networks():
    """Return small networks that together hold every form of value, with inputs for each.

    Commit a3ecc58 saved them. "residual" has convolutions, pools, an enlargement, other sizes, and
    a nested output. "parts" has a split, an index, a padding and linear layers.
    """
    draw = torch.Generator().manual_seed(0)
    return {
        "residual": (tp.load(SAVED / "residual_a3ecc58"), torch.randn(3, 1, 4, 4, generator=draw)),
        "parts": (tp.load(SAVED / "parts_a3ecc58"), torch.randn(3, 3, generator=draw)),
    }


def paths(value, path=()):
    """Return the paths to every value, the containers included."""
    found = [path] if path else []
    if isinstance(value, dict | list):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        found += [inner for key, part in parts for inner in paths(part, (*path, key))]
    return found


def changed(config, path, value):
    """Return a copy of a configuration with one value changed or missing."""
    other = copy.deepcopy(config)
    inner = other
    for key in path[:-1]:
        inner = inner[key]
    if value is MISSING:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return other


def write(folder, config, *, rehashed):
    """Write a configuration, with the digest that fits it if `rehashed`."""
    if rehashed:
        rest = {key: value for key, value in config.items() if key != "sha256"}
        text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
        config = {**config, "sha256": hashlib.sha256(text.encode()).hexdigest()}
    (folder / "config.json").write_text(json.dumps(config))


def hostile_tensors(tensor):
    """Return six wrong tensors in place of a tensor, by name."""
    floating = tensor.is_floating_point()
    flat = tensor.flatten()
    huge = torch.full_like(flat, 3e38 if floating else 2**40)
    one = flat.clone()
    one[-1] = math.nan if floating else -(2**40)
    return {
        "nan": one.reshape(tensor.shape),
        "other type": tensor.to(torch.float16 if floating else torch.float32),
        "other shape": torch.cat([flat, flat]),
        "negative": -tensor.abs() - 1,
        "huge": huge.reshape(tensor.shape),
        "empty": flat[:0],
    }


def with_tensors(folder, config, tensors):
    """Write other tensors, with all digests that fit them."""
    data = to_bytes(tensors)
    digest = hashlib.sha256(data).hexdigest()
    (folder / f"model-{digest[:16]}.safetensors").write_bytes(data)
    write(folder, {**config, "tensors": digest}, rehashed=True)


def read_tensors(folder):
    """Return the tensors of a saved folder."""
    (file,) = folder.glob("model-*.safetensors")
    return load_file(file)

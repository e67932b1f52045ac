"""Saved networks for the tests of damaged folders, and ways to damage every value in them."""

import copy
import hashlib
import json
import math

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import nn

import nets
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


def _residual(m, x):
    h = F.relu(m.c(x))
    h = F.relu6(m.e(F.max_pool2d(h, 2)) + m.g(F.avg_pool2d(h, 2)))
    up = F.interpolate(h, scale_factor=2.0, mode="bilinear")
    return {"out": m.f(up), "deep": [torch.sigmoid(m.f(up)).flatten(1), (up,)]}


def _parts(m, x):
    a, b = torch.split(m.a(x).relu(), [2, 4], dim=1)
    h = m.b(torch.cat([b, a + 0.5], dim=1)[:, m.order]).relu()
    return m.d(F.pad(h, (1, 0)))


def networks():
    """Make small networks that together hold every form of value in config.json."""
    torch.manual_seed(0)
    residual = nets.Fn(
        _residual, c=nets.conv(1, 4), e=nets.conv(4, 4), g=nets.conv(4, 4, 1, padding=0),
        f=nets.conv(4, 2, 1, padding=0),
    )  # fmt: skip
    parts = nets.Fn(_parts, a=nn.Linear(3, 6), b=nn.Linear(6, 4), d=nn.Linear(5, 2))
    parts.register_buffer("order", torch.tensor([5, 3, 1, 0, 2, 4]))
    images, rows = torch.randn(16, 1, 4, 4), torch.randn(16, 3)
    return {
        "residual": (tp.convert(residual, [images], neuron=tp.Signed(2)), images[:3]),
        "parts": (tp.convert(parts, [rows], neuron=tp.Staggered(2, window=3)), rows[:3]),
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

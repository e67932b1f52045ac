"""Random networks as plain data, and the modules that compute them.

A program is a list of instructions. Each makes one value from earlier values; value 0 is the input.
`Drawn` computes a program with PyTorch. `benchmarks.fuzz.reading` computes it with NumPy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

INPUT = 0


@dataclass(frozen=True)
class Instruction:
    """One operation: the value it makes, what it does, the values it reads, and its settings.

    The settings of a layer name its module in `part`, and those of its calculation.
    """

    out: int
    op: str
    reads: tuple[int, ...]
    settings: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One short line."""
        shown = ", ".join(f"{key}={value}" for key, value in self.settings.items() if key != "part")
        return f"v{self.out} = {self.op}({', '.join(f'v{i}' for i in self.reads)}; {shown})"


@dataclass
class Program:
    """A network.

    Attributes:
        shape: shape of one input, (C, ...).
        instructions: in the order of execution.
        parts: the modules with weights, by name.
        outputs: the values that are returned.
        structure: "tensor", "tuple", "dict" or "nested".
        dtype: type of the weights.
        dyadic: whether all weights are multiples of 1/8 and all factors powers of two, so that no
            order of summation rounds.
    """

    shape: tuple[int, ...]
    instructions: list[Instruction]
    parts: dict[str, nn.Module]
    outputs: tuple[int, ...]
    structure: str
    dtype: torch.dtype
    dyadic: bool

    def module(self) -> nn.Module:
        """The network as a user would write it, in evaluation mode."""
        return Drawn(self).to(self.dtype).eval()

    @property
    def sites(self) -> list[Instruction]:
        """The calls of activations."""
        return [one for one in self.instructions if one.op == "site"]

    def tail(self) -> set[int]:
        """Values from which neither an activation nor a max-pool can be reached."""
        reaches: set[int] = set()
        for one in reversed(self.instructions):
            if one.op in ("site", "max_pool", "adaptive_max") or one.out in reaches:
                reaches.update(one.reads)
        tail: set[int] = set()
        for one in self.instructions:
            if one.op in ("site", "max_pool", "adaptive_max") or one.out in reaches:
                continue
            if one.op != "part" or one.reads[0] in tail:
                tail.add(one.out)
        return tail

    def __str__(self) -> str:
        """The instructions, one a line."""
        head = f"input {self.shape}, {self.dtype}, {'dyadic' if self.dyadic else 'generic'}"
        returned = f"return {self.structure} of {', '.join(f'v{i}' for i in self.outputs)}"
        return "\n".join([head, *map(str, self.instructions), returned])


class Drawn(nn.Module):
    """The module of a program."""

    def __init__(self, program: Program) -> None:
        super().__init__()
        self.parts = nn.ModuleDict(program.parts)
        self.instructions = list(program.instructions)
        self.outputs, self.structure = program.outputs, program.structure

    def forward(self, x: Tensor) -> Any:
        values: dict[int, Any] = {INPUT: x}
        for one in self.instructions:
            values[one.out] = self.compute(one, [values[i] for i in one.reads])
        return structured([values[i] for i in self.outputs], self.structure)

    def compute(self, one: Instruction, read: Sequence[Any]) -> Any:
        part = one.settings.get("part")
        if one.op == "site":
            return activate(one.settings, self.parts[part] if part else None, read[0])
        if part is not None:
            return self.parts[part](read[0])
        return FORMS[one.op](read, one.settings)


def structured(values: list[Any], structure: str) -> Any:
    if structure == "tensor":
        return values[0]
    if structure == "tuple":
        return tuple(values)
    if structure == "dict":
        return {f"out{i}": value for i, value in enumerate(values)}
    return {"first": values[0], "others": values[1:]}


def activate(settings: dict[str, Any], part: nn.Module | None, x: Tensor) -> Any:
    form, bound = settings["form"], settings["bound"]
    if part is not None:
        return part(x)
    if form == "relu":
        return F.relu(x)
    if form == "inplace":
        return F.relu(x, inplace=True)
    if form == "maximum":
        return torch.maximum(x, torch.zeros_like(x))
    if form == "threshold":
        return F.threshold(x, 0.0, 0.0)
    if form == "relu6":
        return F.relu6(x)
    if form == "hardtanh":
        return F.hardtanh(x, 0.0, bound)
    return x.clamp(min=0, max=bound)


def _resized(read: Sequence[Tensor], settings: dict[str, Any]) -> Tensor:
    mode, corners = settings["mode"], settings.get("corners")
    size = settings.get("size")
    if size is None:
        size = tuple(n * settings["factor"] for n in read[0].shape[2:])
    return F.interpolate(read[0], size=size, mode=mode, align_corners=corners)


def _pooled(kind: str, read: Sequence[Tensor], settings: dict[str, Any]) -> Tensor:
    function = getattr(F, f"{kind}{read[0].ndim - 2}d")
    found: Tensor = function(read[0], **{k: v for k, v in settings.items() if k != "rank"})
    return found


FORMS: dict[str, Any] = {
    "add": lambda read, _: read[0] + read[1],
    "sub": lambda read, _: read[0] - read[1],
    "cat": lambda read, _: torch.cat(list(read), dim=1),
    "split": lambda read, s: torch.split(read[0], s["sizes"], dim=1),
    "part": lambda read, s: read[0][s["index"]],
    "scale": lambda read, s: read[0] * s["factor"],
    "shift": lambda read, s: read[0] + s["value"],
    "pad": lambda read, s: F.pad(read[0], s["pad"], mode=s["mode"], value=s["value"]),
    "flatten": lambda read, _: read[0].flatten(1),
    "mean": lambda read, _: read[0].mean(dim=tuple(range(2, read[0].ndim))),
    "shuffle": lambda read, s: F.pixel_shuffle(read[0], s["factor"]),
    "unshuffle": lambda read, s: F.pixel_unshuffle(read[0], s["factor"]),
    "resize": _resized,
    "max_pool": lambda read, s: _pooled("max_pool", read, s),
    "avg_pool": lambda read, s: _pooled("avg_pool", read, s),
    "adaptive_max": lambda read, s: _pooled("adaptive_max_pool", read, s),
    "adaptive_avg": lambda read, s: _pooled("adaptive_avg_pool", read, s),
    "sigmoid": lambda read, _: torch.sigmoid(read[0]),
    "softmax": lambda read, _: torch.softmax(read[0], dim=1),
    "channels_last": lambda read, _: read[0].movedim(1, -1),
    "channels_first": lambda read, _: read[0].movedim(-1, 1),
    "flip": lambda read, s: read[0].flip(s["axis"]),
    "crop": lambda read, s: read[0][(slice(None), slice(None), *(slice(a, b) for a, b in s["to"]))],
}

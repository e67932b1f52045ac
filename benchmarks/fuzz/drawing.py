"""Draw random programs."""

from __future__ import annotations

import math
import random
from typing import Any

import torch
from torch import nn

from benchmarks.fuzz.programs import INPUT, Instruction, Program
from benchmarks.fuzz.reading import shape_of

MOST_SITES = 8
_MOST_VALUES = 160  # numbers of one value, so that the oracle stays fast
_FRESH = ("conv", "transposed", "linear", "norm", "add", "sub", "cat")  # make new memory
_MOST_BITS = 3  # dyadic weights are multiples of 2^-3


def draw_program(rng: random.Random, instructions: int = 14) -> Program:
    """Draw a network.

    Args:
        rng: source of all random choices.
        instructions: about how many instructions a network has at most.
    """
    return _Drawing(rng).program(rng.randint(3, instructions))


def draw_weights(module: nn.Module, rng: random.Random, dyadic: bool) -> None:
    """Give a layer random weights, in place; some of them are zero."""
    generator = torch.Generator().manual_seed(rng.randrange(2**31))
    for parameter in module.parameters():
        fan = max(1, parameter[0].numel()) if parameter.ndim > 1 else 4
        drawn = torch.randn(parameter.shape, generator=generator) * 1.4 / math.sqrt(fan)
        if dyadic:
            drawn = (drawn * 2**_MOST_BITS).round().clamp(-12, 12) / 2**_MOST_BITS
        elif rng.random() < 0.3:
            drawn *= torch.rand(parameter.shape, generator=generator) > 0.4
        parameter.data = drawn.to(parameter.dtype)


class _Drawing:
    """A program under construction."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.dyadic = rng.random() < 0.55
        self.dtype = torch.float32 if rng.random() < 0.5 else torch.float64
        rank = rng.choices((0, 1, 2, 3), (1, 2, 8, 1))[0]
        side = {0: (), 1: (rng.randint(4, 12),), 3: (rng.randint(2, 4),) * 3}
        space = side.get(rank, (rng.randint(4, 8), rng.randint(4, 8)))
        channels = rng.randint(3, 9) if rank == 0 else rng.randint(1, 3)
        self.shapes: dict[int, tuple[int, ...]] = {INPUT: (channels, *space)}
        self.instructions: list[Instruction] = []
        self.parts: dict[str, nn.Module] = {}
        self.head = INPUT
        self.hidden: set[int] = set()  # values that must not be read again
        self.sites = 0
        self.generator = torch.Generator().manual_seed(rng.randrange(2**31))

    def program(self, length: int) -> Program:
        """Draw a network of about so many instructions."""
        self.layer()
        while len(self.instructions) < length and self.sites < MOST_SITES:
            self.rng.choices(*zip(*self._moves(), strict=True))[0]()
        self._end()
        if not self.sites:
            self.activation()
        outputs, structure = self._outputs()
        return Program(
            shape=self.shapes[INPUT],
            instructions=self._needed(outputs),
            parts={name: self.parts[name] for name in self._used(outputs)},
            outputs=outputs,
            structure=structure,
            dtype=self.dtype,
            dyadic=self.dyadic,
        )

    def _needed(self, outputs: tuple[int, ...]) -> list[Instruction]:
        needed, kept = set(outputs), []
        for one in reversed(self.instructions):
            if one.out in needed:
                needed.update(one.reads)
                kept.append(one)
        return kept[::-1]

    def _used(self, outputs: tuple[int, ...]) -> list[str]:
        names = [one.settings.get("part") for one in self._needed(outputs)]
        return list(dict.fromkeys(name for name in names if name))

    def _moves(self) -> list[tuple[Any, float]]:
        moves = [(self.layer, 6.0), (self.activation, 1.0), (self.batch_norm, 0.4)]
        moves += [(self.scale, 0.5), (self.shift, 0.4), (self.join, 3.0), (self.split, 0.6)]
        if self.space:
            moves += [(self.pool, 1.5), (self.grow, 1.2), (self.move, 0.8)]
            moves += [(self.skip, 1.0), (self.wide_linear, 0.3)]
        return moves

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the newest value."""
        return self.shapes[self.head]

    @property
    def space(self) -> tuple[int, ...]:
        """Its axes after the channels."""
        return self.shape[1:]

    def add(self, op: str, *reads: int, **settings: Any) -> bool:
        """Add an instruction, unless it is impossible or its value is too large."""
        one = Instruction(len(self.shapes), op, reads, settings)
        part = self.parts.get(settings.get("part", ""))
        try:
            shape = shape_of(one, part, [self.shapes[i] for i in reads])
        except (ValueError, IndexError, ZeroDivisionError):
            return False
        if min(shape) < 1 or math.prod(shape) > _MOST_VALUES:
            return False
        self.shapes[one.out] = shape
        self.instructions.append(one)
        self.head = one.out
        return True

    def part(self, module: nn.Module, prefix: str) -> str:
        """Give a module random weights and a name."""
        name = f"{prefix}{len(self.parts)}"
        draw_weights(module.double(), self.rng, self.dyadic)
        self.parts[name] = module
        return name

    def layer(self) -> None:
        """A convolution or linear layer, often with BatchNorm and an activation."""
        if not self.space:
            width = self.rng.randint(2, 10)
            bias = self.rng.random() < 0.7
            made = self.add(
                "linear",
                self.head,
                part=self.part(nn.Linear(self.shape[0], width, bias), "linear"),
            )
        else:
            made = self._convolution()
        if not made:
            return
        self.hidden.add(self.head)
        if self.rng.random() < 0.3:
            self.batch_norm()
        if self.rng.random() < 0.8:
            self.activation()

    def _convolution(self) -> bool:
        rng, rank = self.rng, len(self.space)
        channels = self.shape[0]
        kind = rng.choices(("plain", "depthwise", "grouped", "transposed"), (6, 1, 1, 1.5))[0]
        out, groups = rng.randint(1, 6), 1
        if kind == "depthwise":
            groups, out = channels, channels * rng.choice((1, 1, 2))
        elif kind == "grouped" and channels % 2 == 0:
            groups, out = 2, 2 * rng.randint(1, 3)
        settings: dict[str, Any] = {
            "kernel_size": self._many(rank, 1, 3),
            "stride": self._many(rank, 1, 2, 0.7),
            "padding": self._many(rank, 0, 2),
            "dilation": self._many(rank, 1, 2, 0.8),
            "groups": groups,
            "bias": rng.random() < 0.75,
        }
        if kind == "transposed":
            groups = 2 if channels % 2 == 0 and rng.random() < 0.3 else 1
            settings["groups"], out = groups, out - out % groups or groups
            settings["output_padding"] = tuple(
                rng.randint(0, max(s, d) - 1)
                for s, d in zip(settings["stride"], settings["dilation"], strict=True)
            )
            module: nn.Module = getattr(nn, f"ConvTranspose{rank}d")(channels, out, **settings)
            return self.add("transposed", self.head, part=self.part(module, "up"))
        if rng.random() < 0.1:
            settings |= {"padding": "same", "stride": 1}
        settings["padding_mode"] = rng.choices(
            ("zeros", "reflect", "replicate", "circular"), (8, 1, 1, 1)
        )[0]
        module = getattr(nn, f"Conv{rank}d")(channels, out, **settings)
        return self.add("conv", self.head, part=self.part(module, "conv"))

    def _many(self, rank: int, low: int, high: int, usual: float = 0.0) -> tuple[int, ...]:
        """One number for each axis, often the same for all."""
        if self.rng.random() < usual:
            return (low,) * rank
        if self.rng.random() < 0.7:
            return (self.rng.randint(low, high),) * rank
        return tuple(self.rng.randint(low, high) for _ in range(rank))

    def batch_norm(self) -> None:
        rank = max(1, len(self.space))
        norm = getattr(nn, f"BatchNorm{rank}d")(self.shape[0])
        name = self.part(norm, "norm")
        with torch.no_grad():  # A factor of zero would remove weights when it is folded.
            norm.weight[norm.weight == 0] = 0.25
        mean, variance = (torch.randn(self.shape[0], generator=self.generator) for _ in range(2))
        if self.dyadic:  # the square root of the variance is a power of two
            norm.eps = 0.0
            norm.running_mean = ((mean * 4).round() / 8).double()
            norm.running_var = (4.0 ** variance.round().clamp(-1, 1)).double()
        else:
            norm.running_mean, norm.running_var = mean.double() / 3, variance.exp().double()
        self.add("norm", self.head, part=name)

    def activation(self) -> None:
        rng, form = self.rng, ""
        bound = None
        if rng.random() < 0.3:
            form = rng.choice(("relu6", "hardtanh", "clamp", "relu6 module"))
            bound = 6.0 if "relu6" in form else self.number((0.25, 0.5, 1.0, 1.5, 3.0))
        else:
            forms = ("relu", "inplace", "maximum", "threshold", "clamp", "module", "shared")
            form = rng.choices(forms, (2, 1, 0.5, 0.5, 1, 3, 2))[0]
            # Of a view, or of the input, an activation in place would change another value too.
            if form == "inplace" and self.made_by(self.head) not in _FRESH:
                form = "relu"
        part = None
        if form in ("module", "shared", "relu6 module"):
            part = "shared_act" if form == "shared" else f"act{len(self.parts)}"
            if part not in self.parts:
                self.parts[part] = nn.ReLU6() if bound else nn.ReLU()
        before = self.head
        if self.add("site", before, form=form, bound=bound, part=part):
            self.sites += 1
            if form == "inplace":
                self.hidden.add(before)

    def made_by(self, value: int) -> str:
        """The operation that makes a value."""
        return next((one.op for one in self.instructions if one.out == value), "input")

    def number(self, choices: tuple[float, ...]) -> float:
        """One of the numbers, or near it in a program that is not dyadic."""
        chosen = self.rng.choice(choices)
        return chosen if self.dyadic else round(chosen * self.rng.uniform(0.8, 1.2), 3)

    def scale(self) -> None:
        self.add("scale", self.head, factor=self.number((0.25, 0.5, 2.0, -1.0)))

    def shift(self) -> None:
        self.add("shift", self.head, value=self.number((0.25, -0.5)))

    def earlier(self, fits: Any) -> int | None:
        """An earlier value of a fitting shape."""
        found = [
            i
            for i, shape in self.shapes.items()
            if i != self.head and i not in self.hidden and shape and fits(shape)
        ]
        return self.rng.choice(found) if found else None

    def join(self) -> None:
        """An addition, a subtraction or a concatenation with an earlier value."""
        same = self.earlier(lambda shape: shape == self.shape)
        alike = self.earlier(lambda shape: shape[1:] == self.space)
        op = self.rng.choices(("add", "sub", "cat"), (3, 1, 2))[0]
        other = alike if op == "cat" else same
        if other is not None and self.add(op, *self.rng.sample((self.head, other), 2)):
            self.usually_activate(0.5)

    def usually_activate(self, share: float) -> None:
        if self.rng.random() < share:
            self.activation()

    def split(self) -> None:
        """A split along channels; its parts go on in another order, or one of them does."""
        channels, source = self.shape[0], self.head
        if channels < 2:
            return
        first = self.rng.randint(1, channels - 1)
        whole = len(self.shapes)
        self.shapes[whole] = ()
        sizes = [first, channels - first]
        self.instructions.append(Instruction(whole, "split", (source,), {"sizes": sizes}))
        parts = []
        for index, size in enumerate(sizes):
            self.shapes[len(self.shapes)] = (size, *self.shapes[source][1:])
            parts.append(len(self.shapes) - 1)
            settings = {"index": index, "sizes": sizes}
            self.instructions.append(Instruction(parts[-1], "part", (whole,), settings))
        self.head = self.rng.choice(parts)
        if self.rng.random() < 0.6:
            self.add("cat", *parts[::-1])

    def pool(self) -> None:
        rng, rank = self.rng, len(self.space)
        op = rng.choices(("max_pool", "avg_pool", "adaptive_max", "adaptive_avg"), (4, 2, 1, 1))[0]
        if op.startswith("adaptive"):
            size = tuple(rng.randint(1, min(n, 3)) for n in self.space)
            if self.dyadic and op == "adaptive_avg":
                size = tuple(n // 2 if n % 4 == 0 or n == 2 else n for n in self.space)
            self.add(op, self.head, output_size=size)
            return
        kernel = self._many(rank, 1, 3)
        if self.dyadic and op == "avg_pool":
            kernel = (2,) * rank
        settings: dict[str, Any] = {
            "kernel_size": kernel,
            "stride": rng.choice((kernel, self._many(rank, 1, 2))),
            "padding": tuple(rng.randint(0, k // 2) for k in kernel),
        }
        if op == "max_pool":
            settings |= {"dilation": self._many(rank, 1, 2, 0.8)}
            settings["ceil_mode"] = rng.random() < 0.2
        else:
            settings["count_include_pad"] = self.dyadic or rng.random() < 0.5
        self.add(op, self.head, **settings)

    def grow(self) -> None:
        """An upsampling or a pixel shuffle."""
        rng, rank = self.rng, len(self.space)
        if rank == 2 and rng.random() < 0.3:
            self.add(rng.choice(("shuffle", "unshuffle")), self.head, factor=2)
            return
        smooth = {1: "linear", 2: rng.choice(("bilinear", "bilinear", "bicubic")), 3: "trilinear"}
        if rng.random() < 0.5:
            self.add("resize", self.head, mode="nearest", factor=2, corners=None)
        elif self.dyadic:
            mode = "bilinear" if rank == 2 else smooth[rank]
            self.add("resize", self.head, mode=mode, factor=2, corners=False)
        else:
            size = tuple(rng.randint(1, n + 4) for n in self.space)
            corners = rng.random() < 0.4
            self.add("resize", self.head, mode=smooth[rank], size=size, corners=corners)

    def move(self) -> None:
        """An operation that moves or drops values, or puts a border around them."""
        rng, rank = self.rng, len(self.space)
        op = rng.choice(("pad", "pad", "crop", "flip"))
        if op == "flip":
            self.add("flip", self.head, axis=(rng.randint(1, rank + 1),))
        elif op == "crop":
            to = tuple((0, n - 1) if rng.random() < 0.5 else (1, n) for n in self.space)
            self.add("crop", self.head, to=to)
        else:
            mode = rng.choices(("constant", "reflect", "replicate", "circular"), (4, 1, 1, 1))[0]
            value = self.number((0.5, -0.25)) if mode == "constant" and rng.random() < 0.3 else 0.0
            widths = tuple(rng.randint(0, 1) for _ in range(2 * rank))
            self.add(
                "pad", self.head, pad=widths, mode=mode, value=value if mode == "constant" else None
            )

    def skip(self) -> None:
        """The way back up of a U-Net: upsample to an earlier size and concatenate."""
        other = self.earlier(lambda s: len(s) == len(self.shape) and s[1:] != self.space)
        if other is None:
            return
        size = self.shapes[other][1:]
        fits = all(new % old == 0 for new, old in zip(size, self.space, strict=True))
        if fits and self.add("resize", self.head, mode="nearest", size=size, corners=None):
            self.add("cat", other, self.head)
            self.usually_activate(0.3)

    def wide_linear(self) -> None:
        """A linear layer over the channels of every place."""
        if self.add("channels_last", self.head):
            self.hidden.add(self.head)
            width = self.rng.randint(2, 5)
            linear = nn.Linear(self.shape[-1], width)
            self.add("linear", self.head, part=self.part(linear, "linear"))
            self.hidden.add(self.head)
            self.usually_activate(0.6)
            self.hidden.add(self.head)
            self.add("channels_first", self.head)

    def _end(self) -> None:
        """A head: a classifier, a convolution, or nothing."""
        if len(self.space) and self.rng.random() < 0.45:
            power = math.prod(self.space) & (math.prod(self.space) - 1) == 0
            if self.rng.random() < 0.4 and (power or not self.dyadic):
                self.add("mean", self.head)
            else:
                self.add("flatten", self.head)
        if not self.space and self.rng.random() < 0.8:
            width = self.rng.randint(2, 5)
            linear = nn.Linear(self.shape[0], width)
            self.add("linear", self.head, part=self.part(linear, "linear"))
            self.usually_activate(0.15)

    def _outputs(self) -> tuple[tuple[int, ...], str]:
        rng, last = self.rng, self.head
        if rng.random() < 0.12:
            self.add(rng.choice(("sigmoid", "softmax")), last)
            last = self.head
        if rng.random() < 0.75:
            return (last,), "tensor"
        others = [
            one.out
            for one in self.instructions
            if one.out not in self.hidden and one.out != last and self.shapes[one.out]
        ]
        picked = rng.sample(others, min(len(others), rng.randint(1, 2)))
        if not picked:
            return (last,), "tensor"
        return (last, *picked), rng.choice(("tuple", "dict", "nested"))

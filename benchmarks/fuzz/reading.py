"""Compute a program with NumPy in float64: analog, quantized and spiking.

Nothing here comes from the library or from PyTorch, except for the numbers in the weights. Every
linear instruction becomes a dense matrix, found by applying its definition in `benchmarks.oracle`
to every basis vector.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks import oracle

if TYPE_CHECKING:
    from benchmarks.fuzz.programs import Instruction, Program

Array = np.ndarray[Any, Any]
_MOST_REFINED = 2**16
"""Largest number of levels of a step that shrinks."""


def shape_of(one: Instruction, part: Any, shapes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of what an instruction makes from values of these shapes.

    Raises:
        ValueError: it cannot take them.
    """
    found = computed(one, part, [np.zeros((1, *shape)) for shape in shapes])
    if not np.isfinite(found).all():
        raise ValueError("a window holds padding only")
    shape: tuple[int, ...] = found.shape[1:]
    return shape


def computed(one: Instruction, part: Any, read: Sequence[Array], constants: bool = True) -> Array:
    """Compute an instruction on arrays (B, ...); without `constants` only its linear part."""
    x, s = read[0], one.settings
    if one.op in ("conv", "transposed", "linear", "norm"):
        return _layer(one.op, part, x, constants)
    if one.op in ("add", "sub", "cat"):
        return _joined(one.op, read)
    found: Array = _FORMS[one.op](x, s, constants)
    return found


def _layer(op: str, part: Any, x: Array, constants: bool) -> Array:
    weight = _array(part.weight)
    bias = _array(part.bias) if constants and part.bias is not None else None
    if op == "linear":
        return oracle.linear(x, weight, bias)
    if op == "norm":
        scale = weight / np.sqrt(_array(part.running_var) + part.eps)
        shift = _array(part.bias) - _array(part.running_mean) * scale
        shape = [1, -1] + [1] * (x.ndim - 2)
        return x * scale.reshape(shape) + (shift.reshape(shape) if constants else 0)
    if x.ndim != weight.ndim:
        raise ValueError("another number of axes")
    if op == "transposed":
        return oracle.conv_transpose(
            x, weight, bias, part.stride, part.padding, part.output_padding, part.dilation,
            part.groups,
        )  # fmt: skip
    mode = "constant" if part.padding_mode == "zeros" else part.padding_mode
    x = _convolved(_padded(x, borders(part), mode), part, weight, bias)
    if min(x.shape) < 1:
        raise ValueError("no output")
    return x


def borders(part: Any) -> list[tuple[int, int]]:
    """Widths of the border of a convolution, (before, after) for each axis."""
    if part.padding == "same":
        totals = [d * (k - 1) for d, k in zip(part.dilation, part.kernel_size, strict=True)]
        return [(total // 2, total - total // 2) for total in totals]
    return [(p, p) for p in part.padding]


def _convolved(x: Array, part: Any, weight: Array, bias: Array | None) -> Array:
    return oracle.conv(x, weight, bias, part.stride, 0, part.dilation, part.groups)


def patterns(part: Any, shape: tuple[int, ...]) -> tuple[Array, Array]:
    """Where a convolution copies its input to when it adds a border, and what it reads of that.

    Returns:
        Two matrices of zeros and ones, (in, padded) and (padded, out).
    """
    mode = "constant" if part.padding_mode == "zeros" else part.padding_mode
    basis = np.eye(math.prod(shape)).reshape(-1, *shape)
    padded = _padded(basis, borders(part), mode)
    wide = padded.shape[1:]
    weight = (_array(part.weight) != 0).astype(np.float64)
    read = _convolved(np.eye(math.prod(wide)).reshape(-1, *wide), part, weight, None)
    return padded.reshape(len(padded), -1), read.reshape(math.prod(wide), -1)


def _array(tensor: Any) -> Array:
    return np.asarray(tensor.detach().double().numpy())


def _padded(x: Array, widths: Sequence[tuple[int, int]], mode: str, value: float = 0.0) -> Array:
    for (before, after), size in zip(widths, x.shape[2:], strict=True):
        if mode == "reflect" and max(before, after) >= size:
            raise ValueError("a border wider than the value")
        if mode == "circular" and max(before, after) > size:
            raise ValueError("a border wider than the value")
    return oracle.pad(x, widths, mode, value)


def _joined(op: str, read: Sequence[Array]) -> Array:
    if op == "cat":
        return np.concatenate(read, axis=1)
    return read[0] + read[1] if op == "add" else read[0] - read[1]


def _pad(x: Array, s: dict[str, Any], constants: bool) -> Array:
    widths = list(zip(s["pad"][::2], s["pad"][1::2], strict=True))[::-1]
    return _padded(x, widths, s["mode"], s["value"] or 0.0 if constants else 0.0)


def _part(x: Array, s: dict[str, Any], _: bool) -> Array:
    low = sum(s["sizes"][: s["index"]])
    return x[:, low : low + s["sizes"][s["index"]]]


def _shuffle(x: Array, s: dict[str, Any], _: bool) -> Array:
    f = s["factor"]
    if x.ndim != 4 or x.shape[1] % f**2:
        raise ValueError("channels do not divide")
    b, c, h, w = x.shape
    y = x.reshape(b, c // f**2, f, f, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(b, c // f**2, h * f, w * f)


def _unshuffle(x: Array, s: dict[str, Any], _: bool) -> Array:
    f = s["factor"]
    if x.ndim != 4 or x.shape[2] % f or x.shape[3] % f:
        raise ValueError("sizes do not divide")
    b, c, h, w = x.shape
    y = x.reshape(b, c, h // f, f, w // f, f).transpose(0, 1, 3, 5, 2, 4)
    return y.reshape(b, c * f * f, h // f, w // f)


def _resize(x: Array, s: dict[str, Any], _: bool) -> Array:
    size = s.get("size") or tuple(n * s["factor"] for n in x.shape[2:])
    return oracle.resize(x, size, s["mode"], bool(s["corners"]))


def _max_pool(x: Array, s: dict[str, Any], _: bool) -> Array:
    return oracle.max_pool(
        x, s["kernel_size"], s["stride"], s["padding"], s["dilation"], s["ceil_mode"]
    )


def _avg_pool(x: Array, s: dict[str, Any], _: bool) -> Array:
    return oracle.avg_pool(x, s["kernel_size"], s["stride"], s["padding"], s["count_include_pad"])


def _crop(x: Array, s: dict[str, Any], _: bool) -> Array:
    return x[(slice(None), slice(None), *(slice(low, high) for low, high in s["to"]))]


def _softmax(x: Array, *_: Any) -> Array:
    powers = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


_FORMS: dict[str, Callable[[Array, dict[str, Any], bool], Array]] = {
    "scale": lambda x, s, c: x * s["factor"],
    "shift": lambda x, s, c: x + (s["value"] if c else 0.0),
    "pad": _pad,
    "split": lambda x, s, c: x,
    "part": _part,
    "flatten": lambda x, s, c: x.reshape(len(x), -1),
    "mean": lambda x, s, c: x.reshape(*x.shape[:2], -1).mean(axis=2),
    "shuffle": _shuffle,
    "unshuffle": _unshuffle,
    "resize": _resize,
    "avg_pool": _avg_pool,
    "adaptive_avg": lambda x, s, c: oracle.adaptive_pool(x, s["output_size"], "avg"),
    "max_pool": _max_pool,
    "adaptive_max": lambda x, s, c: oracle.adaptive_pool(x, s["output_size"], "max"),
    "channels_last": lambda x, s, c: np.moveaxis(x, 1, -1),
    "channels_first": lambda x, s, c: np.moveaxis(x, -1, 1),
    "flip": lambda x, s, c: np.flip(x, s["axis"]),
    "crop": _crop,
    "site": lambda x, s, c: np.clip(x, 0, s["bound"]),
    "sigmoid": lambda x, s, c: 1 / (1 + np.exp(-x)),
    "softmax": _softmax,
}
JOINING = ("add", "sub", "cat")
POOLING = ("max_pool", "adaptive_max")
READOUT = ("sigmoid", "softmax")


class Reading:
    """A program at one size of the input, with a matrix for every linear instruction.

    Attributes:
        program: what is computed.
        shapes: shape of every value, without the batch.
        matrices: (in, out) by the value that is made.
        constants: (out,) by the value that is made.
    """

    def __init__(self, program: Program, size: tuple[int, ...] | None = None) -> None:
        self.program = program
        shape = program.shape if size is None else (program.shape[0], *size)
        self.shapes: dict[int, tuple[int, ...]] = {0: shape}
        self.matrices: dict[int, Array] = {}
        self.constants: dict[int, Array] = {}
        for one in program.instructions:
            part = program.parts.get(one.settings.get("part") or "")
            self.shapes[one.out] = shape_of(one, part, [self.shapes[i] for i in one.reads])
            if one.op not in (*JOINING, *POOLING, *READOUT, "site"):
                source = self.shapes[one.reads[0]]
                basis = np.eye(math.prod(source)).reshape(-1, *source)
                linear = computed(one, part, [basis], constants=False)
                self.matrices[one.out] = linear.reshape(len(basis), -1)
                constant = computed(one, part, [np.zeros((1, *source))])
                self.constants[one.out] = constant.reshape(-1)

    def linear(self, one: Instruction, read: Sequence[Array], constants: bool = True) -> Array:
        """A linear or joining instruction on flat values (B, N)."""
        if one.op in JOINING:
            return self.direct(one, read)
        found: Array = read[0] @ self.matrices[one.out]
        return found + self.constants[one.out] if constants else found

    def direct(self, one: Instruction, read: Sequence[Array]) -> Array:
        """Any instruction without weights on flat values (B, N), by its definition."""
        pairs = zip(one.reads, read, strict=True)
        shaped = [value.reshape(-1, *self.shapes[i]) for i, value in pairs]
        found = computed(one, None, shaped)
        return found.reshape(len(found), -1)

    def analog(self, x: Array, at_site: Callable[[Instruction, Array], Array]) -> list[Array]:
        """All outputs (B, ...) with `at_site` in place of every activation."""
        values = self.values(x, at_site)
        return [values[i].reshape(len(x), *self.shapes[i]) for i in self.program.outputs]

    def values(self, x: Array, at_site: Callable[[Instruction, Array], Array]) -> dict[int, Array]:
        """Every value, flat (B, N)."""
        values = {0: x.reshape(len(x), -1)}
        for one in self.program.instructions:
            read = [values[i] for i in one.reads]
            if one.op == "site":
                values[one.out] = at_site(one, read[0])
            elif one.op in (*POOLING, *READOUT):
                values[one.out] = self.direct(one, read)
            else:
                values[one.out] = self.linear(one, read)
        return values


@dataclass(frozen=True)
class Populace:
    """The neurons of one site: their settings, and one number of each kind for every neuron.

    Attributes:
        settings: the settings of `transpike.Neuron` as plain data, with those of its schedule.
        step: d, (N,), in activation units.
        start: initial membrane, (N,), in units of the step.
        offset: extra current, (N,), in units of the step.
        bound: c of an activation clamp(x, 0, c), or None.
    """

    settings: dict[str, Any]
    step: Array
    start: Array
    offset: Array
    bound: float | None

    @property
    def differential(self) -> bool:
        """Whether constants come at the first timestep only."""
        return self.settings["levels"] is not None

    def divisor(self, t: int) -> int:
        """The first step divided by the step at timestep t."""
        s = self.settings
        if s["levels"] is None:
            return 1
        place = max(t - s["delay"], 1)
        place = place if s["window"] is None else min(place, s["window"])
        if s["divisors"] is not None:
            listed = s["divisors"]
            return int(
                listed[(place - 1) % len(listed) if s["cyclic"] else min(place, len(listed)) - 1]
            )
        divisor = 1
        for _ in range((place - 1) // s["period"] if s["ratio"] > 1 else 0):
            if divisor * s["ratio"] * s["levels"] <= _MOST_REFINED:
                divisor *= s["ratio"]
        return divisor

    def finer(self, t: int) -> int:
        """The first step divided by the smallest step of the timesteps 1 to t."""
        return max(self.divisor(now) for now in range(1, t + 1))

    @property
    def shrinks(self) -> bool:
        """Whether some step is smaller than the first one."""
        divisors = self.settings["divisors"]
        return self.settings["ratio"] > 1 or (divisors is not None and max(divisors) > 1)

    def fires(self, t: int) -> bool:
        """Whether the neurons may fire at timestep t."""
        s = self.settings
        place = t - s["delay"]
        return place >= 1 and (s["window"] is None or place <= s["window"])

    def limit(self, t: int) -> Array:
        """Largest total after t timesteps, in units of the smallest step so far."""
        s, fine = self.settings, self.finer(t)
        most = s["max_count"] * t if s["levels"] is None else s["levels"] * fine
        if self.bound is None:
            return np.full_like(self.step, most)
        start = s["initial_membrane"] if self.shrinks else self.start
        times = t if s["levels"] is None else fine
        reached = np.floor(self.bound * times / self.step + start)
        return np.clip(reached, 0, most)


class Neurons:
    """The state of a populace while it is simulated."""

    def __init__(self, populace: Populace, batch: int) -> None:
        self.of = populace
        v0 = populace.settings["initial_membrane"]
        self.left = np.tile(populace.start - v0, (batch, 1))  # in units of the first step
        self.total = np.zeros_like(self.left)

    def advance(self, current: Array, t: int) -> Array:
        """Add a current (B, N) in activation units, fire, and return the counts of timestep t."""
        of, s = self.of, self.of.settings
        self.left = self.left + current / of.step
        if t == 1 or not of.differential:
            self.left = self.left + of.offset
        if not of.fires(t):
            return np.zeros_like(self.left)
        fine, v0 = of.divisor(t), s["initial_membrane"]
        membrane = self.left * fine + v0
        counts = np.floor(membrane)
        if s["hysteresis"]:
            taken_back = np.minimum(0, np.floor(membrane + s["hysteresis"]))
            counts = np.where(membrane < 0, taken_back, counts)
        total = np.floor(self.total * fine)
        if s["telescoped"]:  # The membrane keeps what was sent.
            counts = np.minimum(np.maximum(counts, 0), of.limit(t)) - total
        else:
            counts = np.clip(counts, -s["max_count"] if s["signed"] else 0, s["max_count"])
            if s["signed"]:
                counts = np.maximum(counts, -total)
            if of.bound is not None or s["levels"] is not None:
                room = of.limit(t) / of.finer(t) - self.total  # in units of the first step
                counts = np.minimum(counts, np.floor(room * fine))
            self.left = self.left - counts / fine
        self.total = self.total + counts / fine
        return counts

    @property
    def membrane(self) -> Array:
        """Membranes in activation units, as a record keeps them."""
        return (self.left + self.of.settings["initial_membrane"]) * self.of.step


def spikes(settings: dict[str, Any], counts: Array, code: str | None = None) -> Array:
    """Spikes that send the counts: |n|, or the ones in the binary form of |n|."""
    size = np.abs(counts).astype(np.int64)
    if (code or settings["code"]) == "unit":
        return size
    return np.vectorize(lambda n: bin(n).count("1"), otypes=[np.int64])(size)


@dataclass(frozen=True)
class Run:
    """A simulation: for every site (T, B, N), and for every output (T, B, ...)."""

    outputs: list[Array]
    counts: list[Array]
    membranes: list[Array]
    currents: list[Array]


class Spiking:
    """A program as a spiking network.

    Attributes:
        reading: the program at the size of the input.
        populaces: by the value that each site makes, in the order of execution.
        readout_start: the output is the mean over the timesteps behind this one.
    """

    def __init__(
        self, reading: Reading, populaces: dict[int, Populace], readout_start: int = 0
    ) -> None:
        self.reading, self.populaces, self.readout_start = reading, populaces, readout_start
        self.differential = any(one.differential for one in populaces.values())

    def quantized(self, x: Array, timesteps: int) -> list[Array]:
        """The outputs of the quantized network."""

        def at_site(one: Instruction, z: Array) -> Array:
            of = self.populaces[one.out]
            s = of.settings
            if s["window"] is not None or s["hysteresis"]:
                neurons = Neurons(of, len(z))
                for t in range(1, timesteps + 1):
                    neurons.advance(z if t == 1 else np.zeros_like(z), t)
                return neurons.total * of.step
            times = 1 if of.differential else timesteps
            fine, v0 = of.finer(timesteps), s["initial_membrane"]
            start = (of.start - v0) * fine + v0
            levels = np.floor((z / of.step + of.offset) * times * fine + start)
            levels = np.minimum(np.maximum(levels, 0), of.limit(timesteps))
            return levels * of.step / (fine * times)

        return self.reading.analog(x, at_site)

    def simulate(self, x: Array, timesteps: int, time_axis: bool = False) -> Run:
        """Simulate an input (B, ...), or (T, B, ...) with `time_axis`."""
        program = self.reading.program
        batch = x.shape[1] if time_axis else x.shape[0]
        self.neurons = {out: Neurons(of, batch) for out, of in self.populaces.items()}
        self.sums: dict[int, Array] = {}
        kept: dict[int, list[list[Array]]] = {out: [[], [], []] for out in self.populaces}
        totals: dict[int, Array] = {}
        outputs = []
        for t in range(1, timesteps + 1):
            now = x[t - 1] if time_axis else x
            if self.differential and t > 1:
                now = x[t - 1] - x[t - 2] if time_axis else np.zeros_like(x)
            values = self._step(now.reshape(batch, -1), t, kept)
            fresh = t == 1 or (t == self.readout_start + 1)
            totals = {i: v if fresh else totals[i] + v for i, v in values.items()}
            over = t - self.readout_start if t > self.readout_start else t
            outputs.append(self._read(totals, 1 if self.differential else over))
        stacked = [np.stack(series) for series in zip(*outputs, strict=True)]
        columns = [[np.stack(kept[out][i]) for out in self.populaces] for i in range(3)]
        shaped = zip(stacked, program.outputs, strict=True)
        found = [v.reshape(timesteps, batch, *self.reading.shapes[i]) for v, i in shaped]
        return Run(found, *columns)

    def _step(self, x: Array, t: int, kept: dict[int, list[list[Array]]]) -> dict[int, Array]:
        """Every value of one timestep before the first sigmoid or softmax."""
        constants = t == 1 or not self.differential
        values = {0: x}
        for one in self.reading.program.instructions:
            if any(i not in values for i in one.reads) or one.op in READOUT:
                continue
            read = [values[i] for i in one.reads]
            if one.op == "site":
                of, neurons = self.populaces[one.out], self.neurons[one.out]
                counts = neurons.advance(read[0], t)
                values[one.out] = counts * of.step / of.divisor(t)
                for series, value in zip(
                    kept[one.out], (counts, neurons.membrane, read[0]), strict=True
                ):
                    series.append(value)
            elif one.op in POOLING:
                before = self.sums.get(one.out)
                total = read[0] if before is None else before + read[0]
                self.sums[one.out] = total
                pooled = self.reading.direct(one, [total])
                if before is not None:
                    pooled = pooled - self.reading.direct(one, [before])
                values[one.out] = pooled
            else:
                values[one.out] = self.reading.linear(one, read, constants)
        return values

    def _read(self, totals: dict[int, Array], over: int) -> list[Array]:
        values = {i: total / over for i, total in totals.items()}
        for one in self.reading.program.instructions:
            if one.out not in values:
                values[one.out] = self.reading.direct(one, [values[i] for i in one.reads])
        return [values[i] for i in self.reading.program.outputs]

    def most_bits(self, x: Array, timesteps: int, time_axis: bool = False) -> int:
        """Bits that the sums of a simulation may need, if all numbers are dyadic."""
        most = 0
        neurons = Spiking(self.reading, self.populaces, self.readout_start)
        run = neurons.simulate(x, timesteps, time_axis)
        values: dict[int, Array] = {0: x if time_axis else x[None]}
        sites = iter(self.populaces)
        for counts in run.counts:
            out = next(sites)
            of = self.populaces[out]
            fine = np.array([of.divisor(t) for t in range(1, timesteps + 1)]).reshape(-1, 1, 1)
            values[out] = counts * of.step / fine
        for one in self.reading.program.instructions:
            if one.op in READOUT or one.out in self.populaces:
                continue
            read = [values.get(i) for i in one.reads]
            if any(v is None for v in read):
                continue
            flat = [np.abs(v).reshape(-1, math.prod(self.reading.shapes[i]))
                    for i, v in zip(one.reads, read, strict=True)]  # fmt: skip
            values[one.out], bits = self._bounded(one, flat, timesteps)
            most = max(most, bits)
        for (out, of), current in zip(self.populaces.items(), run.currents, strict=True):
            del out
            sums = np.abs(current / of.step).sum(axis=0).max() + 4
            grain = max(_places(current / of.step), _places(of.start), _places(of.offset))
            refined = of.finer(timesteps)
            most = max(most, math.ceil(math.log2(sums * refined)) + max(0, grain))
        return most

    def _bounded(self, one: Instruction, read: list[Array], timesteps: int) -> tuple[Array, int]:
        """Bounds of a value's sums, and the bits that they need."""
        places = max(_places(value) for value in read)
        if one.op in POOLING:
            bound = self.reading.direct(one, [read[0].sum(axis=0, keepdims=True)])
            bound = np.maximum(np.abs(bound), read[0].max())
        elif one.op in JOINING:
            name = "add" if one.op == "sub" else one.op
            bound = computed(
                type(one)(one.out, name, one.reads, one.settings), None,
                [v.reshape(-1, *self.reading.shapes[i])
                 for v, i in zip(_alike(read), one.reads, strict=True)],
            )  # fmt: skip
            bound = bound.reshape(len(bound), -1)
        else:
            matrix, constant = self.reading.matrices[one.out], self.reading.constants[one.out]
            bound = read[0] @ np.abs(matrix) + np.abs(constant)
            places = max(places + _places(matrix), _places(constant))
            grain = 2.0**-places
            bound = np.ceil(bound / grain) * grain
        top = float(bound.max()) * (timesteps if one.op in POOLING else 1)
        return bound, math.ceil(math.log2(max(top, 1e-9))) + places

    def rounding(self, x: Array, time_axis: bool, unit: float) -> dict[int, Array]:
        """Bounds of the error of all values in front of the first sites, (B, N).

        Args:
            x: input (B, ...), or (T, B, ...) with `time_axis`.
            time_axis: whether the first axis is time.
            unit: largest relative error of a factor or a result.
        """
        size = np.abs(x).max(axis=0) if time_axis else np.abs(x)
        if time_axis and self.differential:
            size = size * 2  # a change is at most twice as large as a value
        flat = size.reshape(len(size), -1)
        sizes, errors = {0: flat}, {0: flat * unit}
        for one in self.reading.program.instructions:
            if one.op in (*READOUT, "site", *POOLING) or any(i not in sizes for i in one.reads):
                continue
            if one.op in JOINING:
                name = "add" if one.op == "sub" else one.op
                summed = type(one)(one.out, name, one.reads, one.settings)
                size = self.reading.direct(summed, [sizes[i] for i in one.reads])
                error = self.reading.direct(summed, [errors[i] for i in one.reads])
            else:
                matrix = np.abs(self.reading.matrices[one.out])
                constant = np.abs(self.reading.constants[one.out])
                size = sizes[one.reads[0]] @ matrix + constant
                error = errors[one.reads[0]] @ matrix
            sizes[one.out], errors[one.out] = size, error + 3 * unit * size
        return errors


def _alike(read: list[Array]) -> list[Array]:
    """Values with the same number of rows; a single row is repeated."""
    rows = max(len(value) for value in read)
    return [np.broadcast_to(v.max(axis=0), (rows, v.shape[1])) if len(v) != rows else v
            for v in read]  # fmt: skip


def _places(values: Array) -> int:
    """Binary places behind the point that hold all values exactly."""
    some = np.abs(np.asarray(values, dtype=np.float64)).reshape(-1)
    some = some[some > 0]
    places = -60
    if not len(some):
        return 0
    mantissa, exponent = np.frexp(some)
    whole = (mantissa * 2.0**53).astype(np.int64)
    zeros = np.log2((whole & -whole).astype(np.float64))
    places = int((53 - exponent - zeros).max())
    return places

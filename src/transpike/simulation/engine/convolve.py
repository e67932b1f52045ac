"""Convolution of sparse signals, with work in proportion to the values that are not zero."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.graph.network import INPUT, Network, Node, Value
from transpike.graph.ops import CAT, CONV2D
from transpike.simulation.engine import native
from transpike.simulation.engine.plan import dense, room
from transpike.simulation.readout import frontier

Call = Callable[[Mapping[str, Any], int], Any]
Rival = Literal["float", "none", "vectors", "tiles"]
"""The dense alternative: float32, or bfloat16 without own units, with vectors, or with tiles."""

Form = Literal["held", "scattered", "gathered"]
"""How the convolution is computed; convolve.c explains the three forms."""

# Up to these shares of nonzero values, the sparse convolution was measured to be faster than the
# dense one in float32. The keys of "scattered" are numbers of outputs, and those of "gathered" are
# numbers of values in a vector of the processor.
_DENSEST_HELD = 0.5
_DENSEST_SCATTERED = {8: 0.1, 16: 0.17, 32: 0.27}
_DENSEST_GATHERED = {8: 0.3, 16: 0.35}
# The form "held" is used up to these numbers of outputs; gathering is faster for more.
_MOST_HELD = {8: 32, 16: 64}
# Time of a dense convolution relative to float32. All were measured except "tiles", which is a
# published value.
_RIVAL_TIME: dict[Rival, float] = {"float": 1.0, "none": 4.0, "vectors": 0.5, "tiles": 0.25}
# One of so many pixels is counted before the form is chosen.
_SAMPLED = 13
# PyTorch computes convolutions with fewer multiplications per pixel and kernel position than this,
# or with fewer kernel positions.
_LEAST_PRODUCTS = 128
_LEAST_POSITIONS = 4
_LANE = 8
_MOST_CHANNELS = 2**16 - 1


@dataclass(frozen=True)
class Geometry:
    """Stride and padding of a convolution that can be gathered."""

    stride: int
    pad_height: int
    pad_width: int


def geometry(network: Network, node: Node) -> Geometry | None:
    """Stride and padding of a node, or None if it has to be computed densely."""
    if node.op != CONV2D or node.kwargs or not isinstance(node.args[0], Value):
        return None
    arguments: tuple[Any, ...] = (*node.args, *_DEFAULTS[len(node.args) :])
    _, weight, _, stride, padding, dilation, groups = arguments
    tensor = network.resolve(weight, {}, 0)
    if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32:
        return None
    numbers = all(isinstance(value, tuple) for value in (stride, padding, dilation))
    plain = numbers and set(dilation) == {1} and groups == 1 and len(set(stride)) == 1
    outs, channels = tensor.shape[0], tensor.shape[1]
    positions = tensor.shape[2] * tensor.shape[3]
    worth = outs * channels >= _LEAST_PRODUCTS and positions >= _LEAST_POSITIONS
    worth = worth and outs % _LANE == 0 and channels <= _MOST_CHANNELS
    if not plain or not worth or tensor.device.type != "cpu":
        return None
    pads = (padding[0], padding[-1])
    return Geometry(stride[0], *pads)


_DEFAULTS: tuple[Any, ...] = (None, None, None, (1, 1), (0, 0), (1, 1), 1)


def form_of(shape: Geometry, size: tuple[int, ...], outs: int) -> Form:
    """The fastest form for a kernel size and number of outputs."""
    lanes = native.convolution_lanes()
    if shape.stride == 1 and size == (3, 3) and outs % lanes == 0 and outs <= _MOST_HELD[lanes]:
        return "held"
    return "scattered" if shape.stride == 1 and outs in _DENSEST_SCATTERED else "gathered"


def densest(form: Form, outs: int, rival: Rival) -> float:
    """Largest share of nonzero values for which a convolution is computed sparsely."""
    if form == "held":
        most = _DENSEST_HELD
    elif form == "scattered":
        most = _DENSEST_SCATTERED[outs]
    else:
        most = _DENSEST_GATHERED[native.convolution_lanes()]
    return most * _RIVAL_TIME[rival]


def _strip(outs: int) -> int:
    """Number of outputs whose sums are held together: two vectors if the registers suffice."""
    lanes = native.convolution_lanes()
    return 32 if lanes == 16 and outs % 32 == 0 else lanes


class SparseConvolution:
    """A convolution that uses `fallback` if its input has many nonzero values.

    Both forms compute the same sums in different orders.

    Args:
        weight: (O, C, KH, KW), float32.
        bias: (O,), or None.
        shape: stride and padding.
        rival: how `fallback` multiplies.
        source: name of the value that is read.
        fallback: the dense convolution.
    """

    def __init__(
        self,
        weight: Tensor,
        bias: Tensor | None,
        shape: Geometry,
        rival: Rival,
        source: str = "",
        fallback: Call | None = None,
    ) -> None:
        self.bias, self.shape, self.source, self.fallback = bias, shape, source, fallback
        self.size, self.outs = tuple(weight.shape[2:]), len(weight)
        self.form = form_of(shape, self.size, self.outs)
        self.densest = densest(self.form, self.outs, rival)
        self.weight = _ordered(weight, self.form)

    def __call__(self, values: Mapping[str, Any], rows: int) -> Tensor:
        """The convolution of (rows, C, H, W)."""
        x = single(values[self.source])
        if self.few(x):
            return self.added(x, None)
        assert self.fallback is not None
        result: Tensor = self.fallback({self.source: x}, rows)
        return result

    def few(self, x: Tensor) -> bool:
        """Estimate from some pixels whether few enough values of x (from `single`) are nonzero."""
        arguments, library = self._arguments(x), native.convolution()
        assert library is not None
        images, channels, height, width = x.shape
        sampled = -(-images * height * width // _SAMPLED) * channels
        found: int = library.transpike_sample(ctypes.byref(arguments), _SAMPLED)
        return found <= self.densest * sampled

    def added(self, x: Tensor, onto: Tensor | None) -> Tensor:
        """Convolve x (from `single`) sparsely. The result has the bias, or is added to `onto`."""
        arguments, library = self._arguments(x), native.convolution()
        assert library is not None
        images, channels, height, width = x.shape
        if onto is None:
            shape = (0, self.outs, arguments.out_height, arguments.out_width)
            out = room(images, x.new_empty(shape), x.dtype)
        else:
            out, arguments.onto = onto, 1
        arguments.out = out.data_ptr()
        if self.form == "held":
            library.transpike_hold(ctypes.byref(arguments), _strip(self.outs))
            return out
        if self.form == "scattered":
            library.transpike_scatter(ctypes.byref(arguments))
            return out
        pixels = images * height * width
        channel = torch.empty(pixels * channels, dtype=torch.int16)
        value = torch.empty(pixels * channels)
        count = torch.empty(pixels, dtype=torch.int16)
        arguments.channel, arguments.value = channel.data_ptr(), value.data_ptr()
        arguments.count = count.data_ptr()
        library.transpike_list(ctypes.byref(arguments))
        library.transpike_convolve(ctypes.byref(arguments))
        return out

    def _arguments(self, x: Tensor) -> native.Convolution:
        images, channels, height, width = x.shape
        return native.Convolution(
            x=x.data_ptr(),
            weight=self.weight.data_ptr(),
            bias=native.pointer(self.bias),
            images=images,
            height=height,
            width=width,
            channels=channels,
            outs=self.outs,
            out_height=self._extent(height, 0),
            out_width=self._extent(width, 1),
            kernel_height=self.size[0],
            kernel_width=self.size[1],
            stride=self.shape.stride,
            pad_height=self.shape.pad_height,
            pad_width=self.shape.pad_width,
            threads=torch.get_num_threads(),
        )

    def _extent(self, size: int, axis: int) -> int:
        pad = self.shape.pad_height if axis == 0 else self.shape.pad_width
        inside = size + 2 * pad - int(self.size[axis])
        return inside // self.shape.stride + 1


def _ordered(weight: Tensor, form: Form) -> Tensor:
    """Reorder weights (O, C, KH, KW) as a form reads them."""
    if form == "held":
        strip = _strip(len(weight))
        strips = weight.reshape(-1, strip, *weight.shape[1:])
        return strips.permute(0, 2, 3, 4, 1).contiguous()
    order = (1, 2, 3, 0) if form == "scattered" else (2, 3, 1, 0)
    return weight.permute(order).contiguous()


def single(value: Tensor) -> Tensor:
    """The value in float32 and dense order; the precision "fast" makes bfloat16 values."""
    return dense(value.to(torch.float32))


@dataclass(frozen=True)
class _Part:
    """One of the concatenated values, with its share of the weights."""

    source: str
    sparse: SparseConvolution
    weight: Tensor


class JoinedConvolution:
    """A convolution of values that are concatenated along channels, without concatenating them.

    It is the sum of the convolutions of the values. Each of them is sparse or dense by itself. For
    example, an upsampled signal is dense, while the skip connection beside it is sparse.

    Args:
        weight: (O, C, KH, KW), float32.
        weight_in_type: the same weights in the type of dense products.
        bias: (O,), float32, or None.
        parts: names and numbers of channels of the values, in order.
        shape: stride and padding.
        rival: how dense products are computed.
    """

    def __init__(
        self,
        weight: Tensor,
        weight_in_type: Tensor,
        bias: Tensor | None,
        parts: Sequence[tuple[str, int]],
        shape: Geometry,
        rival: Rival,
    ) -> None:
        self.shape, self.dtype = shape, weight_in_type.dtype
        self.bias = None if bias is None else bias.to(self.dtype)
        channels = [count for _, count in parts]
        slices = zip(
            torch.split(weight, channels, 1), torch.split(weight_in_type, channels, 1), strict=True
        )
        self.parts = [
            _Part(name, SparseConvolution(exact, bias, shape, rival), dense(other))
            for (name, _), (exact, other) in zip(parts, slices, strict=True)
        ]

    def __call__(self, values: Mapping[str, Any], rows: int) -> Tensor:
        """Convolve the concatenation (rows, C, H, W), with the dense parts first."""
        del rows
        found = [(part, single(values[part.source])) for part in self.parts]
        judged = [(part.sparse.few(x), part, x) for part, x in found]
        out: Tensor | None = None
        for few, part, x in sorted(judged, key=lambda one: one[0]):
            if few:
                out = part.sparse.added(x, out)
                continue
            pads = (self.shape.pad_height, self.shape.pad_width)
            bias = self.bias if out is None else None
            made = torch.conv2d(x.to(self.dtype), part.weight, bias, self.shape.stride, pads)
            made = single(made)
            out = made if out is None else out.add_(made)
        assert out is not None
        return out


def joinable(network: Network, node: Node) -> Node | None:
    """The concatenation along channels that only this convolution reads, or None."""
    if geometry(network, node) is None or native.convolution() is None:
        return None
    source = network.by_name.get(node.args[0].name)
    if source is None or source.op != CAT or source.kwargs:
        return None
    values, axis = source.args[0], source.args[1] if len(source.args) > 1 else 0
    readers = sum(other.reads.count(source.name) for other in network.nodes)
    named = all(isinstance(value, Value) for value in values)
    shaped = named and all(value_channels(network, value.name) for value in values)
    alone = readers == 1 and source.name not in frontier(network)
    return source if axis == 1 and alone and shaped else None


def value_channels(network: Network, name: str) -> int:
    """Number of channels of a value (B, C, H, W), or 0 if it has another shape."""
    if name == INPUT:
        return network.input_shape[0] if len(network.input_shape) == 3 else 0
    shape = network.by_name[name].shape
    return shape[1] if shape is not None and len(shape) == 4 and shape[0] == -1 else 0

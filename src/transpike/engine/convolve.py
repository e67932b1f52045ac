"""Convolution of sparse signals, in proportion to the values that are not zero."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.engine import native
from transpike.engine.plan import dense, room
from transpike.network import Network, Node, Value

Rival = Literal["float", "none", "vectors", "tiles"]
"""What multiplies otherwise: float32, or bfloat16 without units for it, with vectors, or tiles."""

Form = Literal["held", "scattered", "gathered"]
"""How it is computed: see convolve.c."""

# Share of values that are not zero up to which this beats the dense convolution in float32, as
# measured: held, scattered (by number of outputs), gathered (by values of the processor's vectors).
_DENSEST_HELD = 0.5
_DENSEST_SCATTERED = {8: 0.1, 16: 0.17, 32: 0.27}
_DENSEST_GATHERED = {8: 0.3, 16: 0.35}
# Most outputs for which sums are held: beyond, gathering is faster.
_MOST_HELD = {8: 32, 16: 64}
# Time of a dense convolution over its time in float32, as measured; tiles: as others report.
_RIVAL_TIME: dict[Rival, float] = {"float": 1.0, "none": 4.0, "vectors": 0.5, "tiles": 0.25}
# Every so many pixels are looked at before it is decided.
_SAMPLED = 13
# Fewer multiplications per pixel and kernel position, or fewer positions, are left to torch.
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
    """Stride and padding of a node, or None where it has to be computed densely."""
    if node.op != "aten.conv2d.default" or node.kwargs or not isinstance(node.args[0], Value):
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
    """Share of values that are not zero up to which a convolution is computed sparsely."""
    if form == "held":
        most = _DENSEST_HELD
    elif form == "scattered":
        most = _DENSEST_SCATTERED[outs]
    else:
        most = _DENSEST_GATHERED[native.convolution_lanes()]
    return most * _RIVAL_TIME[rival]


def _strip(outs: int) -> int:
    """Outputs whose sums are held together: two vectors where there are registers for them."""
    lanes = native.convolution_lanes()
    return 32 if lanes == 16 and outs % 32 == 0 else lanes


class SparseConvolution:
    """A convolution that looks at its input first: with many values it goes to `fallback`.

    The sums are the same but for their order.
    """

    def __init__(
        self, network: Network, node: Node, shape: Geometry, fallback: Any, rival: Rival = "float"
    ) -> None:
        self.source, self.shape, self.fallback = node.args[0].name, shape, fallback
        weight = network.resolve(node.args[1], {}, 0)
        self.size = tuple(weight.shape[2:])
        self.outs = len(weight)
        self.form = form_of(shape, self.size, self.outs)
        self.densest = densest(self.form, self.outs, rival)
        self.weight = _ordered(weight, self.form)
        self.bias = network.resolve(node.args[2], {}, 0) if len(node.args) > 2 else None

    def __call__(self, values: Mapping[str, Any], rows: int) -> Tensor:
        """The convolution of (rows, C, H, W)."""
        x = dense(values[self.source])
        images, channels, height, width = x.shape
        pixels, outs = images * height * width, self.outs
        high, wide = self._extent(height, 0), self._extent(width, 1)
        arguments = native.Convolution(
            x=x.data_ptr(),
            weight=self.weight.data_ptr(),
            bias=native.pointer(self.bias),
            images=images,
            height=height,
            width=width,
            channels=channels,
            outs=outs,
            out_height=high,
            out_width=wide,
            kernel_height=self.size[0],
            kernel_width=self.size[1],
            stride=self.shape.stride,
            pad_height=self.shape.pad_height,
            pad_width=self.shape.pad_width,
            threads=torch.get_num_threads(),
        )
        library = native.convolution()
        assert library is not None
        sampled = -(-pixels // _SAMPLED) * channels
        found = library.transpike_sample(ctypes.byref(arguments), _SAMPLED)
        if found > self.densest * sampled:
            result: Tensor = self.fallback({self.source: x}, rows)
            return result
        out = room(images, x.new_empty((0, outs, high, wide)), x.dtype)
        arguments.out = out.data_ptr()
        if self.form == "held":
            library.transpike_hold(ctypes.byref(arguments), _strip(outs))
            return out
        if self.form == "scattered":
            library.transpike_scatter(ctypes.byref(arguments))
            return out
        channel = torch.empty(pixels * channels, dtype=torch.int16)
        value = torch.empty(pixels * channels)
        count = torch.empty(pixels, dtype=torch.int16)
        arguments.channel, arguments.value = channel.data_ptr(), value.data_ptr()
        arguments.count = count.data_ptr()
        library.transpike_list(ctypes.byref(arguments))
        library.transpike_convolve(ctypes.byref(arguments))
        return out

    def _extent(self, size: int, axis: int) -> int:
        pad = self.shape.pad_height if axis == 0 else self.shape.pad_width
        inside = size + 2 * pad - int(self.size[axis])
        return inside // self.shape.stride + 1


def _ordered(weight: Tensor, form: Form) -> Tensor:
    """Weights (O, C, KH, KW) in the order in which a form reads them."""
    if form == "held":
        strip = _strip(len(weight))
        strips = weight.reshape(-1, strip, *weight.shape[1:])
        return strips.permute(0, 2, 3, 4, 1).contiguous()
    order = (1, 2, 3, 0) if form == "scattered" else (2, 3, 1, 0)
    return weight.permute(order).contiguous()

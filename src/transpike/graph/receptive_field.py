"""The receptive field of a dense network: the input pixels that one output pixel depends on.

Each axis is treated on its own. Position o of a value depends on the input positions from
o*stride + low to o*stride + high. These three numbers are computed for every value of the graph, as
exact fractions. For a convolution with kernel k, stride s, padding p and dilation d on a value with
(stride, low, high) they are

    (stride s, low - p stride, high + (d (k - 1) - p) stride).

Some operations, such as interpolation, treat positions differently. For them the bounds are large
enough for every position.

Source: Dumoulin & Visin 2016, "A guide to convolution arithmetic for deep learning".
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from transpike.errors import Refusal, UnsupportedError
from transpike.graph.network import INPUT, Network, Node, Value, Weight, leaves
from transpike.graph.ops import packet


@dataclass(frozen=True)
class ReceptiveField:
    """The input pixels that one output pixel depends on, for each spatial axis.

    Attributes:
        before: the number of pixels at lower positions than its own.
        after: the number of pixels at higher positions.
        alignment: if the input is shifted by a multiple of this number of pixels, the output is
            shifted by the same distance.
    """

    before: tuple[int, ...]
    after: tuple[int, ...]
    alignment: tuple[int, ...]


@dataclass(frozen=True)
class _Axis:
    """Position o of a value depends on input positions o*stride + low to o*stride + high."""

    stride: Fraction
    low: Fraction
    high: Fraction


@dataclass(frozen=True)
class _Reach:
    axes: tuple[_Axis, ...]
    sizes: tuple[int, ...]  # The spatial shape of the value.


def receptive_field(network: Network) -> ReceptiveField:
    """Compute the receptive field of a dense network.

    A network is dense if its one output (B, C, ...) has the size of its input.

    Args:
        network: a network for inputs (B, C, ...) with one to three spatial axes.

    Returns:
        The receptive field.

    Raises:
        UnsupportedError: an operation makes the output depend on the whole input or on absolute
            positions, or it changes the size. The error names it.
    """
    space = network.input_shape[1:]
    output = _dense_output(network, space)
    first = _Axis(Fraction(1), Fraction(0), Fraction(0))
    reaches: dict[str, _Reach | None] = {INPUT: _Reach((first,) * len(space), space)}
    for node in network.nodes:
        reaches[node.name] = _propagate(network, node, reaches)
    reach = reaches[output]
    assert reach is not None
    if any(axis.stride != 1 for axis in reach.axes):
        raise _refused("output", "", "its positions are not those of the input.", _SAME_SIZE)
    strides = [r.axes for r in reaches.values() if r is not None]
    return ReceptiveField(
        before=tuple(max(0, math.ceil(-axis.low)) for axis in reach.axes),
        after=tuple(max(0, math.ceil(axis.high)) for axis in reach.axes),
        alignment=tuple(
            math.lcm(*(axes[i].stride.numerator for axes in strides)) for i in range(len(space))
        ),
    )


_SAME_SIZE = "Use a network whose output has the input's height and width, such as a U-Net."
_GLOBAL = "Remove it, or simulate the whole image at once with transpike.simulate."


def _refused(op: str, place: str, reason: str, remedy: str = _GLOBAL) -> UnsupportedError:
    return UnsupportedError([Refusal(op, place, reason, remedy)])


def _dense_output(network: Network, space: tuple[int, ...]) -> str:
    """Return the name of the only output, if it is dense."""
    if not 1 <= len(space) <= 3:
        raise _refused(
            "input", "", f"an image (C, ...) is needed, got {network.input_shape}.", _SAME_SIZE
        )
    if len(network.outputs) != 1 or not isinstance(network.outputs[0], Value):
        raise _refused("output", "", "one output tensor is needed.", "Return one tensor.")
    name = network.outputs[0].name
    node = network.by_name.get(name)
    shape = node.shape if node is not None else (-1, *network.input_shape)
    if shape is None or len(shape) != len(space) + 2 or shape[2:] != space:
        raise _refused(
            node.op if node else "output",
            node.place if node else "",
            f"the output {shape} has not the size of the input {network.input_shape}.",
            _SAME_SIZE,
        )
    return name


def _propagate(network: Network, node: Node, reaches: dict[str, _Reach | None]) -> _Reach | None:
    sources = [reaches[name] for name in node.reads]
    known = [reach for reach in sources if reach is not None]
    name = packet(node.op)
    if not known:
        if name in ("zeros", "ones", "full", "scalar_tensor"):
            return None  # The value is the same at every position.
        raise _refused(node.op, node.place, "its values depend on absolute positions.")
    source = _union(node, known)
    if node.name in network.site_of or name in _POINTWISE:
        _check_constants(network, node, len(source.sizes))
        return source
    rule = _RULES.get(name)
    if rule is None:
        raise _refused(node.op, node.place, "how it moves pixels is not known.")
    axes = rule(network, node, source)
    sizes = source.sizes if node.shape is None else node.shape[-len(source.sizes) :]
    return _Reach(tuple(axes), sizes)


def _union(node: Node, reaches: list[_Reach]) -> _Reach:
    first = reaches[0]
    for other in reaches[1:]:
        strides = [[axis.stride for axis in reach.axes] for reach in (first, other)]
        if first.sizes != other.sizes or strides[0] != strides[1]:
            raise _refused(node.op, node.place, "it joins signals of different size.")
    axes = tuple(
        _Axis(axes[0].stride, min(a.low for a in axes), max(a.high for a in axes))
        for axes in zip(*(reach.axes for reach in reaches), strict=True)
    )
    return _Reach(axes, first.sizes)


def _check_constants(network: Network, node: Node, spatial: int) -> None:
    """Refuse constants that differ between positions."""
    for leaf in leaves((node.args, node.kwargs)):
        if isinstance(leaf, Weight):
            shape = network.tensors[leaf.name].shape
            if node.op != "affine" and any(size != 1 for size in shape[-spatial:]):
                raise _refused(node.op, node.place, "a constant differs from pixel to pixel.")


def argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    """Return an argument that is given by position or by name."""
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


def _each(value: Any, count: int) -> tuple[Any, ...]:
    """Return one value per spatial axis, from a number or a tuple of one or `count` numbers."""
    values = tuple(value) if isinstance(value, tuple | list) else (value,)
    return values * count if len(values) == 1 else values


def _window(axis: _Axis, kernel: int, stride: int, padding: int, dilation: int = 1) -> _Axis:
    reach = dilation * (kernel - 1)
    return _Axis(
        axis.stride * stride,
        axis.low - padding * axis.stride,
        axis.high + (reach - padding) * axis.stride,
    )


def _convolution(network: Network, node: Node, source: _Reach) -> list[_Axis]:
    count = len(source.axes)
    kernel = network.tensors[argument(node, 1, "weight").name].shape[2:]
    if len(kernel) != count:
        raise _refused(node.op, node.place, "it mixes spatial axes.")
    stride = _each(argument(node, 3, "stride", 1), count)
    padding = argument(node, 4, "padding", 0)
    dilation = _each(argument(node, 5, "dilation", 1), count)
    if padding == "valid":
        padding = 0
    elif padding == "same":  # The smaller half of the padding is in front.
        padding = tuple(d * (k - 1) // 2 for d, k in zip(dilation, kernel, strict=True))
    settings = zip(source.axes, kernel, stride, _each(padding, count), dilation, strict=True)
    return [_window(*setting) for setting in settings]


def _transposed(network: Network, node: Node, source: _Reach) -> list[_Axis]:
    """Output o depends on the inputs i with o = i s - p + d j, 0 <= j < k."""
    count = len(source.axes)
    kernel = network.tensors[argument(node, 1, "weight").name].shape[2:]
    stride = _each(argument(node, 3, "stride", 1), count)
    padding = _each(argument(node, 4, "padding", 0), count)
    dilation = _each(argument(node, 7, "dilation", 1), count)
    result = []
    for axis, k, s, p, d in zip(source.axes, kernel, stride, padding, dilation, strict=True):
        fine = axis.stride / s
        result.append(_Axis(fine, axis.low + (p - d * (k - 1)) * fine, axis.high + p * fine))
    return result


def _pool(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    count = len(source.axes)
    kernel = _each(argument(node, 1, "kernel_size"), count)
    stride = _each(argument(node, 2, "stride") or kernel, count)
    padding = _each(argument(node, 3, "padding", 0), count)
    dilation = argument(node, 4, "dilation", 1) if "max" in node.op else 1
    settings = zip(source.axes, kernel, stride, padding, _each(dilation, count), strict=True)
    return [_window(*setting) for setting in settings]


def _adaptive(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    assert node.shape is not None
    if node.shape[-len(source.sizes) :] != source.sizes:
        raise _refused(node.op, node.place, "it pools over a share of the whole image.")
    return list(source.axes)


def _upsample(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    assert node.shape is not None
    name = packet(node.op)
    if "nearest" not in name and argument(node, 2, "align_corners"):
        raise _refused(
            node.op,
            node.place,
            "align_corners=True makes every pixel depend on the size of the image.",
            "Use align_corners=False or a transposed convolution, and fine-tune the network.",
        )
    sizes = node.shape[-len(source.sizes) :]
    result = []
    for axis, old, new in zip(source.axes, source.sizes, sizes, strict=True):
        factor = Fraction(new, old)
        if factor.denominator != 1:
            raise _refused(node.op, node.place, f"its factor {factor} is not a whole number.")
        fine = axis.stride / factor
        if "nearest" in name:  # It reads floor(o / factor).
            result.append(_Axis(fine, axis.low - (axis.stride - fine), axis.high))
            continue
        taps = 2 if "bicubic" in name else 1  # It reads floor(x) - taps + 1 to floor(x) + taps.
        center = (fine - axis.stride) / 2  # x = (o + 1/2) / factor - 1/2
        width = taps * axis.stride
        result.append(_Axis(fine, axis.low + center - width, axis.high + center + width))
    return result


def _padding(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    """Padding in front moves positions. PyTorch lists the last axis first."""
    pads = argument(node, 1, "padding" if "pad1d" in node.op else "pad")
    fronts = list(pads[0::2])[: len(source.axes)]
    fronts += [0] * (len(source.axes) - len(fronts))
    return [
        _window(axis, 1, 1, front)
        for axis, front in zip(source.axes, reversed(fronts), strict=True)
    ]


def _slice(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    rank = len(source.sizes) + 2
    index = argument(node, 1, "dim", 0) % rank - 2
    if index < 0:
        return list(source.axes)
    start, step = argument(node, 2, "start") or 0, argument(node, 4, "step", 1)
    start = start + source.sizes[index] if start < 0 else start
    axes = list(source.axes)
    axes[index] = _window(axes[index], 1, step, -start)
    return axes


def _reshape(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    assert node.shape is not None
    if node.shape[-len(source.sizes) :] != source.sizes or len(node.shape) <= len(source.sizes):
        raise _refused(node.op, node.place, "it mixes spatial axes.")
    return list(source.axes)


def _permute(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    count = len(source.sizes)
    assert node.shape is not None
    rank = len(node.shape)
    if packet(node.op) == "permute":
        order = [axis % rank for axis in argument(node, 1, "dims")]
        keeps = order[-count:] == list(range(rank - count, rank))
    else:
        moved = (argument(node, 1, "dim0"), argument(node, 2, "dim1"))
        keeps = all(axis % rank < rank - count for axis in moved)
    if not keeps:
        raise _refused(node.op, node.place, "it exchanges spatial axes.")
    return list(source.axes)


def _over_channels(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    """Accept an operation along one axis only if this axis is the channels."""
    rank = len(source.sizes) + 2
    default = 0 if packet(node.op) in ("cat", "split", "split_with_sizes", "chunk") else None
    position = 2 if packet(node.op) in ("split", "split_with_sizes", "chunk") else 1
    dims = argument(node, position, "dim", default)
    if dims is None or any(axis % rank != 1 for axis in _each(dims, 1)):
        raise _refused(node.op, node.place, "it works over the whole image.")
    return list(source.axes)


def _shuffle(_: Network, node: Node, source: _Reach) -> list[_Axis]:
    factor = argument(node, 1, "upscale_factor" if "unshuffle" not in node.op else "factor")
    if "unshuffle" in node.op:
        return [_window(axis, factor, factor, 0) for axis in source.axes]
    return [
        _Axis(axis.stride / factor, axis.low - axis.stride * (1 - Fraction(1, factor)), axis.high)
        for axis in source.axes
    ]


_POINTWISE = frozenset(
    "relu add sub rsub mul div neg affine sigmoid clone contiguous alias detach _to_copy "
    "lift_fresh_copy getitem channel_shuffle".split()
)
_Rule = Callable[[Network, Node, _Reach], list[_Axis]]
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    **{
        f"{kind}_pool{n}d{suffix}": _pool
        for kind, suffix in (("avg", ""), ("max", ""), ("max", "_with_indices"))
        for n in (1, 2, 3)
    },
    **{f"adaptive_{kind}_pool{n}d": _adaptive for kind in ("avg", "max") for n in (1, 2, 3)},
    **dict.fromkeys(
        (
            "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d "
            "upsample_bilinear2d upsample_bicubic2d upsample_trilinear3d"
        ).split(),
        _upsample,
    ),
    **dict.fromkeys(
        (
            "pad",
            "constant_pad_nd",
            *(f"{kind}_pad{n}d" for kind in ("reflection", "replication") for n in (1, 2, 3)),
        ),
        _padding,
    ),
    "slice": _slice,
    **dict.fromkeys(
        "view _unsafe_view reshape flatten unflatten squeeze unsqueeze".split(), _reshape
    ),
    **dict.fromkeys(("permute", "transpose"), _permute),
    **dict.fromkeys(
        (
            "cat split split_with_sizes chunk softmax _softmax log_softmax _log_softmax mean sum "
            "amax"
        ).split(),
        _over_channels,
    ),
    **dict.fromkeys(("pixel_shuffle", "pixel_unshuffle"), _shuffle),
}

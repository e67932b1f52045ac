"""The table of operations: what every ATen operation becomes in a spiking network.

linear       It is applied at every timestep, with its bias.
site         It becomes a population of neurons.
cumulative   It sends t f(S_t / t) - (t-1) f(S_{t-1} / (t-1)), which is exact on time averages.
function     It does the same as a part of a region, and a population sends the value of the region
             as spikes, see `transpike.graph.regions`.
readout      It is applied once, to the time average, and only behind the last site.
refused      Every operation that is not in this table.

S_t is the sum of the inputs up to timestep t, and f is the operation. A max-pool behind the last
site stays cumulative, which is exact; the readout begins behind it. A function behind the last site
belongs to the readout.

A "signal" is a value that depends on the network's input. The table says which operands of a linear
operation may be signals, because a product of two signals is not linear.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch

Kind = Literal["linear", "site", "cumulative", "function", "readout", "constant"]
Role = Literal["layer", "product", "sum", "scale", "copy", "pad", "mean", "window", "other"]


@dataclass(frozen=True)
class Operation:
    """What the rest of the package has to know about one operation.

    Attributes:
        kind: what the operation becomes in a spiking network, see the top of this file.
        role: what a linear operation does. "layer" multiplies by a weight and adds a bias;
            "product" is a matrix product; "sum" adds or subtracts; "scale" multiplies each element
            by a constant; "copy" only moves, repeats or drops elements; "pad" adds a border of one
            value; "mean" reduces axes to a mean or a sum; "window" takes weighted means of
            neighboring elements; "other" is everything else.
        signals: which operands may depend on the network's input. "any" allows all of them, as the
            operation is jointly linear. "first" allows the first one only. "one" allows one of
            two, whichever it is.
        weight_at: position of the weight among the arguments.
        bias_at: position of the bias among the arguments.
        groups_at: position of the number of groups where the weight holds the output channels of
            one group only, as that of a transposed convolution does.
        output_axis: axis of the output channels in the weight.
        channels_last: whether the output channels are the last axis of the output, not axis 1.
        pad_value_at: position of the value that a border is filled with.
        indices: whether the operation returns (values, indices).
    """

    kind: Kind
    role: Role = "other"
    signals: Literal["any", "first", "one"] = "first"
    weight_at: int | None = None
    bias_at: int | None = None
    groups_at: int | None = None
    output_axis: int | None = None
    channels_last: bool = False
    pad_value_at: int | None = None
    indices: bool = False

    @property
    def convolves(self) -> bool:
        """Whether the operation is a convolution, transposed or not."""
        return self.role == "layer" and not self.channels_last


def _all(names: str, operation: Operation) -> dict[str, Operation]:
    """The same record for several ATen operations."""
    return {f"aten.{name}": operation for name in names.split()}


RELU = "relu"  # the one form of every activation in a captured graph
SPIKES = "value"  # the neurons behind a region, which send the value of a function
_LAYER = Operation("linear", "layer", weight_at=1, bias_at=2, output_axis=0)
_TRANSPOSED = Operation("linear", "layer", weight_at=1, bias_at=2, groups_at=6, output_axis=1)
_ACTIVATION = Operation("site")
_SCALE = Operation("linear", "scale")
_COPY = Operation("linear", "copy")
_JOINT_COPY = Operation("linear", "copy", signals="any")
_WINDOW = Operation("linear", "window")

OPERATIONS: dict[str, Operation] = {
    **_all(
        "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding",
        _LAYER,
    ),
    **_all("conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input", _TRANSPOSED),
    "aten.linear.default": Operation(
        "linear", "layer", weight_at=1, bias_at=2, output_axis=0, channels_last=True
    ),
    **_all("matmul.default mm.default bmm.default", Operation("linear", "product", signals="one")),
    **_all(
        "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar",
        Operation("linear", "sum", signals="any"),
    ),
    **_all("mul.Scalar div.Scalar div.Tensor neg.default", _SCALE),
    "aten.mul.Tensor": Operation("linear", "scale", signals="one"),
    "affine": _SCALE,
    **_all(
        "cat.default stack.default slice_scatter.default select_scatter.default "
        "lift_fresh_copy.default",
        _JOINT_COPY,
    ),
    **_all(
        "view.default _unsafe_view.default reshape.default permute.default transpose.int t.default "
        "clone.default contiguous.default alias.default detach.default numpy_T.default "
        "split.Tensor split_with_sizes.default chunk.default unbind.int slice.Tensor select.int "
        "unsqueeze.default squeeze.default squeeze.dim squeeze.dims expand.default repeat.default "
        "flatten.using_ints unflatten.int movedim.int movedim.intlist flip.default roll.default "
        "index_select.default index.Tensor upsample_nearest1d.default upsample_nearest1d.vec "
        "upsample_nearest2d.default upsample_nearest2d.vec upsample_nearest3d.default "
        "upsample_nearest3d.vec pixel_shuffle.default pixel_unshuffle.default "
        "channel_shuffle.default im2col.default reflection_pad1d.default reflection_pad2d.default "
        "reflection_pad3d.default replication_pad1d.default replication_pad2d.default "
        "replication_pad3d.default _to_copy.default",
        _COPY,
    ),
    "getitem": _COPY,
    "aten.pad.default": Operation("linear", "pad", pad_value_at=3),
    "aten.constant_pad_nd.default": Operation("linear", "pad", pad_value_at=2),
    **_all("mean.dim mean.default sum.dim_IntList sum.default", Operation("linear", "mean")),
    **_all(
        "avg_pool1d.default avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default "
        "adaptive_avg_pool2d.default adaptive_avg_pool3d.default upsample_linear1d.default "
        "upsample_linear1d.vec upsample_bilinear2d.default upsample_bilinear2d.vec "
        "upsample_bicubic2d.default upsample_bicubic2d.vec upsample_trilinear3d.default "
        "upsample_trilinear3d.vec",
        _WINDOW,
    ),
    # Activations are sites where they equal clamp(x, 0) or clamp(x, 0, c); `export` sees to it.
    **_all(
        "relu.default relu6.default hardtanh.default clamp.default clamp_min.default "
        "threshold.default maximum.default",
        _ACTIVATION,
    ),
    RELU: _ACTIVATION,
    SPIKES: _ACTIVATION,
    # All of them are positively homogeneous of degree one: t f(S / t) = f(S).
    **_all(
        "max_pool1d.default max_pool2d.default max_pool3d.default amax.default",
        Operation("cumulative"),
    ),
    **_all(
        "max_pool1d_with_indices.default max_pool2d_with_indices.default "
        "max_pool3d_with_indices.default adaptive_max_pool1d.default "
        "adaptive_max_pool2d.default adaptive_max_pool3d.default",
        Operation("cumulative", indices=True),
    ),
    **_all(
        "sigmoid.default softmax.int _softmax.default log_softmax.int _log_softmax.default "
        "argmax.default",
        Operation("readout"),
    ),
    # They make a tensor from sizes alone, such as zeros(B, 8).
    **_all(
        "zeros.default ones.default full.default arange.default arange.start arange.start_step "
        "scalar_tensor.default",
        Operation("constant"),
    ),
}

# Functions of one element of each operand. Those of `ACTIVATIONS` make a region a population.
ACTIVATIONS = frozenset(
    "gelu silu sigmoid tanh hardswish hardsigmoid elu selu celu mish softplus log_sigmoid "
    "leaky_relu prelu _prelu_kernel rrelu softshrink hardshrink glu relu relu6 hardtanh clamp "
    "clamp_min clamp_max threshold abs erf sin cos exp".split()
)
ELEMENTWISE = ACTIVATIONS | frozenset(
    "mul div pow square sqrt rsqrt exp2 expm1 log log2 log10 log1p reciprocal sign tan atan atan2 "
    "asin acos sinh cosh asinh acosh atanh erfc erfinv logit round floor ceil trunc frac minimum "
    "maximum fmax fmin where gt ge lt le eq ne logical_and logical_or logical_not logical_xor "
    "bitwise_and bitwise_or bitwise_not masked_fill addcmul addcdiv lerp remainder fmod nan_to_num "
    "isnan isinf isfinite heaviside xlogy hypot sgn add sub rsub neg floor_divide _to_copy "
    "type_as to".split()
)
# Functions of several elements, such as all features of a token.
_REDUCING = frozenset(
    "softmax _softmax log_softmax _log_softmax logsumexp var std var_mean std_mean "
    "linalg_vector_norm norm prod amin amax max min cumprod cummax cummin argmax argmin topk sort "
    "argsort any all median kthvalue aminmax layer_norm native_layer_norm group_norm "
    "native_group_norm rms_norm _fused_rms_norm instance_norm matmul mm bmm baddbmm addmm dot mv "
    "einsum scaled_dot_product_attention linear conv1d conv2d conv3d conv_transpose1d "
    "conv_transpose2d conv_transpose3d gather scatter index_select take_along_dim grid_sampler "
    "grid_sampler_2d grid_sampler_3d embedding one_hot bucketize searchsorted cdist "
    "cosine_similarity index max_pool1d max_pool2d max_pool3d".split()
)


def _functions() -> Iterator[tuple[str, Operation]]:
    """Every overload of a function of signals that is not in the table yet."""
    for name in sorted(ELEMENTWISE | _REDUCING):
        known = getattr(torch.ops.aten, name, None)
        for overload in known.overloads() if known is not None else ():
            found = f"aten.{name}.{overload}"
            if found not in OPERATIONS and not overload.endswith("out"):
                yield found, Operation("function")


OPERATIONS.update(dict(_functions()))


def record(op: str) -> Operation:
    """Return what the table says about an operation. A refused one counts as linear here."""
    return OPERATIONS.get(op, Operation("linear"))


def is_function(op: str) -> bool:
    """Whether an operation may be a part of a region."""
    return packet(op) in ELEMENTWISE | _REDUCING


def _of_kind(kind: Kind) -> frozenset[str]:
    return frozenset(name for name, operation in OPERATIONS.items() if operation.kind == kind)


LINEAR, SITE, CUMULATIVE = _of_kind("linear"), _of_kind("site"), _of_kind("cumulative")
READOUT, CONSTANT = _of_kind("readout"), _of_kind("constant")
FUNCTION = _of_kind("function")
KNOWN = LINEAR | SITE | CUMULATIVE | FUNCTION | READOUT

# Operations that other modules write into a graph or look for.
ADD, SUB, CAT = "aten.add.Tensor", "aten.sub.Tensor", "aten.cat.default"
CONV2D = "aten.conv2d.default"
RESHAPE, VIEWS = "aten.reshape.default", ("aten.view.default", "aten._unsafe_view.default")
TIMES = "aten.mul.Scalar"
ZEROS, ONES = "aten.zeros.default", "aten.ones.default"
CLAMP, ALIAS, PERMUTE = "aten.clamp.default", "aten.alias.default", "aten.permute.default"

_AS_RELU = "Replace it by nn.ReLU or nn.ReLU6 before capture and fine-tune the network."
_GATE = (
    "Replace the product by an addition, or remove the gate (for example, a squeeze-and-excitation "
    "block), before capture and fine-tune the network."
)
_NORM = "Replace it by nn.BatchNorm before capture and fine-tune the network."

# The reason why an operation is refused, and a remedy that works. All others are UNKNOWN.
REFUSALS: dict[str, tuple[str, str]] = {
    **dict.fromkeys(
        (
            "hardswish silu gelu leaky_relu elu selu celu tanh hardsigmoid softplus mish prelu "
            "log_sigmoid softshrink hardshrink rrelu _prelu_kernel"
        ).split(),
        ("this activation is not a clamp of its input to >= 0.", _AS_RELU),
    ),
    **dict.fromkeys(
        (
            "layer_norm native_layer_norm group_norm native_group_norm instance_norm rms_norm "
            "_fused_rms_norm"
        ).split(),
        ("the statistics depend on the sample, which is not linear.", _NORM),
    ),
    "scaled_dot_product_attention": (
        "attention multiplies signals with each other.",
        "Replace the attention block by convolutions before capture.",
    ),
    **dict.fromkeys(
        "gt ge lt le eq ne where bitwise_not logical_not".split(),
        (
            "a comparison is not linear.",
            "Write x * (x > 0) and the like as torch.relu(x) before capture.",
        ),
    ),
    **dict.fromkeys(
        ("_native_batch_norm_legit_functional", "_native_batch_norm_legit"),
        (
            "BatchNorm uses statistics of the batch.",
            "Set track_running_stats=True and fine-tune the network before capture; this changes "
            "its outputs.",
        ),
    ),
}

SIGNAL_PRODUCT = ("two signals are multiplied or divided, which is not linear.", _GATE)
BATCH_AXIS = (
    "the batch must stay the first axis of every signal, alone and in order.",
    "Keep every tensor as (B, ...), and do not transpose, flip, merge or index along the batch. "
    "nn.Linear works on (B, N, C) without a reshape.",
)
DROPOUT = (
    "dropout is active in evaluation mode.",
    "Use nn.Dropout, or pass training=self.training to the functional form.",
)
SCALAR_SITE = (
    "an activation needs a feature axis, but this signal has the batch axis only.",
    "Keep the feature axis: use (B, 1) instead of (B,), without squeeze.",
)
RETURN_TENSORS = (
    "Return nothing but tensors (B, ...) and None from forward(), in a tuple, list, dict, named "
    "tuple or dataclass."
)
UNKNOWN = (
    "this operation is not in the table of operations.",
    "Remove it from forward(), or express it by convolution, addition, pooling and ReLU.",
)
INDICES = (
    "the indices of a max-pool are used.",
    "Use the pooled values only; replace nn.MaxUnpool by nn.Upsample before capture.",
)
EMPTY_WINDOW = (
    "a window holds padding only, and its maximum of minus infinity cannot be sent as spikes.",
    "Use a smaller dilation or padding, or a larger input.",
)
KEEP_BATCH = (
    "Use flatten(1) or squeeze(1) in place of squeeze() in forward(), so that the batch stays the "
    "first axis of every tensor for one sample too."
)
NOT_A_NUMBER = (
    "a weighted layer needs its result, which is no floating-point number.",
    "Compute the mask outside of forward(), or register it as a buffer.",
)
DTYPE = (
    "it changes the type of a signal.",
    "Keep one floating-point type; cast the whole model with model.to(dtype) before capture.",
)


def packet(op: str) -> str:
    """The bare name of an operation: "aten.relu.default" -> "relu"."""
    parts = op.split(".")
    return parts[1] if len(parts) > 1 else op

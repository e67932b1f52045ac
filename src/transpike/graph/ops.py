"""The table of operations: what every ATen operation becomes in a spiking network.

linear       applied to every timestep, biases at every timestep
site         a neuron population
cumulative   t f(S_t / t) - (t-1) f(S_{t-1} / (t-1)), exact on time averages
readout      only after the last site, once, on the time average
refused      anything that is not in this table

A max-pool behind the last site stays cumulative, which is exact; the readout begins behind it.

A "signal" is a value that depends on the network's input. Which operands of a linear operation may
be signals is part of the table: a product of two signals is not linear.
"""

from __future__ import annotations

from typing import Literal

Signals = Literal["any", "first", "one"]

# Jointly linear in all tensor operands.
_ANY = (
    "add.Tensor add.Scalar sub.Tensor sub.Scalar rsub.Scalar cat.default stack.default "
    "slice_scatter.default select_scatter.default lift_fresh_copy.default"
)
# Linear in the first operand; the others must be constant.
_FIRST = (
    "conv1d.default conv1d.padding conv2d.default conv2d.padding conv3d.default conv3d.padding "
    "conv_transpose1d.default conv_transpose2d.input conv_transpose3d.input linear.default "
    "view.default _unsafe_view.default reshape.default permute.default transpose.int t.default "
    "clone.default contiguous.default alias.default detach.default numpy_T.default "
    "split.Tensor split_with_sizes.default chunk.default unbind.int slice.Tensor select.int "
    "unsqueeze.default squeeze.default squeeze.dim squeeze.dims expand.default repeat.default "
    "flatten.using_ints unflatten.int movedim.int movedim.intlist flip.default roll.default "
    "index_select.default index.Tensor mean.dim mean.default sum.dim_IntList sum.default "
    "avg_pool1d.default avg_pool2d.default avg_pool3d.default adaptive_avg_pool1d.default "
    "adaptive_avg_pool2d.default adaptive_avg_pool3d.default "
    "upsample_nearest1d.default upsample_nearest1d.vec upsample_nearest2d.default "
    "upsample_nearest2d.vec upsample_nearest3d.default upsample_nearest3d.vec "
    "upsample_linear1d.default upsample_linear1d.vec upsample_bilinear2d.default "
    "upsample_bilinear2d.vec upsample_bicubic2d.default upsample_bicubic2d.vec "
    "upsample_trilinear3d.default upsample_trilinear3d.vec pixel_shuffle.default "
    "pixel_unshuffle.default channel_shuffle.default im2col.default "
    "pad.default constant_pad_nd.default reflection_pad1d.default reflection_pad2d.default "
    "reflection_pad3d.default replication_pad1d.default replication_pad2d.default "
    "replication_pad3d.default _to_copy.default mul.Scalar div.Scalar div.Tensor neg.default"
)
# Linear in one operand while the other is constant.
_ONE = "mul.Tensor matmul.default mm.default bmm.default"

LINEAR: dict[str, Signals] = {
    **{f"aten.{name}": "any" for name in _ANY.split()},
    **{f"aten.{name}": "first" for name in _FIRST.split()},
    **{f"aten.{name}": "one" for name in _ONE.split()},
    "affine": "first",
    "getitem": "first",
}

# Activations: a site where they equal clamp(x, 0) or clamp(x, 0, c); capture normalizes them.
SITE = frozenset(
    f"aten.{name}"
    for name in (
        "relu.default relu6.default hardtanh.default clamp.default clamp_min.default "
        "threshold.default maximum.default"
    ).split()
) | {"relu"}

# All positively homogeneous of degree one: t f(S/t) = f(S).
CUMULATIVE = frozenset(
    f"aten.{name}"
    for name in (
        "max_pool1d.default max_pool2d.default max_pool3d.default "
        "max_pool1d_with_indices.default max_pool2d_with_indices.default "
        "max_pool3d_with_indices.default adaptive_max_pool1d.default "
        "adaptive_max_pool2d.default adaptive_max_pool3d.default amax.default"
    ).split()
)
# Those that return (values, indices).
WITH_INDICES = frozenset(
    name for name in CUMULATIVE if "with_indices" in name or "adaptive_max_pool" in name
)

READOUT = frozenset(
    f"aten.{name}"
    for name in (
        "sigmoid.default softmax.int _softmax.default log_softmax.int _log_softmax.default "
        "argmax.default"
    ).split()
)

# Operations that make a tensor from sizes alone, such as zeros(B, 8).
CONSTANT = frozenset(
    f"aten.{name}"
    for name in (
        "zeros.default ones.default full.default arange.default arange.start "
        "arange.start_step scalar_tensor.default"
    ).split()
)

KNOWN = frozenset(LINEAR) | SITE | CUMULATIVE | READOUT

_AS_RELU = "Replace it by nn.ReLU or nn.ReLU6 before capture and fine-tune the network."
_GATE = (
    "Replace the product by an addition, or remove the gate (a squeeze-and-excitation block, "
    "say), before capture and fine-tune the network."
)
_NORM = "Replace it by nn.BatchNorm before capture and fine-tune the network."

# Why an operation is refused, and a remedy that works; anything not named here is unknown.
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
            "Set track_running_stats=True, or replace it by an affine layer, before capture.",
        ),
    ),
}

SIGNAL_PRODUCT = ("two signals are multiplied or divided, which is not linear.", _GATE)
READOUT_INSIDE = (
    "it stands before an activation or a pooling, where only its time average would be exact.",
    "Remove it, or move it behind the last activation of the model.",
)
AFTER_READOUT = (
    "it stands behind a sigmoid, softmax or argmax, which is applied once to the time average.",
    "Remove it from forward() and apply it to the output of transpike.simulate.",
)
BATCH_AXIS = (
    "the batch must stay the first axis of every signal, alone and in order.",
    "Keep tensors as (B, ...): nn.Linear works on (B, N, C) without a reshape, and nothing may be "
    "transposed, flipped, merged or indexed along the batch.",
)
DROPOUT = (
    "dropout is active in evaluation mode.",
    "Use nn.Dropout, or pass training=self.training to the functional form.",
)
SCALAR_SITE = (
    "an activation needs a feature axis, this signal has the batch axis only.",
    "Keep the feature axis: use (B, 1) instead of (B,), without squeeze.",
)
OUTPUT = (
    "an output of the model cannot be read out.",
    "Return tensors (B, ...) in a tuple, list or dict from forward().",
)
UNKNOWN = (
    "this operation is not in the table of operations.",
    "Remove it from forward(), or express it by convolution, addition, pooling and ReLU.",
)
INDICES = (
    "the indices of a max-pool are used.",
    "Use the pooled values only; replace nn.MaxUnpool by nn.Upsample before capture.",
)
NOT_A_CLAMP = (
    "only clamps to [0, c] with c > 0, or to [0, inf), have a spiking form.",
    _AS_RELU,
)
DTYPE = (
    "it changes the type of a signal.",
    "Keep one floating-point type; cast the whole model with model.to(dtype) before capture.",
)


def packet(op: str) -> str:
    """The bare name of an operation: "aten.relu.default" -> "relu"."""
    parts = op.split(".")
    return parts[1] if len(parts) > 1 else op

"""Small networks with functions that are no clamps: gates, norms, attention and activations."""

import torch
import torch.nn.functional as F
from torch import nn

from nets import Fn, conv


def between(function, **parts):
    """Return a network with a function between two layers and a ReLU, for inputs (B, 6, 8)."""

    def forward(m, x):
        return m.last(F.relu(m.after(function(m, m.before(x)))))

    ends = {"before": nn.Linear(8, 8), "after": nn.Linear(8, 4), "last": nn.Linear(4, 3)}
    return Fn(forward, **ends, **parts)


def _plain(function):
    return lambda: between(lambda m, x: function(x))


def _module(build):
    return lambda: between(lambda m, x: m.module(x), module=build())


def _channels_first(function):
    return lambda: between(lambda m, x: function(x.transpose(1, 2)).transpose(1, 2))


def _gate(m, x):
    x = F.silu(m.c(x))
    s = m.u(F.relu(m.d(x.mean((2, 3), keepdim=True)))).sigmoid()
    return m.h((m.e(x * s) + x).relu().mean((2, 3)))


def gate_net():
    """Return a squeeze-and-excitation block in a residual network, for inputs (B, 2, 6, 6)."""
    layers = {"c": conv(2, 8), "d": nn.Conv2d(8, 4, 1), "u": nn.Conv2d(4, 8, 1), "e": conv(8, 8)}
    return Fn(_gate, **layers, h=nn.Linear(8, 4))


def _block(m, x):
    b, n, c = x.shape
    q, k, v = m.qkv(m.norm1(x)).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
    scores = (q @ k.transpose(-2, -1)) * (c // 2) ** -0.5
    x = x + m.proj((scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n, c))
    return x + m.fc2(F.gelu(m.fc1(m.norm2(x))))


def block(width):
    """Return a transformer block with two heads, for inputs (B, N, width)."""
    return Fn(
        _block,
        norm1=nn.LayerNorm(width),
        qkv=nn.Linear(width, 3 * width),
        proj=nn.Linear(width, width),
        norm2=nn.LayerNorm(width),
        fc1=nn.Linear(width, 2 * width),
        fc2=nn.Linear(2 * width, width),
    )


def _transformer(m, x):
    x = m.patches(x).flatten(2).transpose(1, 2)
    x = torch.cat([m.token.expand(x.shape[0], -1, -1), x], dim=1) + m.positions
    for part in m.blocks:
        x = part(x)
    return m.head(m.norm(x)[:, 0])


def transformer(width=8, depth=2, patches=4, size=8):
    """Return a vision transformer for inputs (B, 2, size, size)."""
    return Fn(
        _transformer,
        patches=nn.Conv2d(2, width, patches, patches),
        token=nn.Parameter(torch.randn(1, 1, width)),
        positions=nn.Parameter(torch.randn(1, (size // patches) ** 2 + 1, width) / 2),
        blocks=nn.ModuleList(block(width) for _ in range(depth)),
        norm=nn.LayerNorm(width),
        head=nn.Linear(width, 5),
    )


def _local_attention(m, x):
    return F.scaled_dot_product_attention(x, m.k(x), m.v(x))


def _handmade_norm(x):
    return (x - x.mean(-1, keepdim=True)) / (x.var(-1, keepdim=True) + 1e-5).sqrt()


def _rows_last(m, x):
    """Multi-head attention on (N, B, C), as PyTorch has it without batch_first."""
    x = x.transpose(0, 1)
    h = m.norm(m.before(x))
    x = x + m.attention(h, h, h, need_weights=False)[0]
    return m.last(F.gelu(m.after(x)).relu().transpose(0, 1))


def _windows(m, x):
    """Attention in windows: the batch leads a merged axis (B * windows, tokens, C)."""
    b, h, w, c = x.shape
    x = m.norm(m.before(x))
    parts = x.view(b, 2, h // 2, 2, w // 2, c).transpose(2, 3).reshape(-1, h * w // 4, c)
    q, k, v = m.qkv(parts).chunk(3, -1)
    parts = m.after(F.gelu((q @ k.transpose(1, 2)).softmax(-1) @ v)).relu()
    back = parts.view(-1, 2, 2, h // 2, w // 2, c).transpose(2, 3).reshape(b, h, w, c)
    return m.last(x + back)


def _layers(*names, width=8):
    return {name: nn.Linear(width, width) for name in names}


def rows_last():
    """Return a network whose batch is axis 1, for inputs (B, 5, 8)."""
    attention = nn.MultiheadAttention(8, 2)
    parts = {"norm": nn.LayerNorm(8), "attention": attention, "last": nn.Linear(8, 3)}
    return Fn(_rows_last, **_layers("before", "after"), **parts)


def windows():
    """Return a network with a partition into windows, for inputs (B, 4, 4, 8)."""
    parts = {"norm": nn.LayerNorm(8), "qkv": nn.Linear(8, 24), "last": nn.Linear(8, 3)}
    return Fn(_windows, **_layers("before", "after"), **parts)


ROW = (6, 8)
MOVED = {"rows_last": (rows_last, (5, 8)), "windows": (windows, (4, 4, 8))}
"""Models whose batch is not the first axis everywhere, each with the shape of one sample."""
FUNCTIONS = {
    "abs": (_plain(torch.abs), ROW),
    "bilinear_pool": (_plain(lambda x: x @ (x.transpose(1, 2) @ x)), ROW),
    "celu": (_module(lambda: nn.CELU(0.7)), ROW),
    "clamp": (_plain(lambda x: x.clamp(-0.3, 0.8)), ROW),
    "divide": (_plain(lambda x: x / (1 + x.abs())), ROW),
    "einsum": (_plain(lambda x: torch.einsum("bnc,bmc,bmd->bnd", x, x, x)), ROW),
    "elu": (_module(nn.ELU), ROW),
    "exp": (_plain(lambda x: (-x * x).exp()), ROW),
    "gate": (gate_net, (2, 6, 6)),
    "gelu": (_module(nn.GELU), ROW),
    "gelu_tanh": (_module(lambda: nn.GELU(approximate="tanh")), ROW),
    "glu": (lambda: between(lambda m, x: F.glu(m.wide(x), -1), wide=nn.Linear(8, 16)), ROW),
    "group_norm": (_channels_first(lambda x: F.group_norm(x, 2)), ROW),
    "hardshrink": (_plain(F.hardshrink), ROW),
    "hardsigmoid": (_module(nn.Hardsigmoid), ROW),
    "hardswish": (_module(nn.Hardswish), ROW),
    "hardswish_by_relu6": (_plain(lambda x: x * F.relu6(x + 3) / 6), ROW),
    "hardtanh": (_module(nn.Hardtanh), ROW),
    "instance_norm": (_channels_first(F.instance_norm), ROW),
    "layer_norm": (_module(lambda: nn.LayerNorm(8)), ROW),
    "layer_norm_by_hand": (_plain(_handmade_norm), ROW),
    "leaky_relu": (_module(lambda: nn.LeakyReLU(0.2)), ROW),
    "local_response_norm": (_plain(lambda x: F.local_response_norm(x, 3)), ROW),
    "log": (_plain(lambda x: torch.log1p(x.abs())), ROW),
    "log_sigmoid": (_module(nn.LogSigmoid), ROW),
    "logsumexp": (_plain(lambda x: x - x.logsumexp(-1, keepdim=True)), ROW),
    "lp_pool": (_plain(lambda x: F.lp_pool1d(x, 2, 2).repeat(1, 1, 2)), ROW),
    "maximum_of_two": (_plain(lambda x: torch.maximum(x, x.flip(2))), ROW),
    "mish": (_module(nn.Mish), ROW),
    "normalize": (_plain(lambda x: F.normalize(x, dim=-1)), ROW),
    "prelu": (_channels_first(nn.PReLU(8).double()), ROW),
    "product_of_layers": (
        lambda: between(lambda m, x: x * m.other(x), other=nn.Linear(8, 8)),
        ROW,
    ),
    "quadratic": (_plain(lambda x: x * x), ROW),
    "relu_by_mask": (_plain(lambda x: x * (x > 0)), ROW),
    "rms_norm": (_module(lambda: nn.RMSNorm(8)), ROW),
    "rsqrt": (_plain(lambda x: x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 0.1)), ROW),
    "scaled_dot_product": (
        lambda: between(_local_attention, k=nn.Linear(8, 8), v=nn.Linear(8, 8)),
        ROW,
    ),
    "selu": (_module(nn.SELU), ROW),
    "sigmoid": (_module(nn.Sigmoid), ROW),
    "silu": (_module(nn.SiLU), ROW),
    "sine": (_plain(torch.sin), ROW),
    "softmax": (_module(lambda: nn.Softmax(-1)), ROW),
    "softplus": (_module(nn.Softplus), ROW),
    "softshrink": (_module(nn.Softshrink), ROW),
    "softsign": (_module(nn.Softsign), ROW),
    "std": (_plain(lambda x: x / (x.std(-1, keepdim=True) + 1)), ROW),
    "swish": (_plain(lambda x: x * torch.sigmoid(1.7 * x)), ROW),
    "tanh": (_module(nn.Tanh), ROW),
    "tanhshrink": (_module(nn.Tanhshrink), ROW),
    "threshold": (_module(lambda: nn.Threshold(0.1, 0.0)), ROW),
    "transformer": (transformer, (2, 8, 8)),
    "vector_norm": (_plain(lambda x: x / torch.linalg.vector_norm(x, dim=-1, keepdim=True)), ROW),
    "where": (_plain(lambda x: torch.where(x > 0.1, x, 0.3 * x.square())), ROW),
}
"""Models by name, each with the shape of one sample."""


def side_by_side(names):
    """Return one model that returns the outputs of several of these models, and its shape."""
    (shape,) = {FUNCTIONS[name][1] for name in names}
    parts = nn.ModuleDict({name: FUNCTIONS[name][0]() for name in names})
    return Fn(lambda m, x: {name: part(x) for name, part in m.parts.items()}, parts=parts), shape

"""The arithmetic of a simulation: the types of membranes, signals and weights."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import Network, Node, operation
from transpike.graph.ops import OPERATIONS
from transpike.simulation.engine import native
from transpike.simulation.engine.convolve import (
    Call,
    JoinedConvolution,
    Rival,
    SparseConvolution,
    geometry,
    joinable,
    value_channels,
)
from transpike.simulation.engine.plan import bound_call

Precision = Literal["exact", "fast", "split"]
_log = logging.getLogger("transpike")


@dataclass(frozen=True)
class Arithmetic:
    """Types of one simulation.

    Attributes:
        name: "exact", "fast" or "split".
        kept: type of membranes, sums and readout, which is the network's own.
        product: type of the factors of dense convolutions and matrix products.
        signal: type of the values that one operation hands to the next.
    """

    name: Precision
    kept: torch.dtype
    product: torch.dtype
    signal: torch.dtype

    def weights(self, network: Network) -> Network:
        """The network in the type of the products."""
        return network if self.product == self.kept else network.to(dtype=self.product)

    def call(
        self, network: Network, weights: Network, node: Node, joined: Node | None = None
    ) -> Call:
        """Choose how a node that is not a site is computed.

        Args:
            network: the network in the type of the membranes.
            weights: the same network in the type of the products, from `weights`.
            node: the node.
            joined: the concatenation whose parts the node reads directly, or None.
        """
        if node.kind in ("cumulative", "function"):
            return bound_call(network, node)
        product = OPERATIONS[node.op].role == "layer"
        if self.name == "split" and product:
            return _split_product(network, node)
        wanted = self.product if product else self.signal
        call = bound_call(network if wanted == self.kept else weights, node)
        if wanted != self.kept:
            call = _with_inputs_in(call, wanted)
        shape = geometry(network, node) if self.signal == self.kept else None
        if shape is None or native.convolution() is None:
            return call
        rival = "float" if self.product == self.kept else _bfloat16_units()
        weight, bias = (network.resolve(arg, {}, 0) for arg in (*node.args, None)[1:3])
        if joined is None:
            return SparseConvolution(weight, bias, shape, rival, node.reads[0], call)
        in_type = weights.resolve(node.args[1], {}, 0)
        parts = [(value.name, value_channels(network, value.name)) for value in joined.args[0]]
        return JoinedConvolution(weight, in_type, bias, parts, shape, rival)

    def joins(self, network: Network) -> dict[str, Node]:
        """Convolutions that read the parts of a concatenation directly, by name."""
        if self.signal != self.kept:
            return {}
        found = {node.name: joinable(network, node) for node in network.nodes}
        return {name: node for name, node in found.items() if node is not None}


def arithmetic(precision: str, network: Network) -> Arithmetic:
    """Choose the types for a precision and a network.

    Raises:
        ArgumentError: the precision is unknown, or this network or device cannot have it.
    """
    if precision not in get_args(Precision):
        raise ArgumentError(f"precision: needed one of {get_args(Precision)}, got {precision!r}.")
    kept = network.dtype
    if precision == "exact":
        return Arithmetic("exact", kept, kept, kept)
    if kept != torch.float32:
        raise ArgumentError(
            f"precision={precision!r} needs a network in float32, got {kept}. Use snn.float(), or "
            "precision='exact'."
        )
    if precision == "fast":
        if network.device.type == "cpu":
            if _bfloat16_units() == "none":
                _say_slow()
            return Arithmetic("fast", kept, torch.bfloat16, kept)
        return Arithmetic("fast", kept, torch.bfloat16, torch.bfloat16)
    if network.device.type != "cuda":
        raise ArgumentError(
            f"precision='split' needs the tensor cores of a CUDA device, but the network is on "
            f"{network.device}. Use 'exact' or 'fast'."
        )
    return Arithmetic("split", kept, kept, kept)


@cache
def _bfloat16_units() -> Rival:
    """Tell how the processor multiplies bfloat16: with "tiles", with "vectors", or not ("none").

    An unknown system counts as one with vectors.
    """
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return "vectors"
    words = set(cpuinfo.read_text().split())
    if "amx_bf16" in words:
        return "tiles"
    return "none" if words.isdisjoint({"avx512_bf16", "avx_ne_convert", "bf16"}) else "vectors"


@cache
def _say_slow() -> None:
    _log.warning(
        "precision 'fast' may be slower than 'exact' here: the processor has no bfloat16 units"
    )


def _with_inputs_in(call: Call, dtype: torch.dtype) -> Call:
    return lambda values, rows: call(_in_type(values, dtype), rows)


def _in_type(values: Mapping[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    return {name: _cast(value, dtype) for name, value in values.items()}


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple | list):
        return [_cast(item, dtype) for item in value]
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def tf32_terms(x: Tensor) -> tuple[Tensor, Tensor]:
    """Split x into two float32 tensors of at most 11 significant bits each.

    Their sum differs from x by at most 2^-22 of x. TF32 products of such terms are exact, so three
    of them restore a float32 product.
    """
    high = _rounded(x)
    return high, _rounded(x - high)


def _rounded(x: Tensor) -> Tensor:
    """Round float32 to the 10 explicit mantissa bits of TF32, to nearest even."""
    bits = x.contiguous().view(torch.int32)
    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF
    return bits.view(torch.float32)


def _split_product(network: Network, node: Node) -> Call:
    """Compute a convolution or matrix product as a sum of three TF32 products and the bias."""
    function = operation(node.op)
    source, weight, bias, *rest = (*node.args, None)[: max(3, len(node.args))]
    high, low = tf32_terms(network.resolve(weight, {}, 0))
    shift = network.resolve(node.kwargs.get("bias", bias), {}, 0)
    others = {key: value for key, value in node.kwargs.items() if key != "bias"}

    def compute(values: Mapping[str, Any], _: int) -> Tensor:
        x_high, x_low = tf32_terms(values[source.name])
        small = function(x_high, low, None, *rest, **others)
        small = small + function(x_low, high, None, *rest, **others)
        result: Tensor = function(x_high, high, shift, *rest, **others) + small
        return result

    return compute


@contextlib.contextmanager
def tensor_cores(arithmetic: Arithmetic, device: torch.device) -> Iterator[None]:
    """Allow CUDA to round products to TF32 only if the precision splits them first."""
    if device.type != "cuda":
        yield
        return
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    wanted = arithmetic.name == "split"
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = wanted
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

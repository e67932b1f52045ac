"""Convolutions of mostly silent signals, in the forms that the engine has for them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest import mock

import torch
from torch import nn

from benchmarks import oracle
from transpike.graph.network import Network, Node, Value, Weight
from transpike.simulation.engine import convolve, native
from transpike.simulation.engine.precision import arithmetic

if TYPE_CHECKING:
    from benchmarks.fuzz.checks import Tally


def check_convolution(seed: int, tally: Tally, times: int = 4) -> None:
    """Compare sparse convolutions with the oracle, bit for bit: all numbers are dyadic."""
    if native.convolution() is None:
        tally.counts["refused: sparse convolution: no C compiler"] += times
        return
    rng = random.Random(seed + 10**9)
    for _ in range(times):
        _check(rng, seed, tally)


def _check(rng: random.Random, seed: int, tally: Tally) -> None:
    torch.manual_seed(rng.randrange(2**31))
    kernel = (3, 3) if rng.random() < 0.4 else (rng.randint(1, 4), rng.randint(1, 4))
    stride = 1 if rng.random() < 0.6 else rng.randint(1, 3)
    padding = (rng.randint(0, 2), rng.randint(0, 2))
    size = (rng.randint(1, 9), rng.randint(1, 14))
    channels, lanes = rng.randint(1, 6), rng.randint(1, 4)
    if any(n + 2 * p < k for n, p, k in zip(size, padding, kernel, strict=True)):
        return
    layer = nn.Conv2d(channels, 8 * lanes, kernel, stride, padding, bias=rng.random() < 0.7)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_((parameter * 64).round() / 64)
    x = (torch.randn(rng.randint(1, 3), channels, *size) * 4).round() / 4
    x *= torch.rand_like(x) < rng.choice((0.0, 0.02, 0.1, 0.3, 1.0))
    found = sparse(layer, x)
    if found is None:
        tally.counts["refused: sparse convolution: left to torch"] += 1
        return
    tally.counts["sparse convolutions"] += 1
    bias = None if layer.bias is None else layer.bias.detach().numpy()
    wanted = oracle.conv(x.numpy(), layer.weight.detach().numpy(), bias, stride, padding)
    if not torch.equal(found.double(), torch.from_numpy(wanted)):
        tally.disagreements.append((seed, f"sparse convolution {layer} of {tuple(x.shape)}", ""))


def sparse(layer: nn.Conv2d, x: torch.Tensor) -> torch.Tensor | None:
    """Convolve x in the engine's sparse form, whatever its density; None where there is none."""
    tensors = {"weight": layer.weight.detach()}
    if layer.bias is not None:
        tensors["bias"] = layer.bias.detach()
    args = (Value("input"), Weight("weight"), Weight("bias") if "bias" in tensors else None)
    args += (tuple(layer.stride), tuple(layer.padding))  # type: ignore[arg-type]
    with torch.no_grad():
        shape = (-1, *layer(x).shape[1:])
    node = Node("conv", "aten.conv2d.default", args, {}, "linear", "", shape)
    network = Network((node,), tensors, (), (Value("conv"),), "", tuple(x.shape[1:]))
    with always_sparse():
        call = arithmetic("exact", network).call(network, network, node)
        if not isinstance(call, convolve.SparseConvolution):
            return None
        call.fallback = _never
        with torch.no_grad():
            found: torch.Tensor = call({"input": x}, len(x))
    return found


def _never(*_: object) -> torch.Tensor:
    raise AssertionError("computed densely")


@contextmanager
def always_sparse() -> Iterator[None]:
    """Let the engine take its sparse form for every convolution that has one."""
    with (
        mock.patch.object(convolve, "_LEAST_PRODUCTS", 0),
        mock.patch.object(convolve, "_LEAST_POSITIONS", 0),
        mock.patch.object(convolve, "densest", lambda *_: 1.0),
    ):
        yield

"""Check a captured network against the model, sample by sample."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from transpike.errors import Refusal, UnsupportedError
from transpike.graph import ops
from transpike.graph.example import first_line, user_line
from transpike.graph.network import INPUT, Network, Node, Value
from transpike.graph.regions import over_time
from transpike.graph.structure import flat_values

_CHECKED_BATCHES = (1, 2, 3, 5)
_INNER_BATCH = 3  # samples whose inner values are compared
# Folding BatchNorm changes float32 outputs by up to 1e-4 of their scale (measured). Another batch
# size changes the outputs of a randomly initialized fcn_resnet50 by 6e-5.
_TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-3}


def verify(network: Network, eager: nn.Module, example: Tensor) -> None:
    """Compare the network with the model at several batch sizes.

    Raises:
        UnsupportedError: the samples of a batch influence each other, the outputs differ, or the
            model does not take a single sample.
    """
    tolerance = _TOLERANCE[example.dtype]
    generator = torch.Generator(device="cpu").manual_seed(0)
    largest = max(_CHECKED_BATCHES)
    picks = torch.randint(len(example), (largest,), generator=generator)
    noise = torch.randn((largest, *example.shape[1:]), generator=generator, dtype=example.dtype)
    spread = example.std().clamp(min=0.1)
    samples = example[picks.to(example.device)] + 0.2 * spread * noise.to(example.device)
    with torch.no_grad():
        alone = [samples[i : i + 1].clone() for i in range(largest)]
        singles = [_of_one_sample(network, eager, sample) for sample in alone]
        _check_maxima(network, alone[0])
        own = [flat_values(network(sample)) for sample in alone]
        for size in _CHECKED_BATCHES:
            flat = flat_values(network(samples[:size].clone()))
            for position, got in enumerate(flat):
                if not isinstance(got, Tensor):
                    continue
                expected = torch.cat([single[position] for single in singles[:size]])
                _compare(got, expected, tolerance, size)
                # Both sides are folded here, so only rounding is left.
                expected = torch.cat([single[position] for single in own[:size]])
                _compare(got, expected, tolerance / 4, size)
        _check_inner_values(network, alone[:_INNER_BATCH], tolerance / 4)


def _check_inner_values(network: Network, alone: list[Tensor], tolerance: float) -> None:
    """Check that every value which a simulation keeps over time is computed for each sample alone.

    The outputs alone do not show it: a model may exchange the samples twice.
    """
    names = over_time(network.nodes, network.outputs)
    whole = _inner_values(network, torch.cat(alone), names)
    parts = [_inner_values(network, sample, names) for sample in alone]
    for name, value in whole.items():
        got, expected = _finite(value), _finite(torch.cat([part[name] for part in parts]))
        _compare(got, expected, tolerance, len(alone))


def _finite(value: Tensor) -> Tensor:
    """Replace minus infinity, the border that is added for a max-pool, by 0."""
    return value.masked_fill(value == -torch.inf, 0)


def _inner_values(network: Network, x: Tensor, names: set[str]) -> dict[str, Tensor]:
    """The values of some nodes, without those that do not depend on the input."""
    return {
        node.name: value
        for node, value in _computed(network, x)
        if node.name in names and node.kind != "constant" and isinstance(value, Tensor)
    }


def _computed(network: Network, x: Tensor) -> Iterator[tuple[Node, Any]]:
    """Every node with its value, in the order of execution."""
    values: dict[str, Any] = {INPUT: x}
    for node in network.nodes:
        site = network.site_of.get(node.name)
        if site is not None:
            values[node.name] = site.activate(values[node.reads[0]])
        else:
            values[node.name] = network.compute(node, values, len(x))
        yield node, values[node.name]
        for name in node.reads:
            if network.last_reader.get(name) == node.name:
                values.pop(name, None)


def difference(got: Tensor, expected: Tensor, dtype: torch.dtype) -> str:
    """Describe how two outputs differ. The text is empty if they are equal up to rounding.

    Args:
        got: an output of the network.
        expected: the same output of the model.
        dtype: the floating-point type of the network.
    """
    return _difference(got, expected, _TOLERANCE[dtype])


def _of_one_sample(network: Network, eager: nn.Module, sample: Tensor) -> list[Any]:
    """Return the outputs of the model for a batch of one sample.

    Raises:
        UnsupportedError: the model fails, or an output lost the batch axis.
    """
    try:
        outputs = flat_values(eager(sample.clone()))
    except Exception as error:  # The user's forward() may raise any error.
        reason = f"the model fails on a batch of one sample ({first_line(error)})."
        raise _refused("batch of one", user_line(error), reason, ops.KEEP_BATCH) from error
    for output, leaf in zip(outputs, network.outputs, strict=False):
        if not isinstance(output, Tensor) or not isinstance(leaf, Value):
            continue
        node = network.by_name.get(leaf.name)
        shape = (-1, *network.input_shape) if node is None else node.shape or ()
        if tuple(output.shape) != tuple(1 if size == -1 else size for size in shape):
            found = f"the output of the model has shape {tuple(output.shape)} for one sample."
            raise _refused("batch of one", node.place if node else "", found, ops.KEEP_BATCH)
    return outputs


def _check_maxima(network: Network, sample: Tensor) -> None:
    """Refuse maxima of nothing but minus infinity.

    Raises:
        UnsupportedError: a pool returns an infinite value or NaN.
    """
    if not any(node.kind == "cumulative" for node in network.nodes):
        return
    for node, value in _computed(network, sample.clone()):
        if node.kind == "cumulative" and not bool(torch.isfinite(value).all()):
            raise UnsupportedError([Refusal(node.op, node.place, *ops.EMPTY_WINDOW)])


def _compare(got: Tensor, expected: Tensor, tolerance: float, size: int) -> None:
    detail = _difference(got, expected, tolerance)
    if not detail:
        return
    reason = (
        f"a batch of {size} samples gives other outputs than the model does for each sample alone "
        f"({detail})."
    )
    remedy = (
        "Remove operations that mix samples (such as x - x.mean(0)) or that branch on the batch "
        "size; each sample must be computed on its own, batch first."
    )
    raise _refused("batch dependence", "", reason, remedy)


def _refused(op: str, place: str, reason: str, remedy: str) -> UnsupportedError:
    return UnsupportedError([Refusal(op, place, reason, remedy)])


def _difference(got: Tensor, expected: Tensor, tolerance: float) -> str:
    if got.shape != expected.shape:
        return f"shapes {tuple(got.shape)} and {tuple(expected.shape)}"
    if not got.is_floating_point():
        wrong = int((got != expected).sum())
        # An argmax may resolve a tie either way.
        return f"{wrong} of {got.numel()} differ" if wrong > got.numel() // 100 else ""
    scale = expected.abs().max().clamp(min=torch.finfo(expected.dtype).tiny)
    error = float((got - expected).abs().max() / scale)
    return "" if error <= tolerance else f"relative difference {error:.2g}, allowed {tolerance:.0e}"


__all__ = ["difference", "verify"]

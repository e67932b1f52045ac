"""How an output is read: as classes or a mask, and how far a spiking output is from its analog one.

Shapes: B inputs, C channels; any further axes are positions.
"""

from __future__ import annotations

from typing import Literal, get_args

import torch.nn.functional as F
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import Network, Value
from transpike.graph.ops import packet

Reading = Literal["scores", "values"]
_LEAST_PROBABILITY = 1e-7


def check_reading(reading: str) -> None:
    """Refuse what is not a way to read outputs.

    Raises:
        ArgumentError: it is neither "scores" nor "values".
    """
    if reading not in get_args(Reading):
        raise ArgumentError(f"reading: needed 'scores' or 'values', got {reading!r}.")


def cut_of(network: Network) -> float:
    """Where a one-channel output becomes positive: 0 for logits, 0.5 behind a sigmoid."""
    name = network.outputs[0].name if isinstance(network.outputs[0], Value) else ""
    node = network.by_name.get(name)
    while node is not None and packet(node.op) in ("reshape", "getitem", "squeeze", "unsqueeze"):
        node = network.by_name.get(node.reads[0])
    return 0.5 if node is not None and packet(node.op) == "sigmoid" else 0.0


def prediction(output: Tensor, cut: float) -> Tensor:
    """Classes (B, ...) that an output (B, C, ...) stands for; of one channel, whether it is > cut.

    Raises:
        ArgumentError: the output has no channels.
    """
    if output.ndim < 2:
        raise ArgumentError(
            "needed an output (B, C, ...) of class scores or masks, got shape "
            f"{tuple(output.shape)}."
        )
    if output.shape[1] == 1:
        return (output > cut).squeeze(1).long()
    return output.argmax(dim=1)


def divergence(analog: Tensor, spiking: Tensor, cut: float) -> Tensor:
    """Kullback-Leibler divergence of every prediction, analog from spiking, (B, ...), nats.

    Of several channels by their softmax along axis 1; of one, by the probability of the mask: its
    sigmoid, or with cut 0.5 the output itself, kept 1e-7 away from 0 and 1.
    """
    analog, spiking = analog.double(), spiking.double()
    if analog.shape[1] == 1:
        a, b = _logit(analog, cut).squeeze(1), _logit(spiking, cut).squeeze(1)
        return a.sigmoid() * (a - b) + F.softplus(b) - F.softplus(a)
    wanted, found = F.log_softmax(analog, dim=1), F.log_softmax(spiking, dim=1)
    return (wanted.exp() * (wanted - found)).sum(dim=1)


def _logit(output: Tensor, cut: float) -> Tensor:
    return output.logit(eps=_LEAST_PROBABILITY) if cut else output


__all__ = ["Reading", "check_reading", "cut_of", "divergence", "prediction"]

"""How an output is read as classes or as a mask, and how two outputs are compared.

Shapes: B is the number of inputs and C the number of channels. Further axes are positions.
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
    """Refuse an unknown way to read outputs.

    Raises:
        ArgumentError: `reading` is neither "scores" nor "values".
    """
    if reading not in get_args(Reading):
        raise ArgumentError(f"reading: needed 'scores' or 'values', got {reading!r}.")


def cut_of(network: Network) -> float:
    """Return the value above which a one-channel output is positive.

    It is 0.5 if the network ends in a sigmoid. Otherwise the outputs are logits and it is 0.
    """
    name = network.outputs[0].name if isinstance(network.outputs[0], Value) else ""
    node = network.by_name.get(name)
    while node is not None and packet(node.op) in ("reshape", "getitem", "squeeze", "unsqueeze"):
        node = network.by_name.get(node.reads[0])
    return 0.5 if node is not None and packet(node.op) == "sigmoid" else 0.0


def prediction(output: Tensor, cut: float) -> Tensor:
    """Return the predicted classes (B, ...) of an output (B, C, ...).

    With several channels the class is the largest one. With one channel the class is 1 where the
    output is above `cut`, and 0 elsewhere.

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
    """Return the Kullback-Leibler divergence of every prediction, shape (B, ...), in nats.

    It is the divergence from the analog to the spiking distribution. With several channels the
    distribution is the softmax along axis 1. With one channel it is the probability of the mask,
    which is the sigmoid of the output. If `cut` is 0.5 the output is a probability already, and it
    is kept 1e-7 away from 0 and 1.
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

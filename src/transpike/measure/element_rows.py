"""The rows of numbers that are pushed through the graph in place of a value.

Each value becomes a float64 tensor (ROWS, ...), with these rows for every element:

    EVENTS    three rows: the number of events as sent, as unit spikes, and in binary
    STATIC    1 if the element follows from the static input alone
    CONSTANT  1 if it follows from biases alone
    CURRENT   1 if it is a current that changes over time
    EVENT     1 if it receives events
    VALUE     1 if it can differ from zero in the analog network
    BITS      bits of the quantized activation, 0 if the value is analog
"""

from __future__ import annotations

import torch
from torch import Tensor

EVENTS = ("sent", "unit", "binary")
STATIC, CONSTANT, CURRENT, EVENT, VALUE, BITS = range(3, 9)
ROWS = 9


def empty(*shape: int) -> Tensor:
    """Rows of zeros for a value of this shape."""
    return torch.zeros(ROWS, *shape, dtype=torch.float64)


def mask(values: Tensor) -> Tensor:
    """1 where a number is not zero."""
    return values.ne(0).double()


def sums(value: Tensor) -> Tensor:
    """Sum over all elements, one number per row."""
    return value.reshape(ROWS, -1).sum(dim=1)


def constant_rows(tensor: Tensor, axes: int) -> Tensor:
    """Rows of a constant.

    Args:
        tensor: the constant.
        axes: number of axes of the sample that it has to broadcast against.
    """
    nonzero = tensor.detach().cpu().ne(0).double()
    while nonzero.ndim > axes and nonzero.shape[0] == 1:
        nonzero = nonzero[0]
    nonzero = nonzero.reshape([1] * (axes - nonzero.ndim) + list(nonzero.shape))
    rows = empty(*nonzero.shape)
    rows[[CONSTANT, VALUE]] = nonzero
    return rows


def aligned(term: Tensor, axes: int) -> Tensor:
    """Insert axes behind the rows, so that a term broadcasts as it does behind the batch axis."""
    return term.reshape(len(term), *[1] * (axes + 1 - term.ndim), *term.shape[1:])


__all__ = [
    "BITS",
    "CONSTANT",
    "CURRENT",
    "EVENT",
    "EVENTS",
    "ROWS",
    "STATIC",
    "VALUE",
    "aligned",
    "constant_rows",
    "empty",
    "mask",
    "sums",
]

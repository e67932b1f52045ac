"""How the time average of a spiking network becomes its output."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from transpike.graph.network import Network, Node, Value, leaves

BLOCK = 1024
"""Timesteps whose values are summed in their own type, before float64 takes the sum over."""


def pooled(network: Network, node: Node, total: Tensor) -> Tensor:
    """Apply a cumulative operation to the sum of its inputs."""
    values: Tensor = network.compute(node, {node.reads[0]: total}, len(total))
    return values


def frontier(network: Network) -> tuple[str, ...]:
    """Names of the values whose time average is read out.

    These are the outputs and the values that the tail reads.
    """
    produced_by_tail = network.tail
    constants = {node.name for node in network.nodes if node.kind == "constant"}
    read = [n for node in network.nodes if node.name in produced_by_tail for n in node.reads]
    read += [leaf.name for leaf in leaves(network.outputs) if isinstance(leaf, Value)]
    return tuple(dict.fromkeys(n for n in read if n not in produced_by_tail and n not in constants))


def mean_of(total: Tensor, t: int) -> Tensor:
    """Divide a total by t so that every element is rounded in the same way.

    PyTorch replaces a division by a Python number with a product by its reciprocal, but only for
    some elements. A division by a tensor has no such exception.
    """
    return total / total.new_full([1] * total.ndim, t)


def read_out(network: Network, means: Mapping[str, Tensor], rows: int) -> list[Tensor]:
    """Run the tail once on time averages (rows, ...) and return the flat outputs."""
    values: dict[str, Any] = dict(means)
    for node in network.nodes:
        if node.name in network.tail or node.kind == "constant":
            values[node.name] = network.compute(node, values, rows)
    return [network.resolve(leaf, values, rows) for leaf in network.outputs]


@dataclass
class RunningSum:
    """The sum over time of a value (B, ...), which does not drift in long simulations.

    A float32 sum of millions of values would lose the small ones. So the values of `BLOCK`
    timesteps are summed in their own type, and the sums of earlier blocks in float64. Until the
    end of the first block, the sum is what plain addition gives.

    Attributes:
        recent: sum of the values since the last full block.
        earlier: float64 sum of the full blocks, or None before the end of the first one.
    """

    recent: Tensor
    earlier: Tensor | None = None

    def add(self, value: Tensor, t: int) -> None:
        """Add the value of timestep t (1-based), in place."""
        if (t - 1) % BLOCK:
            self.recent += value
            return
        recent = self.recent.double()
        self.earlier = recent if self.earlier is None else self.earlier + recent
        self.recent = value.clone()

    def total(self) -> Tensor:
        """The sum so far as a new tensor, in float64 after the first block."""
        return self.recent.clone() if self.earlier is None else self.earlier + self.recent

    def mean(self, count: int) -> Tensor:
        """The sum so far divided by `count`, in the type of the values."""
        return mean_of(self.total(), count).to(self.recent.dtype)

    def keep(self, rows: Tensor) -> None:
        """Continue with some samples only."""
        self.recent = self.recent[rows]
        self.earlier = None if self.earlier is None else self.earlier[rows]

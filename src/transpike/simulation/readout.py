"""How the time average of a spiking network becomes its output."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from transpike.graph.network import Network, Node, Value, leaves


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

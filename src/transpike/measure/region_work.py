"""The analog work of regions: multiplications, additions and function evaluations.

A region is computed on the running means of its inputs, in ordinary arithmetic. One evaluation of
all its nodes for one sample costs:

    matrix product, attention        one multiply-accumulate per element of the contracted axis
    product or quotient, factor      one multiply-accumulate per result
    normalization                    two multiply-accumulates and one evaluation per result
    any other function               one evaluation per result; softmax also one addition
    sum, mean, pool                  one addition per element that enters
    reshape, transpose, split        nothing

The difference to the value before is one more addition per output and timestep. Spikes and currents
are accumulated into the running sums as into a membrane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from transpike.graph.network import INPUT, Network, Node
from transpike.graph.ops import OPERATIONS, packet
from transpike.graph.regions import Region

_NORMS = frozenset(
    "layer_norm native_layer_norm group_norm native_group_norm rms_norm _fused_rms_norm "
    "instance_norm".split()
)
_MULTIPLIED = frozenset("mul div pow square addcmul lerp".split())
_ADDED = frozenset("add sub rsub mean sum var std var_mean std_mean".split())


@dataclass(frozen=True)
class Work:
    """The work of one evaluation of a region for one sample.

    Attributes:
        macs: multiply-accumulates.
        evaluations: values of nonlinear functions of single elements.
        additions: additions inside of the region.
        outputs: number of elements that it sends.
    """

    macs: int
    evaluations: int
    additions: int
    outputs: int


def work_of(network: Network, region: Region, products: Mapping[str, int]) -> Work:
    """Count the work of one evaluation of a region for one sample.

    Args:
        network: the network.
        region: one of its regions.
        products: what `macs_of` returns for the network.
    """
    macs = evaluations = additions = 0
    for node in region.nodes:
        name, results = packet(node.op), _results(network, node)
        role = OPERATIONS[node.op].role
        entered = sum(_elements(network, read) for read in node.reads)
        if node.name in products or role in ("copy", "pad"):
            macs += products.get(node.name, 0)
        elif name in _NORMS:
            macs, evaluations = macs + 2 * results, evaluations + results
        elif name in _MULTIPLIED or role == "scale":
            macs += results
        elif name in _ADDED or role in ("sum", "mean", "window"):
            additions += entered
        else:
            evaluations += results
            additions += results if "softmax" in name else 0
    outputs = sum(_elements(network, name) for name in region.outputs)
    return Work(macs, evaluations, additions, outputs)


def _results(network: Network, node: Node) -> int:
    """Number of elements of a result. Several tensors count as the values they are made from."""
    if node.shape is None:
        return sum(_elements(network, name) for name in node.reads)
    return _elements(network, node.name)


def _elements(network: Network, name: str) -> int:
    if name == INPUT:
        return prod(network.input_shape)
    node = network.by_name[name]
    if node.kind == "constant":
        return 0
    return _results(network, node) if node.shape is None else prod(abs(n) for n in node.shape)


__all__ = ["Work", "work_of"]

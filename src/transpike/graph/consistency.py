"""Check that the parts of a network fit each other, as `capture` makes them.

A network that was read from a file may hold anything. Everything that follows from other parts is
computed again and compared: kinds, shapes, sites, and the arguments at other sizes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph import ops
from transpike.graph.ambient import isolated
from transpike.graph.capture import misplaced
from transpike.graph.network import (
    INPUT,
    Argument,
    Network,
    Node,
    Value,
    Weight,
    concrete,
    leaves,
    operation,
)
from transpike.graph.site_list import site_at
from transpike.graph.sizes import Size

_FLOATING = (torch.float32, torch.float64)
_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool)
_BATCHES = (2, 3)  # Two batch sizes tell a multiple of the batch size from a plain number.
# Arguments by their names in the schemas of ATen.
_POSITIVE = frozenset(
    "kernel_size stride dilation groups downscale_factor upscale_factor chunks split_size "
    "divisor_override".split()
)
_NOT_NEGATIVE = frozenset(("padding", "output_padding"))
_SCALES = ("scales", "scales_d", "scales_h", "scales_w")
_INDEXING = ("index", "index_select")
_NEURONS = (ops.RELU, ops.SPIKES)
_MOST_INDICES = 2**24  # values of a constant that are computed to check indices


@isolated()
def check_network(network: Network) -> None:
    """Refuse a network whose parts do not fit each other.

    No weight is multiplied: shapes are computed without values.

    Raises:
        DataError: something does not fit. The error names the node, the site or the tensor.
    """
    _check_nodes(network)
    _check_outputs(network)
    _check_tensors(network)
    _check_sites(network)
    for rows in _BATCHES:
        _Shapes(network, rows).check()
    for refusal in misplaced(network.nodes, network.outputs, (-1, *network.input_shape), {}):
        raise DataError(str(refusal))
    _check_regions(network)
    _check_sizes(network)


def _check_nodes(network: Network) -> None:
    defined, signals = {INPUT}, {INPUT}
    for node in network.nodes:
        if not node.name or node.name in defined:
            raise DataError(f"node '{node.name}': needed a name of its own.")
        if node.op not in ops.KNOWN | ops.CONSTANT:
            raise DataError(f"node '{node.name}': unknown operation '{node.op}'.")
        _check_references((node.args, node.kwargs), defined, network, f"node '{node.name}'")
        _check_kind(node, signals)
        _check_arguments(node)
        defined.add(node.name)
        if node.kind != "constant":
            signals.add(node.name)


def _check_references(argument: Argument, defined: set[str], network: Network, at: str) -> None:
    for leaf in leaves(argument):
        if isinstance(leaf, Value) and leaf.name not in defined:
            raise DataError(f"{at}: value '{leaf.name}' is read before it is computed.")
        if isinstance(leaf, Weight) and leaf.name not in network.tensors:
            raise DataError(f"{at}: tensor '{leaf.name}' is missing.")


def _check_kind(node: Node, signals: set[str]) -> None:
    """Compare the kind with the table of operations, and the signals with what is allowed."""
    of_signals = any(name in signals for name in node.reads)
    needed = ops.OPERATIONS[node.op].kind if of_signals else "constant"
    inner = of_signals and node.kind in ("function", "readout") and node.op not in _NEURONS
    if node.kind != needed and not inner:
        raise DataError(f"node '{node.name}': needed kind '{needed}', got '{node.kind}'.")
    if node.kind == "site" and node.op not in _NEURONS:
        raise DataError(f"node '{node.name}': needed kind 'function', got 'site'.")
    if node.kind != "linear":
        return
    rule = ops.OPERATIONS[node.op].signals
    where = [
        any(isinstance(leaf, Value) and leaf.name in signals for leaf in leaves(argument))
        for argument in (*node.args, *node.kwargs.values())
    ]
    if (rule == "first" and any(where[1:])) or (rule == "one" and sum(where) > 1):
        raise DataError(f"node '{node.name}': {ops.SIGNAL_PRODUCT[0]}")


def _named_arguments(node: Node) -> dict[str, Argument]:
    """Return the arguments of a node by their names in the schema of ATen."""
    names = [argument.name for argument in _schema(node)]
    return dict(zip(names, node.args, strict=False)) | dict(node.kwargs)


def _schema(node: Node) -> list[Any]:
    """Return what ATen says about each argument of an operation. It knows no others."""
    if "." not in node.op:  # our own operations
        return []
    function: Any = operation(node.op)
    return list(function._schema.arguments)


def _check_arguments(node: Node) -> None:
    """Refuse numbers that an operation cannot take, also where it would not notice them."""
    types = {argument.name: str(argument.type) for argument in _schema(node)}
    for name, argument in _named_arguments(node).items():
        numbers = [leaf for leaf in leaves(argument) if isinstance(leaf, int | float)]
        if types.get(name) == "bool" and argument not in (0, 1):
            raise DataError(f"node '{node.name}': needed a flag as {name}, got {argument}.")
        least = 1 if name in _POSITIVE else 0 if name in _NOT_NEGATIVE else -math.inf
        if any(number < least for number in numbers):
            raise DataError(f"node '{node.name}': needed {name} >= {least}, got {argument}.")
        fills = node.kind in ("constant", "function", "readout")
        fills = fills or ops.OPERATIONS[node.op].pad_value_at is not None
        if not fills and any(math.isinf(number) for number in numbers):
            raise DataError(f"node '{node.name}': needed finite numbers, got {name}={argument}.")


def _check_outputs(network: Network) -> None:
    defined = {INPUT, *network.by_name}
    for leaf in network.outputs:
        if not isinstance(leaf, Value) or leaf.name not in defined:
            raise DataError(f"outputs: needed the values of nodes, got {leaf!r}.")
    if len(network.outputs) != network.output_spec.tensors:
        raise DataError(
            f"outputs: needed {network.output_spec.tensors} for the structure of the output, got "
            f"{len(network.outputs)}."
        )
    used = {leaf.name for leaf in network.outputs if isinstance(leaf, Value)}
    used.update(name for node in network.nodes for name in node.reads)
    unused = [node.name for node in network.nodes if node.name not in used]
    if unused:
        raise DataError(f"node '{unused[0]}': nothing reads it.")


def _check_tensors(network: Network) -> None:
    everything = [(node.args, node.kwargs) for node in network.nodes]
    used = {leaf.name for leaf in leaves(everything) if isinstance(leaf, Weight)}
    for name, tensor in network.tensors.items():
        if name not in used:
            raise DataError(f"tensor '{name}': no node reads it.")
        if tensor.dtype in _FLOATING:
            if tensor.dtype != network.dtype or not bool(torch.isfinite(tensor).all()):
                raise DataError(
                    f"tensor '{name}': needed finite values of {network.dtype}, as in all other "
                    "tensors."
                )
        elif tensor.dtype not in _WHOLE:
            raise DataError(f"tensor '{name}': needed another type than {tensor.dtype}.")
    if network.dtype not in _FLOATING:
        raise DataError(f"needed a network in float32 or float64, got {network.dtype}.")


def _check_sites(network: Network) -> None:
    nodes = [node for node in network.nodes if node.kind == "site"]
    if [site.node for site in network.sites] != [node.name for node in nodes] or not nodes:
        raise DataError("sites: needed one for each node that is a site, in the same order.")
    if len({site.name for site in network.sites}) != len(nodes):
        raise DataError("sites: needed a name of its own for each site.")
    for node, site in zip(nodes, network.sites, strict=True):
        bound = node.kwargs.get("upper_bound")
        unbounded = bound is None or (isinstance(bound, int | float) and bound is not True)
        if not unbounded or (bound is not None and not bound > 0):
            raise DataError(f"node '{node.name}': needed upper_bound > 0 or none, got {bound!r}.")
        simple = len(node.args) == 1 and isinstance(node.args[0], Value)
        settings = set() if node.op == ops.SPIKES else {"upper_bound"}
        if not simple or node.kwargs.keys() != settings or len(node.shape or ()) < 2:
            raise DataError(f"node '{node.name}': needed the activation of one signal.")
        needed = site_at(node, site.name, network.by_name)
        if site != needed:
            raise DataError(f"site '{site.name}': needed {needed}, got {site}.")


def _check_regions(network: Network) -> None:
    """Refuse regions whose nodes do not follow each other, and readout before neurons."""
    place = {node.name: index for index, node in enumerate(network.nodes)}
    for region in network.regions.values():
        first, last = place[region.nodes[0].name], place[region.nodes[-1].name]
        if last - first + 1 != len(region.nodes):
            raise DataError(f"node '{region.name}': needed the nodes of its region side by side.")
    for node in network.nodes:
        if node.kind == "readout" and node.name not in network.tail:
            raise DataError(f"node '{node.name}': needed no site behind kind 'readout'.")


class _Shapes:
    """One run of the network that computes shapes and types, for one number of samples."""

    def __init__(self, network: Network, rows: int) -> None:
        self.network, self.rows = network, rows
        self.bare = network.to(device="meta")  # Tensors on the meta device hold no values.
        shape = (rows, *network.input_shape)
        start = torch.empty(shape, dtype=network.dtype, device=self.bare.device)
        self.values: dict[str, Any] = {INPUT: start}
        self.constants: dict[str, Any] = {}

    def check(self) -> None:
        """Compare the shape and the type of every value with those of its node.

        Raises:
            DataError: a shape or a type is another one, or an operation refuses its arguments.
        """
        sites = self.network.site_of
        for node in self.network.nodes:
            source: Any = self.values[node.reads[0]] if node.reads else None
            try:
                value = source if node.name in sites else self._computed(node)
            except Exception as error:  # PyTorch raises errors of many types.
                first = (str(error).strip().splitlines() or [""])[0]
                raise DataError(
                    f"node '{node.name}': {node.op} refuses its arguments: {first}"
                ) from error
            self.values[node.name] = value
            self._compare(node, value)
            self._check_bias(node, value)
            if source is not None and ops.packet(node.op).startswith("upsample"):
                _check_scales(node, source.shape[2:], value.shape[2:])
            if node.kind == "constant" and isinstance(value, Tensor):
                self._keep(node, value)

    def _computed(self, node: Node) -> Any:
        if ops.packet(node.op) not in _INDEXING:
            return self.bare.compute(node, self.values, self.rows)
        # Real indices are checked here. Masks give a number of elements that depends on values.
        found = self.network.compute(node, _Stand(self.values, self.constants), self.rows)
        return found.to(self.bare.device)

    def _keep(self, node: Node, value: Tensor) -> None:
        """Compute a constant, if it is small, because others may use it as indices."""
        known = all(name in self.constants for name in node.reads)
        if known and value.numel() <= _MOST_INDICES:
            self.constants[node.name] = self.network.compute(node, self.constants, self.rows)

    def _check_bias(self, node: Node, value: Any) -> None:
        """Refuse a bias without one value per channel. Kernels without values do not notice it."""
        layer = ops.OPERATIONS[node.op]
        if layer.bias_at is None:
            return
        given = node.args[layer.bias_at : layer.bias_at + 1] or (node.kwargs.get("bias"),)
        bias = self.bare.resolve(given[0], self.values, self.rows)
        channels = value.shape[-1 if layer.channels_last else 1]
        if bias is not None and tuple(bias.shape) != (channels,):
            raise DataError(
                f"node '{node.name}': needed a bias ({channels},), got {tuple(bias.shape)}."
            )

    def _compare(self, node: Node, value: Any) -> None:
        if not isinstance(value, Tensor):
            parts = isinstance(value, tuple | list) and all(isinstance(v, Tensor) for v in value)
            if not parts or node.shape is not None:
                raise DataError(f"node '{node.name}': needed a tensor, got {type(value).__name__}.")
            return
        stated = node.shape
        needed = stated and tuple(-s * self.rows if s < 0 else s for s in stated)
        if needed != tuple(value.shape):
            raise DataError(
                f"node '{node.name}': needed shape {tuple(value.shape)} for {self.rows} samples, "
                f"got {stated}."
            )
        signal = node.kind in ("linear", "site", "cumulative")
        if signal and value.dtype != self.network.dtype:
            raise DataError(f"node '{node.name}': {ops.DTYPE[0]}")


class _Stand(dict[str, Any]):
    """Values of constants, and zeros for everything else."""

    def __init__(self, values: Mapping[str, Any], constants: Mapping[str, Any]) -> None:
        super().__init__(constants)
        self.shapes = values

    def __missing__(self, name: str) -> Tensor:
        like = self.shapes[name]
        if not like.is_floating_point():
            raise DataError(f"the indices '{name}' are not known.")
        return torch.zeros((), dtype=like.dtype).expand(like.shape)


def _check_scales(node: Node, before: torch.Size, after: torch.Size) -> None:
    """Refuse scales that do not lead to the size. The kernels read elsewhere in memory with them.

    Raises:
        DataError: a scale is another one.
    """
    named = _named_arguments(node)
    given = [named.get(name) for name in _SCALES if name in named]
    if not any(scale is not None for scale in given):
        return
    for scale, old, new in zip(given, before, after, strict=True):
        if scale is not None and not (scale > 0 and math.floor(old * scale) == new):
            raise DataError(f"node '{node.name}': needed scales from {old} to {new}, got {scale}.")


def _check_sizes(network: Network) -> None:
    """Refuse size steps and formulas that do not give the arguments at the network's own size."""
    own, sizes = network.input_shape[1:], network.sizes
    if sizes.steps and (len(sizes.steps) != len(own) or min(sizes.steps) < 0):
        raise DataError(f"sizes: needed {len(own)} steps >= 0, got {sizes.steps}.")
    unknown = [name for name in sizes.arguments if name not in network.by_name]
    if unknown:
        raise DataError(f"sizes: node '{unknown[0]}' is missing.")
    shapes: dict[str, tuple[int, ...]] = {INPUT: (-1, *network.input_shape)}
    for node in network.nodes:
        arguments = sizes.arguments.get(node.name)
        if arguments is not None:
            for leaf in leaves(arguments):
                if isinstance(leaf, Size) and not leaf.well_formed(len(own), shapes):
                    raise DataError(f"size of '{node.name}': unknown formula {leaf.formula!r}.")
            try:
                found = concrete(arguments, own, shapes)
            except (ArithmeticError, LookupError) as error:
                raise DataError(f"size of '{node.name}': {error}.") from error
            if found != (node.args, dict(node.kwargs)):
                raise DataError(f"size of '{node.name}': the formulas give other arguments.")
        shapes[node.name] = node.shape or ()


__all__ = ["check_network"]

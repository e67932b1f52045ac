"""A captured network as plain data: one normalized graph of ATen operations.

A `Network` holds all that is needed to run the analog network without the user's code: the nodes
in execution order, their constant tensors, and the structure of the output. BatchNorm is folded,
dropout is removed, and every call of an activation is a named site of its own.
"""

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from math import prod
from typing import Any, Literal

import torch
from torch import Tensor

from transpike.errors import DataError
from transpike.graph.ambient import isolated
from transpike.graph.limits import check_count, check_dense
from transpike.graph.regions import Region, regions_of, tail_of
from transpike.graph.sizes import Shapes, Size, Sizes
from transpike.graph.structure import Structure
from transpike.graph.windows import has_empty_window

Kind = Literal["linear", "site", "cumulative", "function", "readout", "constant"]
INPUT = "input"
"""The name of the value that holds the input of the network."""
_KEPT_SIZES = 8  # Graphs for other sizes that a network keeps.
_ROWS = 2  # Samples in the batch that finds the shapes at another size.


@dataclass(frozen=True)
class Value:
    """A reference to the result of a node or to the input."""

    name: str


@dataclass(frozen=True)
class Weight:
    """A reference to a constant tensor of the network."""

    name: str


@dataclass(frozen=True)
class Batch:
    """A number that is `multiple` times the batch size. It is known when the network runs."""

    multiple: int


Argument = Any
"""A Value, Weight, Batch, number, string, torch.dtype, None, or a nested tuple of these."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: the unique name of the result.
        op: the operation, such as "aten.conv2d.default", "getitem", "affine" or "relu".
        args: the positional arguments.
        kwargs: the keyword arguments.
        kind: the class of the operation, see `transpike.graph.ops`.
        place: the dotted path of the module in the user's model that calls the operation.
        shape: the shape of the result. A dimension of k times the batch size is -k. It is None if
            the operation returns several tensors.
    """

    name: str
    op: str
    args: tuple[Argument, ...]
    kwargs: Mapping[str, Argument]
    kind: Kind
    place: str
    shape: tuple[int, ...] | None

    @cached_property
    def reads(self) -> tuple[str, ...]:
        """The names of the values that this node reads, in order of appearance."""
        return tuple(
            leaf.name for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Value)
        )


@dataclass(frozen=True)
class Site:
    """A place where an activation is called. It becomes one population of neurons.

    Attributes:
        name: a dotted path that the user recognizes, such as "layer1.0.relu_1".
        node: the name of the node.
        shape: the shape of the activation for one sample.
        channel_axis: the axis of the channels in the batched tensor. Thresholds lie along it.
        channels: the number of channels.
        upper_bound: c of an activation clamp(x, lower, c), in activation units. None for ReLU.
        lower_bound: the lower bound of the activation, in activation units, <= 0. None means that
            the activation is the identity, as behind a region. The bounds of its neurons are then
            the least and the largest value of the calibration data.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    channel_axis: int
    channels: int
    upper_bound: float | None
    lower_bound: float | None = 0.0

    @property
    def follows_region(self) -> bool:
        """Whether the neurons send the value of a region, which has no bounds of its own."""
        return self.lower_bound is None

    @property
    def neurons(self) -> int:
        """The number of neurons for one sample."""
        return prod(self.shape)

    def along_channels(self, values: Tensor) -> Tensor:
        """Reshape a vector of one value per channel so that it broadcasts over (B, ...)."""
        shape = [1] * (len(self.shape) + 1)
        shape[self.channel_axis] = -1
        return values.reshape(shape)

    def activate(self, x: Tensor) -> Tensor:
        """Apply the analog activation of this site."""
        if self.lower_bound is None:
            return x
        return torch.clamp(x, min=self.lower_bound, max=self.upper_bound)


def leaves(argument: Argument) -> list[Argument]:
    """Return all leaves of nested tuples, lists and dicts, in order."""
    if isinstance(argument, tuple | list):
        return [leaf for item in argument for leaf in leaves(item)]
    if isinstance(argument, Mapping):
        return [leaf for item in argument.values() for leaf in leaves(item)]
    return [argument]


def map_leaves(function: Callable[[Argument], Argument], argument: Argument) -> Argument:
    """Apply `function` to every leaf and keep the nesting. Lists become tuples."""
    if isinstance(argument, tuple | list):
        return tuple(map_leaves(function, item) for item in argument)
    if isinstance(argument, Mapping):
        return {key: map_leaves(function, item) for key, item in argument.items()}
    return function(argument)


def concrete(argument: Argument, size: Sequence[int], shapes: Shapes) -> Argument:
    """Return an argument with the number in place of every `Size`."""
    return map_leaves(
        lambda leaf: leaf.at(size, shapes) if isinstance(leaf, Size) else leaf, argument
    )


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Apply a BatchNorm that could not be folded: scale and shift each channel of axis 1."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def operation(name: str) -> Callable[..., Any]:
    """Return the function of an operation."""
    if name == "affine":
        return affine
    if name == "getitem":
        return operator.getitem
    _, packet, overload = name.split(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return function


@dataclass(frozen=True)
class Network:
    """A trained network as a normalized graph. If you call it, it runs the folded analog network.

    Attributes:
        nodes: the operations in execution order.
        tensors: the constant tensors (folded weights and biases) by name.
        sites: the calls of activations in execution order.
        outputs: the outputs as a flat tuple of Value.
        output_spec: the structure of the model's output.
        input_shape: the shape of one sample, (C, ...). The shapes of all nodes belong to it.
        input_dtype: the floating-point type of the input, for networks without weights.
        sizes: the other sizes of the input that the network takes, see `at`.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    sites: tuple[Site, ...]
    outputs: tuple[Argument, ...]
    output_spec: Structure
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype = torch.float32
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        for tensor in self.tensors.values():
            if tensor.is_floating_point():
                return tensor.dtype
        return self.input_dtype

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        for tensor in self.tensors.values():
            return tensor.device
        return torch.device("cpu")

    @property
    def neurons(self) -> int:
        """The number of neurons for one sample, summed over all sites."""
        return sum(site.neurons for site in self.sites)

    @cached_property
    def fingerprint(self) -> str:
        """The SHA-256 of the weights in float64. It does not depend on the device or the type."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """The nodes by the name of their result."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def site_of(self) -> dict[str, Site]:
        """The sites by the name of their node."""
        return {site.node: site for site in self.sites}

    @cached_property
    def tail(self) -> frozenset[str]:
        """The nodes after the readout, from which no neuron and no running sum is reachable."""
        return tail_of(self.nodes)

    @cached_property
    def regions(self) -> dict[str, Region]:
        """The regions by the names of their nodes."""
        read_out = [leaf.name for leaf in leaves(self.outputs) if isinstance(leaf, Value)]
        found = regions_of(self.nodes, read_out)
        return {node.name: region for region in found for node in region.nodes}

    @cached_property
    def last_reader(self) -> dict[str, str]:
        """The last node that reads each value, by name. Values of the output have no entry."""
        last = {name: node.name for node in self.nodes for name in node.reads}
        for leaf in leaves(self.outputs):
            if isinstance(leaf, Value):
                last.pop(leaf.name, None)
        return last

    @cached_property
    def depth(self) -> dict[str, int]:
        """The number of sites on the longest path from the input to each site, itself included."""
        reached = {INPUT: 0}
        for node in self.nodes:
            before = max((reached[name] for name in node.reads), default=0)
            reached[node.name] = before + (node.name in self.site_of)
        return {site.name: reached[site.node] for site in self.sites}

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Network:
        """Return this network in another floating-point type or on another device."""
        moved = {
            name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            for name, tensor in self.tensors.items()
        }
        return self.with_tensors(moved, dtype or self.input_dtype)

    def with_tensors(self, tensors: Mapping[str, Tensor], input_dtype: torch.dtype) -> Network:
        """Return the same graph with other tensors. What is derived from the graph is kept."""
        other = replace(self, tensors=tensors, input_dtype=input_dtype)
        for name in ("by_name", "site_of", "tail", "regions", "last_reader", "depth", "_resized"):
            other.__dict__[name] = getattr(self, name)
        return other

    @cached_property
    def _resized(self) -> dict[tuple[int, ...], Network]:
        """The graphs for other sizes that were used so far, without tensors."""
        return {}

    def at(self, size: Sequence[int]) -> Network:
        """Return the same network for inputs of another size. Both share their tensors.

        Args:
            size: the sizes of the axes after the channels, such as height and width, in pixels.

        Raises:
            DataError: the network does not take this size. The error names the axis or the
                operation.
        """
        size = tuple(size)
        own = self.input_shape[1:]
        if size == own:
            return self
        if len(size) != len(own):
            raise DataError(f"size: needed {len(own)} numbers as in {own}, got {size}.")
        if size not in self._resized:
            needed = f"sample shape {self.input_shape}, got {(self.input_shape[0], *size)}"
            try:
                self.sizes.check(size, own)
                found = self.followed(size)
            except DataError as error:
                raise DataError(f"input shape: needed {needed}: {error}") from error
            while len(self._resized) >= _KEPT_SIZES:
                self._resized.pop(next(iter(self._resized)))
            self._resized[size] = found
            found.__dict__["_resized"] = self._resized
        return self._resized[size].with_tensors(self.tensors, self.input_dtype)

    def sized_for(self, x: Tensor, *, time_axis: bool = False) -> Network:
        """Return the network for the size of x, which is (B, ...), or (T, B, ...) with `time_axis`.

        An x with another number of axes or channels is left to `check_input`.

        Raises:
            DataError: see `at`.
        """
        skip = 2 if time_axis else 1
        shape = tuple(x.shape) if isinstance(x, Tensor) and not x.is_nested else ()
        alike = len(shape) == skip + len(self.input_shape) and 0 not in shape
        if not alike or shape[skip] != self.input_shape[0]:
            return self
        return self.at(shape[skip + 1 :])

    def followed(self, size: tuple[int, ...]) -> Network:
        """Return the graph for another size, without tensors, and do not check `sizes`.

        Raises:
            DataError: an operation cannot take this size. The error names it.
        """
        # On PyTorch's meta device tensors hold a shape but no values.
        bare = self.to(device="meta")
        shape = (_ROWS, self.input_shape[0], *size)
        values: dict[str, Any] = {INPUT: torch.empty(shape, dtype=self.dtype, device=bare.device)}
        shapes: dict[str, Sequence[int]] = {INPUT: shape}
        nodes: dict[str, Node] = {}
        sites = []
        for node in self.nodes:
            site = self.site_of.get(node.name)
            try:
                if node.name in self.sizes.arguments:
                    args, kwargs = concrete(self.sizes.arguments[node.name], size, shapes)
                    node = replace(node, args=args, kwargs=kwargs)
                value = values[node.reads[0]] if site else bare.compute(node, values, _ROWS)
            except (RuntimeError, LookupError, ValueError, TypeError, ArithmeticError) as error:
                raise DataError(_cannot_take(node, str(error))) from error
            values[node.name] = value
            node = replace(node, shape=_shape_like(node, value))
            nodes[node.name] = node
            shapes[node.name] = node.shape or ()
            if has_empty_window(node, nodes, shapes):
                raise DataError(_cannot_take(node, "a window would hold padding only"))
            if site is not None:
                sites.append(_site_like(site, node.shape or ()))
        return replace(
            self,
            nodes=tuple(nodes.values()),
            sites=tuple(sites),
            tensors={},
            input_shape=(self.input_shape[0], *size),
        )

    def __call__(self, x: Tensor) -> Any:
        """Run the analog network on x (B, ...). The output has the structure of the model's."""
        return self.run(x, lambda site, z: site.activate(z))

    @isolated()
    def run(self, x: Tensor, at_site: Callable[[Site, Tensor], Tensor]) -> Any:
        """Run the graph with `at_site(site, input)` in place of every activation.

        For an input of another size it runs the network `at` that size.
        """
        sized = self.sized_for(x)
        if sized is not self:
            return sized.run(x, at_site)
        self.check_input(x)
        values: dict[str, Any] = {INPUT: x}
        for node in self.nodes:
            site = self.site_of.get(node.name)
            if site is not None:
                values[node.name] = at_site(site, values[node.reads[0]])
            else:
                values[node.name] = self.compute(node, values, len(x))
            for name in node.reads:
                if self.last_reader.get(name) == node.name:
                    values.pop(name, None)
        return self.structured([self.resolve(leaf, values, len(x)) for leaf in self.outputs])

    def compute(self, node: Node, values: Mapping[str, Any], rows: int) -> Any:
        """Compute one node that is not a site. `rows` is the length of the batch axis."""
        args = map_leaves(lambda leaf: self.resolve(leaf, values, rows), node.args)
        kwargs = map_leaves(lambda leaf: self.resolve(leaf, values, rows), node.kwargs)
        if "device" in kwargs:
            kwargs["device"] = self.device
        result = operation(node.op)(*args, **kwargs)
        if node.shape is not None and isinstance(result, tuple):
            return result[0]  # The pooled values without the indices.
        return result

    def resolve(self, leaf: Argument, values: Mapping[str, Any], rows: int) -> Any:
        """Return the value of one leaf of a node's arguments."""
        if isinstance(leaf, Value):
            return values[leaf.name]
        if isinstance(leaf, Weight):
            return self.tensors[leaf.name]
        if isinstance(leaf, Batch):
            return leaf.multiple * rows
        if isinstance(leaf, torch.dtype) and leaf.is_floating_point:
            return self.dtype
        return leaf

    def structured(self, flat: list[Any]) -> Any:
        """Arrange flat outputs as the model does. Named tuples and dataclasses become `Fields`."""
        return self.output_spec.arrange(flat)

    def check_input(self, x: Tensor, *, time_axis: bool = False) -> None:
        """Refuse input of another shape, type or device, or with NaN or infinite values.

        Raises:
            DataError: the input does not fit. The error names what was needed.
        """
        lead = "(T, B, ...)" if time_axis else "(B, ...)"
        skip = 2 if time_axis else 1
        check_dense("input", x, lead)
        needed = f"{lead} with sample shape {self.input_shape}"
        if tuple(x.shape[skip:]) != self.input_shape or x.ndim != skip + len(self.input_shape):
            sizes = self.sizes.describe(self.input_shape[1:]) if self.sizes.vary else ""
            also = f" Or another size: {sizes}." if sizes else ""
            raise DataError(f"input shape: needed {needed}, got {tuple(x.shape)}.{also}")
        if 0 in x.shape:
            raise DataError(f"input is empty: got shape {tuple(x.shape)}.")
        if x.dtype != self.dtype:
            raise DataError(
                f"input dtype: needed {self.dtype}, got {x.dtype}. Convert it with "
                f"x.to({self.dtype}), or the network with .to(dtype={x.dtype})."
            )
        if x.device != self.device:
            raise DataError(
                f"input device: the network is on {self.device}, the input on {x.device}. "
                f"Move it with x.to('{self.device}')."
            )
        if not bool(torch.isfinite(x).all()):
            raise DataError("input holds NaN or infinite values; clean the data first.")


def _cannot_take(node: Node, error: str) -> str:
    first = (error.strip().splitlines() or [""])[0]
    return (
        f"{node.op} at '{node.place or '<model>'}' cannot take this size ({first}). Use an input "
        "of the size that the network was captured with."
    )


def _shape_like(node: Node, value: Any) -> tuple[int, ...] | None:
    """Return the shape of a node's value, with -k for each size that depends on the batch."""
    if not isinstance(value, Tensor) or node.shape is None:
        return None
    if value.ndim != len(node.shape):
        raise DataError(_cannot_take(node, f"its output has {value.ndim} axes"))
    pairs = zip(node.shape, value.shape, strict=True)
    return tuple(old if old < 0 else int(new) for old, new in pairs)


def _site_like(site: Site, shape: tuple[int, ...]) -> Site:
    """Return a site at another size.

    Raises:
        DataError: the number of channels changes, so the thresholds do not fit.
    """
    channels = shape[site.channel_axis] if site.channel_axis < len(shape) else 1
    if channels != site.channels:
        raise DataError(
            f"site '{site.name}' has one threshold for each of {site.channels} positions, and "
            f"this size has {channels}. Use an input of the size that the network was captured "
            "with."
        )
    return replace(site, shape=shape[1:])


def check_timesteps(timesteps: int) -> None:
    """Raise an ArgumentError unless `timesteps` is an integer from 1 to 2^24."""
    check_count("timesteps", timesteps)

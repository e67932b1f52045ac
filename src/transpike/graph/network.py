"""The intermediate representation: one normalized graph of ATen operations, as plain data.

A `Network` holds everything needed to run the analog network without the user's code: nodes in
execution order, their constant tensors, and the structure of the output. BatchNorm is folded,
dropout is gone, and every activation *call* is a named site of its own.
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
from torch.utils import _pytree as pytree

from transpike.errors import ArgumentError, DataError
from transpike.graph.ambient import isolated
from transpike.graph.sizes import Shapes, Size, Sizes

Kind = Literal["linear", "site", "cumulative", "readout", "constant"]
INPUT = "input"
"""Name of the value that holds the network's input."""
_KEPT_SIZES = 8  # graphs of other sizes that a network keeps
_ROWS = 2  # samples that are followed through the graph to find the shapes at another size


@dataclass(frozen=True)
class Value:
    """Reference to the result of a node, or to the input."""

    name: str


@dataclass(frozen=True)
class Weight:
    """Reference to a constant tensor of the network."""

    name: str


@dataclass(frozen=True)
class Batch:
    """A size that is `multiple` times the batch size, known only when the network runs."""

    multiple: int


Argument = Any
"""Value, Weight, Batch, a number, string, None, torch.dtype, or a (nested) tuple of these."""


@dataclass(frozen=True)
class Node:
    """One operation.

    Attributes:
        name: unique name of the result.
        op: "aten.conv2d.default" and the like, "getitem", "affine" or "relu".
        args: positional arguments.
        kwargs: keyword arguments.
        kind: the class of operation, see `transpike.graph.ops`.
        place: dotted path of the module in the user's model that calls it.
        shape: shape of the result; a batch dimension of k times the batch size is -k. None for
            operations that return several tensors.
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
        """Names of the values this node reads, in order of appearance."""
        return tuple(
            leaf.name for leaf in leaves((self.args, self.kwargs)) if isinstance(leaf, Value)
        )


@dataclass(frozen=True)
class Site:
    """A place where an activation is called: one population of neurons.

    Attributes:
        name: dotted path a user recognizes, such as "layer1.0.relu_1".
        node: name of the node.
        shape: shape of the activation of one sample.
        channel_axis: axis of the channels in the batched tensor; thresholds lie along it.
        channels: number of channels.
        upper_bound: c of an activation clamp(x, 0, c), activation units; None for ReLU.
    """

    name: str
    node: str
    shape: tuple[int, ...]
    channel_axis: int
    channels: int
    upper_bound: float | None

    @property
    def neurons(self) -> int:
        """Number of neurons per sample."""
        return prod(self.shape)

    def along_channels(self, values: Tensor) -> Tensor:
        """View a vector of one value per channel so that it broadcasts over (B, ...)."""
        shape = [1] * (len(self.shape) + 1)
        shape[self.channel_axis] = -1
        return values.reshape(shape)

    def activate(self, x: Tensor) -> Tensor:
        """The analog activation of this site."""
        return torch.clamp(x, min=0, max=self.upper_bound)


def leaves(argument: Argument) -> list[Argument]:
    """All leaves of nested tuples, lists and dicts, in order."""
    if isinstance(argument, tuple | list):
        return [leaf for item in argument for leaf in leaves(item)]
    if isinstance(argument, Mapping):
        return [leaf for item in argument.values() for leaf in leaves(item)]
    return [argument]


def map_leaves(function: Callable[[Argument], Argument], argument: Argument) -> Argument:
    """Apply `function` to every leaf, keeping the nesting (lists become tuples)."""
    if isinstance(argument, tuple | list):
        return tuple(map_leaves(function, item) for item in argument)
    if isinstance(argument, Mapping):
        return {key: map_leaves(function, item) for key, item in argument.items()}
    return function(argument)


def concrete(argument: Argument, size: Sequence[int], shapes: Shapes) -> Argument:
    """An argument with every `Size` in it replaced by its number."""
    return map_leaves(
        lambda leaf: leaf.at(size, shapes) if isinstance(leaf, Size) else leaf, argument
    )


def affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """A BatchNorm that could not be folded: per-channel scale and shift along axis 1."""
    shape = [1, -1] + [1] * (x.ndim - 2)
    return x * scale.reshape(shape) + shift.reshape(shape)


def operation(name: str) -> Callable[..., Any]:
    """The function behind an operation's name."""
    if name == "affine":
        return affine
    if name == "getitem":
        return operator.getitem
    _, packet, overload = name.split(".")
    function: Callable[..., Any] = getattr(getattr(torch.ops.aten, packet), overload)
    return function


@dataclass(frozen=True)
class Network:
    """A trained network as a normalized graph; call it to run the analog (folded) network.

    Attributes:
        nodes: in execution order.
        tensors: constant tensors (folded weights and biases) by name.
        sites: the activation calls, in execution order.
        outputs: flat tuple of Value.
        output_spec: serialized pytree specification of the model's output structure.
        input_shape: shape of one sample, (C, ...); the shapes of all nodes are for this one.
        input_dtype: floating-point type of the input, for networks without weights.
        sizes: the other sizes that the network takes, see `at`.
    """

    nodes: tuple[Node, ...]
    tensors: Mapping[str, Tensor] = field(repr=False)
    sites: tuple[Site, ...]
    outputs: tuple[Argument, ...]
    output_spec: str
    input_shape: tuple[int, ...]
    input_dtype: torch.dtype = torch.float32
    sizes: Sizes = field(default_factory=Sizes)

    @property
    def dtype(self) -> torch.dtype:
        """Floating-point type of the weights."""
        for tensor in self.tensors.values():
            if tensor.is_floating_point():
                return tensor.dtype
        return self.input_dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        for tensor in self.tensors.values():
            return tensor.device
        return torch.device("cpu")

    @property
    def neurons(self) -> int:
        """Neurons per sample, over all sites."""
        return sum(site.neurons for site in self.sites)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the weights, in float64, so that moving a network does not change it."""
        digest = hashlib.sha256()
        for name, tensor in self.tensors.items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().double().numpy().tobytes())
        return digest.hexdigest()

    @cached_property
    def by_name(self) -> dict[str, Node]:
        """Nodes by the name of their result."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def site_of(self) -> dict[str, Site]:
        """Sites by the name of their node."""
        return {site.node: site for site in self.sites}

    @cached_property
    def tail(self) -> frozenset[str]:
        """Nodes after the readout: no site and no cumulative operation is reachable from them."""
        return tail_of(self.nodes)

    @cached_property
    def last_reader(self) -> dict[str, str]:
        """Name of the last node that reads each value; values of the output have none."""
        last = {name: node.name for node in self.nodes for name in node.reads}
        for leaf in leaves(self.outputs):
            if isinstance(leaf, Value):
                last.pop(leaf.name, None)
        return last

    @cached_property
    def depth(self) -> dict[str, int]:
        """Per site name, the sites on the longest path from the input to it, itself included."""
        reached = {INPUT: 0}
        for node in self.nodes:
            before = max((reached[name] for name in node.reads), default=0)
            reached[node.name] = before + (node.name in self.site_of)
        return {site.name: reached[site.node] for site in self.sites}

    def to(
        self, *, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Network:
        """A copy of this network in another floating-point type or on another device."""
        moved = {
            name: tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else None)
            for name, tensor in self.tensors.items()
        }
        return self.with_tensors(moved, dtype or self.input_dtype)

    def with_tensors(self, tensors: Mapping[str, Tensor], input_dtype: torch.dtype) -> Network:
        """The same graph with other tensors; what was derived from the graph is kept."""
        other = replace(self, tensors=tensors, input_dtype=input_dtype)
        for name in ("by_name", "site_of", "tail", "last_reader", "depth", "_resized"):
            other.__dict__[name] = getattr(self, name)
        return other

    @cached_property
    def _resized(self) -> dict[tuple[int, ...], Network]:
        """Graphs of other sizes that were asked for, without tensors."""
        return {}

    def at(self, size: Sequence[int]) -> Network:
        """The same network for inputs of another size; both share their tensors.

        Args:
            size: of the axes behind the channels, such as height and width.

        Returns:
            The network whose shapes and arguments are those for this size.

        Raises:
            DataError: the network does not take this size; names the axis or the operation.
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
        """The network for the size of x, (B, ...) or (T, B, ...) with `time_axis`.

        What does not look like an input of this network at all is left to `check_input`.

        Raises:
            DataError: see `at`.
        """
        skip = 2 if time_axis else 1
        shape = tuple(x.shape) if isinstance(x, Tensor) else ()
        alike = len(shape) == skip + len(self.input_shape) and 0 not in shape
        if not alike or shape[skip] != self.input_shape[0]:
            return self
        return self.at(shape[skip + 1 :])

    def followed(self, size: tuple[int, ...]) -> Network:
        """The graph for another size, without tensors: its shapes are found without computing.

        Raises:
            DataError: an operation cannot take this size; names it.
        """
        # Shapes are computed on torch's meta device, where tensors hold no values.
        bare = self.to(device="meta")
        shape = (_ROWS, self.input_shape[0], *size)
        values: dict[str, Any] = {INPUT: torch.empty(shape, dtype=self.dtype, device=bare.device)}
        shapes: dict[str, Sequence[int]] = {INPUT: shape}
        nodes, sites = [], []
        for node in self.nodes:
            if node.name in self.sizes.arguments:
                args, kwargs = concrete(self.sizes.arguments[node.name], size, shapes)
                node = replace(node, args=args, kwargs=kwargs)
            site = self.site_of.get(node.name)
            try:
                value = values[node.reads[0]] if site else bare.compute(node, values, _ROWS)
            except (RuntimeError, IndexError, ValueError, TypeError) as error:
                raise DataError(_cannot_take(node, str(error))) from error
            values[node.name] = value
            node = replace(node, shape=_shape_like(node, value))
            shapes[node.name] = node.shape or ()
            nodes.append(node)
            if site is not None:
                assert node.shape is not None
                sites.append(_site_like(site, node.shape))
        return replace(
            self,
            nodes=tuple(nodes),
            sites=tuple(sites),
            tensors={},
            input_shape=(self.input_shape[0], *size),
        )

    def __call__(self, x: Tensor) -> Any:
        """Run the analog network on x of shape (B, ...); the output mirrors the model's."""
        return self.run(x, lambda site, z: site.activate(z))

    @isolated()
    def run(self, x: Tensor, at_site: Callable[[Site, Tensor], Tensor]) -> Any:
        """Run the graph with `at_site(site, input)` in place of every activation.

        An input of another size is run by the network `at` this size.
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
        """Compute one node that is not a site, `rows` being the length of the batch axis."""
        args = map_leaves(lambda leaf: self.resolve(leaf, values, rows), node.args)
        kwargs = map_leaves(lambda leaf: self.resolve(leaf, values, rows), node.kwargs)
        if "device" in kwargs:
            kwargs["device"] = self.device
        result = operation(node.op)(*args, **kwargs)
        if node.kind == "cumulative" and isinstance(result, tuple):
            return result[0]  # pooled values, without the indices
        return result

    def resolve(self, leaf: Argument, values: Mapping[str, Any], rows: int) -> Any:
        """The run-time value of one leaf of a node's arguments."""
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
        """Arrange flat outputs as the user's model does (dicts, tuples, a single tensor)."""
        return pytree.tree_unflatten(flat, pytree.treespec_loads(self.output_spec))

    def check_input(self, x: Tensor, *, time_axis: bool = False) -> None:
        """Refuse input of the wrong shape, type or device, or with NaN or infinite values.

        Raises:
            DataError: names what was needed and what came.
        """
        lead = "(T, B, ...)" if time_axis else "(B, ...)"
        skip = 2 if time_axis else 1
        if not isinstance(x, Tensor):
            raise DataError(f"input: needed a tensor {lead}, got {type(x).__name__}.")
        needed = f"{lead} with sample shape {self.input_shape}"
        if tuple(x.shape[skip:]) != self.input_shape or x.ndim != skip + len(self.input_shape):
            raise DataError(f"input shape: needed {needed}, got {tuple(x.shape)}.")
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
    """The shape of a node's value, with multiples of the batch size marked as in the node's own."""
    if not isinstance(value, Tensor) or node.shape is None:
        return None
    if value.ndim != len(node.shape):
        raise DataError(_cannot_take(node, f"its output has {value.ndim} axes"))
    pairs = zip(node.shape, value.shape, strict=True)
    return tuple(old if old < 0 else int(new) for old, new in pairs)


def _site_like(site: Site, shape: tuple[int, ...]) -> Site:
    """A site at another size.

    Raises:
        DataError: its channels are as many as there are positions.
    """
    channels = shape[site.channel_axis] if site.channel_axis < len(shape) else 1
    if channels != site.channels:
        raise DataError(
            f"site '{site.name}' has one threshold for each of {site.channels} positions, and "
            f"this size has {channels}. Use an input of the size that the network was captured "
            "with."
        )
    return replace(site, shape=shape[1:])


def tail_of(nodes: tuple[Node, ...]) -> frozenset[str]:
    """Names of the nodes from which neither a site nor a cumulative operation is reachable."""
    reaches: set[str] = set()
    for node in reversed(nodes):
        if node.kind in ("site", "cumulative") or node.name in reaches:
            reaches.update(node.reads)
    tail: set[str] = set()
    for node in nodes:
        if node.name in reaches or node.kind not in ("linear", "readout"):
            continue
        # One part of a split is averaged over time, never the tuple of all parts.
        if node.op != "getitem" or node.reads[0] in tail:
            tail.add(node.name)
    return frozenset(tail)


def check_timesteps(timesteps: int) -> None:
    """Refuse anything but an integer >= 1.

    Raises:
        ArgumentError: `timesteps` is not an integer of at least 1.
    """
    if isinstance(timesteps, bool) or not isinstance(timesteps, int) or timesteps < 1:
        raise ArgumentError(f"timesteps: needed an integer >= 1, got {timesteps!r}.")

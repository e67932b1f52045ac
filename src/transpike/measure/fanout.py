"""How many synaptic operations a network's spikes cause: counts pushed through the graph.

Every linear operation is applied to event counts with its weights replaced by ones where they are
not zero, and without its bias. That gives each spike its true fan-out under any stride, padding,
grouping, dilation or transposition. Spikes are counted one by one, also where several arrive at
once.

What an event costs on its way from a site:

    reshape, split, concat, pad, nearest upsampling, scale   nothing; scales fold into weights
    addition of branches                                     nothing; the events of both go on
    average pooling, mean, linear interpolation              1 accumulate per output it reaches,
                                                             and goes on as 1 event from each
    max-pool                                                 1 accumulate (its running sum), and 1
                                                             comparison per window it lies in; what
                                                             goes on are the changes of the maxima
    convolution, linear                                      1 accumulate per non-zero weight; the
                                                             result is a current, not an event
    site                                                     1 accumulate if it arrives as an event
                                                             (a skip connection of weight one)
    readout                                                  1 accumulate

A current that meets another weighted operation before any site is an analog value: one
multiply-accumulate per weight and timestep. What follows from the static input alone is computed
once; what follows from biases alone is a constant and free.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.macs import macs_of
from transpike.graph.network import INPUT, Network, Node, Site, Weight
from transpike.graph.ops import packet
from transpike.simulation.readout import frontier

# Every value is a tensor (rows, ...) with one row for each of these.
# Events: their number at every element, as sent, with unit counts, and in the binary code.
EVENTS = ("sent", "unit", "binary")
# Whether an element holds: a value that follows from the static input; a constant; a current that
# changes in time; events; anything at all. Then the bits of a quantized activation, 0 if analog.
_STATIC, _CONSTANT, _CURRENT, _EVENT, _VALUE, _BITS = range(3, 9)
_ROWS = 9

_COPIES = frozenset(
    (
        "view _unsafe_view reshape permute transpose t clone contiguous alias detach numpy_T split "
        "split_with_sizes chunk unbind slice select unsqueeze squeeze expand repeat flatten "
        "unflatten movedim flip roll index_select index pixel_shuffle pixel_unshuffle "
        "channel_shuffle im2col cat stack slice_scatter select_scatter lift_fresh_copy _to_copy "
        "getitem reflection_pad1d reflection_pad2d reflection_pad3d replication_pad1d "
        "replication_pad2d replication_pad3d upsample_nearest1d upsample_nearest2d "
        "upsample_nearest3d"
    ).split()
)
_PADS = frozenset({"pad", "constant_pad_nd"})
_ADDS = frozenset({"add", "sub", "rsub"})
_SCALES = frozenset({"mul", "div", "neg", "affine"})
_REDUCTIONS = frozenset({"mean", "sum"})
_WINDOWS = re.compile(r"(avg_pool|upsample_(linear|bilinear|bicubic|trilinear))")
_WEIGHTED = re.compile(r"conv|linear$|matmul$|mm$|bmm$")
_TINY = 1e-12  # an interpolation weight below this is a rounding error of zero
_PROBES = 32  # basis vectors per pass when the pattern of a window is measured


@dataclass(frozen=True)
class Counts:
    """Operations of one inference of one sample, mean over samples, over all timesteps.

    Attributes:
        accumulates: event-driven additions, each spike counted as its neuron's code sends it.
        accumulates_unit: the same if a count of n is sent as n spikes.
        accumulates_binary: the same if a count is sent as its binary digits.
        macs_input: multiply-accumulates on what follows from the static input, done once.
        macs_readout: multiply-accumulates behind the time average, done once.
        macs_current: multiply-accumulates on currents, all timesteps together.
        additions: other additions: constant currents into membranes, resets, pooled or added
            analog values.
        comparisons: thresholds and maxima.
        neuron_updates: neurons times timesteps, those of their window where they have one.
        ann_macs: multiply-accumulates of the analog network, with the same rule (no zero weights,
            no padding).
        ann_macs_nominal: the same as usually printed: every kernel position of every output.
        ann_quantized_macs: those of `ann_macs` whose input is an activation.
        ann_bit_macs: the same, each times the bits of its activation in the quantized network.
        ann_additions: biases, additions of branches and average pooling in the analog network.
        ann_comparisons: ReLU and max-pool in the analog network.
    """

    accumulates: float = 0.0
    accumulates_unit: float = 0.0
    accumulates_binary: float = 0.0
    macs_input: float = 0.0
    macs_readout: float = 0.0
    macs_current: float = 0.0
    additions: float = 0.0
    comparisons: float = 0.0
    neuron_updates: float = 0.0
    ann_macs: float = 0.0
    ann_macs_nominal: float = 0.0
    ann_quantized_macs: float = 0.0
    ann_bit_macs: float = 0.0
    ann_additions: float = 0.0
    ann_comparisons: float = 0.0

    def __add__(self, other: Counts) -> Counts:
        """Sum, field by field."""
        return Counts(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Operation:
    """What one operation of the network costs.

    Attributes:
        name: the site's name, or the place of the operation in the user's model.
        op: what it is, such as "conv2d", "neurons" or "readout".
        counts: per sample.
    """

    name: str
    op: str
    counts: Counts


@dataclass(frozen=True)
class Activity:
    """What was measured: sums over samples and timesteps.

    Attributes:
        samples: number of samples.
        timesteps: T.
        differential: inputs, biases and constant currents come once, not at every timestep.
        sites: per site name (3, ...): spikes per neuron as sent, unit, and binary.
        pools: per name of a cumulative node (3, ...): the same for the changes of its output; a
            node without an entry passes graded currents on.
        bits: per site name, bits of its activation in the quantized network.
        updates: per site name, timesteps in which its neurons may fire.
        comparisons: per site name, comparisons per neuron and such a timestep.
        resets: per site name, additions a spike causes in its own neuron.
    """

    samples: int
    timesteps: int
    differential: bool
    sites: Mapping[str, Tensor]
    pools: Mapping[str, Tensor]
    bits: Mapping[str, int]
    updates: Mapping[str, int]
    comparisons: Mapping[str, int]
    resets: Mapping[str, int]


def is_copy(node: Node) -> bool:
    """Whether a node only moves values and zeros, so that counts pass it as they are."""
    return packet(node.op) in _COPIES or (packet(node.op) in _PADS and not _pad_value(node)[1])


def _pad_value(node: Node) -> tuple[int, Any]:
    """Position of a padding's value among its arguments, and the value."""
    position = 3 if packet(node.op) == "pad" else 2
    if len(node.args) > position:
        return position, node.args[position]
    return position, node.kwargs.get("value")


def count_operations(network: Network, activity: Activity) -> tuple[Operation, ...]:
    """Count the operations of every node.

    Args:
        network: the folded analog network.
        activity: spikes of every site.

    Returns:
        One entry per node that costs anything, in execution order.

    Raises:
        ArgumentError: an operation has no counting rule.
    """
    with torch.inference_mode():
        return _Walk(network, activity).operations()


class _Walk:
    """One pass over the graph with counts in place of values."""

    def __init__(self, network: Network, activity: Activity) -> None:
        self.nominal = macs_of(network.nodes, network.tensors, network.input_shape)
        self.network = network.to(dtype=torch.float64, device="cpu")
        patterns = {
            name: tensor.ne(0).double() if tensor.is_floating_point() else tensor
            for name, tensor in self.network.tensors.items()
        }
        self.pattern = replace(self.network, tensors=patterns)
        self.activity = activity
        self.repeats = 1 if activity.differential else activity.timesteps
        self.values: dict[str, Any] = {}
        self.read_out: dict[str, Tensor] = {}
        self.constants: dict[str, Tensor] = {}
        self.frontier = set(frontier(network))
        self.rows: list[Operation] = []

    def operations(self) -> tuple[Operation, ...]:
        whole = torch.zeros(_ROWS, *self.network.input_shape, dtype=torch.float64)
        whole[[_STATIC, _VALUE]] = 1
        self._keep(INPUT, whole)
        for node in self.network.nodes:
            self._node(node)
        return tuple(self.rows)

    def _node(self, node: Node) -> None:
        site = self.network.site_of.get(node.name)
        if node.kind == "constant":
            values = {name: self.constants[name] for name in node.reads}
            self.constants[node.name] = self.network.compute(node, values, 1)
        elif site is not None:
            self._keep(node.name, self._site(site, self._read(node.reads[0], node)))
        elif node.kind == "cumulative":
            self._keep(node.name, self._cumulative(node, self._read(node.reads[0], node)))
        elif node.kind == "readout":
            self._keep(node.name, self._copied(node))
        else:
            self._keep(node.name, self._linear(node))

    def _keep(self, name: str, value: Any) -> None:
        self.values[name] = value
        if name in self.frontier and isinstance(value, Tensor):
            self._add_readout(name, value)

    def _add_readout(self, name: str, value: Tensor) -> None:
        """Time averages: what changes is summed, and from there on everything is done once."""
        sums = _sums(value)
        self._record(
            self._label(name),
            "readout",
            self._events(sums),
            additions=float(sums[_CURRENT]) * self.activity.timesteps,
        )
        once = value.clone()
        once[: len(EVENTS)] = 0
        once[_STATIC] = value[_VALUE]
        once[[_CONSTANT, _CURRENT, _EVENT]] = 0
        self.read_out[name] = once

    def _label(self, name: str) -> str:
        if name == INPUT:
            return INPUT
        site = self.network.site_of.get(name)
        node = self.network.by_name[name]
        return site.name if site is not None else node.place or node.name

    def _read(self, name: str, reader: Node) -> Any:
        if reader.name in self.network.tail and name in self.read_out:
            return self.read_out[name]
        return self.values[name]

    def _record(self, name: str, op: str, *parts: Counts, **more: float) -> None:
        counts = sum(parts, Counts(**more))
        if counts != Counts():
            self.rows.append(Operation(name, op, counts))

    def _events(self, sums: Tensor) -> Counts:
        """One accumulate per event; `sums` has an entry for each row."""
        sent, unit, binary = (float(s) / self.activity.samples for s in sums[: len(EVENTS)])
        return Counts(accumulates=sent, accumulates_unit=unit, accumulates_binary=binary)

    def _site(self, site: Site, value: Tensor) -> Tensor:
        """Neurons: events of weight one, constant currents, updates and resets."""
        sums, activity = _sums(value), self.activity
        spikes = activity.sites[site.name]
        updates = site.neurons * activity.updates[site.name]
        held = float(_mask(value[_STATIC] + value[_CONSTANT]).sum())
        resets = activity.resets[site.name] * float(spikes[0].sum()) / activity.samples
        self._record(
            site.name,
            "neurons",
            self._events(sums),
            additions=held * self.repeats + resets,
            comparisons=updates * activity.comparisons[site.name],
            neuron_updates=updates,
            ann_comparisons=site.neurons,
        )
        out = torch.zeros(_ROWS, *site.shape, dtype=torch.float64)
        out[: len(EVENTS)] = spikes
        out[[_EVENT, _VALUE]] = 1
        out[_BITS] = activity.bits[site.name]
        return out

    def _cumulative(self, node: Node, value: Tensor) -> Tensor:
        """Running sums and maxima."""
        sums, reached = _sums(value), self._windows(node, value)
        comparisons = _sums(reached)
        graded = node.name not in self.activity.pools
        dense = float(_mask(value[_STATIC] + value[_CURRENT]).sum()) if graded else 0.0
        dense_comparisons = float(comparisons[_VALUE]) if graded and dense else 0.0
        outputs = reached[_VALUE].numel()
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(sums),
            additions=dense * self.activity.timesteps,
            comparisons=float(comparisons[0]) / self.activity.samples
            + dense_comparisons * self.activity.timesteps,
            ann_comparisons=float(comparisons[_VALUE]) - outputs,
        )
        out = torch.zeros_like(reached)
        out[_VALUE] = 1
        out[_BITS] = _mask(reached[_BITS]) * value[_BITS].amax()
        if graded:
            out[_CURRENT] = 1
        else:
            out[: len(EVENTS)] = self.activity.pools[node.name]
            out[_EVENT] = 1
        return out

    def _linear(self, node: Node) -> Any:
        name = packet(node.op)
        if name in _PADS:
            return self._padded(node)
        if name in _COPIES:
            return self._copied(node)
        if name in _ADDS:
            return self._added(node)
        if name in _SCALES:
            return self._scaled(node)
        if name in _REDUCTIONS or _WINDOWS.search(name):
            return self._spread(node)
        if _WEIGHTED.search(name):
            return self._weighted(node)
        raise ArgumentError(
            f"measure_cost: no counting rule for {node.op} at '{node.place}'. Express it by "
            "convolution, addition or pooling."
        )

    def _operands(self, node: Node) -> dict[str, Any]:
        """Values by name; a constant becomes rows that say where it is not zero."""
        found = {n: self._read(n, node) for n in node.reads if n not in self.constants}
        axes = max((v.ndim - 1 for v in found.values() if isinstance(v, Tensor)), default=0)
        constants = {n: self.constants[n] for n in node.reads if n in self.constants}
        return found | {n: _constant_rows(tensor, axes) for n, tensor in constants.items()}

    def _copied(self, node: Node) -> Any:
        result = self.network.compute(node, self._operands(node), _ROWS)
        if node.kind == "readout":  # sigmoid, softmax, argmax: analog, once
            rows = torch.zeros(result.shape, dtype=torch.float64)
            rows[[_STATIC, _VALUE]] = 1
            return rows
        return result

    def _padded(self, node: Node) -> Tensor:
        position, value = _pad_value(node)
        args = tuple(0 if i == position else arg for i, arg in enumerate(node.args))
        bare = replace(
            node, args=args, kwargs={k: 0 if k == "value" else v for k, v in node.kwargs.items()}
        )
        operands = self._operands(node)
        padded: Tensor = self.network.compute(bare, operands, _ROWS)
        if value:
            ones = {name: torch.ones_like(x) for name, x in operands.items()}
            border = 1 - self.network.compute(bare, ones, _ROWS)
            padded[[_CONSTANT, _VALUE]] += border[[_CONSTANT, _VALUE]]
        return padded

    def _added(self, node: Node) -> Tensor:
        """Events of all branches go on; masks are joined."""
        operands = self._operands(node)
        terms = [operands[name] for name in node.reads]
        axes = max(term.ndim for term in terms) - 1
        for arg in node.args[:2]:
            if isinstance(arg, Weight):
                terms.append(_constant_rows(self.network.tensors[arg.name], axes))
            elif isinstance(arg, int | float) and arg != 0:
                terms.append(_constant_rows(torch.ones(1), axes))
        terms = [_aligned(term, axes) for term in terms]
        shape = [max(sizes) for sizes in zip(*(term.shape for term in terms), strict=True)]
        total = torch.stack([term.expand(shape) for term in terms])
        out = total.sum(dim=0)
        static = out[_STATIC]
        once = float((static - _mask(static)).sum())
        additions = float((out[_VALUE] - _mask(out[_VALUE])).sum())
        self._record(
            self._label(node.name), packet(node.op), additions=once, ann_additions=additions
        )
        out[_STATIC:_BITS] = _mask(out[_STATIC:_BITS])
        out[_BITS] = total[:, _BITS].amax(dim=0)
        return out

    def _scaled(self, node: Node) -> Tensor:
        """A constant factor folds into the weights around it; a zero one blocks events."""
        value = self._read(node.reads[0], node)
        if len(set(node.reads)) > 1:
            raise self._two_values(node)
        if packet(node.op) == "affine":
            shape = [1, -1] + [1] * (value.ndim - 2)
            shift = self.network.tensors[node.args[2].name].reshape(shape)[0]
            out: Tensor = value * self.pattern.tensors[node.args[1].name].reshape(shape)
            out[_CONSTANT] = _mask(out[_CONSTANT] + shift.ne(0).double())
            out[_VALUE] = _mask(out[_VALUE] + out[_CONSTANT])
            return out
        factors = [arg for arg in node.args if isinstance(arg, Weight)]
        if not factors or packet(node.op) == "div":
            out = value.clone()
        else:
            out = value * self.pattern.tensors[factors[0].name]
        return out

    def _two_values(self, node: Node) -> ArgumentError:
        return ArgumentError(
            f"measure_cost: no counting rule for {node.op} of two computed values at "
            f"'{node.place}'. Multiply by a parameter or a number instead."
        )

    def _spread(self, node: Node) -> Tensor:
        """Fixed coefficients: every event reaches the outputs whose window it lies in."""
        value = self._read(node.reads[0], node)
        out = self._windows(node, value)
        sums = _sums(out)
        timesteps = self.activity.timesteps
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(sums),
            additions=float(sums[_STATIC]) + float(sums[_CURRENT]) * timesteps,
            ann_additions=float(sums[_VALUE]),
        )
        out[_STATIC:_BITS] = _mask(out[_STATIC:_BITS])
        out[_BITS] = _mask(out[_BITS]) * value[_BITS].amax()
        return out

    def _weighted(self, node: Node) -> Tensor:
        """Weights that are not zero, once per event, per analog value, or per timestep."""
        bias = node.args[2] if len(node.args) > 2 else node.kwargs.get("bias")
        args = tuple(None if i == 2 else a for i, a in enumerate(node.args))
        kwargs = {key: None if key == "bias" else item for key, item in node.kwargs.items()}
        bare = replace(node, args=args, kwargs=kwargs)
        value = self._read(node.reads[0], node)
        if len(set(node.reads)) > 1:
            raise self._two_values(node)
        bits = value[_BITS]
        value = value.clone()
        value[_EVENT] = _mask(value[_EVENT] + value[_CURRENT])  # what makes the result change
        reached: Tensor = self.pattern.compute(bare, {node.reads[0]: value}, _ROWS)
        value[_BITS] = _mask(bits)
        quantized = self.pattern.compute(bare, {node.reads[0]: value}, _ROWS)[_BITS].sum()
        sums = _sums(reached)
        biased = self._biased(node, bias, reached[0])
        last = node.name in self.network.tail
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(sums),
            macs_input=0.0 if last else float(sums[_STATIC]),
            macs_readout=float(sums[_STATIC]) if last else 0.0,
            macs_current=float(sums[_CURRENT]) * self.activity.timesteps,
            ann_macs=float(sums[_VALUE]),
            ann_macs_nominal=self.nominal.get(node.name, 0),
            ann_quantized_macs=float(quantized),
            ann_bit_macs=float(sums[_BITS]),
            ann_additions=float(biased.sum()),
            additions=float((biased * _mask(reached[_STATIC])).sum()),
        )
        out = torch.zeros_like(reached)
        out[_STATIC] = _mask(reached[_STATIC])
        out[_CONSTANT] = _mask(reached[_CONSTANT] + biased)
        out[_CURRENT] = _mask(reached[_EVENT])
        out[_VALUE] = _mask(reached[_VALUE] + biased)
        return out

    def _biased(self, node: Node, bias: Any, like: Tensor) -> Tensor:
        """1 where the bias of a result (one row of it) is not zero."""
        if not isinstance(bias, Weight):
            return torch.zeros_like(like)
        pattern = self.pattern.tensors[bias.name]
        if "conv" in packet(node.op):  # channels first; a linear layer has them last
            pattern = pattern.reshape(-1, *[1] * (like.ndim - 1))
        return pattern.expand_as(like)

    def _windows(self, node: Node, value: Tensor) -> Tensor:
        """Sum over every window of a pooling, interpolation or reduction, unweighted."""
        name = packet(node.op)
        if name in _REDUCTIONS or name == "amax":
            dims: Any = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
            keep = node.args[2] if len(node.args) > 2 else node.kwargs.get("keepdim", False)
            if not dims:
                raise ArgumentError(
                    f"measure_cost: no counting rule for {node.op} over all axes at "
                    f"'{node.place}'. Name the axes."
                )
            out: Tensor = value.sum(dim=dims, keepdim=bool(keep))
            return out
        out = value
        axes: int = int(re.findall(r"(\d)d", name)[0])
        for axis in range(axes):
            pattern = self._pattern_along(node, value.shape, axes, axis)
            position = out.ndim - axes + axis
            out = (out.movedim(position, -1) @ pattern).movedim(-1, position)
        return out

    def _pattern_along(self, node: Node, shape: torch.Size, axes: int, axis: int) -> Tensor:
        """(in, out) 1 where an output's window contains an input, along one spatial axis.

        Poolings and interpolations are products over the axes, so a slab of ones shows its reach.
        """
        spatial = list(shape[-axes:])
        size = spatial[axis]
        rows = []
        for first in range(0, size, _PROBES):
            count = min(_PROBES, size - first)
            view = [count, 1, *(size if i == axis else 1 for i in range(axes))]
            slab = torch.eye(size, dtype=torch.float64)[first : first + count].reshape(view)
            slab = slab.expand(count, 1, *spatial).contiguous()
            reply = self.network.compute(node, {node.reads[0]: slab}, count)[:, 0].abs()
            others = [1 + i for i in range(axes) if i != axis]
            rows.append((reply.amax(dim=others) if others else reply) > _TINY)
        return torch.cat(rows).double()


def _mask(values: Tensor) -> Tensor:
    return values.ne(0).double()


def _sums(value: Tensor) -> Tensor:
    """One sum per row."""
    return value.reshape(_ROWS, -1).sum(dim=1)


def _constant_rows(tensor: Tensor, axes: int) -> Tensor:
    """Rows of a constant that broadcasts against a sample of so many axes."""
    nonzero = tensor.detach().cpu().ne(0).double()
    while nonzero.ndim > axes and nonzero.shape[0] == 1:
        nonzero = nonzero[0]
    nonzero = nonzero.reshape([1] * (axes - nonzero.ndim) + list(nonzero.shape))
    rows = torch.zeros(_ROWS, *nonzero.shape, dtype=torch.float64)
    rows[[_CONSTANT, _VALUE]] = nonzero
    return rows


def _aligned(term: Tensor, axes: int) -> Tensor:
    """Insert axes after the rows, so that a term broadcasts as it does behind the batch axis."""
    return term.reshape(len(term), *[1] * (axes + 1 - term.ndim), *term.shape[1:])


__all__ = ["EVENTS", "Activity", "Counts", "Operation", "count_operations", "is_copy"]

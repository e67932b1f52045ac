"""How many synaptic operations the spikes of a network cause.

Numbers of events are pushed through the graph in place of values. A linear operation is applied to
them without its bias, and with each nonzero weight replaced by one. So each spike reaches as many
targets as it really does, under any stride, padding, grouping, dilation or transposition. Every
spike is counted on its own, also where several arrive at once.

What an event costs on its way from a site:

    reshape, split, concat, pad, nearest upsampling, scale   nothing; a scale folds into weights
    addition of branches                                     nothing; the events of both go on
    average pooling, mean, linear interpolation              1 accumulate per output it reaches,
                                                             and 1 event goes on from each output
    max-pool                                                 1 accumulate (into its running sum) and
                                                             1 comparison per window it lies in; the
                                                             changes of the maxima go on as events
    convolution, linear                                      1 accumulate per nonzero weight; the
                                                             result is a current, not an event
    region                                                   1 accumulate (into a running sum); its
                                                             own work is in `region_work`
    site                                                     1 accumulate if it arrives as an event,
                                                             as from a skip connection
    readout                                                  1 accumulate

A current that meets a second weighted operation before any site is an analog value. It costs one
multiply-accumulate per weight and timestep. Values that follow from the static input alone are
computed once. Values that follow from biases alone are constants and cost nothing.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.macs import macs_of
from transpike.graph.network import INPUT, Network, Node, Site, Weight
from transpike.graph.ops import OPERATIONS, packet
from transpike.graph.regions import Region
from transpike.measure.counts import Activity, Counts, Operation
from transpike.measure.element_rows import (
    BITS,
    CONSTANT,
    CURRENT,
    EVENT,
    EVENTS,
    ROWS,
    STATIC,
    VALUE,
    aligned,
    constant_rows,
    empty,
    mask,
    sums,
)
from transpike.measure.pooling_windows import window_sums
from transpike.measure.region_work import work_of
from transpike.simulation.readout import frontier


def is_copy(node: Node) -> bool:
    """Whether a node only moves values and adds zeros, so that counts pass it unchanged."""
    role = OPERATIONS[node.op].role
    return role == "copy" or (role == "pad" and not _pad_value(node))


def _pad_value(node: Node) -> Any:
    """The value that a padding fills in, or None."""
    position = OPERATIONS[node.op].pad_value_at
    if position is not None and len(node.args) > position:
        return node.args[position]
    return node.kwargs.get("value")


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
    """One pass over the graph with rows of counts in place of values."""

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
        whole = empty(*self.network.input_shape)
        whole[[STATIC, VALUE]] = 1
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
        elif node.kind == "function":
            region = self.network.regions[node.name]
            if node.name == region.name:
                self._region(region)
        elif node.kind == "readout":
            self._keep(node.name, self._copied(node))
        else:
            self._keep(node.name, self._linear(node))

    def _keep(self, name: str, value: Any) -> None:
        self.values[name] = value
        if name in self.frontier and isinstance(value, Tensor):
            self._add_readout(name, value)

    def _add_readout(self, name: str, value: Tensor) -> None:
        """Count a time average: changing values are summed up; behind it, all is done once."""
        totals = sums(value)
        self._record(
            self._label(name),
            "readout",
            self._events(totals),
            additions=float(totals[CURRENT]) * self.activity.timesteps,
        )
        once = value.clone()
        once[: len(EVENTS)] = 0
        once[STATIC] = value[VALUE]
        once[[CONSTANT, CURRENT, EVENT]] = 0
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

    def _events(self, totals: Tensor) -> Counts:
        """One accumulate per event; `totals` has an entry for each row."""
        sent, unit, binary = (float(s) / self.activity.samples for s in totals[: len(EVENTS)])
        return Counts(accumulates=sent, accumulates_unit=unit, accumulates_binary=binary)

    def _site(self, site: Site, value: Tensor) -> Tensor:
        """Count the neurons: events of weight one, constant currents, updates and resets."""
        activity = self.activity
        spikes = activity.sites[site.name]
        updates = site.neurons * activity.updates[site.name]
        held = float(mask(value[STATIC] + value[CONSTANT]).sum())
        resets = activity.resets[site.name] * float(spikes[0].sum()) / activity.samples
        self._record(
            site.name,
            "neurons",
            self._events(sums(value)),
            additions=held * self.repeats + resets,
            comparisons=updates * activity.comparisons[site.name],
            neuron_updates=updates,
            ann_comparisons=site.neurons,
        )
        out = empty(*site.shape)
        out[: len(EVENTS)] = spikes
        out[[EVENT, VALUE]] = 1
        out[BITS] = activity.bits[site.name]
        return out

    def _cumulative(self, node: Node, value: Tensor) -> Tensor:
        """Count a max-pool: its running sums and its comparisons."""
        reached = window_sums(self.network, node, value)
        comparisons = sums(reached)
        graded = node.name not in self.activity.pools
        dense = float(mask(value[STATIC] + value[CURRENT]).sum()) if graded else 0.0
        dense_comparisons = float(comparisons[VALUE]) if graded and dense else 0.0
        outputs = reached[VALUE].numel()
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(sums(value)),
            additions=dense * self.activity.timesteps,
            comparisons=float(comparisons[0]) / self.activity.samples
            + dense_comparisons * self.activity.timesteps,
            ann_comparisons=float(comparisons[VALUE]) - outputs,
        )
        out = torch.zeros_like(reached)
        out[VALUE] = 1
        out[BITS] = mask(reached[BITS]) * value[BITS].amax()
        if graded:
            out[CURRENT] = 1
        else:
            out[: len(EVENTS)] = self.activity.pools[node.name]
            out[EVENT] = 1
        return out

    def _region(self, region: Region) -> None:
        """Count the analog work of a region, and what enters its running sums.

        It is done at every timestep, or once if all its inputs follow from the static input.
        """
        values = [self.values[name] for name in region.signals]
        moving = any(bool(value[[CURRENT, EVENT]].any()) for value in values)
        times = self.activity.timesteps if moving else 1
        work = work_of(self.network, region, self.nominal)
        self._record(
            self._region_label(region),
            "region",
            *(self._events(sums(value)) for value in values),
            macs_region=work.macs * times,
            evaluations=work.evaluations * times,
            additions_region=(work.additions + work.outputs) * times,
            ann_macs=work.macs,
            ann_macs_nominal=work.macs,
            ann_evaluations=work.evaluations,
            ann_additions=work.additions,
        )
        for name in region.outputs:
            shape = self.network.by_name[name].shape
            assert shape is not None
            out = empty(*shape[1:])
            out[[CURRENT if moving else STATIC, VALUE]] = 1
            self._keep(name, out)

    def _region_label(self, region: Region) -> str:
        """The name of the site behind a region, or the place of its last node."""
        sites = [site.name for site in self.network.sites]
        behind = [s for s in self.network.by_name.values() if s.name in self.network.site_of]
        names = {node.reads[0]: self.network.site_of[node.name].name for node in behind}
        found = [names[name] for name in region.outputs if name in names]
        return min(found, key=sites.index) if found else self._label(region.name)

    def _linear(self, node: Node) -> Any:
        self._check_batch(node)
        match OPERATIONS[node.op].role:
            case "pad":
                return self._padded(node)
            case "copy":
                return self._copied(node)
            case "sum":
                return self._added(node)
            case "scale":
                return self._scaled(node)
            case "mean" | "window":
                return self._spread(node)
            case "layer" | "product":
                return self._weighted(node)
        raise ArgumentError(
            f"measure_cost: no counting rule for {node.op} at '{node.place}'. Express it by "
            "convolution, addition or pooling."
        )

    def _check_batch(self, node: Node) -> None:
        """Refuse to count where the rows of counts, which stand for the batch, are not axis 0."""
        nodes = [node, *(self.network.by_name[name] for name in node.reads if name != INPUT)]
        moved = [one for one in nodes if one.shape is not None and one.shape[:1] != (-1,)]
        if moved and not is_copy(node) and moved[0].kind != "constant":
            raise ArgumentError(
                f"measure_cost: no counting rule for {node.op} at '{node.place}', where the batch "
                "is not the first axis. Keep every tensor as (B, ...) in forward()."
            )

    def _operands(self, node: Node) -> dict[str, Any]:
        """Rows of all operands by name."""
        found = {n: self._read(n, node) for n in node.reads if n not in self.constants}
        axes = max((v.ndim - 1 for v in found.values() if isinstance(v, Tensor)), default=0)
        constants = {n: self.constants[n] for n in node.reads if n in self.constants}
        return found | {n: constant_rows(tensor, axes) for n, tensor in constants.items()}

    def _copied(self, node: Node) -> Any:
        if node.kind == "readout" and node.shape is not None:  # It is analog, and applied once.
            rows = empty(*node.shape[1:])
            rows[[STATIC, VALUE]] = 1
            return rows
        return self.network.compute(node, self._operands(node), ROWS)

    def _padded(self, node: Node) -> Tensor:
        """Pad events with zeros; a border of another value is a constant."""
        position, value = OPERATIONS[node.op].pad_value_at, _pad_value(node)
        args = tuple(0 if i == position else arg for i, arg in enumerate(node.args))
        bare = replace(
            node, args=args, kwargs={k: 0 if k == "value" else v for k, v in node.kwargs.items()}
        )
        operands = self._operands(node)
        padded: Tensor = self.network.compute(bare, operands, ROWS)
        if value:
            ones = {name: torch.ones_like(x) for name, x in operands.items()}
            border = 1 - self.network.compute(bare, ones, ROWS)
            padded[[CONSTANT, VALUE]] += border[[CONSTANT, VALUE]]
        return padded

    def _added(self, node: Node) -> Tensor:
        """Join branches: the events of all of them go on."""
        operands = self._operands(node)
        terms = [operands[name] for name in node.reads]
        axes = max(term.ndim for term in terms) - 1
        for arg in node.args[:2]:
            if isinstance(arg, Weight):
                terms.append(constant_rows(self.network.tensors[arg.name], axes))
            elif isinstance(arg, int | float) and arg != 0:
                terms.append(constant_rows(torch.ones(1), axes))
        terms = [aligned(term, axes) for term in terms]
        shape = [max(sizes) for sizes in zip(*(term.shape for term in terms), strict=True)]
        total = torch.stack([term.expand(shape) for term in terms])
        out = total.sum(dim=0)
        static = out[STATIC]
        once = float((static - mask(static)).sum())
        additions = float((out[VALUE] - mask(out[VALUE])).sum())
        self._record(
            self._label(node.name), packet(node.op), additions=once, ann_additions=additions
        )
        out[STATIC:BITS] = mask(out[STATIC:BITS])
        out[BITS] = total[:, BITS].amax(dim=0)
        return out

    def _scaled(self, node: Node) -> Tensor:
        """Fold a constant factor into the weights around it; a factor of zero blocks events."""
        value = self._one_operand(node)
        if packet(node.op) == "affine":
            shape = [1, -1] + [1] * (value.ndim - 2)
            shift = self.network.tensors[node.args[2].name].reshape(shape)[0]
            out: Tensor = value * self.pattern.tensors[node.args[1].name].reshape(shape)
            out[CONSTANT] = mask(out[CONSTANT] + shift.ne(0).double())
            out[VALUE] = mask(out[VALUE] + out[CONSTANT])
            return out
        factors = [arg for arg in node.args if isinstance(arg, Weight)]
        if not factors or packet(node.op) == "div":
            out = value.clone()
        else:
            out = value * self.pattern.tensors[factors[0].name]
        return out

    def _one_operand(self, node: Node) -> Tensor:
        if len(set(node.reads)) > 1:
            raise ArgumentError(
                f"measure_cost: no counting rule for {node.op} of two computed values at "
                f"'{node.place}'. Multiply by a parameter or a number instead."
            )
        value: Tensor = self._read(node.reads[0], node)
        return value

    def _spread(self, node: Node) -> Tensor:
        """Apply fixed coefficients: every event reaches the outputs whose window it lies in."""
        value = self._read(node.reads[0], node)
        out = window_sums(self.network, node, value)
        totals = sums(out)
        timesteps = self.activity.timesteps
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(totals),
            additions=float(totals[STATIC]) + float(totals[CURRENT]) * timesteps,
            ann_additions=float(totals[VALUE]),
        )
        out[STATIC:BITS] = mask(out[STATIC:BITS])
        out[BITS] = mask(out[BITS]) * value[BITS].amax()
        return out

    def _weighted(self, node: Node) -> Tensor:
        """Count nonzero weights once per event, per static value, or per timestep."""
        bare, bias = _without_bias(node)
        value = self._one_operand(node).clone()
        bits = value[BITS]
        value[EVENT] = mask(value[EVENT] + value[CURRENT])  # whatever makes the result change
        reached: Tensor = self.pattern.compute(bare, {node.reads[0]: value}, ROWS)
        value[BITS] = mask(bits)
        quantized = self.pattern.compute(bare, {node.reads[0]: value}, ROWS)[BITS].sum()
        totals = sums(reached)
        biased = self._biased(node, bias, reached[0])
        last = node.name in self.network.tail
        self._record(
            self._label(node.name),
            packet(node.op),
            self._events(totals),
            macs_input=0.0 if last else float(totals[STATIC]),
            macs_readout=float(totals[STATIC]) if last else 0.0,
            macs_current=float(totals[CURRENT]) * self.activity.timesteps,
            ann_macs=float(totals[VALUE]),
            ann_macs_nominal=self.nominal.get(node.name, 0),
            ann_quantized_macs=float(quantized),
            ann_bit_macs=float(totals[BITS]),
            ann_additions=float(biased.sum()),
            additions=float((biased * mask(reached[STATIC])).sum()),
        )
        out = torch.zeros_like(reached)
        out[STATIC] = mask(reached[STATIC])
        out[CONSTANT] = mask(reached[CONSTANT] + biased)
        out[CURRENT] = mask(reached[EVENT])
        out[VALUE] = mask(reached[VALUE] + biased)
        return out

    def _biased(self, node: Node, bias: Any, like: Tensor) -> Tensor:
        """1 where the bias of a result (one row of it) is not zero."""
        if not isinstance(bias, Weight):
            return torch.zeros_like(like)
        pattern = self.pattern.tensors[bias.name]
        if OPERATIONS[node.op].convolves:  # channels first; a linear layer has them last
            pattern = pattern.reshape(-1, *[1] * (like.ndim - 1))
        return pattern.expand_as(like)


def _without_bias(node: Node) -> tuple[Node, Any]:
    """The node without its bias, and the bias."""
    position = OPERATIONS[node.op].bias_at
    if position is None:
        return node, None
    bias = node.args[position] if len(node.args) > position else node.kwargs.get("bias")
    args = tuple(None if i == position else arg for i, arg in enumerate(node.args))
    kwargs = {key: None if key == "bias" else item for key, item in node.kwargs.items()}
    return replace(node, args=args, kwargs=kwargs), bias


__all__ = ["count_operations", "is_copy"]

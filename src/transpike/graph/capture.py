"""Capture a trained model as a `Network` with torch.export, and check it against the model.

Only this module calls torch.export. It exports a copy of the user's model in evaluation mode, so
the model itself stays unchanged.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from transpike.errors import DataError, Refusal, UnsupportedError
from transpike.graph import ops
from transpike.graph.ambient import isolated, uncompiled
from transpike.graph.batch_axis import batch_first
from transpike.graph.decompose import decompositions
from transpike.graph.example import does_not_run, first_line, prepared, user_line
from transpike.graph.export import MODEL, Draft, normalize
from transpike.graph.fold import FoldCount, fold_affine
from transpike.graph.fuse import Fused, fused
from transpike.graph.network import INPUT, Network, Node, Site, Value, Weight, leaves
from transpike.graph.readings import Readings, read
from transpike.graph.regions import over_time
from transpike.graph.site_list import sites_of
from transpike.graph.size_rules import with_sizes
from transpike.graph.structure import Structure, flat_values, structure_of
from transpike.graph.verify import difference, verify
from transpike.graph.windows import has_empty_window


@dataclass(frozen=True)
class Captured:
    """A captured graph that is not checked yet. `inspect` reports on it."""

    nodes: tuple[Node, ...]
    tensors: dict[str, Tensor]
    sites: tuple[Site, ...]
    outputs: tuple[Any, ...]
    output_spec: Structure
    input_shape: tuple[int, ...]
    refusals: tuple[Refusal, ...]
    batch_norms: FoldCount


@isolated()
@uncompiled()
def capture(model: nn.Module, example_input: Tensor) -> Network:
    """Capture a model as one normalized graph and check the graph against the model.

    A BatchNorm is folded into the linear operation before it if nothing else reads that operation.
    Dropout is removed, in-place operations become pure, and every call of an activation becomes a
    named site. Then the graph is compared with the model, sample by sample, at several batch
    sizes. It is also compared at other sizes of the input. If both agree there too, the network
    takes inputs of other sizes, see `Network.at`.

    Args:
        model: a module that maps one tensor (B, ...) to tensors with the batch first. A copy in
            evaluation mode is captured, and the model stays unchanged. Forward hooks are part of
            the function that is captured. They run on the copy.
        example_input: a batch that the model accepts, shape (B, ...). Its type is the type of all
            later inputs. Later inputs may have another height and width (or length, or depth) if
            the model accepts it.

    Returns:
        The network. If you call it, it runs the folded analog network.

    Raises:
        UnsupportedError: some operations have no exact spiking form. The error lists all of them.
        DataError: weights are NaN or infinite, or the model does not accept the example.
    """
    eager, example = prepared(model, example_input)
    draft = draft_network(eager, example)
    if draft.refusals:
        raise UnsupportedError(draft.refusals)
    return accepted(draft, eager, example)


def accepted(draft: Captured, eager: nn.Module, example: Tensor) -> Network:
    """Check a draft without refusals against the model and return the network."""
    network = Network(
        nodes=draft.nodes,
        tensors=draft.tensors,
        sites=draft.sites,
        outputs=draft.outputs,
        output_spec=draft.output_spec,
        input_shape=draft.input_shape,
        input_dtype=example.dtype,
    )
    verify(network, eager, example)
    return with_sizes(
        network,
        eager,
        example,
        compare=lambda got, expected: difference(got, expected, example.dtype),
        trace=lambda: draft_network(eager, example, any_size=True).nodes,
    )


def draft_network(eager: nn.Module, example: Tensor, *, any_size: bool = False) -> Captured:
    """Export the model, normalize and fold the graph, and collect refusals.

    With `any_size` the nodes hold a `Size` in place of every number that depends on the size of the
    input.
    """
    with torch.no_grad():
        program, structure = _export(eager, example, any_size)
        draft = normalize(program, example.shape, structure)
        _check_read(draft)
        nodes, alias, count = fold_affine(draft.nodes, draft.tensors, draft.outputs)
    outputs = tuple(
        Value(alias[leaf.name]) if isinstance(leaf, Value) and leaf.name in alias else leaf
        for leaf in draft.outputs
    )
    found = batch_first(fused(_without_dead(nodes, outputs), outputs))
    nodes, outputs = list(found.nodes), found.outputs
    draft.site_names |= {site: draft.site_names[name] for site, name in found.origin.items()}
    sites = tuple(sites_of(nodes, draft.site_names))
    refusals = [
        *draft.refusals,
        *misplaced(tuple(nodes), outputs, example.shape, draft.lines),
        *_not_numbers(nodes, draft, found),
    ]
    if not sites and not refusals:
        refusals.append(
            Refusal(
                "no activation",
                "",
                "the model has no activation in front of a layer, so there is nothing to convert.",
                "Check that the right module is given; a linear model needs no conversion.",
            )
        )
    return Captured(
        nodes=tuple(nodes),
        tensors=_kept(nodes, draft.tensors, example),
        sites=sites,
        outputs=outputs,
        output_spec=draft.output_spec,
        input_shape=tuple(example.shape[1:]),
        refusals=tuple(refusals),
        batch_norms=count,
    )


# Values that torch.export returns as they are. `normalize` refuses all but tensors by name.
_SINGLE = (Tensor, bool, int, float, str, torch.SymInt, torch.SymFloat, torch.SymBool)


class _OneInput(nn.Module):
    """Hands one tensor to the model, whatever the signature of its forward() is."""

    def __init__(self, model: nn.Module, readings: Readings) -> None:
        super().__init__()
        self.add_module(MODEL, model)
        self.readings = readings

    def forward(self, x: Tensor) -> tuple[Any, ...]:
        with self.readings.replayed():
            return tuple(flat_values(self.get_submodule(MODEL)(x)))


def _export(eager: nn.Module, example: Tensor, any_size: bool) -> tuple[ExportedProgram, Structure]:
    """Export the model. The program returns a tuple; its structure in the model comes with it."""
    try:
        readings, output = read(eager, example)
    except Exception as failure:  # The user's forward() may raise any error.
        raise does_not_run(eager, example, failure) from failure
    try:
        structure = structure_of(output, _SINGLE)
    except DataError as error:
        raise UnsupportedError([Refusal("output", "", str(error), ops.RETURN_TENSORS)]) from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Some CUDA kernels take at most 65,535 samples. Export refuses a larger batch size.
            batch = Dim("batch", max=None if example.device.type == "cpu" else 65_535)
            free = {0: batch}
            if any_size:
                free |= dict.fromkeys(range(2, example.ndim), Dim.AUTO)
            module = _OneInput(eager, readings)
            program = torch.export.export(
                module, (example.clone(),), strict=False, dynamic_shapes=(free,)
            )
            return program.run_decompositions(decompositions()), structure
    except Exception as error:  # torch.export raises many types of errors.
        raise UnsupportedError([_export_refusal(error)]) from error


def _export_refusal(error: Exception) -> Refusal:
    text = str(error)
    place = user_line(error)
    lowered = text.lower()
    if "data-dependent" in lowered or "datadependent" in type(error).__name__.lower():
        return Refusal(
            "data-dependent control flow",
            place,
            "the path through forward() depends on values of the data.",
            "Compute both branches without `if`, or fix the branch before capture.",
        )
    if "batch" in lowered and ("constraint" in lowered or "specializ" in lowered):
        return Refusal(
            "fixed batch size",
            place,
            "forward() only works for one batch size.",
            "Use x.shape[0] or -1 instead of a number for the batch in view/reshape.",
        )
    return Refusal(
        "torch.export",
        place,
        f"the model cannot be captured: {first_line(error)}",
        "Make forward() a pure function of one tensor, without data-dependent Python.",
    )


def _without_dead(nodes: Sequence[Node], outputs: tuple[Any, ...]) -> list[Node]:
    """Drop the nodes that no output depends on. They cost time and would count as neurons."""
    needed = {leaf.name for leaf in leaves(outputs) if isinstance(leaf, Value)}
    kept: list[Node] = []
    for node in reversed(nodes):
        if node.name in needed:
            needed.update(node.reads)
            kept.append(node)
    return kept[::-1]


def _check_read(draft: Draft) -> None:
    """Refuse NaN and infinite values in the tensors that the outputs depend on.

    A buffer that nothing reads may hold anything, and so may one whose values are only compared.
    """
    live = _without_dead(draft.nodes, draft.outputs)
    names = _weights(live)
    norms = _weights([node for node in live if node.op == "affine"])
    names += [source for name in norms for source in draft.sources[name]]
    for name in dict.fromkeys(names):
        if not draft.tensors[name].isfinite().all():
            while wrong := [
                source
                for source in draft.sources.get(name, ())
                if not draft.tensors[source].isfinite().all()
            ]:
                name = wrong[0]
            what = f"'{name}'"
            if name in draft.sources:
                what = f"a constant that is computed from {list(draft.sources[name])}"
            raise DataError(f"weights: {what} holds NaN or infinite values.")


def _weights(nodes: Sequence[Node]) -> list[str]:
    return [
        leaf.name
        for node in nodes
        for leaf in leaves((node.args, node.kwargs))
        if isinstance(leaf, Weight)
    ]


def _kept(nodes: list[Node], tensors: dict[str, Tensor], example: Tensor) -> dict[str, Tensor]:
    """Copy the tensors that are still in use, in the floating-point type of the network."""
    result = {}
    for name in dict.fromkeys(_weights(nodes)):
        tensor = tensors[name].detach()
        dtype = example.dtype if tensor.is_floating_point() else tensor.dtype
        result[name] = tensor.to(dtype).clone().contiguous()
    return result


def _not_numbers(nodes: Sequence[Node], draft: Draft, found: Fused) -> Iterator[Refusal]:
    """Refuse regions that hand on truth values, whole numbers or several tensors at once."""
    by_name = {node.name: node for node in nodes}
    for site, origin in found.origin.items():
        if origin in draft.not_floating or by_name[site].shape is None:
            yield Refusal(by_name[origin].op, by_name[origin].place, *ops.NOT_A_NUMBER)


def misplaced(
    nodes: tuple[Node, ...],
    outputs: tuple[Any, ...],
    input_shape: Sequence[int],
    lines: Mapping[str, str],
) -> Iterator[Refusal]:
    """Refuse what every single operation may do, but not at its place in the graph.

    Args:
        nodes: the nodes of a graph in execution order.
        outputs: the outputs of the graph.
        input_shape: the shape of the input with the batch first.
        lines: lines of the user's code by node name, where a node has no module path.
    """

    def place(node: Node) -> str:
        return node.place or lines.get(node.name, "")

    by_name = {node.name: node for node in nodes}
    shapes = {INPUT: input_shape} | {node.name: node.shape or () for node in nodes}
    kept = over_time(nodes, outputs)
    for node in nodes:
        if has_empty_window(node, by_name, shapes):
            yield Refusal(node.op, place(node), *ops.EMPTY_WINDOW)
        if node.kind == "site" and node.shape == (-1,):
            yield Refusal(node.op, place(node), *ops.SCALAR_SITE)
        moved = node.name in kept and _moves_batch(node)
        if moved or _works_along_batch(node) or _loses_batch(node):
            yield Refusal(node.op, place(node), *ops.BATCH_AXIS)


def _moves_batch(node: Node) -> bool:
    """Whether the batch is not exactly axis 0 of a signal."""
    if node.kind == "constant" or node.shape is None:
        return False
    return node.shape[:1] != (-1,) or any(size < 0 for size in node.shape[1:])


def _loses_batch(node: Node) -> bool:
    """Whether a signal has no axis of the batch, as the mean over the batch, or several of them."""
    if node.kind == "constant" or node.shape is None:
        return False
    return sum(size < 0 for size in node.shape) != 1


def _works_along_batch(node: Node) -> bool:
    """Whether an operation mixes the samples of a signal whose first axis is the batch."""
    if node.kind == "constant" or node.shape is None or node.shape[:1] != (-1,):
        return False
    packet = ops.packet(node.op)
    along = node.args[1] if len(node.args) > 1 else None
    axes = along if isinstance(along, tuple) else (along,)
    if packet in ("flip", "softmax", "_softmax", "log_softmax", "_log_softmax", "argmax", "amax"):
        return any(axis in (0, -len(node.shape)) for axis in axes)
    if packet == "roll":
        return len(node.args) < 3 or any(axis in (0, -len(node.shape)) for axis in node.args[2])
    if packet == "index":
        return axes[0] is not None
    return packet == "index_select" and axes[0] in (0, -len(node.shape))

"""The report of `inspect`: what a conversion would do with a model, and what it would refuse."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor, nn

from transpike.errors import Refusal, UnsupportedError, grouped
from transpike.graph import ops
from transpike.graph.ambient import isolated, uncompiled
from transpike.graph.capture import accepted, draft_network
from transpike.graph.example import prepared
from transpike.graph.macs import macs_of
from transpike.graph.network import Node
from transpike.graph.regions import tail_of


@dataclass(frozen=True)
class Preflight:
    """What a conversion would make of a model.

    Attributes:
        sites: one row per activation call: name, shape, channels, upper bound.
        operations: one row for each operation and class, with the number of such operations and
            with what they become.
        refusals: the operations that have no exact spiking form.
        parameters: the number of weights in the folded network.
        macs: multiply-accumulates of one analog pass over one sample, see `transpike.graph.macs`.
        tail_macs: the part of `macs` after the readout. It is computed once, on the time average.
        neurons: the number of neurons for one sample.
        batch_norms_folded: BatchNorms that are folded into the operation before them.
        batch_norms_affine: BatchNorms that stay, as an affine operation for each channel.
        input_sizes: in words, the sizes that the network takes along each axis of the input behind
            the channels. Empty where the model is refused.
    """

    sites: list[dict[str, Any]]
    operations: list[dict[str, Any]]
    refusals: list[Refusal]
    parameters: int
    macs: int
    tail_macs: int
    neurons: int
    batch_norms_folded: int
    batch_norms_affine: int
    input_sizes: str = ""

    @property
    def convertible(self) -> bool:
        """Whether nothing is refused."""
        return not self.refusals

    def to_dict(self) -> dict[str, Any]:
        """The report as values for JSON."""
        return {**asdict(self), "convertible": self.convertible}

    def __str__(self) -> str:
        """The report as text."""
        lines = [
            f"{'convertible' if self.convertible else 'NOT convertible'}: {len(self.sites)} sites, "
            f"{self.neurons:,} neurons, {self.parameters:,} parameters, {self.macs:,} MACs "
            f"(of these analog after the readout: {self.tail_macs:,}), BatchNorm folded "
            f"{self.batch_norms_folded}, kept affine {self.batch_norms_affine}",
            *([f"sizes of the input: {self.input_sizes}"] if self.input_sizes else []),
            "",
            f"{'operation':<34} {'count':>5}  {'class':<11} becomes",
        ]
        lines += [
            f"{row['op']:<34} {row['count']:>5}  {row['kind']:<11} {row['becomes']}"
            for row in self.operations
        ]
        lines += ["", f"{'site':<40} {'shape':<18} {'channels':>8}  bound"]
        lines += [
            f"{row['name']:<40} {'x'.join(map(str, row['shape'])):<18} {row['channels']:>8}  "
            f"{'-' if row['upper_bound'] is None else row['upper_bound']}"
            for row in self.sites
        ]
        if self.refusals:
            lines += ["", "refused:", *(f"  - {line}" for line in grouped(self.refusals))]
        return "\n".join(lines)


_BECOMES = {
    "linear": "applied at every timestep",
    "constant": "computed once",
    "site": "neuron population",
    "cumulative": "f(S_t) - f(S_{t-1}) of the running sum, exact (lateral inhibition)",
    "function": "part of a region, on the running means of its inputs",
    "tail": "once, on the time average",
    "refused": "refused, see below",
}


@isolated()
@uncompiled()
def inspect(model: nn.Module, example_input: Tensor) -> Preflight:
    """Report what a conversion would do. Refused operations are listed, not raised.

    Args:
        model: the model, as for `capture`. It stays unchanged.
        example_input: a batch that the model accepts, shape (B, ...).

    Raises:
        DataError: the weights or the example cannot be used.
    """
    eager, example = prepared(model, example_input)
    try:
        draft = draft_network(eager, example)
        refusals = list(draft.refusals)
    except UnsupportedError as error:
        parameters = sum(p.numel() for p in eager.parameters())
        return Preflight([], [], list(error.refusals), parameters, 0, 0, 0, 0, 0)
    sizes = ""
    if not refusals:
        try:
            network = accepted(draft, eager, example)
            sizes = network.sizes.describe(network.input_shape[1:])
        except UnsupportedError as error:
            refusals = list(error.refusals)
    tail = tail_of(draft.nodes)
    refused = {refusal.op for refusal in draft.refusals}
    macs = macs_of(draft.nodes, draft.tensors, draft.input_shape)
    rows = Counter((node.op, _class(node, tail, refused)) for node in draft.nodes)
    return Preflight(
        sites=[
            {
                "name": site.name,
                "shape": list(site.shape),
                "channels": site.channels,
                "upper_bound": site.upper_bound,
            }
            for site in draft.sites
        ],
        operations=[
            {"op": op, "kind": kind, "count": count, "becomes": _BECOMES[kind]}
            for (op, kind), count in rows.items()
        ],
        refusals=refusals,
        parameters=sum(t.numel() for t in draft.tensors.values() if t.is_floating_point()),
        macs=sum(macs.values()),
        tail_macs=sum(count for name, count in macs.items() if name in tail),
        neurons=sum(site.neurons for site in draft.sites),
        batch_norms_folded=draft.batch_norms.folded,
        batch_norms_affine=draft.batch_norms.affine,
        input_sizes=sizes,
    )


def _class(node: Node, tail: frozenset[str], refused: set[str]) -> str:
    known = node.kind == "constant" or node.op in ops.KNOWN
    if not known or (node.op in refused and node.op not in ops.LINEAR):
        return "refused"
    return "tail" if node.name in tail else node.kind

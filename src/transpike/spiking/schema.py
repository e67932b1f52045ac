"""The content of config.json: a converted network without its tensors.

Reading checks the type of every value. Whether the values fit each other is checked by
`transpike.graph.consistency` and by the classes themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, get_args

import torch
from torch import Tensor

from transpike.errors import ArgumentError
from transpike.graph.network import Argument, Batch, Kind, Network, Node, Site, Value, Weight
from transpike.graph.sizes import Size, Sizes
from transpike.spiking.entries import Entry, from_json_ready, json_ready
from transpike.spiking.neuron import Neuron
from transpike.spiking.schedule import Schedule
from transpike.spiking.spiking_network import Coding, SpikingNetwork
from transpike.spiking.stored_structure import (
    structure_from_earlier,
    structure_from_json,
    structure_to_json,
)

# The tensors that every site has, with one value per channel.
PER_SITE = ("steps", "starts", "offsets")
# The tensors that every site behind a region has besides.
RANGES = ("lowers", "uppers")
WEIGHTS = "weights"
NEWEST = 4
# 2 has one size of the input. 2 and 3 hold the structure of the output in another form.
OLDER = (2, 3)
_WITHOUT_SIZES = 2
_DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in (torch.float32, torch.float64)}
_DTYPES |= {"float16": torch.float16, "bfloat16": torch.bfloat16, "bool": torch.bool}
_DTYPES |= {f"int{bits}": getattr(torch, f"int{bits}") for bits in (8, 16, 32, 64)}
_DTYPES |= {"uint8": torch.uint8}
_INFINITE = {"inf": float("inf"), "-inf": float("-inf")}


def to_json(snn: SpikingNetwork) -> dict[str, Any]:
    """Return all of a network but its tensors, JSON-ready.

    Raises:
        ArgumentError: a node has an argument that cannot be stored.
    """
    network = snn.network
    return {
        "input_shape": list(network.input_shape),
        "nodes": [_node_to_json(node) for node in network.nodes],
        "sites": [asdict(site) for site in network.sites],
        "outputs": [_to_json(leaf) for leaf in network.outputs],
        "output_spec": structure_to_json(network.output_spec),
        "sizes": _sizes_to_json(network.sizes),
        "neurons": {name: asdict(neuron) for name, neuron in snn.neurons.items()},
        "settings": json_ready(snn.settings),
        "readout_start": snn.readout_start,
        "coding": snn.coding,
    }


def tensors_of(snn: SpikingNetwork) -> dict[str, Tensor]:
    """Return all tensors of a network on the CPU, by the names they have in the file."""
    named = {WEIGHTS: snn.network.tensors} | {
        kind: getattr(snn, kind) for kind in PER_SITE + RANGES
    }
    return {
        f"{kind}.{name}": tensor.detach().cpu().contiguous().clone()
        for kind, tensors in named.items()
        for name, tensor in tensors.items()
    }


def from_json(
    config: Mapping[str, Any], schema: int, tensors: Mapping[str, Mapping[str, Tensor]]
) -> tuple[Network, dict[str, Any]]:
    """Read what `to_json` wrote.

    Args:
        config: the content.
        schema: the schema in which it was written.
        tensors: the tensors by their kind, which is "weights" or one of `PER_SITE` and
            `RANGES`, and their name.

    Returns:
        The network, and the other arguments of a `SpikingNetwork`.

    Raises:
        FileError: a value is missing, has another type, or is out of range.
        ArgumentError: the settings of a neuron are out of range.
        DataError: the structure of the output is none.
    """
    needed = ["input_shape", "nodes", "sites", "outputs", "output_spec", "neurons", "settings"]
    needed += ["readout_start", "coding"]
    needed += [] if schema == _WITHOUT_SIZES else ["sizes"]
    read = Entry(config, "").exactly(needed)
    earlier = schema != NEWEST
    structure = structure_from_json if not earlier else structure_from_earlier
    network = Network(
        nodes=tuple(_node_from_json(entry) for entry in read["nodes"].listed()),
        tensors=tensors[WEIGHTS],
        sites=tuple(
            Site(**entry.fields_of(Site, earlier=earlier)) for entry in read["sites"].listed()
        ),
        outputs=tuple(_from_json(entry) for entry in read["outputs"].listed()),
        output_spec=structure(read["output_spec"]),
        input_shape=tuple(entry.whole(1) for entry in read["input_shape"].listed()),
        input_dtype=next((t.dtype for t in tensors["steps"].values()), torch.float32),
        sizes=_sizes_from_json(read["sizes"])
        if "sizes" in read
        else Sizes(reason="the network was saved by an older version, which kept one size"),
    )
    read["settings"].keyed()
    rest = {
        "neurons": {
            name: _neuron(entry, earlier) for name, entry in read["neurons"].keyed().items()
        },
        "settings": from_json_ready(read["settings"].value),
        "readout_start": read["readout_start"].whole(0),
        "coding": read["coding"].choice(get_args(Coding)),
    }
    return network, rest


def _neuron(entry: Entry, earlier: bool) -> Neuron:
    """In earlier schemas, the settings of the schedule stand beside those of the neuron."""
    if not earlier:
        return Neuron(**entry.fields_of(Neuron))
    entry.keyed()
    names = {one.name for one in fields(Schedule)}
    parts = [{}, {}]  # type: list[dict[str, Any]]
    for key, value in entry.value.items():
        parts[key in names][key] = value
    own, timed = (Entry(part, entry.place) for part in parts)
    schedule = Schedule(**timed.fields_of(Schedule, earlier=True))
    values = own.fields_of(Neuron, without=("schedule",), earlier=True)
    return Neuron(**values, schedule=schedule)


def _sizes_to_json(sizes: Sizes) -> dict[str, Any]:
    return {
        "steps": list(sizes.steps),
        "together": sizes.together,
        "reason": sizes.reason,
        "arguments": {
            name: [_to_json(args), {key: _to_json(leaf) for key, leaf in kwargs.items()}]
            for name, (args, kwargs) in sizes.arguments.items()
        },
    }


def _sizes_from_json(entry: Entry) -> Sizes:
    read = entry.exactly(("steps", "together", "reason", "arguments"))
    arguments = {}
    for name, both in read["arguments"].keyed().items():
        parts = both.listed()
        if len(parts) != len(("args", "kwargs")):
            both.refuse("positional and keyword arguments")
        arguments[name] = _args(parts[0], sized=True), _kwargs(parts[1], sized=True)
    return Sizes(
        steps=tuple(step.whole(0) for step in read["steps"].listed()),
        together=read["together"].flag(),
        reason=read["reason"].text(),
        arguments=arguments,
    )


def _node_to_json(node: Node) -> dict[str, Any]:
    return {
        "name": node.name,
        "op": node.op,
        "args": [_to_json(leaf) for leaf in node.args],
        "kwargs": {key: _to_json(leaf) for key, leaf in node.kwargs.items()},
        "kind": node.kind,
        "place": node.place,
        "shape": None if node.shape is None else list(node.shape),
    }


def _node_from_json(entry: Entry) -> Node:
    read = entry.exactly(("name", "op", "args", "kwargs", "kind", "place", "shape"))
    kind: Any = read["kind"].choice(get_args(Kind))
    return Node(
        name=read["name"].text(),
        op=read["op"].text(),
        args=_args(read["args"]),
        kwargs=_kwargs(read["kwargs"]),
        kind=kind,
        place=read["place"].text(),
        shape=read["shape"].typed(tuple[int, ...] | None),
    )


def _args(entry: Entry, sized: bool = False) -> tuple[Argument, ...]:
    return tuple(_from_json(part, sized) for part in entry.listed())


def _kwargs(entry: Entry, sized: bool = False) -> dict[str, Argument]:
    return {key: _from_json(part, sized) for key, part in entry.keyed().items()}


def _to_json(leaf: Argument) -> Any:
    match leaf:
        case Value(name):
            return {"value": name}
        case Weight(name):
            return {"weight": name}
        case Batch(multiple):
            return {"batch": multiple}
        case Size(formula):
            return {"size": _to_json(formula)}
        case torch.dtype():
            return {"dtype": str(leaf).removeprefix("torch.")}
        case tuple() | list():
            return [_to_json(item) for item in leaf]
        case None | bool() | int() | float() | str():
            return json_ready(leaf)
    raise ArgumentError(f"save: cannot store an argument of type {type(leaf).__name__}.")


def _from_json(entry: Entry, sized: bool = False) -> Argument:
    """Read one argument. Only with `sized` it may depend on the size of the input."""
    match entry.value:
        case list():
            return _args(entry, sized)
        case dict():
            return _marked(entry, sized)
        case None | bool() | str():
            return entry.value
        case int():
            return entry.whole()
    return entry.number()


def _marked(entry: Entry, sized: bool) -> Argument:
    """Read an object, whose one key says what it is."""
    if len(entry.value) != 1:
        entry.refuse("an argument")
    ((mark, part),) = entry.keyed().items()
    match mark:
        case "value":
            return Value(part.text())
        case "weight":
            return Weight(part.text())
        case "batch":
            return Batch(part.whole())
        case "dtype":
            return _DTYPES[part.choice(list(_DTYPES))]
        case "float":
            return _INFINITE[part.choice(list(_INFINITE))]
        case "size" if sized:
            return Size(_formula(part))
    entry.refuse("an argument")


def _formula(entry: Entry) -> Any:
    """Read a formula of `Size`: numbers, names, and groups of them."""
    match entry.value:
        case list():
            return tuple(_formula(part) for part in entry.listed())
        case str():
            return entry.text()
    return entry.whole()


__all__ = ["NEWEST", "OLDER", "PER_SITE", "RANGES", "WEIGHTS", "from_json", "tensors_of", "to_json"]

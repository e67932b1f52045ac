"""Save and load converted networks as a folder with config.json and model.safetensors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_bytes
from torch import Tensor

from transpike.errors import ArgumentError, FileError
from transpike.graph import ops
from transpike.graph.network import (
    INPUT,
    Argument,
    Batch,
    Network,
    Node,
    Site,
    Value,
    Weight,
    leaves,
)
from transpike.graph.sizes import Size, Sizes
from transpike.graph.structure import Structure
from transpike.spiking.entries import Entry
from transpike.spiking.neuron import Neuron
from transpike.spiking.spiking_network import SpikingNetwork
from transpike.spiking.stored_structure import (
    structure_from_earlier,
    structure_from_json,
    structure_to_json,
)

SCHEMA = 4
# Older schemas that are still read. 2 does not store the possible input sizes. 2 and 3 hold the
# structure of the output in another form.
_OLDER = (2, 3)
_ONE_SIZE = 2
FORMAT = "transpike"
CONFIG = "config.json"
TENSORS = "model.safetensors"
# The tensors that every site has, with one value per channel.
_PER_SITE = ("steps", "starts", "offsets")


def save(snn: SpikingNetwork, folder: str | Path) -> None:
    """Write a converted network to a folder.

    The folder also holds the folded analog network. Agreement and the accuracy of the quantized
    ANN can therefore be measured from the folder alone. No file is a pickle.

    Args:
        snn: the converted network.
        folder: where to write. It is created if it does not exist, and its files are overwritten.

    Raises:
        ArgumentError: `snn` is not a SpikingNetwork.
        FileError: the folder cannot be written.
    """
    if not isinstance(snn, SpikingNetwork):
        raise ArgumentError(f"save: needed a SpikingNetwork, got {type(snn).__name__}.")
    folder = Path(folder)
    network = snn.network
    tensors = {f"weights.{name}": tensor for name, tensor in network.tensors.items()}
    for kind in _PER_SITE:
        tensors |= {f"{kind}.{name}": tensor for name, tensor in getattr(snn, kind).items()}
    config = {
        "format": FORMAT,
        "schema": SCHEMA,
        "input_shape": list(network.input_shape),
        "nodes": [_node_to_json(node) for node in network.nodes],
        "sites": [asdict(site) for site in network.sites],
        "outputs": [_to_json(leaf) for leaf in network.outputs],
        "output_spec": structure_to_json(network.output_spec),
        "sizes": _sizes_to_json(network.sizes),
        "neurons": {name: neuron.to_dict() for name, neuron in snn.neurons.items()},
        "settings": snn.settings,
        "readout_start": snn.readout_start,
        "coding": snn.coding,
        "sha256": "",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
        # `save_file` would make a file that only its owner can read, so write the bytes.
        (folder / TENSORS).write_bytes(to_bytes(plain))
        config["sha256"] = _digest(folder / TENSORS)
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write to '{folder}': {error}") from error


def load(folder: str | Path) -> SpikingNetwork:
    """Read a converted network. The code of the original model is not needed.

    Args:
        folder: a folder that `save` wrote.

    Returns:
        The network, on the CPU. Its outputs equal those of the saved network.

    Raises:
        FileError: the folder is missing, is damaged, was not written by `save`, or has a schema
            that this version does not read.
    """
    folder = Path(folder)
    config = _read_config(folder)
    tensors = _read_tensors(folder, config.get("sha256"))
    try:
        network = Network(
            nodes=tuple(_node_from_json(entry) for entry in config["nodes"]),
            tensors=_prefixed(tensors, "weights."),
            sites=tuple(
                Site(**{**entry, "shape": tuple(entry["shape"])}) for entry in config["sites"]
            ),
            outputs=tuple(_from_json(leaf) for leaf in config["outputs"]),
            output_spec=_structure(config),
            input_shape=tuple(config["input_shape"]),
            sizes=_sizes_from_json(config),
        )
        neurons = {name: Neuron.from_dict(entry) for name, entry in config["neurons"].items()}
        per_site = {kind: _prefixed(tensors, f"{kind}.") for kind in _PER_SITE}
        _check_complete(network, neurons, per_site)
        return SpikingNetwork(
            network,
            neurons,
            settings=config["settings"],
            readout_start=config["readout_start"],
            coding=config["coding"],
            **per_site,
        )
    except FileError as error:
        raise FileError(f"'{folder}' is damaged: {error} Convert the model again.") from error
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        NotImplementedError,
        RecursionError,
    ) as error:
        raise FileError(
            f"'{folder / CONFIG}' is damaged: {type(error).__name__}: {error}. "
            "Convert the model again."
        ) from error


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise FileError(
            f"'{folder}' is not a saved network: needed the file {CONFIG} in it. Give a folder "
            "that save() wrote."
        )
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise FileError(f"'{path}' is damaged: {error}. Convert the model again.") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise FileError(f'\'{path}\' was not written by transpike: needed "format": "{FORMAT}".')
    if config.get("schema") not in (SCHEMA, *_OLDER):
        raise FileError(
            f"'{path}': needed schema {', '.join(map(str, _OLDER))} or {SCHEMA}, got "
            f"{config.get('schema')!r}. Use the version of transpike that wrote it, or convert the "
            "model again."
        )
    return config


def _structure(config: Mapping[str, Any]) -> Structure:
    entry = Entry(config["output_spec"], "output_spec")
    if config["schema"] == SCHEMA:
        return structure_from_json(entry)
    return structure_from_earlier(entry)


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _read_tensors(folder: Path, sha256: object) -> dict[str, Tensor]:
    path = folder / TENSORS
    if not path.is_file():
        raise FileError(
            f"'{folder}' is not a saved network: needed the file {TENSORS} in it. Give a folder "
            "that save() wrote."
        )
    if _digest(path) != sha256:
        raise FileError(
            f"'{path}' is damaged: its SHA-256 is not the one in {CONFIG}. Convert the model again."
        )
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise FileError(f"'{path}' is damaged: {error}. Convert the model again.") from error


def _prefixed(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def _check_complete(
    network: Network, neurons: Mapping[str, Neuron], per_site: Mapping[str, Mapping[str, Tensor]]
) -> None:
    """Refuse unknown operations, references to nothing, and tensors that are missing or wrong."""
    defined = {"input"}
    for node in network.nodes:
        if node.op not in (ops.KNOWN if node.kind != "constant" else ops.KNOWN | ops.CONSTANT):
            raise FileError(f"unknown operation '{node.op}'.")
        _check_references((node.args, node.kwargs), defined, network)
        defined.add(node.name)
    _check_references(network.outputs, defined, network)
    _check_sizes(network)
    for site in network.sites:
        if site.node not in defined or site.name not in neurons:
            raise FileError(f"site '{site.name}' has no node or neuron.")
        for kind, tensors in per_site.items():
            _check_values(kind, site, tensors.get(site.name))


def _check_values(kind: str, site: Site, values: Tensor | None) -> None:
    """Refuse values of a site that are not finite, not one per channel, or steps that are <= 0."""
    if values is None:
        raise FileError(f"site '{site.name}' has no {kind}.")
    finite = bool(torch.isfinite(values).all())
    if values.shape != (site.channels,) or not finite or (kind == "steps" and values.min() <= 0):
        rule = "values > 0" if kind == "steps" else "finite values"
        raise FileError(
            f"{kind} of '{site.name}': needed {site.channels} {rule}, got shape "
            f"{tuple(values.shape)}."
        )


def _check_references(argument: Argument, defined: set[str], network: Network) -> None:
    for leaf in leaves(argument):
        if isinstance(leaf, Value) and leaf.name not in defined:
            raise FileError(f"value '{leaf.name}' is read before it is computed.")
        if isinstance(leaf, Weight) and leaf.name not in network.tensors:
            raise FileError(f"tensor '{leaf.name}' is missing.")


def _check_sizes(network: Network) -> None:
    """Refuse size steps and formulas that do not fit this network."""
    axes, sizes = len(network.input_shape) - 1, network.sizes
    if sizes.steps and (len(sizes.steps) != axes or min(sizes.steps) < 0):
        raise FileError(f"sizes: needed {axes} steps >= 0, got {sizes.steps}.")
    defined = {INPUT}
    for node in network.nodes:
        for leaf in leaves(sizes.arguments.get(node.name, ())):
            if isinstance(leaf, Size) and not leaf.well_formed(axes, defined):
                raise FileError(f"size of '{node.name}': unknown formula {leaf.formula!r}.")
        _check_references(sizes.arguments.get(node.name, ()), defined, network)
        defined.add(node.name)


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


def _sizes_from_json(config: Mapping[str, Any]) -> Sizes:
    if config["schema"] == _ONE_SIZE:
        return Sizes(reason="the network was saved by an older version, which kept one size")
    entry = config["sizes"]
    return Sizes(
        steps=tuple(int(step) for step in entry["steps"]),
        together=bool(entry["together"]),
        reason=str(entry["reason"]),
        arguments={
            name: (_from_json(args), {key: _from_json(leaf) for key, leaf in kwargs.items()})
            for name, (args, kwargs) in entry["arguments"].items()
        },
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


def _node_from_json(entry: dict[str, Any]) -> Node:
    return Node(
        name=entry["name"],
        op=entry["op"],
        args=tuple(_from_json(leaf) for leaf in entry["args"]),
        kwargs={key: _from_json(leaf) for key, leaf in entry["kwargs"].items()},
        kind=entry["kind"],
        place=entry["place"],
        shape=None if entry["shape"] is None else tuple(entry["shape"]),
    )


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
        case float() if leaf in (float("inf"), float("-inf")):
            return {"float": str(leaf)}
        case None | bool() | int() | float() | str():
            return leaf
    raise ArgumentError(f"save: cannot store an argument of type {type(leaf).__name__}.")


def _from_json(leaf: Any) -> Argument:
    match leaf:
        case {"value": str(name)}:
            return Value(name)
        case {"weight": str(name)}:
            return Weight(name)
        case {"batch": int(multiple)}:
            return Batch(multiple)
        case {"size": formula}:
            return Size(_from_json(formula))
        case {"dtype": str(name)}:
            return getattr(torch, name)
        case {"float": str(text)}:
            return float(text)
        case list():
            return tuple(_from_json(item) for item in leaf)
        case None | bool() | int() | float() | str():
            return leaf
    raise FileError(f"unknown argument {leaf!r}.")

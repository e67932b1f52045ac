"""Save and load converted networks as a folder with config.json and one file of tensors.

config.json names the tensors by their SHA-256, which is also in the name of their file, and holds
the SHA-256 of itself. It is written last and in one step. So a folder always holds a whole network,
the old one or the new one.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load as from_bytes
from safetensors.torch import save as to_bytes
from torch import Tensor

from transpike.errors import ArgumentError, DataError, FileError, TranspikeError
from transpike.files import data_file, write_head_and_data
from transpike.graph.consistency import check_network
from transpike.spiking import schema
from transpike.spiking.site_tensors import check_per_site
from transpike.spiking.spiking_network import SpikingNetwork
from transpike.spiking.tensor_header import check_header

FORMAT = "transpike"
CONFIG = "config.json"
TENSORS = "model.safetensors"  # Since schema 4, the name also holds a part of the SHA-256.
_HEAD = ("format", "schema", "tensors", "sha256")
_EARLIER_HEAD = ("format", "schema", "sha256")
_REMEDY = "Convert the model again."


def save(snn: SpikingNetwork, folder: str | Path) -> None:
    """Write a converted network to a folder.

    The folder also holds the folded analog network. Agreement and the accuracy of the quantized
    ANN can therefore be measured from the folder alone. No file is a pickle. If writing fails, a
    network that the folder held before can still be loaded.

    Args:
        snn: the converted network.
        folder: where to write. It is created if it does not exist, and a network in it is replaced.

    Raises:
        ArgumentError: `snn` is not a SpikingNetwork, or `load` would refuse it.
        FileError: the folder cannot be written.
    """
    if not isinstance(snn, SpikingNetwork):
        raise ArgumentError(f"save: needed a SpikingNetwork, got {type(snn).__name__}.")
    folder = Path(folder)
    tensors = schema.tensors_of(snn)
    content = _plain(schema.to_json(snn))
    try:
        _assembled(content, schema.NEWEST, tensors)
    except TranspikeError as error:
        raise ArgumentError(f"save: {error}") from error
    earlier = _holds_earlier(folder)
    try:
        data = to_bytes(tensors)
        folder.mkdir(parents=True, exist_ok=True)
        # `save_file` would make a file that only its owner can read, so write the bytes.
        write_head_and_data(
            folder / CONFIG, lambda digest: _text(content, digest), folder / TENSORS, data
        )
    except (OSError, SafetensorError) as error:
        raise FileError(f"cannot write to '{folder}': {error}") from error
    if earlier:
        with contextlib.suppress(OSError):
            (folder / TENSORS).unlink(missing_ok=True)


def load(folder: str | Path) -> SpikingNetwork:
    """Read a converted network. The code of the original model is not needed.

    Loading runs no code from the folder. Every value in config.json is checked, and so is
    everything that follows from other values. An output that was a named tuple or a dataclass comes
    back as a tuple with the same names: `output.scores` is `output[0]`.

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
    found = config["schema"]
    head = _HEAD if found == schema.NEWEST else _EARLIER_HEAD
    missing = [key for key in head if not isinstance(config.get(key), str | int)]
    if missing:
        raise FileError(f"'{folder / CONFIG}' is damaged: needed the key {missing[0]}. {_REMEDY}")
    if found == schema.NEWEST and _digest(config) != config["sha256"]:
        raise FileError(
            f"'{folder / CONFIG}' is damaged: its content does not have the SHA-256 in it. "
            f"{_REMEDY}"
        )
    tensors = _read_tensors(folder, config)
    try:
        content = {key: value for key, value in config.items() if key not in head}
        return _assembled(content, found, tensors)
    except (FileError, ArgumentError, DataError) as error:
        raise FileError(f"'{folder / CONFIG}' is damaged: {error} {_REMEDY}") from error
    except RecursionError as error:
        raise FileError(f"'{folder / CONFIG}' is damaged: nested too deeply. {_REMEDY}") from error


def _assembled(
    content: Mapping[str, Any], found: int, tensors: Mapping[str, Tensor]
) -> SpikingNetwork:
    """Make the network after all checks."""
    named = (schema.WEIGHTS, *schema.PER_SITE, *schema.RANGES)
    kinds: dict[str, dict[str, Tensor]] = {kind: {} for kind in named}
    for full, tensor in tensors.items():
        kind, _, name = full.partition(".")
        if kind not in kinds:
            raise FileError(f"tensor '{full}': needed weights or values of sites.")
        kinds[kind][name] = tensor
    network, rest = schema.from_json(content, found, kinds)
    check_network(network)
    per_site = {kind: kinds[kind] for kind in (*schema.PER_SITE, *schema.RANGES)}
    check_per_site(network, rest["neurons"], per_site)
    rest.update(per_site)
    return SpikingNetwork(network, **rest)


def _plain(content: dict[str, Any]) -> dict[str, Any]:
    """Return the content as the JSON parser gives it.

    Raises:
        ArgumentError: the settings hold something else than JSON can.
    """
    try:
        text = json.dumps(content, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ArgumentError(f"save: the settings cannot be written as JSON: {error}.") from error
    result: dict[str, Any] = json.loads(text)
    return result


def _digest(config: Mapping[str, Any]) -> str:
    """Return the SHA-256 of everything in config.json but this digest itself."""
    rest = {key: value for key, value in config.items() if key != "sha256"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode("ascii")).hexdigest()


def _text(content: Mapping[str, Any], tensors: str) -> str:
    """Return config.json for tensors with this SHA-256."""
    config = {"format": FORMAT, "schema": schema.NEWEST, **content, "tensors": tensors}
    return json.dumps({**config, "sha256": _digest(config)}, indent=1) + "\n"


def _holds_earlier(folder: Path) -> bool:
    """Whether the folder holds a network of an earlier schema."""
    try:
        return bool(_read_config(folder)["schema"] in schema.OLDER)
    except FileError:
        return False


def _read_config(folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if not path.is_file():
        raise FileError(
            f"'{folder}' is not a saved network: needed the file {CONFIG} in it. Give a folder "
            "that save() wrote."
        )
    try:
        text = path.read_text(encoding="utf-8")
        config = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
        json.dumps(config, ensure_ascii=False).encode("utf-8")  # half a surrogate pair fails here
    except (OSError, ValueError, RecursionError) as error:
        raise FileError(f"'{path}' is damaged: {error}. {_REMEDY}") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise FileError(f'\'{path}\' was not written by transpike: needed "format": "{FORMAT}".')
    found = config.get("schema")
    if isinstance(found, bool) or found not in (*schema.OLDER, schema.NEWEST):
        raise FileError(
            f"'{path}': needed schema {', '.join(map(str, schema.OLDER))} or {schema.NEWEST}, got "
            f"{found!r}. Use the version of transpike that wrote it, or convert the model again."
        )
    return config


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object whose keys are all different."""
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a key stands twice in an object")
    return made


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not JSON")


def _read_tensors(folder: Path, config: Mapping[str, Any]) -> dict[str, Tensor]:
    """Read the tensors from the bytes whose SHA-256 was checked."""
    newest = config["schema"] == schema.NEWEST
    needed = str(config["tensors"] if newest else config["sha256"])
    if not re.fullmatch("[0-9a-f]{64}", needed):
        raise FileError(
            f"'{folder / CONFIG}' is damaged: needed a SHA-256, got {needed!r}. {_REMEDY}"
        )
    path = data_file(folder / TENSORS, needed) if newest else folder / TENSORS
    if not path.is_file():
        raise FileError(
            f"'{folder}' is not a saved network: needed the file {path.name} in it. Give a folder "
            "that save() wrote."
        )
    try:
        data = path.read_bytes()
        if hashlib.sha256(data).hexdigest() != needed:
            raise FileError(
                f"'{path}' is damaged: its SHA-256 is not the one in {CONFIG}. {_REMEDY}"
            )
        check_header(str(path), data)
        return from_bytes(data)
    except (SafetensorError, OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise FileError(f"'{path}' is damaged: {error}. {_REMEDY}") from error

"""Writes trained weights and a card with their origin."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save as to_bytes
from torch import nn

from transpike.errors import FileError
from transpike.files import write_bytes, write_text


def save_weights(model: nn.Module, file: Path) -> None:
    """Write the weights and BatchNorm statistics in half precision.

    Args:
        model: model whose floating-point tensors fit half precision.
        file: file to write; its name ends in `.safetensors`.

    Raises:
        FileError: a value overflows half precision, or the file cannot be written.
    """
    tensors = {}
    for name, value in model.state_dict().items():
        half = value.detach().cpu().half() if value.is_floating_point() else value.detach().cpu()
        if not torch.isfinite(half).all():
            raise FileError(
                f"cannot write {str(file)!r}: {name} does not fit half precision. Save it with "
                "safetensors.torch.save_file in single precision instead."
            )
        tensors[name] = half.contiguous()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        # Written as bytes, because save_file makes a file that only its owner can read.
        write_bytes(file, to_bytes(tensors))
    except OSError as error:
        raise FileError(f"cannot write {str(file)!r}: {error}.") from error


def write_card(file: Path, title: str, facts: Mapping[str, str]) -> None:
    """Write a model card with a title and a table of facts.

    Args:
        file: file to write; its name ends in `.md`.
        title: title of the card.
        facts: facts by name, in order.

    Raises:
        FileError: the file cannot be written.
    """
    rows = [f"| {name} | {value} |" for name, value in facts.items()]
    text = "\n".join([f"# {title}", "", "| | |", "|---|---|", *rows, ""])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise FileError(f"cannot write {str(file)!r}: {error}.") from error


__all__ = ["save_weights", "write_card"]

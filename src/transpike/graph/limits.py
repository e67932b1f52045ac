"""Limits of whole numbers, of tensors and of memory, checked before anything is computed."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError

MOST_COUNT = 2**24
"""Largest timestep and count. Float32 represents whole numbers exactly up to here."""


def check_count(name: str, value: object) -> None:
    """Refuse what is not an integer from 1 to `MOST_COUNT`.

    Raises:
        ArgumentError: `value` is something else. The message begins with `name`.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ArgumentError(f"{name}: needed an integer >= 1, got {value!r}.")
    if value > MOST_COUNT:
        got = str(value) if value < 2**64 else f"a number of {value.bit_length()} bits"
        raise ArgumentError(
            f"{name}: needed at most {MOST_COUNT}, because float32 does not represent larger "
            f"counts exactly, got {got}. Use a smaller number."
        )


def check_dense(name: str, value: object, needed: str) -> None:
    """Refuse what is not a dense tensor.

    Raises:
        DataError: `value` is something else. The message begins with `name`.
    """
    if not isinstance(value, Tensor):
        raise DataError(f"{name}: needed a tensor {needed}, got {type(value).__name__}.")
    if value.is_nested:
        raise DataError(
            f"{name}: needed a dense tensor {needed}, got a nested one. Use one tensor per size."
        )
    if value.layout != torch.strided:
        layout = str(value.layout).removeprefix("torch.")
        raise DataError(
            f"{name}: needed a dense tensor {needed}, got one in the layout {layout}. Use "
            ".to_dense()."
        )


def check_fits(size: int, what: str, device: torch.device, remedy: str) -> None:
    """Refuse results that are larger than the memory of this machine.

    Args:
        size: bytes of the results.
        what: what the results are, for the message.
        device: where the results are kept. Only memory of the CPU is checked.
        remedy: what to do if they do not fit, as a sentence.

    Raises:
        ArgumentError: the results do not fit.
    """
    names = getattr(os, "sysconf_names", {})  # Windows has none of them.
    if device.type != "cpu" or not {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(names):
        return
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise ArgumentError(
            f"timesteps: needed {what} that fit the {memory / 2**30:,.0f} GiB of this machine, got "
            f"{size / 2**30:,.0f} GiB. {remedy}"
        )

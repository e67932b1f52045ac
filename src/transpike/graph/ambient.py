"""Compute with settings of our own, whatever the caller has set for PyTorch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch

_DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


@contextmanager
def isolated() -> Iterator[None]:
    """Keep the caller's settings of PyTorch from changing a number.

    Inside, autocast is off, tensors without a stated type are float32, tensors without a stated
    device are on the CPU, and products of float32 matrices are not rounded to a shorter type. All
    settings are restored at the end. Gradients are not touched here: what computes without them
    says so itself. Every public function that computes is decorated with it.
    """
    with ExitStack() as stack:
        for device_type in _DEVICE_TYPES:
            if torch.is_autocast_enabled(device_type):
                stack.enter_context(torch.autocast(device_type, enabled=False))
        if torch.get_default_device().type != "cpu":
            stack.enter_context(torch.device("cpu"))
        dtype, products = torch.get_default_dtype(), torch.get_float32_matmul_precision()
        # These two hold for all threads, so they are set only if they have to be.
        if dtype != torch.float32:
            stack.callback(torch.set_default_dtype, dtype)
            torch.set_default_dtype(torch.float32)
        if products != "highest":
            stack.callback(torch.set_float32_matmul_precision, products)
            torch.set_float32_matmul_precision("highest")
        yield


@contextmanager
def uncompiled() -> Iterator[None]:
    """Run functions and modules that torch.compile has wrapped as they were written."""
    with torch.compiler.set_stance("force_eager"):
        yield

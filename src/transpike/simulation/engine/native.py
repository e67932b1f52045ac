"""Two kernels in C that the system's compiler builds once; the user's cache keeps them.

scan.c is the neuron update, and convolve.c is the convolution of sparse signals. torch.compile does
not replace the update on a CPU: Inductor stores every intermediate result and counts the spikes in
a second pass. It also needs seconds of compilation per class of shapes, and it reaches a third of
the kernel's speed.
"""

from __future__ import annotations

import ctypes
import logging
from functools import cache
from typing import Any

import torch
from torch import Tensor

from transpike.simulation.engine.library import load

MOST_COUNTS = 2**20
"""Largest count per timestep for which the sums of a block stay within 32 bits."""
_log = logging.getLogger("transpike")

_POINTERS = "offset step bound start membrane total out membranes counts".split()
_SIZES = "length batch neurons first".split()
_ARRAYS = "x weight bias out channel value count".split()
_EXTENTS = (
    "images height width channels outs out_height out_width kernel_height kernel_width stride "
    "pad_height pad_width"
).split()
_SWITCHES = "kind binary half_current half_other half_out threads".split()


class Scan(ctypes.Structure):
    """The arguments of `transpike_scan`, field by field as in scan.c."""

    _fields_ = [
        ("current", ctypes.c_void_p),
        ("other", ctypes.c_void_p),
        ("current_stride", ctypes.c_int64),
        ("other_stride", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _SIZES),
        ("max_count", ctypes.c_float),
        ("levels", ctypes.c_float),
        ("hysteresis", ctypes.c_float),
        ("unit", ctypes.c_float),
        ("shift", ctypes.c_float),
        *((name, ctypes.c_int32) for name in _SWITCHES),
    ]


class Convolution(ctypes.Structure):
    """The arguments of `transpike_list` and `transpike_convolve`, as in convolve.c."""

    _fields_ = [
        *((name, ctypes.c_void_p) for name in _ARRAYS),
        *((name, ctypes.c_int64) for name in _EXTENTS),
        ("threads", ctypes.c_int32),
        ("onto", ctypes.c_int32),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    """Address of the first value of a tensor, for a field of `Scan`."""
    return None if tensor is None else tensor.data_ptr()


@cache
def kernel() -> ctypes.CDLL | None:
    """The compiled neuron update, or None if it cannot be built; one warning then says so."""
    library, reason = load("scan")
    if library is None:
        _log.warning("neurons are updated by slower torch code, with the same results: %s", reason)
        return None
    library.transpike_scan.argtypes = [ctypes.POINTER(Scan)]
    library.transpike_scan.restype = None
    _check_size(library.transpike_scan_size, Scan)
    return library


@cache
def convolution() -> ctypes.CDLL | None:
    """The compiled convolution of sparse signals, or None if it cannot be built."""
    library, _ = load("convolve")
    if library is None:
        return None
    library.transpike_list.argtypes = [ctypes.POINTER(Convolution)]
    library.transpike_list.restype = ctypes.c_int64
    library.transpike_sample.argtypes = [ctypes.POINTER(Convolution), ctypes.c_int64]
    library.transpike_sample.restype = ctypes.c_int64
    library.transpike_scatter.argtypes = [ctypes.POINTER(Convolution)]
    library.transpike_scatter.restype = None
    library.transpike_hold.argtypes = [ctypes.POINTER(Convolution), ctypes.c_int64]
    library.transpike_hold.restype = None
    library.transpike_convolve.argtypes = [ctypes.POINTER(Convolution)]
    library.transpike_convolve.restype = None
    library.transpike_convolution_lanes.restype = ctypes.c_int64
    _check_size(library.transpike_convolution_size, Convolution)
    return library


def convolution_lanes() -> int:
    """Number of values in one vector of the compiled convolution."""
    library = convolution()
    assert library is not None
    return int(library.transpike_convolution_lanes())


def _check_size(size: Any, structure: type[ctypes.Structure]) -> None:
    size.restype = ctypes.c_int64
    if size() != ctypes.sizeof(structure):
        raise RuntimeError(f"{structure.__name__} differs from its form in C.")


def run(arguments: Scan) -> None:
    """Run the kernel with as many threads as PyTorch uses."""
    library = kernel()
    assert library is not None
    arguments.threads = torch.get_num_threads()
    library.transpike_scan(ctypes.byref(arguments))

"""Two kernels in C that the system's compiler builds once; the user's cache keeps them.

scan.c is the neuron update, and convolve.c is the convolution of sparse signals. torch.compile does
not replace the update on a CPU: Inductor stores every intermediate result and counts the spikes in
a second pass. It also needs seconds of compilation per class of shapes, and it reaches a third of
the kernel's speed.
"""

from __future__ import annotations

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_FOLDER = Path(__file__).parent
MOST_COUNTS = 2**20
"""Largest count per timestep for which the sums of a block stay within 32 bits."""
_FLAGS = "-O3 -march=native -std=c11 -fno-math-errno -fno-trapping-math -shared -fPIC".split()
# The neuron update rounds after every operation, as PyTorch does. A convolution may use fused
# multiply-adds.
_CONTRACTION = {"scan": "-ffp-contract=off", "convolve": "-ffp-contract=fast"}
# The kernels use threads if the compiler has OpenMP.
_THREADS: tuple[list[str], ...] = (["-fopenmp"], ["-fopenmp-simd"], [])
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
    library, reason = _library("scan")
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
    library, _ = _library("convolve")
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
    assert size() == ctypes.sizeof(structure), f"{structure.__name__} differs from its C form"


def _library(name: str) -> tuple[ctypes.CDLL | None, str]:
    """The library of a kernel, or None and the reason why there is none."""
    if os.environ.get("TRANSPIKE_NATIVE") == "0":
        return None, "TRANSPIKE_NATIVE=0"
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        return None, "no C compiler was found (install gcc or clang, or set CC)"
    reason = ""
    for threads in _THREADS:
        try:
            path = _compiled(name, compiler, [*_FLAGS, _CONTRACTION[name], *threads])
            return ctypes.CDLL(str(path)), ""
        except (OSError, subprocess.SubprocessError) as error:
            reason = f"{compiler} failed: {getattr(error, 'stderr', None) or error}".strip()
    return None, reason


def _compiled(name: str, compiler: str, flags: list[str]) -> Path:
    """Path of the library for this source, compiler and processor. It is built if it is missing."""
    source = _FOLDER / f"{name}.c"
    parts = [source.read_text(), compiler, *flags, platform.machine(), _processor()]
    identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    target = _cache_folder() / f"{name}-{identity}.so"
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / target.name
            command = [compiler, *flags, str(source), "-o", str(built), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            built.replace(target)  # atomic: several processes may build at once
    return target


def _processor() -> str:
    """A text that identifies the processor, because several machines may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _cache_folder() -> Path:
    """A folder that can be written: the user's cache, or a temporary folder of this process."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "transpike"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="transpike-"))


def run(arguments: Scan) -> None:
    """Run the kernel with as many threads as PyTorch uses."""
    library = kernel()
    assert library is not None
    arguments.threads = torch.get_num_threads()
    library.transpike_scan(ctypes.byref(arguments))

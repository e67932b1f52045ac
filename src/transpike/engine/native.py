"""The neuron update in C: compiled once by the system's own compiler, kept in the user's cache.

Why not torch.compile on the CPU: Inductor writes the counts of a chunk in a second pass with every
intermediate stored, needs seconds per shape class, and reaches a third of this kernel's speed.
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

import torch
from torch import Tensor

SOURCE = Path(__file__).with_name("scan.c")
MOST_COUNTS = 2**20
"""Largest count a neuron may send in one timestep: sums of a block stay within 32 bits."""
_FLAGS = (
    "-O3 -march=native -std=c11 -ffp-contract=off -fno-math-errno -fno-trapping-math -shared -fPIC"
).split()
# With threads where the compiler has OpenMP, else without.
_THREADS: tuple[list[str], ...] = (["-fopenmp"], ["-fopenmp-simd"], [])
_log = logging.getLogger("transpike")

_POINTERS = "offset step bound start membrane total out membranes counts".split()
_SIZES = "length batch neurons first".split()
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
        *((name, ctypes.c_int32) for name in _SWITCHES),
    ]


def pointer(tensor: Tensor | None) -> int | None:
    """Address of a tensor's first value, for a field of `Scan`."""
    return None if tensor is None else tensor.data_ptr()


@cache
def kernel() -> ctypes.CDLL | None:
    """The compiled kernel, or None where it cannot be built; then one message says so."""
    compiler = os.environ.get("CC") or shutil.which("cc") or shutil.which("gcc")
    if os.environ.get("TRANSPIKE_NATIVE") == "0":
        reason = "TRANSPIKE_NATIVE=0"
    elif compiler is None:
        reason = "no C compiler was found (install gcc or clang, or set CC)"
    else:
        library, reason = _built(compiler)
        if library is not None:
            return library
    _log.warning("neurons are updated by slower torch code, with the same results: %s", reason)
    return None


def _built(compiler: str) -> tuple[ctypes.CDLL | None, str]:
    reason = ""
    for threads in _THREADS:
        flags = [*_FLAGS, *threads]
        try:
            return _loaded(_compiled(compiler, flags)), ""
        except (OSError, subprocess.SubprocessError, AttributeError) as error:
            reason = f"{compiler} failed: {getattr(error, 'stderr', None) or error}".strip()
    return None, reason


def _compiled(compiler: str, flags: list[str]) -> Path:
    """Path of the library for this source, compiler and processor; built if it is not there."""
    source = SOURCE.read_text()
    identity = "\n".join([source, compiler, *flags, platform.machine(), _processor()])
    name = f"scan-{hashlib.sha256(identity.encode()).hexdigest()[:16]}.so"
    target = _cache_folder() / name
    if not target.exists():
        with tempfile.TemporaryDirectory(dir=target.parent) as folder:
            built = Path(folder) / name
            command = [compiler, *flags, str(SOURCE), "-o", str(built), "-lm"]
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=120)
            built.replace(target)  # atomic: several processes may build at once
    return target


def _processor() -> str:
    """What -march=native depends on; a home directory may be shared by several machines."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def _cache_folder() -> Path:
    """A folder that can be written: the user's cache, or a private one of this process."""
    base = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(base) if base else Path.home() / ".cache") / "transpike"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            return folder
    except OSError:
        pass
    return Path(tempfile.mkdtemp(prefix="transpike-"))


def _loaded(path: Path) -> ctypes.CDLL:
    library = ctypes.CDLL(str(path))
    library.transpike_scan.argtypes = [ctypes.POINTER(Scan)]
    library.transpike_scan.restype = None
    library.transpike_scan_size.restype = ctypes.c_int64
    if library.transpike_scan_size() != ctypes.sizeof(Scan):
        raise OSError("the kernel's arguments have another size than expected")
    return library


def run(arguments: Scan) -> None:
    """Run the kernel; the threads are torch's."""
    library = kernel()
    assert library is not None
    arguments.threads = torch.get_num_threads()
    library.transpike_scan(ctypes.byref(arguments))

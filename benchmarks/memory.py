"""Peak memory of this process, from the counters of Linux."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path


def base_memory() -> int:
    """Give back free memory, reset the peak counter, and return the resident bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM, see proc(5)
    return _status("VmRSS")


def peak_over(base: int) -> int:
    """Bytes by which the resident memory has exceeded `base` since `base_memory`."""
    return max(0, _status("VmHWM") - base)


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")

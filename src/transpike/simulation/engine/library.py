"""Build the C files once with the system's compiler, and keep the libraries in the user's cache.

A library runs code as soon as it is loaded. A library from the cache is therefore loaded only if it
belongs to this user, if nobody else can write to it or to its folder, and if it has the digest that
was stored beside it. In all other cases it is built again.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shlex
import shutil
import stat
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import platformdirs

_SOURCES = Path(__file__).parent
_FLAGS = "-O3 -march=native -std=c11 -fno-math-errno -fno-trapping-math -shared -fPIC".split()
# The neuron update rounds after every operation, as PyTorch does. A convolution may use fused
# multiply-adds.
_CONTRACTION = {"scan": "-ffp-contract=off", "convolve": "-ffp-contract=fast"}
# The kernels use threads if the compiler has OpenMP.
_THREADS: tuple[list[str], ...] = (["-fopenmp"], ["-fopenmp-simd"], [])
_SECONDS = 120
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def load(name: str) -> tuple[ctypes.CDLL | None, str]:
    """Load the library of a C file of this folder, which is built if the cache has none.

    Args:
        name: name of the file without its ending.

    Returns:
        The library, or None and the reason why there is none.
    """
    if os.environ.get("TRANSPIKE_NATIVE") == "0":
        return None, "TRANSPIKE_NATIVE=0"
    compiler = shlex.split(os.environ.get("CC", ""))
    if not compiler:
        found = shutil.which("cc") or shutil.which("gcc")
        if found is None:
            return None, "no C compiler was found (install gcc or clang, or set CC)"
        compiler = [found]
    reason = ""
    for threads in _THREADS:
        command = [*compiler, *_FLAGS, _CONTRACTION[name], *threads]
        try:
            return ctypes.CDLL(str(_built(name, command))), ""
        except (OSError, subprocess.SubprocessError) as error:
            failure = getattr(error, "stderr", None) or error
            reason = f"{shlex.join(compiler)} failed: {failure}".strip()
    return None, reason


def _built(name: str, command: list[str]) -> Path:
    """Path of the library for this source, compiler and processor; it is built if need be."""
    source = _SOURCES / f"{name}.c"
    parts = [source.read_text(), *command, platform.machine(), _processor()]
    identity = hashlib.sha256("\n".join(parts).encode()).hexdigest()[:16]
    folder = cache_folder()
    target = folder / f"{name}-{identity}.so"
    if not _trusted(target):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            fresh = Path(scratch) / target.name
            subprocess.run(
                [*command, str(source), "-o", str(fresh), "-lm"],
                check=True,
                capture_output=True,
                text=True,
                timeout=_SECONDS,
            )
            fresh.chmod(0o700)
            digest = _digest_file(fresh)
            digest.write_text(_digest(fresh))
            digest.chmod(0o600)
            for path in (fresh, digest):
                _write_through(path)
            # Several processes may build at once. A rename replaces a file as a whole, and the
            # digest comes last: without it the library is built again.
            fresh.replace(target)
            digest.replace(_digest_file(target))
    return target


def _trusted(library: Path) -> bool:
    """Whether a library and its digest are this user's own, and belong together."""
    digest = _digest_file(library)
    try:
        return (
            _is_private(library) and _is_private(digest) and digest.read_text() == _digest(library)
        )
    except OSError:
        return False


def _is_private(path: Path) -> bool:
    """Whether a file or folder belongs to this user and nobody else can write to it.

    Raises:
        OSError: there is no such file.
    """
    found = path.lstat()
    plain = stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)
    if os.name != "posix":
        return plain
    return plain and found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE


def _digest_file(library: Path) -> Path:
    return library.with_name(f"{library.name}.sha256")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _write_through(path: Path) -> None:
    """Wait until a file is on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def cache_folder() -> Path:
    """A folder into which only this user can write.

    It is the cache folder of the user, or a temporary one if that cannot be used. A temporary
    folder is removed at exit.
    """
    try:
        folder = Path(platformdirs.user_cache_dir("transpike", appauthor=False))
        if not folder.is_absolute():  # A relative XDG_CACHE_HOME is invalid and has to be ignored.
            folder = Path("~/.cache/transpike").expanduser()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "posix" and folder.lstat().st_uid == os.geteuid():
            folder.chmod(0o700)
        if _is_private(folder) and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: this user has no home folder.
        pass
    return Path(_temporary_folder().name)


@cache
def _temporary_folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="transpike-")


def _processor() -> str:
    """A text that identifies the processor, because several machines may share a home folder."""
    cpuinfo = Path("/proc/cpuinfo")
    if not cpuinfo.exists():
        return platform.processor()
    lines = cpuinfo.read_text().splitlines()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))

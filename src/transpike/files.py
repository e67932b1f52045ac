"""Write files whole: whoever opens a file sees all of the old content or all of the new one."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

_BINARY = getattr(os, "O_BINARY", 0)  # Windows needs it
_OPENED = os.O_WRONLY | os.O_CREAT | os.O_EXCL | _BINARY


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for writing that takes the place of `path` once it is complete.

    The content goes to a hidden file in the same folder. At the end of the `with` block it is
    forced to the disk and renamed. If anything fails before, the hidden file is removed and `path`
    stays as it was. A link is followed, and the permissions of an existing file are kept. A device
    or a pipe is written to directly.

    Args:
        path: the file to write. Its folder must exist.

    Yields:
        The open file, in binary mode.

    Raises:
        OSError: the file cannot be written.
    """
    place = Path(os.path.realpath(path))
    if place.exists() and not place.is_file():
        with place.open("wb") as direct:
            yield direct
        return
    if place.exists() and not os.access(place, os.W_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    beside = place.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        # New files get the permissions of the umask, as those of open() do.
        with os.fdopen(os.open(beside, _OPENED, 0o666), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        if place.exists():
            shutil.copymode(place, beside)
        beside.replace(place)
    except BaseException:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise
    _keep_name(place.parent)


def write_bytes(path: str | Path, content: bytes) -> None:
    """Write bytes, see `replacing`."""
    with replacing(path) as file:
        file.write(content)


def write_text(path: str | Path, content: str) -> None:
    """Write a text in UTF-8, see `replacing`."""
    write_bytes(path, content.encode("utf-8"))


def write_head_and_data(
    head: Path, write: Callable[[str], str], data: Path, content: bytes
) -> None:
    """Write a text file and a data file that belong together.

    The data file has the SHA-256 of its content in its name, and the text file, which is written
    last, holds this SHA-256. So the text file always stands beside its own data. Data files of
    earlier text files are removed. If anything fails, both old files are left.

    Args:
        head: the text file. Its folder must exist.
        write: returns the text for the SHA-256 of the data.
        data: a path such as folder/model.safetensors, whose file becomes folder/model-<16 digits of
            the SHA-256>.safetensors.
        content: the data.

    Raises:
        OSError: a file cannot be written.
    """
    digest = hashlib.sha256(content).hexdigest()
    text, own = write(digest), data_file(data, digest)
    known = own.exists()
    write_bytes(own, content)
    try:
        write_text(head, text)
    except BaseException:
        if not known:
            own.unlink(missing_ok=True)
        raise
    pattern = re.compile(re.escape(data.stem) + "-[0-9a-f]{16}" + re.escape(data.suffix))
    for file in data.parent.iterdir():
        if pattern.fullmatch(file.name) and file.name != own.name:
            with contextlib.suppress(OSError):
                file.unlink()


def data_file(data: Path, digest: str) -> Path:
    """Return the path of a data file whose content has this SHA-256."""
    return data.with_name(f"{data.stem}-{digest[:16]}{data.suffix}")


def _keep_name(folder: Path) -> None:
    """Force the new name to the disk, where the system can do so."""
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


__all__ = ["data_file", "replacing", "write_bytes", "write_head_and_data", "write_text"]

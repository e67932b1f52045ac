"""Results as JSON lines: one file per table, one line per measurement.

A line is added at the end of its file and never changed. Several processes may add lines to one
file at the same time. A line that a killed process left incomplete has no line break: readers skip
it, and the next line that is added replaces it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from transpike.errors import FileError

Record = dict[str, Any]
_BLOCK = 65536  # bytes


class Records:
    """The records of one file.

    Args:
        file: path of the JSON-lines file. It need not exist yet.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._known: list[Record] = []
        self._offset = 0  # bytes of the file that have been read

    def all(self) -> list[Record]:
        """All records, in the order in which they were added.

        Only lines that were added since the last call are read.

        Raises:
            FileError: a line is not a JSON object.
        """
        if not self.file.exists():
            return []
        with self.file.open("rb") as stream:
            stream.seek(self._offset)
            added = stream.read()
        *complete, last = added.split(b"\n")
        for line in complete:
            self._known.append(self._checked(line))
            self._offset += len(line) + 1
        unfinished = _object(last)
        return [*self._known, *([] if unfinished is None else [unfinished])]

    def _checked(self, line: bytes) -> Record:
        record = _object(line)
        if record is None:
            shown = line[:40].decode(errors="replace")
            raise FileError(
                f"results at {self.file}, line {len(self._known) + 1}: needed a JSON object, got "
                f"{shown!r}. Restore the file from version control."
            )
        return record

    def append(self, record: Record) -> None:
        """Add one record, on disk when this returns."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        line = json.dumps(record).encode() + b"\n"
        with self.file.open("a+b") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # ends with the process, however that ends
            _end_last_line(stream)
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())

    @contextmanager
    def claimed(self, *key: object) -> Iterator[bool]:
        """Whether this process is the one to measure `key`, for as long as the context lasts.

        The claim is a locked file beside the records. It ends with the process.
        """
        digest = hashlib.sha256(repr(key).encode()).hexdigest()[:16]
        busy = self.file.with_name(f"{self.file.name}.{digest}.busy")
        busy.parent.mkdir(parents=True, exist_ok=True)
        with busy.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield False
                return
            try:
                yield True
            finally:
                busy.unlink(missing_ok=True)


def _end_last_line(stream: BinaryIO) -> None:
    """Add the line break that a complete last line lacks, or remove an incomplete last line."""
    end = stream.seek(0, os.SEEK_END)
    start, tail = end, b""
    while start > 0 and b"\n" not in tail:
        start = max(0, start - _BLOCK)
        stream.seek(start)
        tail = stream.read(end - start)
    tail = tail[tail.rfind(b"\n") + 1 :]
    if not tail:
        return
    if _object(tail) is None:
        stream.truncate(end - len(tail))
    else:
        stream.write(b"\n")


def _object(line: bytes) -> Record | None:
    """The JSON object of a line, or None where the line is none."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


__all__ = ["Record", "Records"]

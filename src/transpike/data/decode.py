"""What every reader of images and volumes refuses: damaged files, and sizes beyond reason."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from transpike.errors import FileError, TranspikeError

MOST_PIXELS = 2**30
"""Pixels of a slice, or of a chunk of it, that are decoded together: 32768 x 32768."""
MOST_SLICES = 2**20
_MOST_BYTES = 2**32  # of all arrays in an archive


@contextmanager
def decoding(what: str) -> Iterator[None]:
    """Turn every error of a decoder into a `FileError`.

    Decoders end in many kinds of errors when bytes are damaged: zlib.error, struct.error,
    SyntaxError and others. The errors of transpike itself and missing packages pass.

    Args:
        what: what is read and from which file, for the message.

    Raises:
        FileError: the decoder failed.
    """
    try:
        yield
    except (TranspikeError, ImportError):
        raise
    except Exception as error:
        reason = str(error).strip().rstrip(".") or type(error).__name__
        raise FileError(
            f"cannot read {what}: {reason}. The file is damaged or of another kind. Copy it or "
            "save it again."
        ) from error


def check_extent(name: str, shape: Sequence[int], chunk: Sequence[int] = ()) -> None:
    """Refuse a stack that claims more pixels than can be decoded.

    Args:
        name: the file, for the message.
        shape: number of slices, height and width.
        chunk: sizes of the part that is decoded at once, if that is larger than a region.

    Raises:
        FileError: there are too many slices, or a slice or chunk has too many pixels.
    """
    slices, height, width = shape
    largest = max(height * width, math.prod(chunk))
    if largest > MOST_PIXELS:
        raise FileError(
            f"{name!r}: needed slices and chunks of at most {MOST_PIXELS:,} pixels, got "
            f"{largest:,}. Cut the slices into smaller ones if the file is not damaged."
        )
    if slices > MOST_SLICES:
        raise FileError(
            f"{name!r}: needed at most {MOST_SLICES:,} slices, got {slices:,}. Save parts of the "
            "stack if the file is not damaged."
        )


def check_archive(file: Path) -> None:
    """Refuse an `.npz` file whose arrays are too large to be held in memory.

    Args:
        file: the file.

    Raises:
        FileError: the arrays take more than 4 GiB.
        BadZipFile: the file is no archive.
    """
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > _MOST_BYTES:
        raise FileError(
            f"{str(file)!r}: needed arrays of at most {_MOST_BYTES:,} bytes, got {size:,}. The "
            "file is damaged or no file of this kind: copy it again."
        )


__all__ = ["MOST_PIXELS", "MOST_SLICES", "check_archive", "check_extent", "decoding"]

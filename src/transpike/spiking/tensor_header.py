"""A limit on the header of a safetensors file, which is read as a whole before any tensor."""

from __future__ import annotations

from transpike.errors import FileError

MOST_BYTES = 4 * 2**20
"""Bytes of a header: about 50,000 tensors. Networks with 1000 layers need a tenth of it."""
LENGTH_BYTES = 8  # at the start of a file, little-endian


def check_header(name: str, start: bytes) -> None:
    """Refuse a safetensors file with a header that takes minutes to read.

    Args:
        name: the file, for the message.
        start: the first 8 bytes of the file.

    Raises:
        FileError: the header is too long.
    """
    length = int.from_bytes(start[:LENGTH_BYTES], "little")
    if len(start) >= LENGTH_BYTES and length > MOST_BYTES:
        raise FileError(
            f"{name!r}: needed a safetensors header of at most {MOST_BYTES:,} bytes, got one of "
            f"{length:,}. The file is damaged or no file of weights: copy or download it again."
        )


__all__ = ["LENGTH_BYTES", "MOST_BYTES", "check_header"]

"""Batches of data as users have them, unpacked in one place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from typing import Any

import torch
from torch import Tensor

from transpike.errors import ArgumentError, DataError

ONE_INPUT = (
    "A network has one input: join several tensors into one tensor, and split it again in the "
    "forward() of a module that wraps the model."
)


class Batches:
    """Batches of inputs, with or without targets.

    A batch is a tensor (B, ...), or a pair of such a tensor and the targets. A function unpacks
    what its caller gave it once, on entry, and hands on an object of this class.

    Args:
        source: the batches, such as a list or a DataLoader; a single tensor counts as one batch,
            and an object of this class as what it was made from.

    Raises:
        ArgumentError: the source cannot be iterated over.
    """

    def __init__(self, source: Iterable[Any]) -> None:
        if isinstance(source, Batches):
            source = source._source
        if isinstance(source, Tensor):
            source = [source]
        if isinstance(source, Mapping) or not isinstance(source, Iterable):
            raise ArgumentError(
                "batches: needed tensors, (tensor, label) pairs or a DataLoader of either, got "
                f"{type(source).__name__}."
            )
        self._source: Iterable[Any] = source

    def __iter__(self) -> Iterator[tuple[Tensor, Any]]:
        """Input and target of every batch; None where a batch has no target.

        Raises:
            DataError: a batch is neither a tensor nor a pair that starts with one.
        """
        for batch in self._source:
            if isinstance(batch, Tensor):
                yield batch, None
            elif isinstance(batch, tuple | list) and batch and isinstance(batch[0], Tensor):
                yield batch[0], batch[1] if len(batch) > 1 else None
            else:
                raise DataError(_refusal(batch))

    @property
    def count(self) -> int | None:
        """Number of batches, None where the source does not know it."""
        return len(self._source) if isinstance(self._source, Sized) else None

    @property
    def samples(self) -> int | None:
        """Number of samples, None where the source does not know it."""
        if isinstance(self._source, list | tuple):
            return sum(len(x) for x in self.inputs())
        dataset = getattr(self._source, "dataset", None)
        return len(dataset) if isinstance(dataset, Sized) else None

    def inputs(self) -> Iterator[Tensor]:
        """The input of every batch."""
        for x, _ in self:
            yield x

    def repeatable(self) -> Batches:
        """The same batches, kept in memory if their source can be read only once."""
        once = iter(self._source) is self._source
        return Batches(list(self._source)) if once else self

    def first(self) -> Tensor:
        """The input of the first batch.

        Raises:
            DataError: there is no batch.
        """
        for x in self.inputs():
            return x
        raise DataError("batches: needed at least one batch of data, got none.")

    def joined(self) -> Tensor:
        """All inputs as one tensor (B, ...).

        Raises:
            DataError: there is no batch.
        """
        parts = list(self.inputs())
        if not parts:
            raise DataError("batches: needed at least one batch of data, got none.")
        return torch.cat(parts)


def _refusal(batch: Any) -> str:
    """Why a batch cannot be used, and what to give in its place."""
    needed = "batch: needed a tensor or a (tensor, label) pair, got"
    if isinstance(batch, Mapping):
        keys = [str(key) for key in batch]
        example = keys[0] if keys else "image"
        return (
            f"{needed} a mapping with the keys {keys}. Give pairs, for example "
            f"[(batch[{example!r}], batch[{keys[1] if len(keys) > 1 else 'label'!r}]) for batch in "
            "batches]."
        )
    inner = batch[0] if isinstance(batch, tuple | list) and batch else None
    if isinstance(inner, tuple | list) and inner and all(isinstance(x, Tensor) for x in inner):
        return f"{needed} {len(inner)} input tensors. {ONE_INPUT}"
    return f"{needed} {type(batch).__name__}."

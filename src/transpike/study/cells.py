"""The cells of a study. What a cell is called follows from everything that decides its result."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transpike.conversion.recipe import Recipe
from transpike.data import Dataset, Split, open_data
from transpike.errors import FileError
from transpike.study.config import Study, StudyMethod

_SCHEMA = 1  # of the results; another one makes every cell a new one
_TOGETHER = 256  # images that are hashed together


@dataclass(frozen=True)
class Cell:
    """One network, converted by one method, measured on the test images.

    Args:
        network: name of the network in tables.
        model: name of the model, see `build_model`.
        weights: file of its weights.
        pretraining: how it was trained.
        seed: its training seed.
        method: name of the method in tables.
        timesteps: T.
        draw: seed of the calibration images.
        calibration: number of calibration images.
        n: number of test images.
        shard: test images that are stored together.
        key: the address of the cell, from the hash of its settings, weights and data.
    """

    network: str
    model: str
    weights: str
    pretraining: str
    seed: int
    method: str
    timesteps: int
    draw: int
    calibration: int
    n: int
    shard: int
    key: str

    @property
    def shards(self) -> int:
        """Number of parts in which the test images are measured."""
        return -(-self.n // self.shard)

    def __str__(self) -> str:
        """The cell as messages name it."""
        return (
            f"{self.network}, {self.pretraining}, seed {self.seed}, {self.method}, "
            f"T={self.timesteps}, draw {self.draw}"
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Cell:
        """The cell from the values that `to_dict` gave."""
        return cls(**content)


def cells_of(study: Study, data: Dataset | None = None) -> list[Cell]:
    """All cells of a study, in the order of its file.

    Args:
        study: the study.
        data: its data, if they are open already.

    Raises:
        FileError: a file of weights is missing.
        ArgumentError, DataError: the data are unknown or too few.
    """
    data = open_data(study.data) if data is None else data
    test = tested_split(study, data)
    images = {draw: _hash_of(data.train.subset(study.calibration, draw)) for draw in study.draws}
    tested = _hash_of(test)
    found = []
    for network in study.networks:
        for seed in network.seeds:
            file = network.weights.replace("{seed}", str(seed))
            start = {
                "network": network.name,
                "model": network.model,
                "weights": file,
                "pretraining": network.pretraining,
                "seed": seed,
                "calibration": study.calibration,
                "n": len(test),
                "shard": study.shard,
            }
            address = {
                "schema": _SCHEMA,
                "model": network.model,
                "weights": _hash_of_file(Path(file)),
                "test": tested,
                "shard": study.shard,
                "batch_size": study.batch_size,
            }
            for method, timesteps, draw in _conversions(study):
                recipe = _settings(method.recipe(timesteps))
                key = _key({**address, "recipe": recipe, "calibration": images[draw]})
                name = {"method": method.name, "timesteps": timesteps, "draw": draw}
                found.append(Cell.from_dict({**start, **name, "key": key}))
    return found


def _conversions(study: Study) -> Iterator[tuple[StudyMethod, int, int]]:
    """Every method with T and the seed of its calibration images."""
    for method in study.methods:
        for timesteps in method.timesteps or study.timesteps:
            for draw in study.draws:
                yield method, timesteps, draw


def tested_split(study: Study, data: Dataset) -> Split:
    """The test images of a study."""
    return data.test if study.test is None else data.test.subset(study.test, study.test_draw)


def _settings(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name, value in recipe.to_dict().items() if name != "found"}


def _key(address: Mapping[str, Any]) -> str:
    text = json.dumps(address, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:20]


def _hash_of(split: Split) -> str:
    digest = hashlib.sha256()
    for images, labels in split.batches(_TOGETHER):
        digest.update(str((images.dtype, tuple(images.shape))).encode())
        digest.update(images.numpy().tobytes())
        digest.update(labels.numpy().tobytes())
    return digest.hexdigest()


def _hash_of_file(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError as error:
        raise FileError(
            f"cannot read the weights {str(file)!r}: {error.strerror or error}. Train the network, "
            "or correct `weights` in the study."
        ) from error


__all__ = ["Cell", "cells_of", "tested_split"]

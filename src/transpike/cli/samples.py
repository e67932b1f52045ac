"""Predictions and pictures that `evaluate` records for a report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import transpike as tp
from transpike.cli.output import plain, progress_bar
from transpike.cli.run import Run
from transpike.data import Split, VolumeSplit
from transpike.report import join_samples, record_samples

MOST_SLICES = 4  # each is a whole picture with a mask for every timestep


def write_samples(
    folder: Path,
    run: Run,
    snn: tp.SpikingNetwork,
    images: Split | VolumeSplit,
    timesteps: int,
    *,
    precision: str,
    facts: Mapping[str, Any],
) -> None:
    """Simulates the images again and writes what both networks predict into a folder.

    All labeled images are recorded, but only the first 4 tiles or slices of volumes.

    Args:
        folder: folder for the samples.
        run: the data and the machine.
        snn: the converted network.
        images: the images that were evaluated.
        timesteps: T.
        precision: precision of the evaluation.
        facts: settings that a reader of the pictures has to know.

    Raises:
        FileError: the folder cannot be written.
    """
    classes = run.classes
    batches = run.batches(images)
    count = len(images)
    if isinstance(images, VolumeSplit):
        count = min(count, MOST_SLICES)
        parts_of = ((x[k : k + 1], y[k : k + 1]) for x, y in batches for k in range(len(x)))
        batches = islice(parts_of, count)
    parts = []
    with progress_bar("record samples", count) as progress:
        for x, target in batches:
            part = record_samples(
                snn,
                x,
                target,
                timesteps,
                mean=run.normalization.mean,
                std=run.normalization.std,
                precision=precision,
                facts=plain(facts),
            )
            parts.append(part)
            progress(sum(map(len, parts)), count)
    joined = join_samples(parts)
    if len(classes) == len(joined.classes):  # a network may have more outputs than there are names
        joined = joined.named(classes)
    joined.save(folder)


__all__ = ["write_samples"]

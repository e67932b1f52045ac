"""Scores of recorded masks, with intervals over the images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from transpike.report.samples import Samples

FEWEST_IMAGES = 8
"""With fewer images a bootstrap says too little, and no interval is given."""
_RESAMPLES = 2000
_TAILS = (2.5, 97.5)  # percentiles of a 95 % interval
_SEED = 0  # the same file gives the same page


def mask_scores(samples: Samples) -> dict[str, Any]:
    """F1 over all pixels at every recorded timestep, and the counts of every image.

    Returns:
        `f1` and `f1_to_ann` of the spiking network by timestep, `f1_interval` of the first of
        them, `f1_ann`, and `images` with the scores of each image.
    """
    label, ann = samples.label > 0, samples.ann > 0
    spiking = [one > 0 for one in samples.snn]
    every = [list(map(counts, one, label)) for one in spiking]
    analog = list(map(counts, ann, label))
    return {
        "f1": [f1_of(_total(one)) for one in every],
        "f1_interval": [f1_interval(one) for one in every],
        "f1_to_ann": [f1_of(counts(one, ann)) for one in spiking],
        "f1_ann": f1_of(_total(analog)),
        "images": [
            {"ann": score(analog[k]), "snn": [score(one[k]) for one in every]}
            for k in range(len(samples))
        ],
    }


def counts(guess: NDArray[Any], truth: NDArray[Any]) -> tuple[int, int, int]:
    """True positive, false positive and false negative pixels of boolean masks."""
    return (
        int(np.sum(guess & truth)),
        int(np.sum(guess & ~truth)),
        int(np.sum(~guess & truth)),
    )


def score(pixels: tuple[int, int, int]) -> dict[str, Any]:
    """The counts with F1 and the Jaccard index; None where no pixel is in either mask."""
    right, wrong, missed = pixels
    whole = right + wrong + missed
    return {
        "tp": right,
        "fp": wrong,
        "fn": missed,
        "f1": f1_of(pixels),
        "jaccard": right / whole if whole else None,
    }


def f1_of(pixels: tuple[int, int, int]) -> float | None:
    """F1 of the counts; None where no pixel is in either mask."""
    right, wrong, missed = pixels
    whole = 2 * right + wrong + missed
    return 2 * right / whole if whole else None


def f1_interval(images: Sequence[tuple[int, int, int]]) -> tuple[float, float] | None:
    """95 % interval of F1 over all pixels, from a bootstrap over the images.

    The pixels of one image are not independent, so whole images are drawn with replacement.

    Args:
        images: counts of each image.

    Returns:
        None with fewer than `FEWEST_IMAGES` images, or where F1 is not defined.

    Source: Efron & Tibshirani 1993, chapter 13 (percentile interval).
    """
    if len(images) < FEWEST_IMAGES:
        return None
    table = np.asarray(images, dtype=np.int64)
    drawn = np.random.RandomState(_SEED).randint(0, len(table), (_RESAMPLES, len(table)))
    right, wrong, missed = table[drawn].sum(axis=1).T
    whole = 2 * right + wrong + missed
    if not whole.all():
        return None
    low, high = np.percentile(2 * right / whole, _TAILS)
    return float(low), float(high)


def _total(images: Sequence[tuple[int, int, int]]) -> tuple[int, int, int]:
    right, wrong, missed = (sum(column) for column in zip(*images, strict=True))
    return right, wrong, missed


__all__ = ["FEWEST_IMAGES", "counts", "f1_interval", "f1_of", "mask_scores", "score"]

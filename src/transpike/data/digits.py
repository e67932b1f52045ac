"""scikit-learn's handwritten digits: 1797 images of 8x8, part of its installation."""

from __future__ import annotations

import numpy as np

from transpike.data.images import ArrayImages, Dataset, Normalization, Split
from transpike.errors import missing_package

_MAXIMUM = 16.0  # pixels count the ink in 4x4 cells: 0..16
_SPLIT_SEED = 0
_TEST_IMAGES = 500
# Mean and standard deviation over all pixels of the training part, in 0..1.
_NORMALIZATION = Normalization((0.3055,), (0.3765,))


def open_digits(normalization: Normalization | None = None) -> Dataset:
    """Opens the digits: 1297 for training, 500 for testing, always the same ones.

    Args:
        normalization: of the input; the training part's mean and std where None.

    Raises:
        ArgumentError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise missing_package("scikit-learn") from error
    loaded = load_digits()
    images = ArrayImages(loaded.images.astype(np.uint8)[..., None])  # (N, 8, 8) -> (N, 8, 8, 1)
    labels = loaded.target.astype(np.int64)
    order = np.random.RandomState(_SPLIT_SEED).permutation(len(labels)).astype(np.int64)
    train, test = (
        Split(images, labels, normalization or _NORMALIZATION, _MAXIMUM, part)
        for part in (order[_TEST_IMAGES:], order[:_TEST_IMAGES])
    )
    return Dataset("digits", tuple(str(digit) for digit in range(10)), train, test)


__all__ = ["open_digits"]

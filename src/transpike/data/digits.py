"""The handwritten digits of scikit-learn: 1797 images of 8 x 8 pixels that ship with it."""

from __future__ import annotations

import numpy as np

from transpike.data.images import ArrayImages, Dataset, Normalization, Split
from transpike.errors import missing_package

_MAXIMUM = 16.0  # a pixel counts the inked cells of a 4 x 4 block: 0..16
_SPLIT_SEED = 0
_TEST_IMAGES = 500
# Mean and standard deviation of all pixels of the training part, as values in 0..1.
_NORMALIZATION = Normalization((0.3055,), (0.3765,))


def open_digits(normalization: Normalization | None = None) -> Dataset:
    """Open the digits. The same 1297 images are always for training and 500 for testing.

    Args:
        normalization: mean and std of pixel values in 0..1; None means those of the training part.

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

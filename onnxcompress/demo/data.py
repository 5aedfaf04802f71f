"""Handwritten digits: 1,797 real images of 8x8 pixels that come with scikit-learn, split once and for all."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from ..errors import DataError

Split = Literal["train", "validation", "test"]

SPLITS: dict[Split, slice] = {
    "train": slice(0, 1197),
    "validation": slice(1197, 1397),
    "test": slice(1397, 1797),
}
"""Positions in the permutation of seed 0."""


def load_split(name: Split) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int64]]:
    """Return images [N, 1, 8, 8] scaled to [0, 1] and their labels [N].

    The 1,797 images are put in the order of ``numpy.random.default_rng(0).permutation``: the first 1,197 are for
    training, the next 200 for validation, the last 400 for the test.
    """
    images, labels = _digits()
    chosen = np.random.default_rng(0).permutation(len(images))[SPLITS[name]]
    scaled = images[chosen, None].astype(np.float32) / np.float32(16)
    return scaled, labels[chosen].astype(np.int64)


def _digits() -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise DataError('the digits come with scikit-learn; get it with: pip install "onnxcompress[demo]"') from None
    digits = load_digits()
    return digits.images, digits.target

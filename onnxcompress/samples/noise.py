"""Samples for a model that comes with none: noise that is spread over frequencies as natural images are."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from .inputs import model_layout, random_feeds
from .random_values import plausible
from .roles import role
from .samples import Samples, load_samples

Array = npt.NDArray[Any]

IMAGE_RANK = 4
"""Inputs of at least so many axes are taken for images; what lies behind the first two axes is space."""


def noise_samples(model: ir.Model, count: int, seed: int) -> Samples:
    """Return seeded samples: images with a 1/f spectrum; for other inputs, normal values and integers in {0, 1}.

    White noise looks the same to each filter; at 1/f, neighbours agree as in images.

    Notes
    -----
    Field, "Relations between the statistics of natural images and the response properties of cortical cells" (1987).
    """
    layout = model_layout(model)
    feeds = plausible(layout, random_feeds(layout, max(count, layout.fixed_batch or 1), seed), seed)
    natural = {
        n: pink(a) if a.ndim >= IMAGE_RANK and a.dtype.kind == "f" and role(n) is None else a for n, a in feeds.items()
    }
    return load_samples(natural, model)


def pink(array: Array) -> Array:
    """Divide each spatial frequency of white noise by its length; of each sample the variance becomes 1.

    >>> pink(np.random.default_rng(0).standard_normal((2, 3, 16, 16))).std(axis=(1, 2, 3)).round(3)
    array([1., 1.])
    """
    space = tuple(range(2, array.ndim))
    lengths = np.zeros(())
    for size in array.shape[2:]:
        lengths = np.add.outer(lengths, np.fft.fftfreq(size) ** 2)
    lengths = np.sqrt(np.maximum(lengths, 1 / max(array.shape[2:]) ** 2))
    found = np.fft.ifftn(np.fft.fftn(array, axes=space) / lengths, axes=space).real
    return np.asarray(found / found.std(axis=tuple(range(1, array.ndim)), keepdims=True), array.dtype)

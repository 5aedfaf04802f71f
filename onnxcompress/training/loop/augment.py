"""Samples changed at random, so that few seem like many.

A change is a function of the feeds of a batch, by input, and of a random generator, which returns those that are new.
Images are arrays of floats with four axes; their channels are the shorter one of the second and the last axis.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

Array = Any
Change = Callable[[dict[str, Array], np.random.Generator], dict[str, Array]]

MARGIN = 8
"""Images are moved by up to one part in so many of their size."""
MIXING = 0.2
"""Both parameters of the Beta distribution from which the share of the other image is drawn."""


def images(feeds: dict[str, Array]) -> dict[str, Array]:
    """Return the inputs that are images."""
    return {name: array for name, array in feeds.items() if array.ndim == 4 and array.dtype.kind == "f"}


def _first_of_plane(array: Array) -> int:
    """Return the axis of the height; that of the width follows."""
    return 2 if array.shape[1] <= array.shape[3] else 1


def crop(feeds: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """Move each image by up to an eighth of its size; what comes in at the edge is its mirror image."""
    found = {}
    for name, array in images(feeds).items():
        first = _first_of_plane(array)
        height, width = array.shape[first : first + 2]
        up, left = max(1, height // MARGIN), max(1, width // MARGIN)
        pads = [(0, 0)] * 4
        pads[first : first + 2] = [(up, up), (left, left)]
        wide, moved = np.pad(array, pads, mode="symmetric"), np.empty_like(array)
        places = zip(
            random.integers(0, 2 * up + 1, len(array)), random.integers(0, 2 * left + 1, len(array)), strict=True
        )
        for number, (y, x) in enumerate(places):
            window = [slice(None)] * 3
            window[first - 1 : first + 1] = [slice(y, y + height), slice(x, x + width)]
            moved[number] = wide[number][tuple(window)]
        found[name] = moved
    return found


def flip(feeds: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """Mirror every second image, left to right."""
    found = {}
    for name, array in images(feeds).items():
        mirrored = random.random(len(array)) < 0.5
        changed = array.copy()
        changed[mirrored] = np.flip(array[mirrored], _first_of_plane(array) + 1)
        found[name] = changed
    return found


def mixup(feeds: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
    """Lay another image of the batch over each, at most half (Zhang et al., arXiv:1710.09412): a label stays right."""
    found = {}
    for name, array in images(feeds).items():
        share = random.beta(MIXING, MIXING, len(array))
        share = np.maximum(share, 1 - share).astype(array.dtype).reshape(-1, 1, 1, 1)
        found[name] = share * array + (1 - share) * array[random.permutation(len(array))]
    return found


KNOWN: dict[str, Change] = {"crop": crop, "flip": flip, "mixup": mixup}


def find_changes(names: Sequence[str], inputs: Sequence[str]) -> list[Change]:
    """Return the changes of these names, or the functions ``file.py:function``."""
    return [KNOWN[name] if name in KNOWN else _checked(name, inputs) for name in names]


def _checked(name: str, inputs: Sequence[str]) -> Change:
    """Load a function of the user's, and look at what it returns each time."""
    path, _, function = name.rpartition(":")
    spec = importlib.util.spec_from_file_location("onnxcompress_user_augment", path)
    assert spec is not None and spec.loader is not None  # the parent has loaded it before
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    change = getattr(module, function)

    def checked(feeds: dict[str, Array], random: np.random.Generator) -> dict[str, Array]:
        found = {key: np.asarray(value) for key, value in change(dict(feeds), random).items()}
        for key, value in found.items():
            if key not in inputs:
                raise ValueError(f"augment {name} returned '{key}', which is no input of the model")
            if value.dtype != feeds[key].dtype or value.shape[:1] != feeds[key].shape[:1]:
                was, now = (f"{array.dtype} {list(array.shape)}" for array in (feeds[key], value))
                raise ValueError(f"augment {name} returned {now} for '{key}', which was {was}")
        return found

    return checked

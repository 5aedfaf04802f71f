"""One step downhill, in place, on one flat vector of all weights."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .state import State

MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8


def decays(shapes: list[list[int]], rate: float) -> Any:
    """Return the decay of each element: weights of two or more dimensions decay, biases and normalisation do not."""
    decay = np.concatenate([np.full(math.prod(s), float(len(s) > 1), np.float32) for s in shapes])
    decay *= np.float32(rate)
    return decay


def update(optimizer: str, state: State, gradient: Any, rate: float, decay: Any, step: int) -> None:
    """Take one step, in place. AdamW: Loshchilov and Hutter 2019; SGD: momentum 0.9, decay added to the gradient."""
    if optimizer == "sgd":
        gradient += decay * state.flat
        state.first *= np.float32(MOMENTUM)
        state.first += gradient
        state.flat -= np.float32(rate) * state.first
        return
    state.first *= np.float32(BETA_1)
    state.first += np.float32(1 - BETA_1) * gradient
    state.second *= np.float32(BETA_2)
    state.second += np.float32(1 - BETA_2) * np.square(gradient)
    scale = np.sqrt(state.second / np.float32(1 - BETA_2**step)) + np.float32(EPSILON)
    state.flat *= 1 - np.float32(rate) * decay
    state.flat -= np.float32(rate / (1 - BETA_1**step)) * state.first / scale

"""One step downhill, in place, on one flat vector of all weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from .state import State

MOMENTUM = 0.9
BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
PIECE = 1 << 17
"""Elements at a time: what is read of them again is still in the processor's cache."""

Piece = tuple[slice, float]
"""A part of the weights, and its decay."""


def decays(shapes: list[list[int]], rate: float) -> list[Piece]:
    """Cut the weights into pieces of one decay: weights of two or more dimensions decay, others do not."""
    pieces: list[Piece] = []
    start = 0
    for shape in shapes:
        decay, end = rate if len(shape) > 1 else 0.0, start + math.prod(shape)
        if pieces and pieces[-1][1] == decay and end - pieces[-1][0].start <= PIECE:
            start = pieces.pop()[0].start
        pieces += [(slice(first, min(first + PIECE, end)), decay) for first in range(start, end, PIECE)]
        start = end
    return pieces


def update(optimizer: str, state: State, gradient: Any, rate: float, pieces: list[Piece], step: int) -> None:
    """Take one step, in place. AdamW: Loshchilov and Hutter 2019; SGD: momentum 0.9, decay added to the gradient."""
    change: Callable[..., None] = _adamw if optimizer == "adamw" else _sgd
    spare = np.empty(max((where.stop - where.start for where, _ in pieces), default=0), np.float32)
    for where, decay in pieces:
        flat, first, second, slope = (whole[where] for whole in (state.flat, state.first, state.second, gradient))
        change(flat, first, second, slope, spare[: len(flat)], rate, decay, step)


def _sgd(flat: Any, first: Any, _second: Any, gradient: Any, spare: Any, rate: float, decay: float, _step: int) -> None:
    np.multiply(flat, np.float32(decay), out=spare)
    spare += gradient
    first *= np.float32(MOMENTUM)
    first += spare
    np.multiply(first, np.float32(rate), out=spare)
    flat -= spare


def _adamw(flat: Any, first: Any, second: Any, gradient: Any, spare: Any, rate: float, decay: float, step: int) -> None:
    """``flat · (1 - rate·decay) - rate · (first / c1) / (sqrt(second / c2) + epsilon)``, the root of c2 taken out."""
    root = math.sqrt(1 - BETA_2**step)
    np.multiply(gradient, np.float32(1 - BETA_1), out=spare)
    first *= np.float32(BETA_1)
    first += spare
    np.multiply(gradient, gradient, out=spare)
    spare *= np.float32(1 - BETA_2)
    second *= np.float32(BETA_2)
    second += spare
    np.sqrt(second, out=spare)
    spare += np.float32(EPSILON * root)
    np.divide(first, spare, out=spare)
    spare *= np.float32(rate * root / (1 - BETA_1**step))
    if decay:
        flat *= np.float32(1 - rate * decay)
    flat -= spare

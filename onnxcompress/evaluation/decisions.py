"""What an output decides: classes, yes or no, whole numbers."""

from __future__ import annotations

import numpy as np

from ..runtime.session import Array

DECIDING = {"", "classes", "binary", "pixels", "text", "tokens", "decisions"}
"""Kinds of outputs that decide something (see `onnxcompress.purpose.Purpose`); nothing is known of "" but its shape."""

NOTHING = "has one value for each sample, which decides nothing"
NO_CLASSES = "holds no classes: it looks like {kind}"
HALF = 0.5


def class_scores(output: Array, axis: int | None = None) -> Array | None:
    """Return a float output with its classes on the last axis; None for one value for each sample, or no floats.

    Where nobody knows the axis of the classes, it is the last, or axis 1 of an image (N, C, H, W); axes of length 1 at
    the end do not count.
    """
    if output.dtype.kind in "OSUbiu" or output.dtype.name.startswith(("int", "uint")):
        return None
    if axis is not None and output.ndim > axis > 0 and output.shape[axis] > 1:
        return np.moveaxis(output, axis, -1)
    while output.ndim > 2 and output.shape[-1] == 1:
        output = output[..., 0]
    if output.ndim == 4:
        output = np.moveaxis(output, 1, -1)
    return output if output.ndim > 1 and output.shape[-1] > 1 else None


def decisions(output: Array, kind: str = "", axis: int | None = None, reference: Array | None = None) -> Array | None:
    """Return what an output decides: the highest class, yes or no, or its own values where they are no fractions.

    Parameters
    ----------
    output : ndarray
    kind : str
        What the output is, if that is known.
    axis : int, optional
        That of the classes.
    reference : ndarray, optional
        The original's output, which tells probabilities of yes from logits.
    """
    if kind == "binary" or (kind == "pixels" and axis is not None and output.shape[axis] == 1):
        like = output if reference is None else reference
        probable = like.size and np.nanmin(like) >= 0 and np.nanmax(like) <= 1
        return np.asarray(output > (HALF if probable else 0))
    scores = class_scores(output, axis)
    if scores is not None:
        return np.asarray(scores.argmax(axis=-1))
    return output if output.dtype.kind in "OSUbiu" else None

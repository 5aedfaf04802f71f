"""Rotate a stream: fold an orthogonal matrix into all constants that write it and all that read it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from .streams import Place, Stream

Matrix = npt.NDArray[np.float64]


def rotate(stream: Stream, matrix: Matrix | None = None) -> list[str]:
    """Rotate a stream in place: its channels become ``x @ matrix``; factors of normalisations go into what reads them.

    Parameters
    ----------
    stream : Stream
    matrix : (width, width) array, optional
        Orthogonal, in the order of the channels' labels, as those of a group; by default only the factors move.

    Returns
    -------
    list of str
        The name of each constant that was changed.
    """
    at = np.argsort(np.argsort(stream.labels))
    by = None if matrix is None else matrix[np.ix_(at, at)]
    insert = edit.Inserter(edit.graph_of(next(iter(stream.places))))
    done: dict[ir.Value, None] = {}
    for place in (*stream.turned, *stream.ones):
        node, index = place
        value = edit.required(node, index)
        if value in done:
            continue
        given = edit.array(value)
        array = _changed(given, stream, place, by).astype(given.dtype)
        if len({stream.change(*use) for use in value.uses()}) == 1:
            edit.set_constant(value, array)
        else:  # who else reads it goes on reading what it was
            value = insert.constant(f"{value.name}_rotated", array)
            node.replace_input_with(index, value)
        done[value] = None
    return [str(value.name) for value in done]


def _changed(array: npt.NDArray[Any], stream: Stream, place: Place, by: Matrix | None) -> npt.NDArray[Any]:
    if place in stream.ones:
        return np.ones_like(array)
    axes = stream.turned[place]
    made = np.moveaxis(np.moveaxis(array.astype(np.float64), axes[0], -1) * stream.factors.get(place, 1.0), -1, axes[0])
    if by is not None:
        for axis in axes:
            made = np.moveaxis(np.moveaxis(made, axis, -1) @ by, -1, axis)
    return made

"""Cuts a vocabulary down, and lets a model be asked and answer in the old numbers."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import PassError
from onnxcompress.graph import edit

from .table import Vocabulary

Indices = npt.NDArray[np.int64]

NEVER = -1e3
"""The score of a token that is gone; half precision holds it."""


def cut(model: ir.Model, found: Vocabulary, kept: Indices) -> int:
    """Keep some rows of the table and as many scores; returns how many weights are gone."""
    gone = 0
    for value, axis in found.constants.items():
        if len(value.uses()) > 1 and value is not next(iter(found.constants)) and not _alone(found, value):
            raise PassError(f"'{value.name}' is read elsewhere, too")
        array = edit.array(value)
        smaller = np.ascontiguousarray(np.take(array, kept, axis))
        gone += array.size - smaller.size
        edit.set_constant(value, smaller)
    moved = [out for value in found.constants for node, _ in value.uses() for out in node.outputs]
    for value in (*found.between, *(out for out in moved if found.lookups[0].outputs[0] is not out)):
        edit.forget_shape(value)
    return gone


def _alone(found: Vocabulary, value: ir.Value) -> bool:
    return all(node.outputs[0] in found.between for node, _ in value.uses())


def translate(model: ir.Model, found: Vocabulary, kept: Indices, unknown: int) -> None:
    """Map old numbers of tokens to new ones where they are looked up, and new scores to old places."""
    insert = edit.Inserter(model.graph)
    new = np.full(found.size, int(np.flatnonzero(kept == unknown)[0]), np.int32)
    new[kept] = np.arange(len(kept))
    numbers = insert.constant("tokens_new", new)
    mapped: dict[ir.Value, ir.Value] = {}
    for node in found.lookups:
        ids = node.inputs[1]
        assert ids is not None
        if ids not in mapped:
            mapped[ids] = insert.node("Gather", [numbers, ids], before=node, dtype=ir.DataType.INT32)
        node.replace_input_with(1, mapped[ids])
    place = np.full(found.size, len(kept), np.int64)
    place[kept] = np.arange(len(kept))
    places = insert.constant("tokens_old", place)
    for output in found.scores:
        made = output.producer()
        kind = output.dtype or ir.DataType.FLOAT
        shape, rank = output.shape, len(output.shape or (0, 0, 0))
        pads = insert.constant("scores_pads", np.array([0] * (2 * rank - 1) + [1]))
        never = insert.constant("scores_never", np.array(NEVER, kind.numpy()))
        wider = insert.node("Pad", [output, pads, never], after=made, dtype=kind)
        whole = insert.node(
            "Gather", [wider, places], attributes={"axis": -1}, after=wider.producer(), dtype=kind, shape=shape
        )
        edit.replace_uses(output, whole, except_for=[edit.producer(wider)])
        edit.forget_shape(output)

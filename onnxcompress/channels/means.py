"""Means over channels, and variances that are written out: to these a channel of zeros adds the mean's square."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import edit
from .engine import Engine


def reduced_axes(engine: Engine, node: ir.Node) -> set[int] | None:
    """Return the axes that a reduction drops; None when they are computed in the graph."""
    rank = len(engine.shape(node.inputs[0])) if node.inputs[0] is not None else 0
    given = node.inputs[1] if len(node.inputs) > 1 else None
    array = engine.known.values.get(given) if given is not None else None
    if given is not None and array is None:
        return None
    named = edit.ints_attribute(node, "axes") or () if array is None else tuple(array.ravel().tolist())
    if not named and not edit.int_attribute(node, "noop_with_empty_axes", 0):
        named = tuple(range(rank))
    return {axis % rank for axis in named} if rank else set()


def centred(engine: Engine, node: ir.Node) -> tuple[ir.Value, ir.Value] | None:
    """Return x and m of ``ReduceMean((x - m)²)`` where m is the mean of x over the same axes, else None.

    The mean may have been scaled by a constant: that is what an earlier removal did.
    """
    difference = _squared(engine, node.inputs[0]) if node.op_type == "ReduceMean" else None
    subtract = _producer(difference, "Sub")
    if subtract is None:
        return None
    x, mean = subtract.inputs
    source = mean
    while (scale := _producer(source, "Mul")) is not None and edit.constant(scale.inputs[1]) is not None:
        source = scale.inputs[0]
    reduce = _producer(source, "ReduceMean")
    if reduce is None or x is None or mean is None or reduce.inputs[0] is not x:
        return None
    same = reduced_axes(engine, reduce) == reduced_axes(engine, node) is not None
    return (x, mean) if same and edit.int_attribute(reduce, "keepdims", 1) else None


def _squared(engine: Engine, value: ir.Value | None) -> ir.Value | None:
    product, power = _producer(value, "Mul"), _producer(value, "Pow")
    if product is not None and product.inputs[0] is product.inputs[1]:
        return product.inputs[0]
    exponent = engine.constant(power.inputs[1]) if power is not None else None
    return power.inputs[0] if power is not None and exponent is not None and (exponent == 2).all() else None


def _producer(value: ir.Value | None, op: str) -> ir.Node | None:
    node = value.producer() if value is not None else None
    return node if node is not None and edit.op_of(node) == op else None


def add_lost_squares(insert: edit.Inserter, node: ir.Node, mean: ir.Value, share: float, scaled: ir.Value) -> None:
    """Add what the removed channels of zeros had in a variance: the mean's square, ``1 - share`` times."""
    dtype = (mean.dtype or ir.DataType.FLOAT).numpy()
    square = insert.node("Mul", [mean, mean], before=node, dtype=mean.dtype)
    attributes = {"keepdims": edit.int_attribute(node, "keepdims", 1)}
    if (axes := edit.ints_attribute(node, "axes")) is not None:
        attributes["axes"] = list(axes)  # type: ignore[assignment]
    shaped = insert.node("ReduceMean", [square, *node.inputs[1:]], attributes=attributes, before=node, dtype=mean.dtype)
    lost = insert.constant(f"{edit.output_name(node)}_lost", np.array(1 - share, dtype))
    part = insert.node("Mul", [shaped, lost], before=node, dtype=mean.dtype)
    insert.behind(scaled, "Add", part, shape=scaled.shape)

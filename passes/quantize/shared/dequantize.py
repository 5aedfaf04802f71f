"""Adding integers, and what makes floats of them again."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph.edit import Inserter


def dequantize(
    insert: Inserter, inputs: list[ir.Value], name: str, axis: int | None = None, after: ir.Node | None = None
) -> ir.Value:
    """Add a DequantizeLinear of this name, at the start of the graph if not `after` a node."""
    attributes = {} if axis is None else {"axis": axis}
    return insert.node("DequantizeLinear", inputs, name, attributes=attributes, after=after, before=insert.first)


def dequantized(
    insert: Inserter,
    name: str,
    integers: npt.NDArray[Any],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[Any] | None = None,
    axis: int | None = None,
) -> ir.Value:
    """Add integers as an initializer, with a DequantizeLinear that reads it; see `stored`."""
    inputs = stored(insert, name, integers, scale, zero_point, axis)
    return dequantize(insert, inputs, f"{name}_dequantized", axis)


def stored(
    insert: Inserter,
    name: str,
    integers: npt.NDArray[Any],
    scale: npt.NDArray[np.float32],
    zero_point: npt.NDArray[Any] | None = None,
    axis: int | None = None,
) -> list[ir.Value]:
    """Add what a DequantizeLinear reads as initializers.

    `scale` and `zero_point` (None: 0) have one value, or one for each index of `axis`.
    """
    shape: tuple[int, ...] = () if axis is None else (-1,)
    inputs = [
        insert.constant(f"{name}_quantized", integers),
        insert.constant(f"{name}_scale", scale.reshape(shape)),
    ]
    if zero_point is not None:
        inputs.append(insert.constant(f"{name}_zero_point", zero_point.reshape(shape)))
    return inputs

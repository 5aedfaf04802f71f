"""Pooling: maxima give their gradient to where they were found, averages spread it."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graph import edit
from ...graph.windows import window
from .step import Rule, Step, first, unknown_rank
from .tape import Tensor


def _max_pool(step: Step) -> Tensor:
    """Add up at the flat positions that the operator itself says it took the maxima from."""
    node, tape = step.node, step.tape
    if len(node.outputs) < 2:
        node.resize_outputs(2)
        node.attributes.pop("storage_order", None)
    indices = node.outputs[1]
    indices.name = indices.name or f"{node.outputs[0].name}/positions"
    flat = tape.op("Expand", tape.of(0.0), tape.op("Size", step.x).reshape([1]))
    rows = (tape.of(indices).reshape([-1]), step.g.reshape([-1]))
    return tape.op("ScatterElements", flat, *rows, axis=0, reduction="add").reshape_like(step.x)


def _numbers_columns(node: ir.Node) -> str:
    columns_first = node.attributes.get_int("storage_order", 0) and len(node.outputs) > 1
    return "where it numbers the maxima column by column" if columns_first else ""


def _average_pool(step: Step) -> Tensor:
    """Multiply by the transpose of what it computes: averaging is linear, along one axis after the other."""
    kernel = edit.ints_attribute(step.node, "kernel_shape") or ()
    extents = [int(extent) for extent in (step.dims(step.x) or ())[2:]]  # type: ignore[arg-type]
    gradient = step.g
    for axis, extent in enumerate(extents):
        matrix = averaging(step.node, axis, len(kernel), extent, kernel[axis])
        gradient = along(gradient, axis + 2, len(extents) + 2, matrix)
    return gradient


def along(tensor: Tensor, axis: int, rank: int, matrix: npt.NDArray[Any]) -> Tensor:
    """Multiply by a matrix from the right along one axis."""
    factor = matrix.astype(np.float32)
    if axis == rank - 1:
        return tensor.tape.op("MatMul", tensor, factor)
    if axis == rank - 2:
        return tensor.tape.op("MatMul", np.ascontiguousarray(factor.T), tensor)
    order = list(range(rank))
    order[axis], order[-1] = order[-1], order[axis]
    return tensor.tape.op("MatMul", tensor.transpose(*order), factor).transpose(*order)


def averaging(node: ir.Node, axis: int, rank: int, size: int, extent: int) -> npt.NDArray[np.float64]:
    """Return the matrix [output, input] that an AveragePool multiplies with along one axis."""
    stride, dilation, before, after = window(node, axis, rank, size, extent)
    room = size + before + after - dilation * (extent - 1) - 1
    count = room // stride + 1
    if edit.int_attribute(node, "ceil_mode", 0) and room % stride and count * stride < size + before:
        count += 1
    reads = np.arange(count)[:, None] * stride - before + np.arange(extent) * dilation
    padded = edit.int_attribute(node, "count_include_pad", 0)
    counted = (reads < size + after) if padded else (reads >= 0) & (reads < size)
    matrix = np.zeros((count, size))
    for row, places in enumerate(reads):
        inside = places[(places >= 0) & (places < size)]
        matrix[row, inside] = 1 / counted[row].sum()
    return matrix


def _unknown_extents(node: ir.Node) -> str:
    data = node.inputs[0]
    known = data is not None and data.shape is not None and all(isinstance(dim, int) for dim in data.shape[2:])
    return "" if known else "where the size of its input is not known before it runs"


def _global_average(step: Step) -> Tensor:
    known = [extent for extent in (step.dims(step.x) or (None,) * 3)[2:] if isinstance(extent, int)]
    if len(known) == step.rank() - 2:
        return (step.g / float(np.prod(known))).expand_like(step.x)
    cells = step.tape.op("Div", step.tape.op("Size", step.x), step.tape.op("Size", step.y))
    return (step.g / cells.number()).expand_like(step.x)


def _global_max(step: Step) -> Tensor:
    """Share the gradient among all that are the largest."""
    axes = list(range(2, step.rank()))
    found = step.x.equals(step.y).number()
    return found * (step.g / found.sum(axes))


RULES: dict[str, Rule] = {
    "AveragePool": first(_average_pool, _unknown_extents),
    "GlobalAveragePool": first(_global_average),
    "GlobalMaxPool": first(_global_max, unknown_rank),
    "MaxPool": first(_max_pool, _numbers_columns),
}

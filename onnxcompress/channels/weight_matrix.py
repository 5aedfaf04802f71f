"""A weight seen as a matrix: what each input channel adds to each output channel, and what borders add beside it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from .constant_channels import Channel
from .engine import Engine

WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul")


class Matrix:
    """A weight seen as a matrix (outputs, inputs): what each input adds to each output if it is constant.

    Attributes
    ----------
    sum : (outputs, inputs) float array
        The weights of each pair added up over the kernel.
    any : (outputs, inputs) bool array
        Whether any weight of the pair is not zero (NaN counts as not zero).
    """

    def __init__(self, total: npt.NDArray[np.float64], nonzero: npt.NDArray[np.bool_]) -> None:
        self.sum, self.any = total, nonzero


Part: TypeAlias = Callable[[npt.NDArray[np.floating]], npt.NDArray[np.floating]]
Layout: TypeAlias = tuple[ir.Value, int, Matrix, "Channel | None", int]


def layout_of(engine: Engine, node: ir.Node, part: Part = np.asarray) -> Layout | None:
    """Return (data, data axis, weight matrix, bias or None, output axis) of a node with a constant weight.

    `part` (such as the positive weights) is taken of the weights.
    """
    data, weight = node.inputs[0], node.inputs[1]
    array = engine.array(weight)
    if data is None or array is None or array.dtype.kind not in "fV" or node.op_type not in WEIGHTED:
        return None
    if len(engine.shape(data)) < 2:
        return None
    if node.op_type == "MatMul":
        if array.ndim != 2:
            return None
        rank = len(engine.shape(data))
        return data, rank - 1, _matrix(part(array.T), ()), None, rank - 1
    if node.op_type == "Gemm":
        if edit.int_attribute(node, "transA", 0):
            return None
        alpha = node.attributes.get_float("alpha", 1.0)
        beta = node.attributes.get_float("beta", 1.0)
        matrix = _matrix(part(alpha * (array if edit.int_attribute(node, "transB", 0) else array.T)), ())
        return data, 1, matrix, _bias(engine, node, len(matrix.sum), beta), 1
    groups = edit.int_attribute(node, "group", 1)
    axes = tuple(range(2, array.ndim))
    matrix = _conv_matrix(part(array), groups, axes, transposed=node.op_type == "ConvTranspose")
    return data, 1, matrix, _bias(engine, node, len(matrix.sum)), 1


def _bias(engine: Engine, node: ir.Node, outputs: int, beta: float = 1.0) -> Channel | None:
    """Return what is added to each output; NaN where that is no constant, or not the same in each row."""
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return None
    array = engine.array(node.inputs[2])
    if array is None or array.size not in (1, outputs) or array.ndim > 1:
        return np.full(outputs, np.nan)
    return np.broadcast_to(beta * array.astype(np.float64), (outputs,))


def _matrix(array: npt.NDArray[np.floating], axes: tuple[int, ...]) -> Matrix:
    return Matrix(array.sum(axis=axes, dtype=np.float64), (array != 0).any(axis=axes) if axes else array != 0)


def _conv_matrix(array: npt.NDArray[np.floating], groups: int, axes: tuple[int, ...], *, transposed: bool) -> Matrix:
    blocks = _matrix(array, axes)
    if groups == 1:
        return Matrix(blocks.sum.T, blocks.any.T) if transposed else blocks
    rows, columns = blocks.sum.shape
    shape = (columns * groups, rows) if transposed else (rows, columns * groups)
    total, nonzero = np.zeros(shape), np.zeros(shape, bool)
    for g in range(groups):
        outs = slice(g * shape[0] // groups, (g + 1) * shape[0] // groups)
        ins = slice(g * shape[1] // groups, (g + 1) * shape[1] // groups)
        part = slice(ins.start, ins.stop) if transposed else slice(outs.start, outs.stop)
        total[outs, ins] = blocks.sum[part].T if transposed else blocks.sum[part]
        nonzero[outs, ins] = blocks.any[part].T if transposed else blocks.any[part]
    return Matrix(total, nonzero)


def padded(node: ir.Node) -> bool:
    """Tell whether borders see something else than the constant: padding, or any ConvTranspose."""
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    pads = edit.ints_attribute(node, "pads") or ()
    return node.op_type == "ConvTranspose" or auto.startswith("SAME") or any(pads)

"""Resizing and padding: linear along each axis, with a matrix that can be found by trying."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graph import edit
from ...runtime.provider import on_cpu
from ...runtime.session import open_session
from .pooling import along
from .step import Rule, Step, first
from .tape import Tensor

Matrix = npt.NDArray[Any]
UNKNOWN = "where the size of its input is not known before it runs"


def _resize(step: Step) -> Tensor:
    """Multiply by the transpose of what it multiplies with along each axis."""
    matrices = {axis: _resizing(step, axis) for axis in _resized(step.node)}
    kernel = _blocks(matrices, step.rank())
    if kernel:
        mean = step.tape.op("AveragePool", step.g, kernel_shape=kernel, strides=kernel)
        return mean * float(np.prod(kernel))
    gradient = step.g
    for axis, matrix in matrices.items():
        gradient = along(gradient, axis, step.rank(), matrix.T)
    return gradient


def _resized(node: ir.Node) -> list[int]:
    """Return the axes that do not stay as they are."""
    read, made = _extents(node.inputs[0]), _extents(node.outputs[0])
    scales, found = _constant(node, 2), []
    for place, axis in enumerate(_axes(node, len(read))):
        both = isinstance(read[axis], int) and isinstance(made[axis], int)
        if _crops(node):
            changes = axis > 1
        elif scales is not None:
            changes = bool(scales[place] != 1)
        else:
            changes = read[axis] != made[axis] and (both or axis > 1)  # nobody resizes samples and channels
        if changes:
            found.append(axis)
    return found


def _axes(node: ir.Node, rank: int) -> list[int]:
    named = edit.ints_attribute(node, "axes")
    return list(range(rank)) if named is None else [axis % rank for axis in named]


def _crops(node: ir.Node) -> bool:
    return node.attributes.get_string("coordinate_transformation_mode", "half_pixel") == "tf_crop_and_resize"


def _constant(node: ir.Node, index: int) -> Matrix | None:
    """Return a constant input; None for an empty one, which stands for none."""
    tensor = edit.constant(node.inputs[index]) if index < len(node.inputs) else None
    return tensor.numpy() if tensor is not None and tensor.size else None


def _blocks(matrices: dict[int, Matrix], rank: int) -> list[int]:
    """Return how often each position is repeated, where all that is done is to repeat in space."""
    factors = [1] * rank
    for axis, matrix in matrices.items():
        factor = matrix.shape[1] // matrix.shape[0]
        repeated = np.repeat(np.eye(len(matrix)), max(factor, 1), axis=1)
        if axis < 2 or repeated.shape != matrix.shape or not (repeated == matrix).all():
            return []
        factors[axis] = factor
    return factors[2:] if matrices and rank in (3, 4, 5) else []


def _resizing(step: Step, axis: int) -> Matrix:
    """Return the matrix [input, output] of one axis: what the operator makes of the rows of the unit matrix."""
    node = step.node
    extent, made = _extents(node.inputs[0])[axis], _extents(node.outputs[0])[axis]
    axes = _axes(node, step.rank())
    place = axes.index(axis)
    roi, scales = _constant(node, 1), _constant(node, 2)
    given: dict[int, Matrix] = {}
    if _crops(node) and roi is not None:
        given[1] = np.array([0, 0, 0, roi[place], 1, 1, 1, roi[place + len(axes)]], np.float32)
    if scales is not None:
        given[2] = np.array([1, 1, 1, scales[place]], np.float32)
    else:
        given[3] = np.array([1, 1, extent, made], np.int64)
    unit = np.eye(int(extent or 0), dtype=np.float32)[None, None]
    run = _alone(step, given)
    matrix: Matrix = (run(unit) - run(np.zeros_like(unit)))[0, 0]
    return matrix


def _alone(step: Step, given: dict[int, Matrix]) -> Callable[[Matrix], Matrix]:
    """Return the node as a function of its data, with other constants."""
    data = ir.Value(name="data", type=ir.TensorType(ir.DataType.FLOAT))
    graph = ir.Graph([data], [], nodes=[], opset_imports={"": step.tape.opset}, name="alone")
    insert = edit.Inserter(graph)
    values = [insert.constant(f"given_{i}", given[i]) if i in given else None for i in range(1, 4)]
    attributes = {name: value for name, value in step.node.attributes.items() if name != "axes"}
    made = insert.node(step.node.op_type, [data, *values], attributes=attributes, dtype=ir.DataType.FLOAT)
    edit.set_outputs(graph, [made])
    session = open_session(ir.Model(graph, ir_version=10), provider=on_cpu())
    return lambda array: next(iter(session.run({"data": array}).values()))


def _extents(value: ir.Value | None) -> list[int | str | None]:
    shape = () if value is None or value.shape is None else value.shape
    return [extent if isinstance(extent, int) else extent.value for extent in shape]


def _unknown_resize(node: ir.Node) -> str:
    read, made = _extents(node.inputs[0]), _extents(node.outputs[0])
    if not read or not made:
        return "where the rank of its input is not known"
    if _constant(node, 2) is None and (len(node.inputs) < 4 or node.inputs[3] is None):
        return "with scales that are computed"
    if _crops(node) and _constant(node, 1) is None:
        return "with a region that is computed"
    if node.attributes.get_string("keep_aspect_ratio_policy", "stretch") != "stretch":
        return "with a keep_aspect_ratio_policy"
    known = all(isinstance(read[axis], int) and isinstance(made[axis], int) for axis in _resized(node))
    return "" if known else UNKNOWN


def _pad(step: Step) -> Tensor:
    """Crop what was padded, and pad what was cropped; what was repeated at the borders is added up."""
    node = step.node
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant":
        return _repeating_pad(step, mode)
    axes = [step.input(3)] if step.has(3) else []
    return step.tape.op("Pad", step.g, step.tape.op("Neg", step.input(1)), step.tape.of(0.0), *axes)


def _repeating_pad(step: Step, mode: str) -> Tensor:
    gradient = step.g
    for axis, (before, after) in _pads(step.node).items():
        extent = int((step.dims(step.x) or ())[axis])  # type: ignore[arg-type]
        places = np.pad(np.arange(extent), (before, after), mode=mode)  # type: ignore[call-overload]
        gradient = along(gradient, axis, step.rank(), np.eye(extent)[places])
    return gradient


def _pads(node: ir.Node) -> dict[int, tuple[int, int]]:
    """Return the constant padding before and after, of axes that have any."""
    pads, named = _constant(node, 1), _constant(node, 3)
    rank = len(_extents(node.inputs[0]))
    axes = range(rank) if named is None else [int(axis) % rank for axis in named]
    if pads is None:
        return {}
    pairs = {axis: (int(pads[place]), int(pads[place + len(axes)])) for place, axis in enumerate(axes)}
    return {axis: pair for axis, pair in pairs.items() if any(pair)}


def _unfit_pad(node: ir.Node) -> str:
    mode = node.attributes.get_string("mode", "constant")
    if mode == "constant":
        return ""
    held = _constant(node, 1) is not None and (
        len(node.inputs) < 4 or node.inputs[3] is None or _constant(node, 3) is not None
    )
    if not held or not _extents(node.inputs[0]):
        return f"in {mode} mode with pads that are computed"
    if any(min(pair) < 0 for pair in _pads(node).values()):
        return f"in {mode} mode where it crops"
    extents = _extents(node.inputs[0])
    return "" if all(isinstance(extents[axis], int) for axis in _pads(node)) else f"in {mode} mode {UNKNOWN}"


RULES: dict[str, Rule] = {"Pad": first(_pad, _unfit_pad), "Resize": first(_resize, _unknown_resize)}

"""AveragePool as a depthwise Conv: onnxruntime-training 1.19.2 crashes in its own gradient when the batch is free."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, shapes
from ..graph.windows import asks_for_same, written_pads


def write_out_average_pools(model: ir.Model) -> None:
    """Write each AveragePool as a Conv with equal weights; where padding does not count, a Mul makes up for it.

    Those whose number of channels is not known, or that round up or dilate, stay; they have no gradient then.
    """
    shapes.infer(model)
    for node in list(model.graph):
        data = node.inputs[0] if edit.op_of(node) == "AveragePool" else None
        kernel = edit.ints_attribute(node, "kernel_shape") or ()
        if data is None or data.shape is None or not isinstance(data.shape[1], int) or not _is_plain(node):
            continue
        correction = _correction(node, data.shape, kernel)
        if correction is None:
            continue
        channels, output = data.shape[1], node.outputs[0]
        equal = np.full((channels, 1, *kernel), 1 / math.prod(kernel), np.float32)
        attributes: dict[str, int | Sequence[int]] = {"group": channels}
        for name, values in (("strides", edit.ints_attribute(node, "strides")), ("pads", written_pads(node))):
            if values:
                attributes[name] = values
        # Constant nodes and not initializers, which would be trained.
        steps = [ir.node("Constant", [], {"value": ir.tensor(equal)})]
        steps.append(ir.node("Conv", [data, steps[0].outputs[0]], attributes))
        if correction.max() > 1:
            steps.append(ir.node("Constant", [], {"value": ir.tensor(correction.astype(np.float32))}))
            steps.append(ir.node("Mul", [steps[1].outputs[0], steps[2].outputs[0]]))
        for number, step in enumerate(steps):
            step.outputs[0].name = f"{output.name}/average/{number}"
        model.graph.insert_before(node, steps)
        edit.replace_uses(output, steps[-1].outputs[0])
        model.graph.remove(node, safe=True)


def _is_plain(node: ir.Node) -> bool:
    dilations = edit.ints_attribute(node, "dilations") or ()
    return not asks_for_same(node) and set(dilations) <= {1} and not edit.int_attribute(node, "ceil_mode", 0)


def _correction(node: ir.Node, shape: ir.Shape, kernel: Sequence[int]) -> npt.NDArray[np.float64] | None:
    """Return what each output is multiplied by so that padding does not count; None where extents are not known."""
    rank = len(kernel)
    pads = written_pads(node)
    if not any(pads) or edit.int_attribute(node, "count_include_pad", 0):
        return np.ones(1)
    strides = edit.ints_attribute(node, "strides") or (1,) * rank
    total = np.ones((1, 1))
    for axis, (size, stride) in enumerate(zip(kernel, strides, strict=True)):
        extent = shape[axis + 2]
        if not isinstance(extent, int):
            return None
        inside = np.pad(np.ones(extent), (pads[axis], pads[axis + rank]))
        counts = np.convolve(inside, np.ones(size), "valid")[::stride]
        total = total[..., None] * (size / counts)
    return np.asarray(total)

"""Operators in the form whose gradient is right: some forms onnxruntime-training differentiates wrongly, or not at all.

Only the copy that is trained is written so; what it computes stays the same. Forms that have none are in `gradients`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit, shapes
from ..graph.layer import Layer
from ..graph.windows import names_padding, pads_of, write_pads


def write_out_padding(model: ir.Model) -> None:
    """Write `auto_pad` as `pads`: gradients ignore it. A node whose extents are not known keeps it."""
    windows = [node for node in model.graph if edit.op_of(node) in ("AveragePool", "Conv", "MaxPool")]
    named = [node for node in windows if names_padding(node)]
    if named:
        shapes.infer(model)
    for node in named:
        layer = Layer.of(node)
        kernel = edit.ints_attribute(node, "kernel_shape") or _known(layer.value if layer else None, 2)
        pads = pads_of(node, _known(node.inputs[0], 2), tuple(kernel))
        if pads is not None:
            write_pads(node, pads)


def write_out_forms(model: ir.Model) -> None:
    """Write each node that `FORMS` knows in the form that has a gradient."""
    shapes.infer(model)
    insert = edit.Inserter(model.graph)
    for node in list(model.graph):
        form = FORMS.get(edit.op_of(node))
        if form is not None:
            form(node, insert)


def _gemm(node: ir.Node, _: edit.Inserter) -> None:
    """Leave out a C that is multiplied by nothing."""
    layer = Layer(node)
    if layer.beta == 0 and layer.bias_value is not None:
        layer.replace_bias(None)


def _layer_norm(node: ir.Node, insert: edit.Inserter) -> None:
    """Add a bias of zeros."""
    scale = _known(node.inputs[1])
    if scale and (len(node.inputs) < 3 or node.inputs[2] is None):
        node.resize_inputs(3)
        node.replace_input_with(2, _constant(insert, node, np.zeros(scale, np.float32)))


def _matmul(node: ir.Node, insert: edit.Inserter) -> None:
    """Make vectors matrices of one row or one column, and take that away again from what comes out."""
    ranks = [len(value.shape) if value is not None and value.shape is not None else 0 for value in node.inputs]
    taken = [axis for axis, rank in ((-2, ranks[0]), (-1, ranks[1])) if rank == 1]
    for index, axis in ((0, 0), (1, 1)):
        if ranks[index] == 1:
            axes = _constant(insert, node, np.array([axis]))
            node.replace_input_with(index, insert.node("Unsqueeze", [node.inputs[index], axes], before=node))
    if taken:
        insert.behind(node.outputs[0], "Squeeze", _constant(insert, node, np.array(taken)))


def _max_pool(node: ir.Node, _: edit.Inserter) -> None:
    """Number the maxima row by row, as the gradient reads them, where nobody else does."""
    if len(node.outputs) < 2 or not node.outputs[1].uses():
        node.attributes.pop("storage_order", None)


def _pow(node: ir.Node, insert: edit.Inserter) -> None:
    """Give a constant exponent the base's type."""
    exponent = edit.constant(node.inputs[1])
    if exponent is not None and not exponent.dtype.is_floating_point():
        node.replace_input_with(1, _constant(insert, node, exponent.numpy().astype(np.float32)))


def _reduce(node: ir.Node, insert: edit.Inserter) -> None:
    """Keep reduced dimensions and squeeze them away behind; over no axes at all, it is no reduction."""
    axes = edit.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    array = np.asarray(edit.ints_attribute(node, "axes") or () if axes is None else axes.numpy(), np.int64)
    known = len(node.inputs) < 2 or node.inputs[1] is None or axes is not None
    if known and not array.size and edit.int_attribute(node, "noop_with_empty_axes", 0):
        new = insert.node("Abs" if node.op_type == "ReduceL2" else "Identity", [node.inputs[0]], before=node)
        edit.replace_uses(node.outputs[0], new)
        node.graph.remove(node, safe=True)  # type: ignore[union-attr]
    elif known and node.op_type in ("ReduceL2", "ReduceLogSumExp") and not edit.int_attribute(node, "keepdims", 1):
        edit.set_attribute(node, "keepdims", 1)
        insert.behind(node.outputs[0], "Squeeze", *([_constant(insert, node, array)] if array.size else []))


def _transpose(node: ir.Node, _: edit.Inserter) -> None:
    """Write down that the order of the axes is reversed."""
    data = node.inputs[0]
    if "perm" not in node.attributes and data is not None and data.shape is not None:
        edit.set_attribute(node, "perm", list(range(len(data.shape)))[::-1])


def _where(node: ir.Node, insert: edit.Inserter) -> None:
    """Expand both branches to the shape of the result: the gradient is wrong where they are broadcast."""
    branches = [index for index in (1, 2) if edit.constant(node.inputs[index]) is None]
    broadcast = [index for index in branches if not _same_shape(node.inputs[index], node.outputs[0])]
    if broadcast:
        result = insert.node("Where", list(node.inputs), before=node)
        shape = insert.node("Shape", [result], before=node)
        for index in broadcast:
            node.replace_input_with(index, insert.node("Expand", [node.inputs[index], shape], before=node))


FORMS: dict[str, Callable[[ir.Node, edit.Inserter], None]] = {
    "Gemm": _gemm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _max_pool,
    "Pow": _pow,
    "ReduceL2": _reduce,
    "ReduceLogSumExp": _reduce,
    "ReduceMean": _reduce,
    "ReduceSum": _reduce,
    "Transpose": _transpose,
    "Where": _where,
}
"""Operator to what writes it in the form that has a gradient."""


def _known(value: ir.Value | None, start: int = 0) -> list[int]:
    """Return the extents of a value's axes from `start` on; nothing where one of them is not known."""
    dims = () if value is None or value.shape is None else tuple(value.shape)[start:]
    known = [n for n in dims if isinstance(n, int)]
    return known if len(known) == len(dims) else []


def _same_shape(a: ir.Value | None, b: ir.Value) -> bool:
    """Tell whether two values are known to have the same shape."""
    if a is None or a.shape is None or b.shape is None:
        return False
    known = all(isinstance(n, int) or n.value is not None for n in a.shape)
    return known and a.shape == b.shape


def _constant(insert: edit.Inserter, node: ir.Node, array: npt.NDArray[Any]) -> ir.Value:
    """Return a Constant node's output, and no initializer, which would be trained."""
    return insert.node("Constant", [], attributes={"value": ir.tensor(array)}, before=node)

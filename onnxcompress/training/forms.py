"""Forms that say too little to be differentiated, or that onnxruntime-training computes wrongly, written out."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from ..graph import edit
from ..graph.shapes import SMALL, run_node

OF_NOTHING = {"ReduceL1": "Abs", "ReduceL2": "Abs", "ReduceLogSum": "Log", "ReduceSumSquare": "Mul"}
"""What a reduction over no axes does to each element, where that is not nothing."""


def write_out(graph: ir.Graph) -> bool:
    """Rewrite each node that says too little, in place; tells whether there was one."""
    insert = edit.Inserter(graph)
    _fold_integers(graph, insert)
    rewritten = [node for node in list(graph) if (op := _form(node)) and _FORMS[op](node, insert)]
    return bool(rewritten)


def _fold_integers(graph: ir.Graph, insert: edit.Inserter) -> None:
    """Compute axes, bounds and shapes that are made of constants: rules ask what they are."""
    opset = int(graph.opset_imports[""])
    for node in list(graph):
        held = [edit.constant(value) for value in node.inputs if value is not None]
        integers = [t.numpy() for t in held if t is not None and not t.dtype.is_floating_point() and t.size <= SMALL]
        if not held or len(integers) < len(held) or len(node.outputs) > 1:
            continue
        arrays = iter(integers)
        results = run_node(node, [None if value is None else next(arrays) for value in node.inputs], opset)
        if results is not None and results[0].dtype.kind in "iub":
            edit.replace_uses(node.outputs[0], insert.constant(f"{node.outputs[0].name}/known", results[0]))


def _squeeze(node: ir.Node, insert: edit.Inserter) -> bool:
    """Name the axes that are taken away: nobody knows the rank behind it otherwise."""
    data = node.inputs[0]
    named = len(node.inputs) > 1 and node.inputs[1] is not None
    axes = [axis for axis, dim in enumerate(data.shape) if dim == 1] if data is not None and data.shape else []
    if named or not axes:
        return False
    node.resize_inputs(2)
    node.replace_input_with(1, insert.constant(f"{node.outputs[0].name}/axes", np.array(axes, np.int64)))
    return True


def _reduction(node: ir.Node, insert: edit.Inserter) -> bool:
    """Leave out a reduction over no axes: onnxruntime 1.19.2 reduces over all of them."""
    held = edit.constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if len(node.inputs) > 1 and node.inputs[1] is not None and held is None:
        return False
    axes = edit.ints_attribute(node, "axes") or () if held is None else held.numpy()
    if len(axes) or not edit.int_attribute(node, "noop_with_empty_axes", 0):
        return False
    op_type = OF_NOTHING.get(node.op_type, "Identity")
    new = insert.node(op_type, [node.inputs[0]] * (1 + (op_type == "Mul")), before=node)
    edit.replace_uses(node.outputs[0], new)
    insert.graph.remove(node, safe=True)
    return True


_FORMS: dict[str, Callable[[ir.Node, edit.Inserter], bool]] = {"Reduce": _reduction, "Squeeze": _squeeze}


def _form(node: ir.Node) -> str:
    op = edit.op_of(node)
    return "Reduce" if op.startswith("Reduce") else op if op in _FORMS else ""

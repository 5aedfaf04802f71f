"""Keep onnxruntime from carrying integers through data movement where it gets that wrong.

onnxruntime (seen in 1.32; QDQPropagation) puts QuantizeLinear and DequantizeLinear behind what moves a dequantized
tensor. Where the moved tensor is read by an inner graph, the process dies. From opset 21 on, whose QuantizeLinear names
its output's type, it leaves the zero point out, so that a type other than uint8 does not fit, and the model cannot be
loaded. A node in between that changes nothing, and that onnxruntime leaves in, keeps it from that.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.graph import edit, operators
from onnxcompress.graph.opset import BLOCKS


def keep_moved(model: ir.Model) -> None:
    """Put a Max of one input between each such DequantizeLinear and what moves its output, in place."""
    names, typed = edit.Names(model.graph), model.opset_imports.get("", 1) >= BLOCKS
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in [node for node in graph if _may_be_carried(node)]:
            unfit = typed and _dtype(node) != ir.DataType.UINT8
            moves = [(reader, index) for reader, index in node.outputs[0].uses() if _moves(reader, unfit=unfit)]
            if moves:
                kept = edit.Inserter(graph, names).node("Max", node.outputs, after=node, shape=node.outputs[0].shape)
                for reader, index in moves:
                    reader.replace_input_with(index, kept)


def _may_be_carried(node: ir.Node) -> bool:
    """Tell whether a node dequantizes by one scale."""
    scale = edit.constant(node.inputs[1]) if edit.op_of(node) == "DequantizeLinear" else None
    return scale is not None and np.size(scale.numpy()) == 1


def _dtype(node: ir.Node) -> ir.DataType:
    point = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    return ir.DataType.UINT8 if point is None else point.dtype


def _moves(node: ir.Node, *, unfit: bool) -> bool:
    """Tell whether a node moves a tensor to an inner graph or, if the type is `unfit`, to any but QuantizeLinear."""
    if edit.op_of(node) not in operators.CARRIED:
        return False
    readers = [reader for reader, _ in node.outputs[0].uses()]
    unfit = unfit and (not readers or any(edit.op_of(reader) != "QuantizeLinear" for reader in readers))
    return unfit or _is_read_inside(node)


def _is_read_inside(node: ir.Node) -> bool:
    """Tell whether an inner graph reads what a node moves, perhaps on and on."""
    waiting, seen = [node], set[ir.Node]()
    while waiting:
        moved = waiting.pop()
        seen.add(moved)
        readers = [reader for reader, _ in moved.outputs[0].uses()]
        if any(reader.graph is not node.graph for reader in readers):
            return True
        waiting += [reader for reader in readers if edit.op_of(reader) in operators.CARRIED and reader not in seen]
    return False

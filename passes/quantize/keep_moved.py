"""Keep onnxruntime from carrying integers through data movement, which it gets wrong from opset 21 on.

onnxruntime (seen in 1.32; QDQPropagation) puts QuantizeLinear and DequantizeLinear behind what moves a dequantized
tensor. From opset 21 on, whose QuantizeLinear names its output's type, it leaves the zero point out, so that a type
other than uint8 does not fit, and the model cannot be loaded, or the process dies. A node in between that changes
nothing, and that onnxruntime leaves in, keeps it from that.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from onnxcompress.graph import edit

from .opset import BLOCKS

CARRIED = {"MaxPool", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
"""What it carries integers through."""


def keep_moved(model: ir.Model) -> None:
    """Put a Max of one input between each such DequantizeLinear and what moves its output, in place."""
    if model.opset_imports.get("", 1) < BLOCKS:
        return
    names = edit.Names(model.graph)
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in [node for node in graph if _may_be_carried(node)]:
            moves = [(reader, index) for reader, index in node.outputs[0].uses() if _moves(reader)]
            if moves:
                kept = edit.Inserter(graph, names).node("Max", node.outputs, after=node, shape=node.outputs[0].shape)
                for reader, index in moves:
                    reader.replace_input_with(index, kept)


def _may_be_carried(node: ir.Node) -> bool:
    """Tell whether a node dequantizes other integers than uint8 by one scale."""
    if edit.op_of(node) != "DequantizeLinear":
        return False
    point = edit.constant(node.inputs[2]) if len(node.inputs) > 2 else None
    scale = edit.constant(node.inputs[1])
    return point is not None and point.dtype != ir.DataType.UINT8 and scale is not None and np.size(scale.numpy()) == 1


def _moves(node: ir.Node) -> bool:
    """Tell whether a node moves a tensor to something else than a QuantizeLinear."""
    readers = [edit.op_of(reader) for reader, _ in node.outputs[0].uses()]
    return edit.op_of(node) in CARRIED and (not readers or any(op != "QuantizeLinear" for op in readers))

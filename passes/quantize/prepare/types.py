"""Types and shapes, also where onnx does not infer them."""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.graph import edit, shapes
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.operators import LAYERS

TYPED_BY_DATA = {"Compress", "Identity", "ReverseSequence", "Unique"}
"""Their first output has the type of their first input, which onnx does not infer in old opsets."""


def infer_types(model: ir.Model) -> None:
    """Infer types and shapes, also behind operators that ONNX does not know.

    What a Conv, Gemm, MatMul, … reads has the type of its constant weight, whoever gives it.
    """
    found = True
    while found:
        shapes.infer(model)
        found = False
        for node in model.graph.all_nodes():
            given = node.inputs[0] if edit.op_of(node) in TYPED_BY_DATA else None
            if given is not None and given.type is not None and node.outputs[0].type is None:
                node.outputs[0].type, found = given.type, True
            layer = Layer.of(node, among=LAYERS)
            if layer is not None and layer.data.type is None and layer.value.type is not None:
                layer.data.type, found = layer.value.type, True

"""Keep an engine from quantizing, in its own way, what was left in float between integers.

onnxruntime (seen in 1.32; WeightBiasQuantization) takes the weight of a Conv, ConvTranspose or Gemm for one that should
have been quantized where the input comes from DequantizeLinear and the output, perhaps through a Relu or Clip, goes to
QuantizeLinear: it stores it in 8 bits, with one scale for the tensor. Of a depthwise convolution little is left then.
A node in between that changes nothing, and that onnxruntime leaves in, keeps the layer as it is.
"""

from __future__ import annotations

import onnx_ir as ir

from onnxcompress.graph import constants, edit
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.operators import BIASED

THROUGH = ("Clip", "Identity", "Relu")


def keep_float(model: ir.Model) -> list[str]:
    """Put a Max of one input behind each such layer, in place; return the labels of the layers."""
    names = edit.Names(model.graph)
    found = []
    for graph in (model.graph, *model.graph.subgraphs()):
        for node in [node for node in graph if _is_taken(node)]:
            edit.Inserter(graph, names).behind(node.outputs[0], "Max", shape=node.outputs[0].shape)
            found.append(edit.label(node))
    return found


def _is_taken(node: ir.Node) -> bool:
    layer = Layer.of(node, among=BIASED)
    maker = None if layer is None else layer.data.producer()
    if layer is None or maker is None:
        return False
    if edit.op_of(maker) != "DequantizeLinear" or not constants.is_constant(layer.value):
        return False
    reader = _only_reader(node)
    while reader is not None and edit.op_of(reader) in THROUGH:
        reader = _only_reader(reader)
    return reader is not None and edit.op_of(reader) == "QuantizeLinear"


def _only_reader(node: ir.Node) -> ir.Node | None:
    uses = list(node.outputs[0].uses())
    return uses[0][0] if len(uses) == 1 and not node.outputs[0].is_graph_output() else None

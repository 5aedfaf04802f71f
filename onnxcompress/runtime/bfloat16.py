"""A bfloat16 model in float32 operators that round each result: what onnxruntime's CPU can run in its place."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..graph import edit, shapes

BFLOAT16, FLOAT = ir.DataType.BFLOAT16, ir.DataType.FLOAT


def in_float32(model: ir.Model) -> ir.Model | None:
    """Return a copy whose bfloat16 tensors are float32 with the same values; None where there are no such tensors.

    Each result is rounded to bfloat16 and back, so that the copy computes what an engine computes that adds up in
    float32. Inputs and outputs become float32 as well.
    """
    copy = model.clone()
    shapes.infer(copy)
    values = [value for value in edit.values(copy.graph) if value.dtype == BFLOAT16]
    if not values:
        return None
    names, nodes = edit.Names(copy.graph), list(copy.graph.all_nodes())
    for node in nodes:
        _attributes_to_float32(node)
    for value in values:
        tensor, maker, graph = edit.constant(value), value.producer(), value.graph
        if tensor is not None:
            edit.set_constant(value, tensor.numpy().astype(np.float32))
        value.type = ir.TensorType(FLOAT)
        # A value without a name is an output that its node leaves out.
        if tensor is None and maker is not None and isinstance(graph, ir.Graph) and value.name:
            insert = edit.Inserter(graph, names)
            rounded = insert.node("Cast", [value], attributes={"to": int(BFLOAT16)}, after=maker, dtype=BFLOAT16)
            first = edit.producer(rounded)
            result = insert.node("Cast", [rounded], attributes={"to": int(FLOAT)}, after=first, dtype=FLOAT)
            edit.replace_uses(value, result, except_for=[first])
    return copy


def _attributes_to_float32(node: ir.Node) -> None:
    """Let a node that gives bfloat16 because an attribute says so give float32."""
    for name, attribute in list(node.attributes.items()):
        if attribute.is_ref():
            continue
        if name in ("to", "dtype") and attribute.type == ir.AttributeType.INT and attribute.as_int() == BFLOAT16:
            edit.set_attribute(node, name, int(FLOAT))
        elif attribute.type == ir.AttributeType.TENSOR and attribute.as_tensor().dtype == BFLOAT16:
            array = attribute.as_tensor().numpy().astype(np.float32)
            node.attributes[name] = ir.AttrTensor(name, ir.tensor(array))

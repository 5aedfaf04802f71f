"""A model without its weights, for tools that copy whatever they are given and know no files."""

from __future__ import annotations

import onnx_ir as ir

KEPT = 1024
"""Elements up to which a constant stays: target shapes, axes and pads decide about what is checked and converted."""


def weightless(model: ir.Model) -> ir.Model:
    """Return a copy whose large initializers are inputs; the model itself stays as it is."""
    copy = model.clone()
    for graph in copy.graphs():
        for value in list(graph.initializers.values()):
            tensor = value.const_value
            if tensor is None:
                continue
            if graph is copy.graph and tensor.size > KEPT and not value.is_graph_output():
                value.type, value.shape = ir.TensorType(tensor.dtype), ir.Shape(tensor.shape.numpy())
                value.const_value = None
                graph.initializers.pop(str(value.name))
                if not value.is_graph_input():
                    graph.inputs.append(value)
            elif isinstance(tensor, ir.ExternalTensor):
                value.const_value = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
    return copy

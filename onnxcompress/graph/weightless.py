"""A model without its weights, for tools that copy whatever they are given and know no files."""

from __future__ import annotations

import onnx_ir as ir

from . import edit

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
                edit.make_input(value)
            elif isinstance(tensor, ir.ExternalTensor):
                small = ir.Tensor(tensor.numpy().copy(), dtype=tensor.dtype, name=tensor.name)
                edit.store_elsewhere(value, small)
    return copy

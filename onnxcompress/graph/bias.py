"""Adding constants to what layers give: into the bias where there is one, else into a new one."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from . import edit
from .layer import Array, Layer


def add_to_outputs(graph: ir.Graph, additions: Mapping[str, Array]) -> None:
    """Add a constant to each output channel of the Conv, ConvTranspose, Gemm or MatMul nodes with these output names.

    It goes into the bias where there is one (for MatMul, a constant that is added next), else into a new one.
    """
    if not additions:
        return
    nodes, insert = {edit.output_name(node): node for node in graph}, edit.Inserter(graph)
    for name, addition in additions.items():
        layer = Layer(nodes[name])
        add = _add_to_bias if layer.takes_bias else _add_behind
        add(insert, layer, addition, _float_type(layer.node))


def _float_type(node: ir.Node) -> ir.DataType:
    """Return the type of a node's output, which that of its inputs is too."""
    types = (value.dtype for value in (*node.outputs, *node.inputs) if value is not None)
    return next((dtype for dtype in types if dtype is not None), ir.DataType.FLOAT)


def _add_to_bias(insert: edit.Inserter, layer: Layer, addition: Array, dtype: ir.DataType) -> None:
    node, name = layer.node, edit.output_name(layer.node)
    given = layer.bias_value if layer.beta else None
    known = edit.constant(given)
    if given is not None and known is None:  # computed, if only by an Identity
        added = insert.constant(f"{name}_added", (addition / layer.beta).astype(dtype.numpy()))
        layer.replace_bias(insert.node("Add", [given, added], before=node, dtype=dtype))
        return
    old = 0.0 if known is None else layer.beta * known.numpy().astype(np.float64)
    before = layer.bias_value
    layer.set_bias(insert.constant(f"{name}_bias", (old + addition).astype(dtype.numpy())))
    edit.remove_unread(before)


def _add_behind(insert: edit.Inserter, layer: Layer, addition: Array, dtype: ir.DataType) -> None:
    """Add a constant to the output of a node that takes no bias."""
    out, kind = layer.node.outputs[0], dtype.numpy()
    uses = list(out.uses())
    if len(uses) == 1 and not out.is_graph_output() and edit.op_of(uses[0][0]) == "Add":
        added, index = uses[0]
        before = added.inputs[1 - index]
        known = edit.constant(before)
        if known is not None and known.shape.numpy() == addition.shape:
            total = (known.numpy().astype(np.float64) + addition).astype(kind)
            added.replace_input_with(1 - index, insert.constant(f"{out.name}_bias", total))
            edit.remove_unread(before)
            return
    insert.behind(out, "Add", insert.constant(f"{out.name}_constant", addition.astype(kind)), shape=out.shape)

"""Let a model of 16-bit floats compute in float32, with its weights stored and its inputs and outputs as they were.

onnxruntime's CPU kernels compute float16 as float32 between casts anyway, and its integer kernels go with float32
only. In the file nothing grows: a weight stays 16-bit, behind a Cast that is computed when the model is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxcompress.contract import Change
from onnxcompress.graph import edit, shapes

from ..shared.units import COMPUTE

HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)
WIDE = ir.DataType.FLOAT


def widen_halves(model: ir.Model) -> list[Change]:
    """Let 16-bit floats compute in float32 where they do not on integers, in place."""
    if _has_halves(model.graph):
        shapes.infer(model)
    halves = sorted({dtype.name.lower() for dtype in _half_compute(model.graph)})
    if not halves:
        return []
    widen(model)
    return [Change("model", f"{' and '.join(halves)} computes in float32 where it does not on integers")]


def _half_compute(graph: ir.Graph) -> Iterator[ir.DataType]:
    """Yield the 16-bit types that something worth quantizing computes in."""
    for node in graph.all_nodes():
        value = node.inputs[0] if edit.op_of(node) in COMPUTE else None
        if value is not None and value.dtype is not None and value.dtype in HALVES:
            yield value.dtype


def _has_halves(graph: ir.Graph) -> bool:
    """Tell whether the graph holds, is given or casts to 16-bit floats; no types need be inferred."""
    casts = (edit.int_attribute(node, "to", 0) for node in graph.all_nodes() if edit.op_of(node) == "Cast")
    return any(value.dtype in HALVES for value in edit.values(graph) if value.dtype) or any(
        to in HALVES for to in casts
    )


def widen(model: ir.Model) -> None:
    """Make every 16-bit float that a node computes float32, in place; inner graphs too. Types must be inferred."""
    names = edit.Names(model.graph)
    for graph in [model.graph, *model.graph.subgraphs()]:
        _widen_graph(graph, names, outermost=graph is model.graph)


def _widen_graph(graph: ir.Graph, names: edit.Names, *, outermost: bool) -> None:
    first = next(iter(graph), None)
    insert = edit.Inserter(graph, names)
    for value in [*graph.inputs, *(v for v in graph.initializers.values() if not v.is_graph_input())]:
        if value.dtype not in HALVES:
            continue
        if not outermost and value.const_value is None:
            value.type = ir.TensorType(WIDE)  # of a Loop's or Scan's body: what comes in is wide by then
        elif value.uses() or value.is_graph_output():
            _cast_behind(insert, value, first)
    for node in list(graph):
        _widen_node(node, insert)
    for value in list(graph.outputs):
        half = value.metadata_props.pop(DECLARED, None)
        if outermost and half is not None:
            edit.return_instead(graph, value, _narrowed(insert, value, ir.DataType[half]))


DECLARED = "onnxcompress.declared"


def _cast_behind(insert: edit.Inserter, value: ir.Value, first: ir.Node | None) -> None:
    """Let everything that reads an input or a weight read it as float32; the value itself stays."""
    uses = list(value.uses())
    wide = insert.node("Cast", [value], attributes={"to": int(WIDE)}, before=first, dtype=WIDE, shape=value.shape)
    for user, index in uses:
        user.replace_input_with(index, wide)


def _widen_node(node: ir.Node, insert: edit.Inserter) -> None:
    op = edit.op_of(node)
    if op == "Constant":
        if edit.constant(node.outputs[0]) is not None and node.outputs[0].dtype in HALVES:
            wide = insert.node("Cast", [node.outputs[0]], attributes={"to": int(WIDE)}, after=node, dtype=WIDE)
            edit.replace_uses(node.outputs[0], wide, except_for=[edit.producer(wide)])
        return
    for name in ("to", "dtype"):
        attribute = node.attributes.get(name)
        if attribute is not None and attribute.type == ir.AttributeType.INT and attribute.as_int() in HALVES:
            node.attributes[name] = ir.AttrInt64(name, int(WIDE))
    value = node.attributes.get("value")
    if op == "ConstantOfShape" and value is not None and value.as_tensor().dtype in HALVES:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(value.as_tensor().numpy().astype("float32")))
    for output in node.outputs:
        if output.dtype in HALVES:
            if output.is_graph_output():
                output.metadata_props[DECLARED] = output.dtype.name
            output.type = ir.TensorType(WIDE)
    if op == "Cast" and node.inputs[0] is not None and node.inputs[0].dtype == node.outputs[0].dtype == WIDE:
        node.attributes.clear()
        node.op_type = "Identity"  # the names of both sides stay


def _narrowed(insert: edit.Inserter, value: ir.Value, half: ir.DataType) -> ir.Value:
    """Return an output of its old name and type that casts `value` back."""
    name = value.name
    value.name = insert.names.value(f"{name}_wide")
    result = insert.node("Cast", [value], attributes={"to": int(half)}, dtype=half, shape=value.shape)
    result.name = name
    return result

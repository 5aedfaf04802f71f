"""Rewriting what stands in the way of quantization: local functions, names that graphs share, and 16-bit floats.

The same model always gives the same result, so that names in a plan mean the same when it is applied.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_ir as ir

from onnxcompress.contract import Change
from onnxcompress.graph import edit, shapes
from onnxcompress.graph.functions import ORIGIN, inline
from onnxcompress.graph.layer import Layer
from onnxcompress.graph.operators import LAYERS

from ..shared.units import COMPUTE
from .halves import HALVES, widen

TYPED_BY_DATA = {"Compress", "Identity", "ReverseSequence", "Unique"}
"""Their first output has the type of their first input, which onnx does not infer in old opsets."""


def flatten(model: ir.Model) -> list[Change]:
    """Inline local functions and give each tensor a name of its own, in place.

    Raises
    ------
    PassError
        A local function cannot be inlined.
    """
    names = inline(model)
    separate_names(model.graph)
    return [Change("model", f"local functions inlined: {', '.join(names)}")] if names else []


def widen_halves(model: ir.Model) -> list[Change]:
    """Let 16-bit floats compute in float32 where they do not on integers, in place."""
    if _has_halves(model.graph):
        shapes.infer(model)
    halves = sorted({dtype.name.lower() for dtype in _half_compute(model.graph)})
    if not halves:
        return []
    widen(model)
    return [Change("model", f"{' and '.join(halves)} computes in float32 where it does not on integers")]


def separate_names(graph: ir.Graph) -> None:
    """Rename tensors of inner graphs that are called like another: branches may share names, plans may not.

    Nobody outside knows these names. Nodes are called by their first output in plans, so that theirs may stay.
    """
    inside = [value for inner in graph.subgraphs() for value in _made(inner)]
    if not inside:
        return
    names, seen = edit.Names(graph), {value.name for value in _made(graph)}
    for value in inside:
        if value.name in seen:
            node, old = value.producer(), str(value.name)
            value.name = names.value(old)
            if node is not None:
                node.meta.setdefault(ORIGIN, set()).add(old)
        seen.add(value.name)


def _made(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.inputs
    yield from (value for value in graph.initializers.values() if not value.is_graph_input())
    for node in graph:
        yield from (value for value in node.outputs if value.name)


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

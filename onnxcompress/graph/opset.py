"""Give a model another opset, such as one whose DequantizeLinear can what is asked of it."""

from __future__ import annotations

import re

import onnx
import onnx_ir as ir

from ..errors import PassError
from . import edit
from .functions import flatten
from .weightless import weightless

PER_CHANNEL = 13
"""The first opset whose DequantizeLinear has an axis."""

BITWISE = 18
"""The first one with BitwiseAnd and BitwiseOr."""

FLOAT16 = 19
"""The first one whose DequantizeLinear has scales of float16."""

BLOCKS = 21
"""The first one whose DequantizeLinear reads integers of 4 and of 16 bits and has a block size."""

TWO_BITS = 25
"""The first one whose DequantizeLinear reads integers of 2 bits."""

CONVOLUTIONS = 22
"""The first one whose convolutions take bfloat16."""

PURPOSES = {
    PER_CHANNEL: "int8 weights",
    FLOAT16: "int8 weights",
    CONVOLUTIONS: "convolutions in bfloat16",
    BITWISE: "3 bits",
}
"""What an opset is needed for; 4 bits, 16 bits and blocks elsewhere."""

IR_VERSIONS = {BLOCKS: 10, CONVOLUTIONS: 10, TWO_BITS: 13}
"""The first IR version for models of an opset; older opsets need none."""


def raise_opset(model: ir.Model, to: int = PER_CHANNEL) -> bool:
    """Convert the model, in place, to an opset if it is older; tells whether it did. See `convert_opset`."""
    edit.raise_ir_version(model)
    opset = model.opset_imports.setdefault("", to)
    if opset >= to:
        return False
    convert_opset(model, to, f"{PURPOSES.get(to, '4 bits, 16 bits and blocks')} need opset {to}")
    return True


def convert_opset(model: ir.Model, to: int, why: str) -> None:
    """Convert the model, in place, to an opset; `why` is said where that fails.

    Names of tensors, nodes, inputs and outputs stay. The same model always gives the same result, so that names in a
    plan mean the same when it is applied. Weights are neither copied nor read. Local functions are inlined first.

    Raises
    ------
    PassError
        The model has a local function that cannot be inlined, or an operator that onnx's version converter cannot
        convert.
    """
    flatten(model)
    opset = model.opset_imports.get("", 1)
    what = f"the model has opset {opset}, {why}"
    proto = ir.to_proto(weightless(model))
    try:
        converted = onnx.version_converter.convert_version(proto, to)
        onnx.checker.check_model(converted)
    except (RuntimeError, ValueError, onnx.checker.ValidationError, onnx.version_converter.ConvertError) as error:
        raise PassError(
            f"{what}, and onnx's version converter fails: {_reason(error)}; export it with opset {to}"
        ) from None
    _take_over(model, ir.from_proto(converted).graph, opset)
    model.ir_version = max(model.ir_version, IR_VERSIONS.get(to, 0))


def _take_over(model: ir.Model, graph: ir.Graph, opset: int) -> None:
    """Give `model` the converted graph, with the original's tensors."""
    old = model.graph
    was_input = {value.name for value in old.inputs}
    for name, value in old.initializers.items():
        new = graph.initializers.get(name)
        if new is None:
            new = next(v for v in graph.inputs if v.name == name)
            edit.make_constant(new, value.const_value, optional=name in was_input)
        edit.store_elsewhere(new, value.const_value)
    if opset < 11:
        # Before opset 11 Resize and Upsample had no modes, and meant these; the converter writes Resize's new defaults.
        for node in graph.all_nodes():
            if edit.op_of(node) == "Resize" and "coordinate_transformation_mode" not in node.attributes:
                node.attributes["coordinate_transformation_mode"] = ir.AttrString(
                    "coordinate_transformation_mode", "asymmetric"
                )
                node.attributes["nearest_mode"] = ir.AttrString("nearest_mode", "floor")
    _retype_bounds(graph)
    if opset < PER_CHANNEL:
        _flatten_hardmax(graph)
    remembered = {edit.output_name(node): node.meta for node in old.all_nodes() if node.meta}
    for node in graph.all_nodes() if remembered else ():
        node.meta.update(remembered.get(edit.output_name(node), {}))
    graph.metadata_props.update(old.metadata_props)
    graph.doc_string = old.doc_string
    model.graph = graph


def _flatten_hardmax(graph: ir.Graph) -> None:
    """Write out what Hardmax did before opset 13, on a matrix of all from its axis on: onnx's converter forgets it."""
    names = edit.Names(graph)
    for inner in (graph, *graph.subgraphs()):
        insert = edit.Inserter(inner, names)
        for node in [node for node in inner if edit.op_of(node) == "Hardmax"]:
            given, output = node.inputs[0], node.outputs[0]
            axis = edit.int_attribute(node, "axis", 1)
            shape = insert.node("Shape", [given], before=node, dtype=ir.DataType.INT64)
            matrix = insert.node("Flatten", [given], attributes={"axis": axis}, before=node, dtype=output.dtype)
            node.replace_input_with(0, matrix)
            edit.set_attribute(node, "axis", 1)
            insert.behind(output, "Reshape", shape, shape=output.shape)
            output.shape = None


def _retype_bounds(graph: ir.Graph) -> None:
    """Give the bounds of each Clip the type of what it clips: onnx's converter writes float32."""
    names = edit.Names(graph)
    for inner in (graph, *graph.subgraphs()):
        insert = edit.Inserter(inner, names)
        for node in list(inner):
            dtype = node.inputs[0].dtype if edit.op_of(node) == "Clip" and node.inputs[0] is not None else None
            for index, bound in enumerate(node.inputs[1:], 1):
                tensor = edit.constant(bound) if dtype is not None else None
                if dtype is not None and tensor is not None and bound is not None and tensor.dtype != dtype:
                    array = tensor.numpy().astype(dtype.numpy())
                    node.replace_input_with(index, insert.constant(f"{bound.name}_as_clipped", array))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    match = re.search(r"Op '%s' has no registered schema.*lld\.(\w+?)\d+$", text)
    if match:
        return f"it does not know the operator {match.group(1)}"
    return re.sub(r"^\S+\.cc:\d+: \w+: ", "", text)

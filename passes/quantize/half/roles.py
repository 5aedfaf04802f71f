"""Which inputs and outputs of a node may be float16 or bfloat16, as onnx's own schemas say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir

from onnxcompress.graph import edit

FLOAT = ir.DataType.FLOAT

DTYPE_ATTRIBUTES = {
    "Cast": "to",
    "EyeLike": "dtype",
    "RandomNormal": "dtype",
    "RandomNormalLike": "dtype",
    "RandomUniform": "dtype",
    "RandomUniformLike": "dtype",
}
"""Operator → the attribute that gives its output's type."""


@dataclass(frozen=True)
class Roles:
    """What of a node may be narrow: places of its float32 inputs, and of its float32 outputs."""

    inputs: frozenset[int]
    outputs: frozenset[int]


def roles(node: ir.Node, opset: int, narrow: ir.DataType) -> Roles | None:
    """Return what of a node may have the type `narrow`; None where onnx knows no schema of it."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opset, "" if node.domain == "ai.onnx" else node.domain)
    except onnx.defs.SchemaError:
        return None
    allowed = {c.type_param_str: set(c.allowed_type_strs) for c in schema.type_constraints}
    wanted = f"tensor({narrow.name.lower()})"
    variables = {name for name, kinds in allowed.items() if wanted in kinds}
    # What an operator without a schema writes has a type that nobody knows, and what goes with it keeps its own.
    variables -= {_variable(schema.inputs, i) for i, value in enumerate(node.inputs) if _is_unknown(value)}
    inputs = {
        index
        for index, value in enumerate(node.inputs)
        if is_float(value) and _variable(schema.inputs, index) in variables
    }
    bound = {_variable(schema.inputs, index) for index in range(len(node.inputs))}
    fixed = {_variable(schema.inputs, i) for i, value in enumerate(node.inputs) if is_float(value) and i not in inputs}
    outputs = set()
    for index, value in enumerate(node.outputs):
        variable = _variable(schema.outputs, index)
        decided = variable in bound or node.op_type in DTYPE_ATTRIBUTES or node.op_type == "ConstantOfShape"
        if is_float(value) and variable in variables and variable not in fixed and decided:
            outputs.add(index)
    return Roles(frozenset(inputs), frozenset(outputs))


def is_float(value: ir.Value | None) -> bool:
    """Tell whether a value is a float32 tensor."""
    return value is not None and isinstance(value.type, ir.TensorType) and value.dtype == FLOAT


def _is_unknown(value: ir.Value | None) -> bool:
    return value is not None and value.type is None and value.const_value is None


def set_output_type(node: ir.Node, narrow: ir.DataType) -> None:
    """Write the type into the attribute of a node whose output's type an attribute gives."""
    op = edit.op_of(node)
    if op in DTYPE_ATTRIBUTES:
        edit.set_attribute(node, DTYPE_ATTRIBUTES[op], int(narrow))
    elif op == "ConstantOfShape":
        given = node.attributes.get("value")
        filled = np.zeros(1, np.float32) if given is None else given.as_tensor().numpy()
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(filled.astype(narrow.numpy())))


def _variable(parameters: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str:
    """Return the type, or type variable, of an input or output; the last one may repeat."""
    if not parameters:
        return ""
    last = parameters[-1]
    if index >= len(parameters) and last.option != onnx.defs.OpSchema.FormalParameterOption.Variadic:
        return ""
    return str(parameters[min(index, len(parameters) - 1)].type_str)

"""ONNX's checker, which is told of the operators that onnxruntime adds to ONNX's own domain."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import onnx
from onnx.defs import OpSchema

FLOATS = ["tensor(float16)", "tensor(float)", "tensor(double)", "tensor(bfloat16)"]


def _schemas() -> list[OpSchema]:
    """Return what onnxruntime registers in the domain ``ai.onnx``, and its exporters write.

    As in docs/ContribOperators.md of onnxruntime.
    """
    optional = OpSchema.FormalParameterOption.Optional
    return [
        OpSchema(
            "SimplifiedLayerNormalization",
            "",
            1,
            inputs=[OpSchema.FormalParameter("X", "T"), OpSchema.FormalParameter("scale", "V")],
            outputs=[
                OpSchema.FormalParameter("Y", "V"),
                OpSchema.FormalParameter("inv_std_var", "U", param_option=optional),
            ],
            type_constraints=[("T", FLOATS, ""), ("U", FLOATS, ""), ("V", FLOATS, "")],
            attributes=[
                OpSchema.Attribute("axis", OpSchema.AttrType.INT, required=False),
                OpSchema.Attribute("epsilon", OpSchema.AttrType.FLOAT, required=False),
                OpSchema.Attribute("stash_type", OpSchema.AttrType.INT, required=False),
            ],
        )
    ]


def check_model(model: onnx.ModelProto | str, *, full: bool = False) -> None:
    """Run ONNX's checker over a model or a file; raises what that raises."""
    with _known():
        onnx.checker.check_model(model, full_check=full)


@contextmanager
def _known() -> Iterator[None]:
    """Let ONNX know these operators for a while: shape inference takes what it has a schema of for inferred."""
    added = [schema for schema in _schemas() if not onnx.defs.has(schema.name, schema.domain)]
    for schema in added:
        onnx.defs.register_schema(schema)
    try:
        yield
    finally:
        for schema in added:
            onnx.defs.deregister_schema(schema.name, schema.since_version, schema.domain)

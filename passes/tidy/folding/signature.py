"""What tells whether two nodes compute the same."""

from __future__ import annotations

import onnx_ir as ir
from onnx_ir import serde

from onnxcompress.graph import edit

SMALL = 1024
"""Bytes up to which constants are the same if they hold the same: axes and bounds of slices in each branch."""


def identity(value: ir.Value | None) -> str:
    """Return the same for values that hold the same."""
    tensor = edit.constant(value)
    if value is None or tensor is None or tensor.dtype == ir.DataType.STRING or tensor.nbytes > SMALL:
        return str(id(value))
    return f"{tensor.dtype} {tensor.shape} {tensor.numpy().tobytes().hex()}"


def signature(node: ir.Node) -> bytes:
    """Return the same for nodes that compute the same of the same values."""
    proto = serde.serialize_node(node)
    proto.ClearField("name")
    proto.ClearField("doc_string")
    proto.ClearField("metadata_props")
    proto.input[:] = map(identity, node.inputs)
    proto.output[:] = ["" if not name else str(place) for place, name in enumerate(proto.output)]
    found: bytes = proto.SerializeToString(deterministic=True)
    return found

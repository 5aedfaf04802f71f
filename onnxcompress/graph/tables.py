"""Tables from which inputs pick rows: embeddings of tokens, of positions, of types."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from . import operators
from .constants import constant
from .nodes import int_attribute, op_of

KEEPS = operators.KEEP_ELEMENTS | {"Cast"}
"""Operators behind which an index still names the row that it did."""

PICKS: dict[str, tuple[tuple[int, int], ...]] = {
    "Gather": ((1, 0),),
    "com.microsoft::GatherBlockQuantized": ((1, 0),),
    "com.microsoft::EmbedLayerNormalization": ((0, 2), (1, 4), (7, 3)),
}
"""Operator → which of its inputs are rows' numbers, each with the input that has the rows."""

AXES = {"Gather": "axis", "com.microsoft::GatherBlockQuantized": "gather_axis"}
"""Operator → the attribute that says along which axis the rows lie; without one they lie along the first."""


SAME_ROWS = {"Cast", "DequantizeLinear", "Identity"}
"""Operators that give a table as many rows as the one that they read."""


@dataclass(frozen=True)
class Table:
    """A constant from which an input picks.

    Attributes
    ----------
    name : str
    rows : int
    """

    name: str
    rows: int


def find_table(value: ir.Value) -> Table | None:
    """Return the smallest constant table from which an input picks; None where it picks from none."""
    found: list[Table] = []
    waiting, seen = [value], {value}
    while waiting:
        for node, index in waiting.pop().uses():
            found += [table for port, other in PICKS.get(op_of(node), ()) if port == index
                      for table in _table(node, other)]  # fmt: skip
            if node.op_type in KEEPS and index == 0:
                waiting += [out for out in node.outputs if out not in seen]
                seen.update(node.outputs)
    return min(found, key=lambda table: table.rows, default=None)


def _table(node: ir.Node, port: int) -> list[Table]:
    value = node.inputs[port] if port < len(node.inputs) else None
    while value is not None and (tensor := constant(value)) is None:
        made = value.producer()
        value = made.inputs[0] if made is not None and made.op_type in SAME_ROWS else None
    if value is None or tensor is None:
        return []
    shape, axis = tensor.shape.numpy(), int_attribute(node, AXES.get(op_of(node), ""), 0)
    return [Table(value.name or "", int(shape[axis]))] if -len(shape) <= axis < len(shape) else []

"""Which constants make a channel zero by being zero themselves: weights, biases and scales, but never a divisor."""

from __future__ import annotations

import onnx_ir as ir

from ..graph import constants, edit, operators
from .fused import ACTIVATIONS
from .groups import Groups
from .movement import MOVES
from .norms import NORMS

ZEROED: dict[str, tuple[int, ...]] = {
    **{op: operators.facts(op).parameters for op in operators.LAYERS},
    **{op: operators.facts(op).parameters for op in operators.NORMALISATIONS},
    **{op: known.ports for op, known in NORMS.items()},
    **dict.fromkeys(ACTIVATIONS, (0, 1)),
    "com.microsoft::MoE": tuple(range(2, 8)),
    "com.microsoft::MultiHeadAttention": (0, 1, 2, 3),
    "com.microsoft::NhwcConv": (1, 2),
    "Add": (0, 1),
    "Mul": (0, 1),
    "Sub": (0, 1),
    "Sum": tuple(range(16)),
}
"""Operator → the inputs at which a zero makes the channel zero, or takes its part away."""


def may_be_zero(groups: Groups, value: ir.Value) -> bool:
    """Tell whether zeroing channels of a constant is a mask, at every place where it is used."""
    return value in groups.readers or _ends_well(value)


def makes_divisor_zero(groups: Groups, value: ir.Value, axis: int) -> bool:
    """Tell whether zeros along an axis of a constant make a divisor zero; weights that read the channels never do."""
    rows = groups.axes[value][axis]
    if rows is None or groups.roles.get((value, axis)) == "in":
        return False
    return bool(groups.divisors[rows].any())


def _ends_well(value: ir.Value) -> bool:
    return all(_use_is_fine(node, index) for node, index in value.uses())


def _use_is_fine(node: ir.Node, index: int) -> bool:
    op = edit.op_of(node)
    rule = MOVES.get(op)
    if op == "DequantizeLinear" and index == 0:
        return constants.root(node.outputs[0], dequantized=True) is not None and _ends_well(node.outputs[0])
    if rule is None:
        return index in ZEROED.get(op, ())
    moved = rule.data is None or index == rule.data
    return moved and all(_ends_well(out) for out in node.outputs) if _is_constant_move(node) else moved


def _is_constant_move(node: ir.Node) -> bool:
    """Tell whether the node only moves constants: then what reads them decides, as if they had been moved already."""
    rule = MOVES[edit.op_of(node)]
    moved = range(len(node.inputs)) if rule.data is None else (rule.data,)
    return all(
        (constants.root(v, dequantized=True) if index in moved else edit.constant(v)) is not None
        for index, v in enumerate(node.inputs)
        if v is not None
    )

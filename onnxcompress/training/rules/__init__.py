"""Gradients of operators, one rule for each: data for `differentiate` and for what says what can be trained.

A key of `RULES` is the operator's name, with its domain in front where it is not ONNX's own. A rule is written in
operators of ONNX that every onnxruntime has; where an engine has a training kernel that is faster, in that one.
"""

from __future__ import annotations

from . import (
    activations,
    einsum,
    elementwise,
    movement,
    norms,
    pooling,
    products,
    quantize,
    reduction,
    resampling,
    rotary,
    transposed,
)
from .step import Rule

RULES: dict[str, Rule] = {
    **activations.RULES,
    **einsum.RULES,
    **elementwise.RULES,
    **movement.RULES,
    **norms.RULES,
    **pooling.RULES,
    **products.RULES,
    **quantize.RULES,
    **reduction.RULES,
    **resampling.RULES,
    **rotary.RULES,
    **transposed.RULES,
}
"""Operator to how it is differentiated."""

_CONSTANT_RESULT = """
    And ArgMax ArgMin Bernoulli BitShift BitwiseAnd BitwiseNot BitwiseOr BitwiseXor Ceil Constant ConstantOfShape Equal
    EyeLike Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual Multinomial NonMaxSuppression NonZero Not
    OneHot Or RandomNormal RandomNormalLike RandomUniform RandomUniformLike Range Round Shape Sign Size Xor
"""
CONSTANT_RESULT = frozenset(_CONSTANT_RESULT.split())
"""Operators whose result does not vary with their inputs; a path through them trains nothing and stops nothing."""

__all__ = ["CONSTANT_RESULT", "RULES", "Rule"]

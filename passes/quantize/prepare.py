"""What a model goes through before it is quantized: it computes the same, in fewer and plainer operators."""

from __future__ import annotations

import dataclasses
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Change, Context, Pass
from onnxcompress.graph import edit, shapes

from ..tidy.fold_affine import FoldAffine
from ..tidy.fold_batch_norm import FoldBatchNorm
from ..tidy.fold_constants import FoldConstants
from . import constants
from .flatten import flatten, widen_halves
from .opset import PER_CHANNEL, raise_opset

MOVES = {*constants.MOVES, "Slice"}

STEPS: tuple[tuple[Pass, str], ...] = (
    (FoldConstants(), "operators computed beforehand"),
    (FoldBatchNorm(), "BatchNormalization folded into the weights before them"),
    (FoldAffine(), "multiplications and additions of constants folded into the weights beside them"),
)
"""What is done, and what the report calls it."""


def prepare(model: ir.Model, opset: int = PER_CHANNEL) -> list[Change]:
    """Inline functions, raise the opset, and fold, in place.

    The same model always gives the same result, so that names in a plan mean the same when it is applied.
    """
    done = flatten(model)
    done += [Change("model", f"opset raised to {opset}")] if raise_opset(model, opset) else []
    shapes.infer(model)
    for step, what in STEPS:
        plan: Any = step.plan(model, Context(model))
        if isinstance(step, FoldConstants):
            plan = dataclasses.replace(plan, nodes=tuple(set(plan.nodes) - _tied(model)))
        count = len(step.apply(model, plan).done)
        if count:
            done.append(Change("model", f"{what}: {count}"))
    return [*done, *widen_halves(model)]


def _tied(model: ir.Model) -> set[str]:
    """Name what moves a constant that others read as well: computed beforehand, it would be stored twice."""
    return {
        edit.output_name(node)
        for node in model.graph.all_nodes()
        if edit.op_of(node) in MOVES and node.inputs[0] is not None and len(node.inputs[0].uses()) > 1
    }

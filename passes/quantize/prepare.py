"""What a model goes through before it is quantized: it computes the same, in fewer and plainer operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Change, Context, Pass
from onnxcompress.graph import shapes

from ..tidy.fold_affine import FoldAffine
from ..tidy.fold_batch_norm import FoldBatchNorm
from ..tidy.fold_constants import FoldConstants
from .flatten import flatten, infer_types, widen_halves
from .opset import PER_CHANNEL, raise_opset

STEPS: tuple[tuple[Pass, str], ...] = (
    (FoldConstants(keep_shared=True), "operators computed beforehand"),
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
        count = sum(_repeat(step, model))
        if count:
            done.append(Change("model", f"{what}: {count}"))
    return [*done, *widen_halves(model)]


def prepared(model: ir.Model, context: Context, opset: int) -> tuple[ir.Model, Context]:
    """Return a prepared copy with the types and shapes of its tensors, and the context for it; it is made once."""

    def compute() -> tuple[ir.Model, Context]:
        work = model.clone()
        prepare(work, opset)
        infer_types(work)
        for value, shape in shapes.concrete(work).shapes.items():
            if value.shape is None:  # it depends on the input's; at least the number of axes is known
                value.shape = ir.Shape([None] * len(shape))
        return work, context.on(work)

    found: tuple[ir.Model, Context] = context.keep(("prepared", opset), compute)
    return found


def _repeat(step: Pass, model: ir.Model) -> Iterator[int]:
    """Fold until nothing is left to fold: one folding can make room for another; yield how many each time."""
    while True:
        plan: Any = step.plan(model, Context(model))
        count = len(step.apply(model, plan).done)
        if not count:
            return
        yield count

"""What a model goes through before it is quantized: it computes the same, in fewer and plainer operators."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Change, Context, Pass, Refusal
from onnxcompress.errors import PassError, VerifyError
from onnxcompress.graph import edit, shapes

from ...tidy.fold_affine import FoldAffine
from ...tidy.fold_batch_norm import FoldBatchNorm
from ...tidy.fold_constants import FoldConstants
from .flatten import flatten, infer_types, widen_halves
from .opset import PER_CHANNEL, raise_opset

TOLERANCE = 1e-3
"""What preparing may change, relative to the largest output: rounding, far below what rounding to integers changes."""

FOLDS: dict[str, tuple[Pass, str]] = {
    step.name: (step, what)
    for step, what in (
        (FoldConstants(keep_shared=True), "operators computed beforehand"),
        (FoldBatchNorm(), "BatchNormalization folded into the weights before them"),
        (FoldAffine(), "multiplications and additions of constants folded into the weights beside them"),
    )
}
"""What is folded, and what the report calls it."""


def prepare(model: ir.Model, opset: int = PER_CHANNEL, folds: Sequence[str] = tuple(FOLDS)) -> list[Change]:
    """Inline functions, remove what nothing reads, raise the opset, and fold, in place.

    The same model always gives the same result, so that names in a plan mean the same when it is applied.
    """
    done = flatten(model)
    dead = edit.remove_dead(model)
    done += [Change("model", f"nodes that nothing reads removed: {dead}")] if dead else []
    done += [Change("model", f"opset raised to {opset}")] if raise_opset(model, opset) else []
    shapes.infer(model)
    counts = dict.fromkeys(folds, 0)
    while sum([_fold(name, model, counts) for name in folds]):
        pass  # one folding can make room for another
    done += [Change("model", f"{FOLDS[name][1]}: {count}") for name, count in counts.items() if count]
    return [*done, *widen_halves(model)]


def _fold(name: str, model: ir.Model, counts: dict[str, int]) -> int:
    step = FOLDS[name][0]
    plan: Any = step.plan(model, Context(model))
    count = len(step.apply(model, plan).done)
    counts[name] += count
    return count


def prepared(model: ir.Model, context: Context, opset: int) -> tuple[ir.Model, Context, tuple[str, ...], list[Refusal]]:
    """Prepare a copy, and check that it computes what the model does.

    Returns
    -------
    work, context
        The copy with the types and shapes of its tensors, and the context for it; they are made once.
    folds : tuple of str
        What was folded: all of `FOLDS` but for what would have changed what the model computes.
    refused : list of Refusal
        What was left out, and why.

    Raises
    ------
    PassError
        Even without folding it computes something else.
    """

    def compute() -> tuple[ir.Model, Context, tuple[str, ...], list[Refusal]]:
        work, folds, refused = _verified(model, context, opset)
        infer_types(work)
        for value, shape in shapes.concrete(work).shapes.items():
            if value.shape is None:  # it depends on the input's; at least the number of axes is known
                value.shape = ir.Shape([None] * len(shape))
        return work, context.on(work), folds, refused

    found: tuple[ir.Model, Context, tuple[str, ...], list[Refusal]] = context.keep(("prepared", opset), compute)
    return found


def _verified(model: ir.Model, context: Context, opset: int) -> tuple[ir.Model, tuple[str, ...], list[Refusal]]:
    """Prepare a copy with all foldings; where that does not hold, with those that do, one after another."""
    try:
        return guarded(model, context, partial(prepare, opset=opset)), tuple(FOLDS), []
    except PassError:
        work = guarded(model, context, partial(prepare, opset=opset, folds=()))
    kept: tuple[str, ...] = ()
    refused = []
    for name in FOLDS:
        tried = (*kept, name)
        try:
            work, kept = guarded(model, context, partial(prepare, opset=opset, folds=tried)), tried
        except PassError as error:
            refused.append(Refusal("model", f"{name} left out: {error}"))
    return work, kept, refused


def guarded(model: ir.Model, context: Context, change: Callable[[ir.Model], Any]) -> ir.Model:
    """Change a copy of a model in a way that leaves what it computes as it is, and check that.

    Raises
    ------
    PassError
        It computes something else; or what `change` raises.
    """
    copy = model.clone()
    if not change(copy):
        return copy
    try:
        context.verify(copy, tolerance=TOLERANCE)
    except VerifyError as error:
        raise PassError(
            f"preparing the model changes what it computes: {error}; this is a defect, please report it"
        ) from None
    return copy

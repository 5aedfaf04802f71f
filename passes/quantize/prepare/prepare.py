"""What a model goes through before a pass looks at it: functions, opset, constants, names and types."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import onnx_ir as ir

from onnxcompress.contract import MODEL, Change, Context, Pass, Refusal
from onnxcompress.errors import PassError, VerifyError
from onnxcompress.graph import edit, shapes
from onnxcompress.graph.functions import flatten
from onnxcompress.graph.opset import PER_CHANNEL, raise_opset

from ...tidy.fold_affine import FoldAffine
from ...tidy.fold_batch_norm import FoldBatchNorm
from ...tidy.fold_constants import FoldConstants
from ...tidy.folding.never_larger import LARGER
from .halves import widen_halves
from .moved_weights import put_in_place
from .types import infer_types

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


@dataclasses.dataclass(frozen=True)
class Form:
    """What form a pass wants a model in; in any case local functions are inlined, and each tensor has its own name.

    Attributes
    ----------
    opset : int
        The oldest that will do; 0: any.
    folds : tuple of str
        What is folded, of `FOLDS`.
    float32 : bool
        16-bit floats compute in float32 where they do not on integers.
    types : bool
        The types of all tensors are written down, not only where a plan is made.
    in_place : bool
        Operators read weights themselves, and not what Identity or Transpose makes of them.
    """

    opset: int = 0
    folds: tuple[str, ...] = ()
    float32: bool = False
    types: bool = False
    in_place: bool = False

    def at(self, opset: int) -> Form:
        """Return the same with this opset at least."""
        return dataclasses.replace(self, opset=max(self.opset, opset))


FORMS = {
    "convert-float": Form(types=True),
    "quantize": Form(opset=PER_CHANNEL, folds=tuple(FOLDS), float32=True),
    "quantize-cache": Form(opset=PER_CHANNEL),
    "quantize-dynamic": Form(opset=PER_CHANNEL),
    "quantize-weights": Form(in_place=True),
    "rotate": Form(folds=("fold-constants",)),
}
"""What each pass asks for."""


class Prepared(NamedTuple):
    """A copy of a model in the form that a pass asked for.

    Attributes
    ----------
    model, context
        The copy with the types and shapes of its tensors, and the context for it.
    form : Form
        What was asked for, without the foldings that would have changed what the model computes.
    refused : list of Refusal
        What was left out, or as it is, and why.
    """

    model: ir.Model
    context: Context
    form: Form
    refused: list[Refusal]


def prepare(model: ir.Model, form: Form, left: dict[str, list[Refusal]] | None = None) -> list[Change]:
    """Give a model a form, in place: it computes the same, in fewer and plainer operators.

    The same model always gives the same result, so that names in a plan mean the same when it is applied.

    Parameters
    ----------
    model : onnx_ir.Model
    form : Form
    left : dict, optional
        Gets, for each folding, what stays as it is because the file would be larger.

    Raises
    ------
    PassError
        A local function cannot be inlined, or the opset cannot be raised.
    """
    names = flatten(model)
    done = [f"local functions inlined: {', '.join(names)}"] if names else []
    dead = edit.remove_dead(model)
    done += [f"nodes that nothing reads removed: {dead}"] if dead else []
    done += [f"opset raised to {form.opset}"] if form.opset and raise_opset(model, form.opset) else []
    moved = put_in_place(model) if form.in_place else 0
    done += [f"Identity and Transpose of weights computed beforehand: {moved}"] if moved else []
    if form.folds:
        shapes.infer(model)
    counts = dict.fromkeys(form.folds, 0)
    left = {} if left is None else left
    while sum([_fold(name, model, counts, left) for name in form.folds]):
        pass  # one folding can make room for another
    done += [f"{FOLDS[name][1]}: {count}" for name, count in counts.items() if count]
    if form.types:
        infer_types(model)
    return [*(Change(MODEL, what) for what in done), *(widen_halves(model) if form.float32 else ())]


def _fold(name: str, model: ir.Model, counts: dict[str, int], left: dict[str, list[Refusal]]) -> int:
    step = FOLDS[name][0]
    plan: Any = step.plan(model, Context(model))
    left[name] = [Refusal(item.subject, f"not folded: {LARGER}") for item in plan.refused if item.reason == LARGER]
    count = len(step.apply(model, plan).done)
    counts[name] += count
    return count


def prepared(model: ir.Model, context: Context, form: Form) -> Prepared:
    """Prepare a copy, and check that it computes what the model does; each form is made once.

    Raises
    ------
    PassError
        The model cannot have that form, or computes something else in it even without folding.
    """

    def compute() -> Prepared:
        work, kept, refused = _verified(model, context, form)
        infer_types(work)
        for value, shape in shapes.concrete(work).shapes.items():
            if value.shape is None:  # it depends on the input's; at least the number of axes is known
                value.shape = ir.Shape([None] * len(shape))
        return Prepared(work, context.on(work), kept, refused)

    found: Prepared = context.keep(("prepared", form), compute)
    return found


def _verified(model: ir.Model, context: Context, form: Form) -> tuple[ir.Model, Form, list[Refusal]]:
    """Prepare a copy with all foldings; where that does not hold, with those that do, one after another."""
    left: dict[str, list[Refusal]] = {}
    try:
        work = guarded(model, context, partial(prepare, form=form, left=left))
        return work, form, list(dict.fromkeys(chain(*left.values())))
    except PassError:
        if not form.folds:
            raise
    kept = dataclasses.replace(form, folds=())
    work = guarded(model, context, partial(prepare, form=kept))
    refused = []
    for name in form.folds:
        tried = dataclasses.replace(kept, folds=(*kept.folds, name))
        try:
            work, kept = guarded(model, context, partial(prepare, form=tried, left=left)), tried
        except PassError as error:
            refused.append(Refusal(MODEL, f"{name} left out: {error}"))
    stays = (refusal for name in kept.folds for refusal in left.get(name, ()))
    return work, kept, [*refused, *dict.fromkeys(stays)]


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

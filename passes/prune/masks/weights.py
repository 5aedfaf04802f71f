"""The weights that unstructured pruning works on, seen as arrays and matrices, and a base for its passes."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.weights import Weight, find_weights
from onnxcompress.selection import matching

from .arrays import read_arrays
from .masks import Keep, Mask, MaskPlan, apply_masks

Floats = npt.NDArray[np.floating[Any]]


def array_of(weight: Weight) -> Floats:
    """Return a weight's values, float32 at least."""
    array = edit.array(weight.value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def usable(model: ir.Model) -> tuple[list[Weight], list[Refusal]]:
    """Sort out weights that hold NaN or Inf, and say what else is out of reach."""
    weights, refused = [], []
    names = Counter(value.name for value in edit.values(model.graph))
    for weight in find_weights(model.graph):
        if names[weight.value.name] > 1:
            refused.append(Refusal(str(weight.value.name), "several inner graphs have a tensor of this name"))
        elif np.isfinite(array_of(weight)).all():
            weights.append(weight)
        else:
            refused.append(Refusal(str(weight.value.name), "it holds NaN or Inf"))
    for node in model.graph.all_nodes():
        stored = node.inputs[0] if edit.op_of(node) == "DequantizeLinear" else None
        if stored is not None and edit.constant(stored) is not None:
            refused.append(Refusal(str(stored.name), "it is quantized already; prune before quantizing"))
    if not weights and not refused:
        refused.append(Refusal("model", "no operator multiplies by a constant float weight"))
    return weights, refused


def without(owner: str, patterns: Iterable[str], weights: list[Weight]) -> tuple[list[Weight], list[Refusal]]:
    """Leave out the weights whose name matches a pattern, and say so."""
    names = {str(w.value.name): [str(w.value.name)] for w in weights}
    found = matching(f"{owner}: exclude", patterns, names)
    excluded = {name: pattern for pattern, hit in found.items() for name in hit}
    refused = [Refusal(name, f"excluded by '{pattern}'") for name, pattern in excluded.items()]
    return [w for w in weights if str(w.value.name) not in excluded], refused


def with_scores(owner: str, path: str, weights: list[Weight]) -> tuple[dict[str, Floats], list[Refusal]]:
    """Return what ranks the elements of each weight: magnitudes, or what a file gives; the rest is left alone."""
    if not path:
        return {str(w.value.name): np.abs(array_of(w)) for w in weights}, []
    shapes = {str(w.value.name): array_of(w).shape for w in weights}
    given = read_arrays(f"{owner}: scores", path, shapes)
    lacking = [Refusal(name, f"'{path}' has no scores for it") for name in shapes if name not in given]
    return {name: array.astype(np.float64) for name, array in given.items()}, lacking


RECURRENT = ("GRU", "LSTM", "RNN")
REDUCED_AXES = {"Conv": 1, "ConvTranspose": 0, **dict.fromkeys(RECURRENT, 2)}


def reduction_axis(weight: Weight) -> int:
    """Return the axis that the operator sums over: the weight's input channels."""
    rank = len(array_of(weight).shape)
    return REDUCED_AXES.get(edit.op_of(weight.node), 2 * rank - 3 - weight.axis)  # a matrix's other axis


def why_no_matrix(weight: Weight) -> str:
    """Say why a weight has no output and input axis; empty when it has."""
    if weight.axis < 0:
        return "an operator moves it before it is used, so that its axes are not those of the outputs"
    return "it is a vector" if array_of(weight).ndim < 2 else ""


def matrix_of(weight: Weight, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view (outputs, everything that one output sums over)."""
    return np.moveaxis(array, weight.axis, 0).reshape(array.shape[weight.axis], -1)


def like(weight: Weight, matrix: Keep) -> Keep:
    """Undo `matrix_of` for a mask."""
    shape = list(array_of(weight).shape)
    moved = [shape.pop(weight.axis), *shape]
    return np.moveaxis(matrix.reshape(moved), 0, weight.axis)


def lowest_share(score: Floats, sparsity: float) -> Keep:
    """Keep all but the ``floor(sparsity · size)`` lowest; of equal ones the first in memory goes first."""
    flat = score.ravel()
    count = int(sparsity * flat.size)
    if not count:
        return np.ones(score.shape, bool)
    cut = np.partition(flat, count - 1)[count - 1]  # linear, where sorting millions of weights takes seconds
    keep = flat > cut
    equal = np.flatnonzero(flat == cut)
    keep[equal[count - int((flat < cut).sum()) :]] = True
    return np.asarray(keep.reshape(score.shape))


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskEachWeight(Pass):
    """What passes have in common that mask each weight by itself: give `keep`, and `unfit` where some do not fit."""

    exclude: tuple[str, ...] = ()

    def keep(self, weight: Weight, random: np.random.Generator) -> Keep:
        """Return which elements of a weight stay."""
        raise NotImplementedError

    def unfit(self, weight: Weight) -> str:
        """Say why a weight cannot be masked; empty when it can."""
        return ""

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Choose what becomes zero, weight by weight."""
        weights, refused = usable(model)
        weights, excluded = without(self.name, self.exclude, weights)
        refused += excluded
        random = np.random.default_rng(context.seed)
        masks = {}
        for weight in weights:
            reason = self.unfit(weight)
            keep = None if reason else self.keep(weight, random)
            if keep is None:
                refused.append(Refusal(str(weight.value.name), reason))
            elif not keep.all():
                masks[str(weight.value.name)] = Mask.of(keep)
        return MaskPlan(masks=masks, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)

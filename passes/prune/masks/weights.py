"""The weights that passes work on one by one: which there are, which are meant, and how they look as matrices."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from typing import Any, Generic

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.weights import Weight, find_weights
from onnxcompress.selection import PassT, Selected, Subject, value_subjects

from .arrays import read_arrays
from .masks import Keep

Floats = npt.NDArray[np.floating[Any]]


def array_of(weight: Weight) -> Floats:
    """Return a weight's values, float32 at least."""
    array = edit.array(weight.value)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


@dataclasses.dataclass(frozen=True)
class ChosenWeights(Generic[PassT]):
    """The weights that a pass works on.

    Attributes
    ----------
    weights : list of Weight
    selected : Selected
        What the options say of each.
    refused : tuple of Refusal
        The others, and why.
    """

    weights: list[Weight]
    selected: Selected[Weight, PassT]
    refused: tuple[Refusal, ...]


def choose_weights(step: PassT, model: ir.Model) -> ChosenWeights[PassT]:
    """Return what can be worked on and is meant; a weight goes by its name and by the nodes that use it."""
    every = list(find_weights(model.graph))
    selected = step.select(model, _subjects(every))
    kept, refused = [], []
    names = Counter(value.name for value in edit.values(model.graph))
    for weight in every:
        reason = selected.why_not.get(weight) or _why_not(weight, names)
        if reason:
            refused.append(Refusal(str(weight.value.name), reason))
        else:
            kept.append(weight)
    refused += _quantized(model)
    if not every and not refused:
        refused.append(Refusal("model", "no operator multiplies by a constant float weight"))
    return ChosenWeights(kept, selected, (*refused, *selected.idle))


def _subjects(weights: Sequence[Weight]) -> dict[Weight, Subject]:
    known = value_subjects(weight.value for weight in weights)
    for weight in weights:  # one that is moved first is read by another node than the one that multiplies by it
        known[weight.value].add_node(weight.node)
    return {weight: known[weight.value] for weight in weights}


def _why_not(weight: Weight, names: Counter[str | None]) -> str:
    if names[weight.value.name] > 1:
        return "several inner graphs have a tensor of this name"
    return "" if np.isfinite(array_of(weight)).all() else "it holds NaN or Inf"


def _quantized(model: ir.Model) -> list[Refusal]:
    found = []
    for node in model.graph.all_nodes():
        stored = node.inputs[0] if edit.op_of(node) == "DequantizeLinear" else None
        if stored is not None and edit.constant(stored) is not None:
            found.append(Refusal(str(stored.name), "it is quantized already; prune before quantizing"))
    return found


def with_scores(owner: str, path: str, weights: list[Weight]) -> tuple[dict[str, Floats], list[Refusal]]:
    """Return what ranks the elements of each weight: magnitudes, or what a file gives; the rest is left alone."""
    if not path:
        return {str(w.value.name): np.abs(array_of(w)) for w in weights}, []
    shapes = {str(w.value.name): array_of(w).shape for w in weights}
    given = read_arrays(f"{owner}: scores", path, shapes)
    lacking = [Refusal(name, f"'{path}' has no scores for it") for name in shapes if name not in given]
    return {name: array.astype(np.float64) for name, array in given.items()}, lacking


def why_no_matrix(weight: Weight) -> str:
    """Say why a weight has no output and input axis; empty when it has."""
    if weight.axis < 0:
        return "an operator moves it before it is used, so that its axes are not those of the outputs"
    return "it is a vector" if array_of(weight).ndim < 2 else ""


def matrix_of(weight: Weight, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Return a view (outputs, everything that one output sums over)."""
    return np.moveaxis(array, weight.axis, 0).reshape(array.shape[weight.axis], -1)


def from_matrix(weight: Weight, matrix: Keep) -> Keep:
    """Undo `matrix_of` for a mask."""
    shape = list(array_of(weight).shape)
    moved = [shape.pop(weight.axis), *shape]
    return np.moveaxis(matrix.reshape(moved), 0, weight.axis)


def keep_highest(score: Floats, count: int) -> Keep:
    """Keep all but the `count` lowest; of equal ones the first in memory goes first."""
    flat = score.ravel()
    if not count:
        return np.ones(score.shape, bool)
    cut = np.partition(flat, count - 1)[count - 1]  # linear, where sorting millions of weights takes seconds
    keep = flat > cut
    equal = np.flatnonzero(flat == cut)
    keep[equal[count - int((flat < cut).sum()) :]] = True
    return np.asarray(keep.reshape(score.shape))

"""Draws weights anew, for a student that learns from nothing."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from typing import Any, Literal, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import constants, edit, operators
from onnxcompress.graph.layer import Layer

Array = npt.NDArray[Any]

Initialise: TypeAlias = Literal["as-is", "he"]

GAINS = {"convolution": 2.0, "product": 2.0, "attention": 2.0, "recurrent": 1.0}
"""Family of operators → the sum of the variances of an output's weights; gates do not halve what they let through."""

FIXED: dict[str, dict[int, float]] = {
    "BatchNormalization": {1: 1.0, 2: 0.0, 3: 0.0, 4: 1.0},
    "PRelu": {1: 0.25},
    "com.microsoft::SkipLayerNormalization": {2: 1.0, 3: 0.0, 4: 0.0},
    "com.microsoft::SkipSimplifiedLayerNormalization": {2: 1.0, 3: 0.0},
    "com.microsoft::EmbedLayerNormalization": {5: 1.0, 6: 0.0},
    "com.microsoft::BiasGelu": {1: 0.0},
    "SimplifiedLayerNormalization": {1: 1.0},
}
"""Operator → input → what all of it becomes; of other normalisations, scales become 1 and shifts 0."""


def initialised(
    how: Initialise, model: ir.Model, names: Collection[str], seed: int, masked: Collection[str]
) -> tuple[ir.Model, tuple[str, ...]]:
    """Return the model with the weights that it starts from, and what is worth telling; see `draw_weights`."""
    if how == "as-is":
        return model, ()
    copy = model.clone()
    states = _statistics(model, names)
    kept = draw_weights(copy, {*names, *states}, seed, masked)
    others = f"; {len(kept)} are kept, whose role is not known: {', '.join(kept)}" if kept else ""
    return copy, (f"initialise = {how}: {len(names) - len(kept)} tensors were drawn anew{others}",)


def _statistics(model: ir.Model, names: Collection[str]) -> list[str]:
    """Name running means and variances of each BatchNormalization that is trained."""
    found = []
    for node in model.graph.all_nodes():
        trained = any(value is not None and value.name in names for value in node.inputs[1:3])
        if edit.op_of(node) == "BatchNormalization" and trained:
            found += [str(value.name) for value in node.inputs[3:5] if value is not None]
    return found


def draw_weights(model: ir.Model, names: Collection[str], seed: int, masked: Collection[str] = ()) -> list[str]:
    """Draw weights from normal distributions, in place; return which are kept since nothing is known of their role.

    Of a layer each weight has the variance ``2 / n``, where n weights make an output [1]_ (``1 / n`` in a recurrent
    one); normalisations start at scale 1 and shift 0 (running mean 0 and variance 1), biases at 0, embeddings such
    that a row has length 1 on average. What stands before the first drawn layer (the normalisation of the input) stays.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place.
    names : collection of str
        Initializers that may change.
    seed : int
    masked : collection of str
        Those whose zeros stay; n then counts what is not zero.

    References
    ----------
    .. [1] K. He et al., "Delving Deep into Rectifiers", 2015, arXiv:1502.01852.
    """
    random = np.random.default_rng(seed)
    left, drawn = set(names), set[ir.Value]()
    behind: set[ir.Value] = set()
    for node in model.graph.all_nodes():
        reached = any(value in behind for value in node.inputs if value is not None)
        for index, value in _parameters(node):
            name = str(value.name)
            if name in left:
                old = edit.array(value)
                new = _new(node, index, value, random, reached=reached)
                if new is not None:
                    edit.set_constant(value, _kept_masked(new, old) if name in masked else new.astype(old.dtype))
                    left.remove(name)
                    drawn.add(value)
            reached = reached or value in drawn
        if reached:
            behind.update(node.outputs)
    return sorted(left)


def _parameters(node: ir.Node) -> Iterator[tuple[int, ir.Value]]:
    """Yield each input that is a constant, or moved from one, and that."""
    for index, value in enumerate(node.inputs):
        root = constants.root(value)
        if root is not None:
            yield index, root


def _new(node: ir.Node, index: int, value: ir.Value, random: np.random.Generator, *, reached: bool) -> Array | None:
    """Return what a parameter becomes; None where its role is not known."""
    op, shape = edit.op_of(node), edit.array(value).shape
    known = operators.facts(op)
    if index in FIXED.get(op, {}):
        return np.full(shape, FIXED[op][index], np.float32)
    if known.family == "normalisation" or index == known.bias:
        return np.full(shape, float(index in known.weights), np.float32)
    if index in known.weights and known.family in GAINS:
        layer = Layer(node, index, constants.find)
        summed = layer.columns if layer.is_convolution else layer.shape[layer.axes.summed]
        return _normal(random, shape, math.sqrt(GAINS[known.family] / summed))
    if known.family == "lookup" and index in known.weights:
        return _normal(random, shape, 1 / math.sqrt(shape[-1]))
    if reached and op == "Mul":
        return np.ones(shape, np.float32)
    if reached and op == "Add":
        rows = sum(size > 1 for size in shape) > 1  # of positions, and no bias
        return _normal(random, shape, 1 / math.sqrt(shape[-1])) if rows else np.zeros(shape, np.float32)
    return None


def _normal(random: np.random.Generator, shape: tuple[int, ...], deviation: float) -> Array:
    return (random.standard_normal(shape) * deviation).astype(np.float32)


def _kept_masked(new: Array, old: Array) -> Array:
    """Return new weights with the zeros of the old; the fewer there are, the larger each."""
    kept = old != 0
    share = max(float(kept.mean()), 1 / max(kept.size, 1))
    return np.where(kept, new / math.sqrt(share), 0).astype(old.dtype)

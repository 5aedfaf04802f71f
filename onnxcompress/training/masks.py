"""Which zeros of a weight are a mask, which training keeps."""

from __future__ import annotations

from collections.abc import Collection

import onnx_ir as ir

from ..graph import edit
from ..graph.weights import find_weights


def masked_weights(model: ir.Model, names: Collection[str]) -> list[str]:
    """Name those of the weights whose zeros are a mask.

    Gradient steps leave no weight at exactly zero, so whatever is zero beside other values was put there: by pruning,
    or by a design such as the row of a padding token. Where nothing but zeros is, it is a mask only in what an operator
    multiplies by (`find_weights`): biases, and shifts of normalisations, start with zeros.
    """
    factors = {weight.value.name for weight in find_weights(model.graph)}
    holders, found = edit.stored(model.graph), []
    for name in names:
        tensor = edit.stored_in(holders[name])
        zero = None if tensor is None else tensor.numpy() == 0
        if zero is not None and zero.any() and (name in factors or not zero.all()):
            found.append(name)
    return found

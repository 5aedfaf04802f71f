"""What a model's own arithmetic can keep: how far it is from itself when rounding falls otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ..errors import ModelError
from ..graph import edit
from .provider import on_cpu
from .session import Array, open_session

LARGEST = 1 << 28
"""Bytes of weights up to which they are rounded otherwise too; larger models are only computed in another order."""

FLOATS = (ir.DataType.BFLOAT16, ir.DataType.FLOAT16, ir.DataType.FLOAT, ir.DataType.DOUBLE)
"""From the coarsest to the finest."""

STEPS = {
    "ArgMax",
    "ArgMin",
    "Ceil",
    "DynamicQuantizeLinear",
    "Equal",
    "Floor",
    "Greater",
    "GreaterOrEqual",
    "Hardmax",
    "Less",
    "LessOrEqual",
    "NonMaxSuppression",
    "NonZero",
    "QuantizeLinear",
    "Round",
    "Sign",
    "TopK",
    "Unique",
}
"""Operators that jump: what differs by a rounding before them differs by a whole step behind."""


ORDERS = {"ArgMax", "ArgMin", "Compress", "Hardmax", "NonMaxSuppression", "NonZero", "TopK", "Unique"}
"""Those of them behind which other elements stand in a place, so that a rounding may change all that comes of them."""


def coarsest(model: ir.Model) -> ir.DataType:
    """Return the coarsest float type that a model computes in."""
    found = {value.dtype for value in edit.values(model.graph)}
    for value in edit.values(model.graph):
        tensor = edit.constant(value)
        if tensor is not None:
            found.add(tensor.dtype)
    for node in model.graph.all_nodes():
        if edit.op_of(node) == "Cast":
            found.add(ir.DataType(edit.int_attribute(node, "to", 1)))
    return next((dtype for dtype in FLOATS if dtype in found), ir.DataType.FLOAT)


def unit(dtype: ir.DataType) -> float:
    """Return by how much, relatively, rounding to a type changes a number at most."""
    return float(ml_dtypes.finfo(dtype.numpy()).eps) / 2  # type: ignore[no-untyped-call]


def jumps(model: ir.Model) -> bool:
    """Tell whether some operator of a model is not continuous."""
    return any(edit.op_of(node) in STEPS for node in model.graph.all_nodes())


def orders(model: ir.Model) -> bool:
    """Tell whether some operator of a model chooses elements, or puts them in order."""
    return any(edit.op_of(node) in ORDERS for node in model.graph.all_nodes())


def otherwise(model: ir.Model, feeds: Mapping[str, Array], dtype: ir.DataType) -> Iterator[dict[str, Any]]:
    """Yield what a model gives as it is written, and with inputs and weights that are rounded otherwise.

    Each is as right as what it gives in the order that ONNX Runtime computes it in.
    """
    random, size = np.random.default_rng(0), unit(dtype)
    moved = {name: _rounded(array, random, size) for name, array in feeds.items()}
    yield open_session(model, optimize="none", provider=on_cpu()).run(feeds)
    yield open_session(model, provider=on_cpu()).run(moved)
    weights = [t for t in map(_float_tensor, edit.values(model.graph)) if t is not None]
    if weights and sum(tensor.nbytes for tensor in weights) <= LARGEST:
        try:
            yield open_session(_with_rounded_weights(model, random, size), provider=on_cpu()).run(feeds)
        except ModelError:
            return  # a weight that has to be exact (a scale, a size) is none any more


def _with_rounded_weights(model: ir.Model, random: np.random.Generator, size: float) -> ir.Model:
    copy = model.clone()
    for value in edit.values(copy.graph):
        tensor = _float_tensor(value)
        if tensor is not None and value.is_initializer():
            edit.set_constant(value, _rounded(tensor.numpy(), random, size))
    return copy


def _float_tensor(value: ir.Value) -> ir.TensorProtocol | None:
    tensor = edit.constant(value)
    return tensor if tensor is not None and tensor.dtype in FLOATS and tensor.size > 1 else None


def _rounded(array: Array, random: np.random.Generator, size: float) -> Array:
    if not (array.dtype.kind == "f" or array.dtype.name == "bfloat16"):
        return array
    noise = 1 + 2 * size * random.integers(-1, 2, array.shape)
    moved: Array = (array.astype(np.float64) * noise).astype(array.dtype)
    return moved

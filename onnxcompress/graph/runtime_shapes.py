"""Shapes of what onnxruntime's own operators give, of which ONNX's inference knows nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_ir as ir

from . import edit
from .layer import product_of

Shape: TypeAlias = tuple[int, ...]
Given: TypeAlias = Callable[[int], Shape]
"""Returns the shape of an input; raises `LookupError` where it is not known or there is no such input."""


def _like(index: int = 0) -> Callable[[ir.Node, Given], Shape]:
    return lambda _, given: given(index)


def _broadcast(*indices: int) -> Callable[[ir.Node, Given], Shape]:
    return lambda _, given: tuple(int(size) for size in np.broadcast_shapes(*(given(index) for index in indices)))


def _product(a: int, b: int) -> Callable[[ir.Node, Given], Shape]:
    return lambda node, given: product_of(node, given(a), given(b))[0]


def _columns(node: ir.Node, given: Given) -> Shape:
    return (*given(0)[:-1], edit.int_attribute(node, "N", 0))


def _query_width(node: ir.Node, given: Given) -> Shape:
    """Return the shape of attention on queries that are rows of (batch, tokens, width); packed ones hold keys, too."""
    batch, tokens, width = given(0)
    if node.inputs[1] is not None:
        values = given(2) if node.op_type == "MultiHeadAttention" and node.inputs[2] is not None else ()
        return batch, tokens, values[2] if len(values) == 3 else width
    heads = edit.int_attribute(node, "num_heads", 0)
    return batch, tokens, width * heads // (heads + 2 * edit.int_attribute(node, "kv_num_heads", heads))


def _projected(node: ir.Node, given: Given) -> Shape:
    sizes = node.attributes.get("qkv_hidden_sizes")
    width = given(1)[1] // 3 if sizes is None else int(sizes.as_ints()[2])
    return (*given(0)[:-1], width)


def _concatenated(node: ir.Node, given: Given) -> Shape:
    parts = [list(given(index)) for index in range(2, len(node.inputs), 3)]
    axis = edit.int_attribute(node, "axis", 0)
    return tuple(sum(part[axis] for part in parts) if i == axis % len(parts[0]) else n for i, n in enumerate(parts[0]))


MICROSOFT: dict[str, Callable[[ir.Node, Given], Shape]] = {
    "Attention": _projected,
    "BiasGelu": _like(),
    "FastGelu": _like(),
    "Gelu": _like(),
    "MoE": _like(),
    "QuickGelu": _like(),
    "RotaryEmbedding": _like(),
    "DynamicQuantizeMatMul": _product(0, 1),
    "FusedGemm": _product(0, 1),
    "FusedMatMul": _product(0, 1),
    "GroupQueryAttention": _query_width,
    "MatMulBnb4": _columns,
    "MatMulIntegerToFloat": _product(0, 1),
    "MatMulNBits": _columns,
    "MultiHeadAttention": _query_width,
    "QAttention": _projected,
    "QGemm": _product(0, 3),
    "QLinearAdd": _broadcast(0, 3),
    "QLinearConcat": _concatenated,
    "QLinearLeakyRelu": _like(),
    "QLinearMul": _broadcast(0, 3),
    "QLinearSigmoid": _like(),
    "QLinearSoftmax": _like(),
    "SkipLayerNormalization": _like(),
    "SkipSimplifiedLayerNormalization": _like(),
}
"""Operator → the shape of its first output."""

TWICE = {"SkipLayerNormalization", "SkipSimplifiedLayerNormalization"}
"""Their last output, the sum that was normalised, has the shape of the first."""


CACHES = {"GroupQueryAttention": (3, "kv_num_heads"), "MultiHeadAttention": (6, "num_heads")}
"""Operator → its input with keys of the past, and what says how many heads these have; outputs 1 and 2 are longer."""


def _kept(node: ir.Node, given: Given, made: Shape) -> dict[ir.Value, Shape]:
    if node.op_type not in CACHES or len(node.outputs) < 3:
        return {}
    port, heads = CACHES[node.op_type]
    past = given(port) if port < len(node.inputs) and node.inputs[port] is not None else (0, 0, 0, 0)
    size = past[3] or made[-1] // edit.int_attribute(node, "num_heads", 1)
    shape = (made[0], edit.int_attribute(node, heads, 1), past[2] + made[1], size)
    return dict.fromkeys(node.outputs[1:3], shape)


def runtime_shapes(node: ir.Node, given: Given) -> dict[ir.Value, Shape]:
    """Return the shapes of a node's outputs, as far as they are known."""
    rule = MICROSOFT.get(node.op_type) if node.domain == "com.microsoft" else None
    rule = _like() if node.op_type == "SimplifiedLayerNormalization" else rule
    try:
        shape = None if rule is None else rule(node, given)
    except (LookupError, ValueError):
        return {}
    if shape is None:
        return {}
    found = [node.outputs[0], *(node.outputs[3:4] if node.op_type in TWICE else ())]
    return dict.fromkeys(found, shape) | _kept(node, given, shape)

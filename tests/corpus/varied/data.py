"""Blocks whose sizes depend on the data, and networks that come quantized."""

from __future__ import annotations

import numpy as np

from .anything import along, channel_axis, resized
from .builder import Builder, Tensor
from .constants import values, weight
from .images import Block


def rows(b: Builder, x: Tensor, name: str) -> Tensor:
    """Return a tensor of as many rows as the data says."""
    return Tensor(name, x.kind, (b.fresh("rows"), *x.dims[1:]))


def compress(b: Builder, x: Tensor) -> Tensor | None:
    """Rows whose first feature is above a threshold."""
    if x.kind != "matrix" or b.opset < 9 or b.place != "graph":
        return None
    column = b.op("Reshape", b.slice(x.name, 1, 0, 1), b.ints(-1))
    keep = b.op("Greater", column, b.scalar(-0.3))
    return rows(b, x, b.op("Compress", x.name, keep, axis=0))


def non_zero(b: Builder, x: Tensor) -> Tensor | None:
    """The same by the indices of what is above it."""
    if x.kind != "matrix" or b.opset < 13 or b.dtype != "float32":
        return None
    column = b.op("Reshape", b.slice(x.name, 1, 0, 1), b.ints(-1))
    found = b.op("NonZero", b.op("Greater", column, b.scalar(-0.3)))
    index = b.op("Squeeze", found, b.ints(0))
    return rows(b, x, b.op("Gather", x.name, index, axis=0))


def suppressed(b: Builder, x: Tensor) -> Tensor | None:
    """Boxes and scores out of tokens, the best of them kept."""
    if x.kind != "tokens" or not x.known(0) or x.width < 5 or b.opset < 13 or b.dtype != "float32":
        return None
    centre = b.op("Sigmoid", b.slice(x.name, 2, 0, 2))
    size = b.op("Sigmoid", b.slice(x.name, 2, 2, 4))
    boxes = b.op("Concat", centre, b.op("Add", centre, size), axis=2)
    scores = b.op("Transpose", b.op("Sigmoid", b.slice(x.name, 2, 4, 5)), perm=[0, 2, 1])
    limits = [np.array([9]), np.array([0.5], np.float32), np.array([0.2], np.float32)]
    found = b.op("NonMaxSuppression", boxes, scores, *(b.const(limit) for limit in limits))
    index = b.op("Gather", found, b.const(np.array(2)), axis=1)
    flat = b.op("Reshape", b.op("Slice", x.name, b.ints(0), b.ints(1), b.ints(0)), b.ints(-1, x.width))
    return Tensor(b.op("Gather", flat, index, axis=0), "matrix", (b.fresh("boxes"), x.width))


def unique(b: Builder, x: Tensor) -> Tensor | None:
    """An embedding of every identifier once."""
    if x.kind != "matrix" or b.opset < 11 or b.place != "graph" or b.dtype == "float64":
        return None
    ids = b.take("int64", (8,), below=6)
    once = b.node("Unique", [ids], 2, sorted=1)[0]
    table = b.op("Gather", weight(b, 6, x.width), once, axis=0)
    return Tensor(table, "matrix", (b.fresh("rows"), x.width))


def scale_of(b: Builder, span: float) -> str:
    return b.const(np.array(span / 127, np.float32))


def rounded(b: Builder, x: Tensor) -> Tensor | None:
    """QuantizeLinear and DequantizeLinear around a tensor, and perhaps a layer with a quantized weight behind."""
    if b.opset < 10 or b.dtype != "float32":
        return None
    kind = b.choose(np.uint8, np.int8)
    scale, zero = scale_of(b, 3.0), b.const(np.array(128 if kind is np.uint8 else 0, kind))
    name = b.op("DequantizeLinear", b.op("QuantizeLinear", x.name, scale, zero), scale, zero)
    if b.opset < 13 or b.chance(0.4):
        return x.like(name)
    out, image = b.some(3, 9), x.kind == "image"
    shape = (out, x.width, 1, 1) if image else (x.width, out)
    codes = b.random.integers(-60, 61, shape).astype(np.int8)
    steps = (0.01 + 0.01 * b.random.random(out)).astype(np.float32)
    weights = b.op(
        "DequantizeLinear", b.const(codes), b.const(steps), b.const(np.zeros(out, np.int8)), axis=0 if image else 1
    )
    layer = b.op("Conv" if image else "MatMul", name, weights)
    return resized(x, layer, out)


def integer_layer(b: Builder, x: Tensor) -> Tensor | None:
    """DynamicQuantizeLinear and MatMulInteger, or the operators QLinearMatMul and QLinearConv."""
    if b.opset < 11 or b.dtype != "float32":
        return None
    out, image = b.some(3, 9), x.kind == "image"
    shape = (out, x.width, 1, 1) if image else (x.width, out)
    codes = b.const(b.random.integers(-60, 61, shape).astype(np.int8))
    if not image and b.chance(0.5):
        quantized, scale, zero = b.node("DynamicQuantizeLinear", [x.name], 3)
        product = b.op("Cast", b.op("MatMulInteger", quantized, codes, zero), to=1)
        return resized(x, b.op("Mul", product, b.op("Mul", scale, scale_of(b, 2.0))), out)
    scale, zero = scale_of(b, 3.0), b.const(np.array(128, np.uint8))
    ports = [
        b.op("QuantizeLinear", x.name, scale, zero),
        scale,
        zero,
        codes,
        scale_of(b, 2.0),
        b.const(np.array(0, np.int8)),
    ]
    quantized = b.op("QLinearConv" if image else "QLinearMatMul", *ports, scale, zero)
    return resized(x, b.op("DequantizeLinear", quantized, scale, zero), out)


def dynamic_shape(b: Builder, x: Tensor) -> Tensor | None:
    """Shape, Gather, Concat, Reshape: a shape computed where it is known."""
    if b.opset < 13:
        return None
    rank = len(x.dims)
    shape = b.op("Shape", x.name)
    flat = b.op("Reshape", x.name, b.ints(-1))
    parts = [b.op("Gather", shape, b.ints(axis), axis=0) for axis in range(rank - 1)]
    return x.like(b.op("Reshape", flat, b.op("Concat", *parts, b.ints(x.width if x.kind != "image" else -1), axis=0)))


def zeros_of_shape(b: Builder, x: Tensor) -> Tensor | None:
    if b.opset < 9 or b.dtype != "float32":
        return None
    zeros = b.op("ConstantOfShape", b.op("Shape", x.name))
    shifted = b.op("Add", zeros, weight(b, *along(x, x.width)))
    if x.width < 12 and b.chance(0.5):
        axis = channel_axis(x)
        return resized(x, b.op("Concat", x.name, shifted, axis=axis), 2 * x.width)
    return x.like(b.op("Add", x.name, shifted))


def scattered(b: Builder, x: Tensor) -> Tensor | None:
    """Values written into a constant, or features picked by element."""
    if x.kind != "matrix" or b.opset < 13 or not x.known(0):
        return None
    index = b.random.integers(0, x.width, (int(x.dims[0]), 4))
    if b.chance(0.5):
        return resized(x, b.op("GatherElements", x.name, b.const(index), axis=1), 4)
    base = b.const(values(b, (int(x.dims[0]), x.width)))
    order = np.stack([b.random.permutation(x.width) for _ in range(int(x.dims[0]))])
    return x.like(b.op("ScatterElements", base, b.const(order), x.name, axis=1))


def drawn(b: Builder, x: Tensor) -> Tensor | None:
    """Something random: noise, or Dropout in training mode. One model in some hundred has it."""
    if b.dtype != "float32" or b.opset < 12 or b.chance(0.8):
        return None
    if b.chance(0.4):
        return x.like(b.op("Dropout", x.name, b.const(np.array(0.2, np.float32)), b.const(np.array(True))))
    noise = b.op(b.choose("RandomNormalLike", "RandomUniformLike"), x.name)
    return x.like(b.op("Add", x.name, b.op("Mul", noise, b.scalar(0.1))))


DATA: dict[str, tuple[Block, int]] = {
    "compress": (compress, 2), "non zero": (non_zero, 2), "suppressed": (suppressed, 2), "unique": (unique, 1),
    "rounded": (rounded, 2), "integer layer": (integer_layer, 2), "dynamic shape": (dynamic_shape, 2),
    "zeros of shape": (zeros_of_shape, 1), "scattered": (scattered, 1), "drawn": (drawn, 1),
}  # fmt: skip

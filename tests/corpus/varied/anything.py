"""Blocks for tensors of any kind: element-wise, joining, cutting, quantized, of another type."""

from __future__ import annotations

import numpy as np

from .builder import FLOATS, Builder, Tensor
from .constants import weight
from .images import Block

ACTIVATIONS = (
    "Relu", "Sigmoid", "Tanh", "LeakyRelu", "Elu", "HardSigmoid", "Softplus", "Softsign", "Erf", "HardSwish", "Mish",
    "Gelu", "Abs", "Neg", "Selu", "Celu", "Sin",
)  # fmt: skip


def channel_axis(x: Tensor) -> int:
    return 1 if x.kind == "image" else len(x.dims) - 1


def resized(x: Tensor, name: str, width: int) -> Tensor:
    axis = channel_axis(x)
    return Tensor(name, x.kind, (*x.dims[:axis], width, *x.dims[axis + 1 :]))


def along(x: Tensor, n: int) -> tuple[int, ...]:
    """Return the shape of something that broadcasts along the channels."""
    return (n, 1, 1) if x.kind == "image" else (n,)


def activation(b: Builder, x: Tensor) -> Tensor:
    names = [op for op in ACTIVATIONS if b.has(op) and not (op == "Celu" and b.dtype != "float32")]
    op = b.choose("Relu", *names) if b.dtype != "float64" else b.choose("Relu", "Sigmoid", "Tanh", "Abs", "Neg")
    return x.like(b.op(op, x.name))


def gated(b: Builder, x: Tensor) -> Tensor:
    """x · sigmoid(x), in either order."""
    return x.like(b.op("Mul", *b.choose((s := b.op("Sigmoid", x.name), x.name), (x.name, s))))


def affine(b: Builder, x: Tensor) -> Tensor:
    shape = b.choose(along(x, x.width), (1, *along(x, x.width)), along(x, 1), ())
    op = b.choose("Add", "Mul", "Sub", "Div")
    parts = [x.name, weight(b, *shape, kind="positive" if op == "Div" else "normal")]
    return x.like(b.op(op, *(parts[::-1] if op in ("Add", "Mul") and b.chance(0.4) else parts)))


def slope(b: Builder, x: Tensor) -> Tensor | None:
    if b.dtype == "float64" or b.opset < 9:
        return None
    return x.like(b.op("PRelu", x.name, weight(b, *b.choose(along(x, x.width), along(x, 1)))))


def bound(b: Builder, x: Tensor) -> Tensor | None:
    if b.dtype == "float64" and b.opset < 12:
        return None
    low, high = b.choose((0.0, 6.0), (0.0, None), (-1.0, 1.0), (None, 2.0))
    return x.like(b.clip(x.name, low, high))


def softmax(b: Builder, x: Tensor) -> Tensor:
    rank = len(x.dims)
    axis = {} if b.chance(0.3) else {"axis": b.axis(b.some(1, rank), rank)}
    return x.like(b.op(b.choose("Softmax", "LogSoftmax") if x.kind != "image" else "Softmax", x.name, **axis))


def residual(b: Builder, x: Tensor) -> Tensor | None:
    others = [t for t in b.whole.loose if t.dims == x.dims and t.kind == x.kind]
    if not others or b.place != "graph":
        return None
    parts = [x.name, b.choose(*others).name]
    op = b.choose("Add", "Add", "Mul", "Sub", *(("Max", "Min", "Sum", "Mean") if b.dtype == "float32" else ()))
    return x.like(b.op(op, *(parts if b.chance(0.5) else parts[::-1])))


def concat(b: Builder, x: Tensor) -> Tensor | None:
    axis = channel_axis(x)
    rest = [d for i, d in enumerate(x.dims) if i != axis]
    others = [t for t in b.whole.loose if t.kind == x.kind and [d for i, d in enumerate(t.dims) if i != axis] == rest]
    if b.place != "graph" or not others or x.width > 24:
        return None
    parts = [x, *(b.choose(*others) for _ in range(b.some(1, 3)))]
    name = b.op("Concat", *(part.name for part in parts), axis=b.axis(axis, len(x.dims)))
    return resized(x, name, sum(part.width for part in parts))


def split(b: Builder, x: Tensor) -> Tensor | None:
    if x.width < 2:
        return None
    axis = channel_axis(x)
    first = x.width // 2 if x.width % 2 == 0 and b.chance(0.5) else b.some(1, x.width)
    sizes = [first, x.width - first]
    parts = b.split(x.name, sizes, b.axis(axis, len(x.dims)))
    both = [resized(x, name, n) for name, n in zip(parts, sizes, strict=True)]
    if b.place == "graph" and b.chance(0.6):
        b.whole.loose.append(both[0])
    if sizes[0] == sizes[1] and b.chance(0.4):
        return both[0].like(b.op("Mul", b.op("Sigmoid", parts[0]), parts[1]))
    return both[1]


def cut(b: Builder, x: Tensor) -> Tensor:
    """Some of the channels: from the front, from the back, every other one."""
    c, step = x.width, b.choose(1, 1, 2, -1) if b.opset >= 10 else 1
    start = b.some(0, c)
    axis = b.axis(channel_axis(x), len(x.dims))
    first = start - c if b.chance(0.3) else start
    end = b.choose(c, 2**62) if step > 0 else -(2**62)
    return resized(x, b.slice(x.name, axis, first, end, step), len(range(c)[start::step]))


def gather(b: Builder, x: Tensor) -> Tensor:
    c = x.width
    order = [int(i) for i in (b.random.permutation(c) if b.chance(0.6) else b.random.integers(0, c, b.some(1, 9)))]
    if b.opset >= 11 and b.chance(0.3):
        order = [i - c for i in order]
    axis = b.axis(channel_axis(x), len(x.dims))
    return resized(x, b.op("Gather", x.name, b.ints(*order, narrow=True), axis=axis), len(order))


def pad(b: Builder, x: Tensor) -> Tensor:
    axis, rank = channel_axis(x), len(x.dims)
    before, after = b.some(0, 3), b.some(0, 3)
    pads = [0] * (2 * rank)
    pads[axis], pads[axis + rank] = before, after
    return resized(x, b.pad(x.name, pads, b.choose(0.0, 0.0, 1.0)), x.width + before + after)


def hand_on(b: Builder, x: Tensor) -> Tensor:
    """What does nothing to the values."""
    way = b.choose("Identity", "Dropout", "twice", "there and back", "Cast")
    if way == "Identity":
        return x.like(b.op("Identity", x.name))
    if way == "Dropout":
        return x.like(b.dropout(x.name))
    if way == "Cast":
        return x.like(b.op("Cast", x.name, to=FLOATS[b.dtype]))
    if way == "twice":
        return x.like(b.op("Neg", b.op("Neg", x.name)))
    perm = b.random.permutation(len(x.dims))
    turned = b.op("Transpose", x.name, perm=[int(p) for p in perm])
    return x.like(b.op("Transpose", turned, perm=[int(p) for p in np.argsort(perm)]))


def of_another_type(b: Builder, x: Tensor) -> Tensor | None:
    """A layer in another precision between two casts."""
    if x.kind == "image" or b.place != "graph":
        return None
    outer = b.dtype
    b.dtype = b.choose(*(t for t in ("float16", "float32", "float64") if t != outer))
    name, out = b.op("Cast", x.name, to=FLOATS[b.dtype]), b.some(3, 9)
    name = b.op("Relu", b.op("Add", b.op("MatMul", name, weight(b, x.width, out)), weight(b, out)))
    b.dtype = outer
    if b.opset >= 13 and b.chance(0.2):
        name = b.op("Cast", b.op("Cast", name, to=FLOATS["bfloat16"]), to=FLOATS[outer])
    else:
        name = b.op("Cast", name, to=FLOATS[outer])
    return resized(x, name, out)


def where(b: Builder, x: Tensor) -> Tensor | None:
    """A mask that is a constant, or what is above zero."""
    if b.opset < 9:
        return None
    mask = b.const(b.random.random(along(x, x.width)) < 0.6)
    if b.chance(0.4):
        mask = b.op("Less" if b.chance(0.5) else "Greater", x.name, b.scalar(0.25))
    return x.like(b.op("Where", mask, x.name, b.op("Mul", x.name, b.scalar(0.5))))


def expand(b: Builder, x: Tensor) -> Tensor | None:
    """Tile along the channels, or Expand to the tensor's own shape."""
    if b.chance(0.5) and x.width < 10:
        axis = channel_axis(x)
        return resized(
            x, b.op("Tile", x.name, b.ints(*(2 if i == axis else 1 for i in range(len(x.dims))))), 2 * x.width
        )
    if b.opset < 13:
        return None
    constant = b.op("Expand", weight(b, *along(x, x.width)), b.op("Shape", x.name))
    return x.like(b.op("Add", x.name, constant))


ANYTHING: dict[str, tuple[Block, int]] = {
    "activation": (activation, 6), "gated": (gated, 1), "affine": (affine, 5), "slope": (slope, 1), "bound": (bound, 2),
    "softmax": (softmax, 2), "residual": (residual, 5), "concat": (concat, 3), "split": (split, 2), "cut": (cut, 2),
    "gather": (gather, 2), "pad": (pad, 1), "hand on": (hand_on, 2), "of another type": (of_another_type, 2),
    "where": (where, 1), "expand": (expand, 2),
}  # fmt: skip

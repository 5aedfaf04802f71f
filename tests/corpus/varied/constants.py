"""Weights in all the ways in which exporters write them: moved, cast, dequantized, shared, computed."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .builder import FLOATS, Builder, numpy_type

Array = np.ndarray
Way = Callable[[Builder, Array], str | None]
"""Writes an array, or one that is like it; None where the shape does not allow this way."""


def values(b: Builder, shape: tuple[int, ...], kind: str = "normal") -> Array:
    """Draw an array: normal with a fan-in scale, near one, or positive."""
    fan = max(float(np.prod(shape[1:])), 1.0) if len(shape) > 1 else 4.0
    drawn = b.random.standard_normal(shape)
    drawn = {"normal": drawn / np.sqrt(fan), "one": 1 + 0.2 * drawn, "positive": np.abs(drawn) + 0.5}[kind]
    if kind == "normal" and len(shape) > 1 and b.chance(0.15):
        drawn[:, b.random.random(shape[1]) < 0.3] = 0
    return drawn.astype(numpy_type(b.dtype))


def transpose(b: Builder, a: Array) -> str | None:
    if a.ndim < 2:
        return None
    perm = b.random.permutation(a.ndim)
    source = np.transpose(a, np.argsort(perm))
    if b.chance(0.3) and (perm == np.arange(a.ndim)[::-1]).all():
        return b.op("Transpose", stored(b, source))
    return b.op("Transpose", stored(b, source), perm=[int(p) for p in perm])


def reshape(b: Builder, a: Array) -> str | None:
    first = b.divisor(max(a.size, 1))
    shape = list(a.shape)
    if shape and a.size and b.chance(0.4):
        shape[b.some(0, len(shape))] = -1
    return b.op("Reshape", stored(b, a.reshape(first, -1)), b.ints(*shape))


def squeeze(b: Builder, a: Array) -> str | None:
    axis = b.some(0, a.ndim + 1)
    return b.squeeze(stored(b, np.expand_dims(a, axis)), [b.axis(axis, a.ndim + 1)])


def unsqueeze(b: Builder, a: Array) -> str | None:
    ones = [i for i, n in enumerate(a.shape) if n == 1]
    if not ones:
        return None
    axis = b.choose(*ones)
    return b.unsqueeze(stored(b, a.squeeze(axis)), [b.axis(axis, a.ndim)])


def slice_(b: Builder, a: Array) -> str | None:
    if not a.ndim:
        return None
    axis, n = b.some(0, a.ndim), 0
    n = a.shape[axis]
    if b.opset >= 10 and b.chance(0.3):
        return b.slice(stored(b, np.flip(a, axis)), b.axis(axis, a.ndim), -1, -(2**62), -1)
    before = b.some(0, 3)
    wide = np.concatenate([np.take(a, [0] * before, axis), a, np.take(a, [0], axis)], axis)
    return b.slice(stored(b, wide), b.axis(axis, a.ndim), before, b.choose(before + n, -1))


def gather(b: Builder, a: Array) -> str | None:
    if not a.ndim:
        return None
    axis = b.some(0, a.ndim)
    order = b.random.permutation(a.shape[axis])
    index = order - (a.shape[axis] if b.opset >= 11 and b.chance(0.3) else 0)
    source = stored(b, np.take(a, np.argsort(order), axis))
    return b.op("Gather", source, b.ints(*(int(i) for i in index), narrow=True), axis=b.axis(axis, a.ndim))


def concat(b: Builder, a: Array) -> str | None:
    axis = b.some(0, max(a.ndim, 1))
    if not a.ndim or a.shape[axis] < 2:
        return None
    parts = np.split(a, [b.some(1, a.shape[axis])], axis)
    return b.op("Concat", *(stored(b, part) for part in parts), axis=b.axis(axis, a.ndim))


def split(b: Builder, a: Array) -> str | None:
    if not a.ndim:
        return None
    axis = b.some(0, a.ndim)
    whole = np.concatenate([a, np.flip(a, axis)], axis)
    return b.split(stored(b, whole), [a.shape[axis]] * 2, b.axis(axis, a.ndim))[0]


def expand(b: Builder, a: Array) -> str | None:
    if not a.ndim or b.opset < 8:
        return None
    axis = b.some(0, a.ndim)
    return b.op("Expand", stored(b, np.take(a, [0], axis)), b.ints(*a.shape))


def tile(b: Builder, a: Array) -> str | None:
    even = [i for i, n in enumerate(a.shape) if n % 2 == 0 and n]
    if not even:
        return None
    axis = b.choose(*even)
    half = np.take(a, range(a.shape[axis] // 2), axis)
    return b.op("Tile", stored(b, half), b.ints(*(2 if i == axis else 1 for i in range(a.ndim))))


def pad(b: Builder, a: Array) -> str | None:
    if not a.ndim or max(a.shape) < 2 or b.dtype != "float32":
        return None
    axis = int(np.argmax(a.shape))
    pads = [0] * (2 * a.ndim)
    pads[axis + b.choose(0, a.ndim)] = 1
    return b.pad(stored(b, np.take(a, range(1, a.shape[axis]), axis)), pads)


def flatten(b: Builder, a: Array) -> str | None:
    if a.ndim != 2 or not a.size:
        return None
    first = b.divisor(a.shape[1])
    return b.op("Flatten", stored(b, a.reshape(a.shape[0], first, -1)), axis=b.axis(1, 3))


def cast(b: Builder, a: Array) -> str | None:
    kinds = [k for k in ("float16", "float32", "float64", "bfloat16") if k != b.dtype]
    kind = b.choose(*(kinds if b.opset >= 13 else [k for k in kinds if k != "bfloat16"]))
    return b.op("Cast", stored(b, a.astype(numpy_type(kind))), to=FLOATS[b.dtype])


def cast_integers(b: Builder, a: Array) -> str | None:
    """Small integers, and the scale that makes weights of them, as some exporters of quantized networks write."""
    small = np.clip(np.round(a.astype(np.float32) * 40), -127, 127).astype(np.int8)
    return b.op("Mul", b.op("Cast", stored(b, small), to=FLOATS[b.dtype]), b.scalar(1 / 40))


def dequantize(b: Builder, a: Array) -> str | None:
    if b.place == "inner" or b.opset < 10 or b.dtype == "float64" or (b.dtype == "float16" and b.opset < 19):
        return None
    kind = b.choose(np.int8, np.uint8)
    zero = 0 if kind is np.int8 else 128
    stepped = b.opset >= 13 and a.ndim > 1 and b.chance(0.6)
    axis = b.some(0, a.ndim) if stepped else 0
    scale = np.full(a.shape[axis] if stepped else (), 1 / 40).astype(a.dtype)
    scale *= (1 + b.random.random(scale.shape)).astype(a.dtype)
    shape = [-1 if i == axis else 1 for i in range(a.ndim)] if stepped else []
    codes = np.clip(
        np.round(a.astype(np.float32) / scale.reshape(shape).astype(np.float32)) + zero, zero - 127, zero + 127
    )
    inputs = [stored(b, codes.astype(kind)), b.const(scale)]
    if zero or b.chance(0.5):
        inputs.append(b.const(np.full(scale.shape, zero, kind)))
    return b.op("DequantizeLinear", *inputs, **({"axis": b.axis(axis, a.ndim)} if stepped else {}))


def arithmetic(b: Builder, a: Array) -> str | None:
    op = b.choose("Add", "Mul", "Sub", "Div")
    return b.op(op, stored(b, a), b.scalar(1.5))


def soft(b: Builder, a: Array) -> str | None:
    """A constant that no exporter folds, whose meaning changed with the opset."""
    if not 2 <= a.ndim <= 4 or b.dtype != "float32":
        return None
    op = b.choose("Softmax", "LogSoftmax", "Hardmax")
    attributes = {} if b.chance(0.4) else {"axis": b.axis(b.some(0, a.ndim), a.ndim)}
    return b.op(op, stored(b, a), **attributes)


def resized(b: Builder, a: Array) -> str | None:
    """Positions brought to another size, as in vision transformers."""
    if a.ndim != 4 or b.opset < 11 or b.dtype != "float32" or min(a.shape[2:]) < 2:
        return None
    source = stored(b, values(b, (*a.shape[:2], a.shape[2] + b.some(-1, 3), a.shape[3] + b.some(0, 3))))
    mode = b.choose("nearest", "linear", "cubic")
    place = b.choose("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    extra = {"nearest_mode": b.choose("floor", "ceil", "round_prefer_floor")} if mode == "nearest" else {}
    roi = "" if b.opset >= 13 else b.const(np.zeros(0, np.float32))
    scales = "" if b.opset >= 13 else b.const(np.zeros(0, np.float32))
    return b.op(
        "Resize", source, roi, scales, b.ints(*a.shape), mode=mode, coordinate_transformation_mode=place, **extra
    )


def constant_if(b: Builder, a: Array) -> str | None:
    """A switch that is a constant, between two weights."""
    branches = []
    for factor in (1, 2):
        scope = b.inner()
        name = scope.op("Identity", scope.stored((a * factor).astype(a.dtype)))
        branches.append(scope.graph(b.fresh("branch"), [], [b.info(name, a.shape)]))
    return b.op("If", b.const(np.array(b.chance(0.5))), then_branch=branches[0], else_branch=branches[1])


MOVES: tuple[Way, ...] = (
    transpose, transpose, reshape, squeeze, unsqueeze, slice_, gather, concat, split, expand, tile, pad, flatten,
    cast, cast_integers, dequantize, dequantize, arithmetic, soft, resized, constant_if,
)  # fmt: skip


def stored(b: Builder, a: Array) -> str:
    """Write an array; now and then behind yet another movement."""
    if a.dtype == numpy_type(b.dtype) and b.chance(0.2):
        return moved(b, a)
    return b.const(np.array(a, order="C"))


def moved(b: Builder, a: Array) -> str:
    return next((name for way in b.random.permutation(len(MOVES)) if (name := MOVES[way](b, a)) is not None), "")


def weight(b: Builder, *shape: int, kind: str = "normal") -> str:
    """Write a weight: drawn, moved, or one that is there already, by name, by Identity or by equal value."""
    seen = b.whole.weights.setdefault((*shape, kind, b.dtype), []) if b.place != "function" else []
    if seen and b.chance(0.15):
        name = b.choose(*seen)
        way = b.choose("name", "identity", "value")
        if way == "value":
            return b.stored(b.whole.arrays[name].copy())
        return name if way == "name" else b.op("Identity", name)
    array = values(b, shape, kind)
    if kind == "normal" and b.chance(0.3):
        return moved(b, array)
    if b.chance(0.7):
        name = b.stored(array)
        if name in b.whole.arrays:
            seen.append(name)
        return name
    return b.const(array)

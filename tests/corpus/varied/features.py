"""Blocks of networks that see tokens (N, T, F) or rows of features (N, F)."""

from __future__ import annotations

from typing import Any

import numpy as np

from .builder import Builder, Tensor
from .constants import values, weight
from .images import Block


def with_width(x: Tensor, name: str, width: int) -> Tensor:
    return Tensor(name, x.kind, (*x.dims[:-1], width))


def linear(b: Builder, x: Tensor, out: int | None = None) -> Tensor:
    """MatMul and Add, either way round."""
    out = b.choose(4, 6, 8, 12, 16) if out is None else out
    name = b.op("MatMul", x.name, weight(b, x.width, out))
    if b.chance(0.6):
        parts = [name, weight(b, out)]
        name = b.op("Add", *(parts if b.chance(0.5) else parts[::-1]))
    return with_width(x, name, out)


def gemm(b: Builder, x: Tensor) -> Tensor:
    """Gemm with every combination of factors, transpositions and shapes of what is added."""
    n, out = x.width, b.some(2, 12)
    attributes: dict[str, Any] = {}
    if b.chance(0.4):
        attributes["alpha"] = b.choose(0.5, 2.0, -1.0, 0.25)
    if b.chance(0.4):
        attributes["beta"] = b.choose(0.5, 2.0, -1.0, 0.0)
    turned = b.chance(0.6)
    attributes |= {"transB": 1} if turned else {}
    name = x.name
    if b.chance(0.15):
        name = b.op("Transpose", name, perm=[1, 0])
        attributes["transA"] = 1
    shapes: list[tuple[int, ...]] = [(out,), (out,), (1, out), (), (1, 1), (1,)]
    if x.known(0):
        shapes += [(int(x.dims[0]), 1), (int(x.dims[0]), out)]
    inputs = [name, weight(b, *((out, n) if turned else (n, out)))]
    if b.opset < 11 or b.chance(0.75):
        inputs.append(weight(b, *b.choose(*shapes)))
    return with_width(x, b.op("Gemm", *inputs, **attributes), out)


def feed_forward(b: Builder, x: Tensor) -> Tensor:
    inner = linear(b, x, b.choose(8, 16, 32))
    op = "Gelu" if b.has("Gelu") and b.dtype != "float64" and b.chance(0.4) else "Relu"
    back = linear(b, inner.like(b.op(op, inner.name)), x.width)
    return x.like(b.op("Add", x.name, back.name))


def layer_norm(b: Builder, x: Tensor) -> Tensor:
    axis, shape = b.axis(len(x.dims) - 1, len(x.dims)), (x.width,)
    if b.has("LayerNormalization") and b.chance(0.7):
        inputs = [x.name, weight(b, *shape, kind="one")] + ([weight(b, *shape)] if b.chance(0.7) else [])
        return x.like(b.op("LayerNormalization", *inputs, axis=axis))
    centred = b.op("Sub", x.name, b.reduce("ReduceMean", x.name, [axis]))
    square = b.op("Mul", centred, centred) if b.chance(0.5) else b.op("Pow", centred, b.scalar(2.0))
    deviation = b.op("Sqrt", b.op("Add", b.reduce("ReduceMean", square, [axis]), b.scalar(1e-3)))
    scaled = b.op("Mul", b.op("Div", centred, deviation), weight(b, *shape, kind="one"))
    return x.like(b.op("Add", scaled, weight(b, *shape)))


def rms_norm(b: Builder, x: Tensor) -> Tensor:
    if b.has("RMSNormalization") and b.chance(0.5):
        return x.like(b.op("RMSNormalization", x.name, weight(b, x.width, kind="one"), axis=-1))
    square = b.op("Mul", x.name, x.name)
    mean = b.reduce("ReduceMean", square, [b.axis(len(x.dims) - 1, len(x.dims))])
    inverse = b.op("Reciprocal", b.op("Sqrt", b.op("Add", mean, b.scalar(1e-3))))
    return x.like(b.op("Mul", b.op("Mul", x.name, inverse), weight(b, x.width, kind="one")))


def attention(b: Builder, x: Tensor) -> Tensor:
    """Attention written out; heads from one weight or three, tokens counted or computed."""
    f = x.width
    heads = b.divisor(f)
    size = f // heads
    if b.chance(0.4):
        parts = b.split(b.op("MatMul", x.name, weight(b, f, 3 * f)), [f] * 3, b.axis(2, 3))
    else:
        parts = [linear(b, x, f).name for _ in range(3)]
    shape = b.ints(0, 0, heads, size) if b.chance(0.6) else b.ints(0, 0, heads, -1)
    q, k, v = (b.op("Reshape", part, shape) for part in parts)
    q, v = (b.op("Transpose", part, perm=[0, 2, 1, 3]) for part in (q, v))
    scores = b.op("MatMul", q, b.op("Transpose", k, perm=[0, 2, 3, 1]))
    scores = b.op(b.choose("Mul", "Div"), scores, b.scalar(float(np.sqrt(size))))
    soft = b.op("Softmax", scores, axis=b.axis(3, 4))
    mixed = b.op("Transpose", b.op("MatMul", soft, v), perm=[0, 2, 1, 3])
    out = linear(b, x.like(b.op("Reshape", mixed, b.ints(0, 0, f))), f)
    return x.like(b.op("Add", x.name, out.name))


def fused_attention(b: Builder, x: Tensor) -> Tensor | None:
    if not b.has("Attention"):
        return None
    heads = b.divisor(x.width)
    parts = [b.op("MatMul", x.name, weight(b, x.width, x.width)) for _ in range(3)]
    return x.like(b.op("Attention", *parts, q_num_heads=heads, kv_num_heads=heads))


def recurrent(b: Builder, x: Tensor) -> Tensor | None:
    if b.dtype != "float32":
        return None
    op, hidden = b.choose("LSTM", "GRU", "RNN"), b.choose(3, 4, 6)
    gates, both = {"LSTM": 4, "GRU": 3, "RNN": 1}[op], b.choose(1, 1, 2)
    direction = "bidirectional" if both == 2 else b.choose("forward", "reverse")
    inputs = [b.op("Transpose", x.name, perm=[1, 0, 2]), weight(b, both, gates * hidden, x.width)]
    inputs.append(weight(b, both, gates * hidden, hidden))
    if b.chance(0.6):
        inputs.append(weight(b, both, 2 * gates * hidden))
        if b.chance(0.3) and x.known(0):
            inputs += ["", b.const(values(b, (both, int(x.dims[0]), hidden)))]
    extra = {"linear_before_reset": 1} if op == "GRU" and b.chance(0.5) else {}
    if op == "RNN" and b.chance(0.3):
        extra["activations"] = ["Relu"] * both  # type: ignore[assignment]
    sequence, last = b.node(op, inputs, 2, hidden_size=hidden, direction=direction, **extra)
    if b.chance(0.3):
        name = b.op("Reshape", b.op("Transpose", last, perm=[1, 0, 2]), b.ints(0, both * hidden))
        return Tensor(name, "matrix", (x.dims[0], both * hidden))
    if both == 1 and b.chance(0.6):
        name = b.op("Transpose", b.squeeze(sequence, [1]), perm=[1, 0, 2])
    else:
        turned = b.op("Transpose", sequence, perm=[2, 0, 1, 3])
        name = b.op("Reshape", turned, b.ints(0, 0, both * hidden))
    return with_width(x, name, both * hidden)


def mixer(b: Builder, x: Tensor) -> Tensor | None:
    """A convolution over tokens, or one whose channels the tokens are."""
    if x.known(1) and b.chance(0.4):
        t = int(x.dims[1])
        return x.like(b.op("Conv", x.name, weight(b, t, t, 1), weight(b, t)))
    turned, out = b.op("Transpose", x.name, perm=[0, 2, 1]), b.some(2, 10)
    pads = {"auto_pad": b.choose("SAME_UPPER", "SAME_LOWER")} if b.chance(0.5) else {"pads": [1, 1]}
    mixed = b.op("Conv", turned, weight(b, out, x.width, 3), **pads)
    return with_width(x, b.op("Transpose", mixed, perm=[0, 2, 1]), out)


def einsum(b: Builder, x: Tensor) -> Tensor | None:
    if not b.has("Einsum"):
        return None
    out = b.some(3, 10)
    text, shape = b.choose(("bti,io->bto", (x.width, out)), ("bti,oi->bto", (out, x.width)))
    return with_width(x, b.op("Einsum", x.name, weight(b, *shape), equation=text), out)


def pool_tokens(b: Builder, x: Tensor) -> Tensor:
    """To a matrix: the first or last token, the mean, the largest."""
    dims, way = (x.dims[0], x.width), b.choose("gather", "slice", "mean", "max", "vector")
    if way == "gather":
        return Tensor(
            b.op("Gather", x.name, b.const(np.array(b.choose(0, 0, -1) if b.opset >= 11 else 0)), axis=1),
            "matrix",
            dims,
        )
    if way == "vector":
        return Tensor(b.squeeze(b.op("Gather", x.name, b.ints(0), axis=b.axis(1, 3)), [1]), "matrix", dims)
    if way == "slice":
        return Tensor(b.squeeze(b.slice(x.name, 1, 0, 1), [1]), "matrix", dims)
    op = "ReduceMean" if way == "mean" else "ReduceMax"
    return Tensor(b.reduce(op, x.name, [b.axis(1, 3)], keepdims=0), "matrix", dims)


def class_token(b: Builder, x: Tensor) -> Tensor | None:
    """A learned token for each image, in front of all others."""
    if b.opset < 13:
        return None
    batch = b.slice(b.op("Shape", x.name), 0, 0, 1)
    token = b.op("Expand", weight(b, 1, 1, x.width), b.op("Concat", batch, b.ints(1, x.width), axis=0))
    count = int(x.dims[1]) + 1 if x.known(1) else f"{x.dims[1]}+1"
    return Tensor(b.op("Concat", token, x.name, axis=1), "tokens", (x.dims[0], count, x.width))


def positions(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(1):
        return None
    t = int(x.dims[1])
    shape = b.choose((t, x.width), (1, t, x.width))
    return x.like(b.op("Add", x.name, weight(b, *shape)))


def to_image(b: Builder, x: Tensor) -> Tensor | None:
    if x.kind == "matrix":
        name = b.unsqueeze(x.name, [b.axis(2, 4), b.axis(3, 4)])
        return Tensor(name, "image", (*x.dims, 1, 1))
    if not x.known(1):
        return None
    high = b.divisor(int(x.dims[1]))
    turned = b.op("Transpose", x.name, perm=[0, 2, 1])
    shape = (x.width, high, int(x.dims[1]) // high)
    return Tensor(b.op("Reshape", turned, b.ints(0, *shape)), "image", (x.dims[0], *shape))


def to_tokens(b: Builder, x: Tensor) -> Tensor:
    if b.chance(0.3):
        return Tensor(b.unsqueeze(x.name, [b.axis(1, 3)]), "tokens", (x.dims[0], 1, x.width))
    count = b.divisor(x.width)
    name = b.op("Reshape", x.name, b.ints(b.choose(0, -1), count, x.width // count))
    return Tensor(name, "tokens", (x.dims[0], count, x.width // count))


def top_k(b: Builder, x: Tensor) -> Tensor | None:
    k, rank = b.some(1, x.width + 1), len(x.dims)
    if b.opset < 10 or b.dtype == "float16":
        return None
    return with_width(x, b.node("TopK", [x.name, b.ints(k)], 2, axis=b.axis(rank - 1, rank))[0], k)


def batch_norm(b: Builder, x: Tensor) -> Tensor:
    parts = [weight(b, x.width, kind=kind) for kind in ("one", "normal", "normal", "positive")]
    return x.like(b.op("BatchNormalization", x.name, *parts))


def tied_head(b: Builder, x: Tensor) -> Tensor | None:
    """The embedding once more, as the last layer."""
    tables = b.whole.weights.get((10, x.width, "normal", b.dtype), [])
    if not tables or b.place != "graph":
        return None
    name = b.choose(*tables)
    if x.kind == "matrix" and b.chance(0.5):
        return with_width(x, b.op("Gemm", x.name, name, *([weight(b, 10)] if b.opset < 11 else []), transB=1), 10)
    return with_width(x, b.op("MatMul", x.name, b.op("Transpose", name, perm=[1, 0])), 10)


TOKENS: dict[str, tuple[Block, int]] = {
    "linear": (linear, 6), "feed forward": (feed_forward, 3), "layer norm": (layer_norm, 4),
    "rms norm": (rms_norm, 2), "attention": (attention, 3), "fused attention": (fused_attention, 1),
    "recurrent": (recurrent, 3), "mixer": (mixer, 2), "einsum": (einsum, 1), "pool tokens": (pool_tokens, 3),
    "class token": (class_token, 1), "positions": (positions, 2), "tokens to image": (to_image, 1),
    "top k": (top_k, 1), "tied head": (tied_head, 3),
}  # fmt: skip
MATRICES: dict[str, tuple[Block, int]] = {
    "linear": (linear, 4), "gemm": (gemm, 12), "feed forward": (feed_forward, 2), "layer norm": (layer_norm, 2),
    "rms norm": (rms_norm, 1), "batch norm": (batch_norm, 2), "tied head": (tied_head, 2),
    "to image": (to_image, 1), "to tokens": (to_tokens, 2),
    "top k": (top_k, 1),
}  # fmt: skip

"""Blocks of networks that see images: (N, C, H, W) in, and an image, tokens or a matrix out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .builder import Builder, Dim, Tensor
from .constants import weight

Block = Callable[[Builder, Tensor], Tensor | None]
"""Grows the graph from a tensor; None where this tensor does not allow it."""


def image(name: str, *dims: Dim) -> Tensor:
    return Tensor(name, "image", dims)


def windowed(b: Builder, x: Tensor, kernel: int, stride: int, dilation: int = 1) -> tuple[dict[str, Any], list[Dim]]:
    """Choose how a window is padded, and say what sizes come out."""
    reach = dilation * (kernel - 1) + 1
    small = not x.known(2, 3) or min(int(d) for d in x.dims[2:]) < reach
    mode = b.choose("pads", "pads", "SAME_UPPER", "SAME_LOWER", *([] if small else ["VALID", "none"]))
    attributes: dict[str, Any] = {"kernel_shape": [kernel, kernel], "strides": [stride, stride]}
    if mode == "pads":
        attributes["pads"] = [reach // 2] * 4
    elif mode != "none":
        attributes["auto_pad"] = mode
    return attributes, [_size(d, reach, stride, mode) for d in x.dims[2:]]


def _size(dim: Dim, reach: int, stride: int, mode: str) -> Dim:
    if isinstance(dim, str):
        whole = stride == 1 and (mode != "pads" or reach % 2)
        return dim if whole else f"{dim}|{reach},{stride},{'pads' if mode == 'pads' else 'same'}"
    if mode == "pads":
        return (dim + 2 * (reach // 2) - reach) // stride + 1
    return -(-dim // stride) if mode.startswith("SAME") else (dim - reach) // stride + 1


def conv(b: Builder, x: Tensor) -> Tensor | None:
    c, kernel, stride = x.width, b.choose(1, 3, 3), b.choose(1, 1, 2)
    dilation = b.choose(1, 1, 2)
    attributes, space = windowed(b, x, kernel, stride, dilation)
    if dilation > 1:
        if attributes.get("auto_pad", "").startswith("SAME"):
            return None
        attributes["dilations"] = [dilation] * 2
    groups = b.choose(1, 1, b.divisor(c), c)
    out = groups * b.some(1, max(2, 12 // groups)) if groups > 1 else b.some(2, 10)
    if groups > 1:
        attributes["group"] = groups
    if b.chance(0.3):
        del attributes["kernel_shape"]
    inputs = [x.name, weight(b, out, c // groups, kernel, kernel)] + ([weight(b, out)] if b.chance(0.5) else [])
    return image(b.op("Conv", *inputs, **attributes), x.dims[0], out, *space)


def transposed(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3) or max(int(d) for d in x.dims[2:]) > 7:
        return None
    c, stride = x.width, b.choose(1, 2)
    groups = b.choose(1, 1, b.divisor(c))
    out = groups * b.some(1, 4)
    sizes = [int(d) for d in x.dims[2:]]
    mode = b.choose("pads", "SAME_UPPER", "SAME_LOWER", "VALID", "output_padding")
    attributes: dict[str, Any] = {"strides": [stride] * 2, "group": groups}
    if mode == "pads" or stride == 1:
        attributes["pads"], space = [1] * 4, [(d - 1) * stride + 1 for d in sizes]
    elif mode == "output_padding":
        attributes |= {"pads": [1] * 4, "output_padding": [1, 1]}
        space = [(d - 1) * stride + 2 for d in sizes]
    elif mode == "VALID":
        attributes["auto_pad"], space = mode, [(d - 1) * stride + 3 for d in sizes]
    else:
        attributes["auto_pad"], space = mode, [d * stride for d in sizes]
    inputs = [x.name, weight(b, c, out // groups, 3, 3)] + ([weight(b, out)] if b.chance(0.5) else [])
    return image(b.op("ConvTranspose", *inputs, **attributes), x.dims[0], out, *space)


def pool(b: Builder, x: Tensor) -> Tensor | None:
    op = b.choose("MaxPool", "AveragePool", "LpPool")
    attributes, space = windowed(b, x, b.choose(2, 3), b.choose(1, 2))
    if op == "LpPool" and (not x.known(2, 3) or "pads" not in attributes):
        return None
    if op == "AveragePool" and b.chance(0.4):
        attributes["count_include_pad"] = 1
    return image(b.op(op, x.name, **attributes), *x.dims[:2], *space)


def global_pool(b: Builder, x: Tensor) -> Tensor:
    """To a matrix, in one of the ways in which exporters write it."""
    way = b.choose("flatten", "squeeze", "reshape", "mean", "max", "two means")
    if way in ("mean", "max"):
        op = "ReduceMean" if way == "mean" else "ReduceMax"
        return Tensor(b.reduce(op, x.name, [b.axis(2, 4), b.axis(3, 4)], keepdims=0), "matrix", x.dims[:2])
    if way == "two means":
        rows = b.reduce("ReduceMean", x.name, [3])
        pooled = b.reduce("ReduceMean", rows, [2])
    else:
        pooled = b.op(b.choose("GlobalAveragePool", "GlobalMaxPool"), x.name)
    if way == "squeeze":
        return Tensor(b.squeeze(pooled, [b.axis(2, 4), b.axis(3, 4)]), "matrix", x.dims[:2])
    if way == "reshape":
        return Tensor(b.op("Reshape", pooled, b.ints(0, b.choose(-1, x.width))), "matrix", x.dims[:2])
    return Tensor(b.op("Flatten", pooled, axis=b.axis(1, 4)), "matrix", x.dims[:2])


def flatten(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3) or np.prod([int(d) for d in x.dims[1:]]) > 200:
        return None
    width = int(np.prod([int(d) for d in x.dims[1:]]))
    way = b.choose("Flatten", "reshape", "computed")
    if way == "Flatten":
        return Tensor(b.op("Flatten", x.name), "matrix", (x.dims[0], width))
    if way == "reshape":
        return Tensor(b.op("Reshape", x.name, b.ints(b.choose(0, -1), width)), "matrix", (x.dims[0], width))
    batch = b.op("Gather", b.op("Shape", x.name), b.const(np.array(0)), axis=0)
    shape = b.op("Concat", b.unsqueeze(batch, [0]), b.ints(-1), axis=0)
    return Tensor(b.op("Reshape", x.name, shape), "matrix", (x.dims[0], width))


def to_tokens(b: Builder, x: Tensor) -> Tensor:
    """Patches, one token each."""
    c = x.width
    count: Dim = int(x.dims[2]) * int(x.dims[3]) if x.known(2, 3) else f"{x.dims[2]}*{x.dims[3]}"
    if b.chance(0.5):
        flat = b.op("Reshape", x.name, b.ints(0, c, -1))
        return Tensor(b.op("Transpose", flat, perm=[0, 2, 1]), "tokens", (x.dims[0], count, c))
    last = b.op("Transpose", x.name, perm=[0, 2, 3, 1])
    if not x.known(0) or b.chance(0.5):
        return Tensor(b.op("Reshape", last, b.ints(0, -1, c)), "tokens", (x.dims[0], count, c))
    return Tensor(b.op("Reshape", last, b.ints(int(x.dims[0]), -1, c)), "tokens", (x.dims[0], count, c))


def batch_norm(b: Builder, x: Tensor) -> Tensor:
    c = x.width
    scale, mean = weight(b, c, kind="one"), weight(b, c)
    extra = {"epsilon": 1e-3} if b.chance(0.3) else {}
    inputs = [x.name, scale, weight(b, c), mean, weight(b, c, kind="positive")]
    return x.like(b.op("BatchNormalization", *inputs, **extra))


def instance_norm(b: Builder, x: Tensor) -> Tensor:
    return x.like(b.op("InstanceNormalization", x.name, weight(b, x.width, kind="one"), weight(b, x.width)))


def group_norm(b: Builder, x: Tensor) -> Tensor | None:
    groups = b.divisor(x.width)
    if b.opset >= 21:
        scale, shift = weight(b, x.width, kind="one"), weight(b, x.width)
        return x.like(b.op("GroupNormalization", x.name, scale, shift, num_groups=groups))
    if not x.known(2, 3):
        return None
    ones, zeros = b.const(np.ones(groups, b.dtype)), b.const(np.zeros(groups, b.dtype))
    parts = b.op("InstanceNormalization", b.op("Reshape", x.name, b.ints(0, groups, -1)), ones, zeros)
    back = b.op("Reshape", parts, b.ints(0, x.width, *(int(d) for d in x.dims[2:])))
    scaled = b.op("Mul", back, weight(b, x.width, 1, 1, kind="one"))
    return x.like(b.op("Add", scaled, weight(b, x.width, 1, 1)))


def shuffle(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3):
        return None
    c, (h, w) = x.width, x.dims[2:]
    g = b.divisor(c)
    five = b.op("Reshape", x.name, b.ints(0, g, c // g, int(h), int(w)))
    turned = b.op("Transpose", five, perm=[0, 2, 1, 3, 4])
    return x.like(b.op("Reshape", turned, b.ints(0, b.choose(-1, c), int(h), int(w))))


def channels_last(b: Builder, x: Tensor) -> Tensor:
    """As TensorFlow's exporters: something happens with the channels behind, then back."""
    last = b.op("Transpose", x.name, perm=[0, 2, 3, 1])
    if b.chance(0.5):
        last = b.op(b.choose("Add", "Mul"), last, weight(b, x.width))
    elif b.chance(0.5):
        last = b.op("Softmax", last, axis=b.axis(3, 4))
    else:
        out = b.some(2, 9)
        last = b.op("MatMul", last, weight(b, x.width, out))
        return image(b.op("Transpose", last, perm=[0, 3, 1, 2]), x.dims[0], out, *x.dims[2:])
    return x.like(b.op("Transpose", last, perm=[0, 3, 1, 2]))


def resize(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3) or max(int(d) for d in x.dims[2:]) > 7 or b.dtype == "float16":
        return None
    twice = (*x.dims[:2], *(2 * int(d) for d in x.dims[2:]))
    factors = np.array([1, 1, 2, 2], np.float32)
    if b.opset < 9:
        return image(b.op("Upsample", x.name, scales=factors.tolist(), mode=b.choose("nearest", "linear")), *twice)
    if b.opset < 11:
        op = "Upsample" if b.opset == 9 else "Resize"
        return image(b.op(op, x.name, b.const(factors), mode=b.choose("nearest", "linear")), *twice)
    mode = b.choose("nearest", "linear", "cubic")
    attributes: dict[str, Any] = {
        "mode": mode, "coordinate_transformation_mode": b.choose("half_pixel", "asymmetric", "align_corners")
    }  # fmt: skip
    if mode == "nearest":
        attributes["nearest_mode"] = b.choose("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
    roi = "" if b.opset >= 13 else b.const(np.zeros(0, np.float32))
    if b.chance(0.5) or not x.known(0):
        return image(b.op("Resize", x.name, roi, b.const(factors), **attributes), *twice)
    none = "" if b.opset >= 13 else b.const(np.zeros(0, np.float32))
    return image(b.op("Resize", x.name, roi, none, b.ints(*(int(d) for d in twice)), **attributes), *twice)


def depth_to_space(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3):
        return None
    h, w = (int(d) for d in x.dims[2:])
    if x.width % 4 == 0 and max(h, w) < 6:
        mode = {"mode": b.choose("DCR", "CRD")} if b.opset >= 11 else {}
        name = b.op("DepthToSpace", x.name, blocksize=2, **mode)
        return image(name, x.dims[0], x.width // 4, 2 * h, 2 * w)
    if h % 2 == 0 and w % 2 == 0 and x.width < 6:
        return image(b.op("SpaceToDepth", x.name, blocksize=2), x.dims[0], x.width * 4, h // 2, w // 2)
    return None


def gate(b: Builder, x: Tensor) -> Tensor:
    """Squeeze and excitation."""
    c, inner = x.width, b.some(1, 5)
    pooled = b.op("GlobalAveragePool", x.name) if b.chance(0.5) else b.reduce("ReduceMean", x.name, [2, 3])
    squeezed = b.op("Relu", b.op("Conv", pooled, weight(b, inner, c, 1, 1)))
    opened = b.op(b.choose("Sigmoid", "HardSigmoid"), b.op("Conv", squeezed, weight(b, c, inner, 1, 1), weight(b, c)))
    return x.like(b.op("Mul", x.name, opened))


def response_norm(b: Builder, x: Tensor) -> Tensor:
    """Each channel's norm against the mean of all norms, or normalisation over neighbouring channels."""
    if b.chance(0.4):
        return x.like(b.op("LRN", x.name, size=b.choose(3, 5), alpha=0.01, beta=0.7))
    norm = b.reduce("ReduceL2", x.name, [2, 3])
    mean = b.op("Add", b.reduce("ReduceMean", norm, [b.axis(1, 4)]), b.scalar(0.1))
    return x.like(b.op("Mul", x.name, b.op("Div", norm, mean)))


def pad_space(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3) or max(int(d) for d in x.dims[2:]) > 8:
        return None
    mode = b.choose("constant", "reflect", "edge")
    top, left, bottom, right = (b.some(0, 2) for _ in range(4))
    name = b.pad(x.name, [0, 0, top, left, 0, 0, bottom, right], mode=mode)
    return image(name, *x.dims[:2], int(x.dims[2]) + top + bottom, int(x.dims[3]) + left + right)


def crop(b: Builder, x: Tensor) -> Tensor | None:
    if not x.known(2, 3) or min(int(d) for d in x.dims[2:]) < 4:
        return None
    h = int(x.dims[2])
    start, end = b.choose((0, h - 1), (1, h), (-h, -1), (1, -1))
    rows = len(range(h)[start:end])
    return image(b.slice(x.name, b.axis(2, 4), start, end), *x.dims[:2], rows, x.dims[3])


IMAGES: dict[str, tuple[Block, int]] = {
    "conv": (conv, 16), "transposed": (transposed, 6), "pool": (pool, 6), "global pool": (global_pool, 5),
    "flatten": (flatten, 2), "to tokens": (to_tokens, 2), "batch norm": (batch_norm, 4),
    "instance norm": (instance_norm, 1), "group norm": (group_norm, 2), "shuffle": (shuffle, 2),
    "channels last": (channels_last, 2), "resize": (resize, 3), "depth to space": (depth_to_space, 1),
    "gate": (gate, 2), "response norm": (response_norm, 1), "pad space": (pad_space, 1),
    "crop": (crop, 1),
}  # fmt: skip
"""Name → (block, how often)."""

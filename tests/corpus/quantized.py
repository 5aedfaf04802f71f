"""Small quantized models from text, legal for every engine that takes uint8 activations and int8 weights."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_ir as ir

from .text import model

CONV = """
g (float[1, 4, 8, 8] x) => (float[1, 6, 8, 8] y) {
    [first] xq = QuantizeLinear (x, xs, xz)
    [second] xd = DequantizeLinear (xq, xs, xz)
    [weight] wd = DequantizeLinear <axis = 0> (w, ws, wz)
    [bias] bd = DequantizeLinear <axis = 0> (b, bs)
    [conv] c = Conv <pads = [1, 1, 1, 1]> (xd, wd, bd)
    [third] yq = QuantizeLinear (c, ys, yz)
    [last] y = DequantizeLinear (yq, ys, yz)
}
"""
MATMUL = """
g (float[2, 32] x) => (float[2, 8] y) {
    [first] xq = QuantizeLinear (x, xs, xz)
    [second] xd = DequantizeLinear (xq, xs, xz)
    [weight] wd = DequantizeLinear <axis = 1> (w, ws, wz)
    [matmul] y = MatMul (xd, wd)
}
"""
BLOCKS = """
g (float[2, 32] x) => (float[2, 8] y) {
    [weight] wd = DequantizeLinear <axis = 0, block_size = 16> (w, ws)
    [matmul] y = MatMul (x, wd)
}
"""
POOL = """
g (float[1, 4, 8, 8] x) => (float[1, 4, 4, 4] y) {
    [first] xq = QuantizeLinear (x, xs, xz)
    [second] xd = DequantizeLinear (xq, xs, xz)
    [pool] p = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (xd)
    [third] pq = QuantizeLinear (p, ys, yz)
    [last] y = DequantizeLinear (pq, ys, yz)
}
"""
UNARY = """
g (float[2, 8] x) => (float[2, 8] y) {
    [first] xq = QuantizeLinear (x, xs, xz)
    [second] xd = DequantizeLinear (xq, xs, xz)
    [op] s = Sigmoid (xd)
    [third] yq = QuantizeLinear (s, ys, yz)
    [last] y = DequantizeLinear (yq, ys, yz)
}
"""
QLINEAR = """
g (uint8[2, 32] x) => (uint8[2, 8] y) {
    [matmul] y = QLinearMatMul (x, xs, xz, w, ws, wz, ys, yz)
}
"""


SECOND_READER = "[mid] yd = DequantizeLinear (yq, ys, yz)\n y = Max (c, yd)"
"""For CONV: something else reads the convolution's output as well."""


def f32(*values: float) -> np.ndarray:
    return np.array(values[0] if len(values) == 1 else values, np.float32)


def weights(text: str) -> dict[str, np.ndarray]:
    """What makes the graphs above legal for every target that takes uint8 activations and int8 weights."""
    random = np.random.default_rng(0)
    common = {"xs": f32(0.5), "xz": np.uint8(3), "ys": f32(0.25), "yz": np.uint8(7)}
    if text not in (BLOCKS, POOL, UNARY):
        shape, channels = ((6, 4, 3, 3), 6) if text == CONV else ((32, 8), 8)
        scale = np.exp2(-np.arange(3, 3 + channels)).astype(np.float32)
        common |= {"w": random.integers(-60, 60, shape, np.int8), "ws": scale, "wz": np.zeros(channels, np.int8)}
        if text == CONV:
            common |= {"b": np.arange(6, dtype=np.int32), "bs": f32(0.5) * scale}
    if text == BLOCKS:
        return {"w": random.integers(-60, 60, (32, 8), np.int8), "ws": np.ones((2, 8), np.float32)}
    if text == POOL:
        common |= {"ys": common["xs"], "yz": common["xz"]}
    used = {name for name in common if f" {name}," in text or f" {name})" in text or f"({name}," in text}
    return {name: np.asarray(array) for name, array in common.items() if name in used}


def build(text: str, change: dict[str, Any], replace: tuple[str, str] = ("", ""), opset: int = 21) -> ir.Model:
    arrays = weights(text) | {name: np.asarray(array) for name, array in change.items()}
    changed = text.replace(*replace)
    return model(changed, {n: a for n, a in arrays.items() if f"{n}," in changed or f"{n})" in changed}, opset=opset)

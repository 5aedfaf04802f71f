"""Dense and recurrent networks, weights in unusual places, inner graphs."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .text import model


def mlp() -> ir.Model:
    return model(
        """mlp (float[N,10] x) => (float[N,3] y) {
            a = Gemm<transB=1>(x, w1, b1)
            r = Tanh(a)
            b = MatMul(r, w2)
            c = Add(b, b2)
            s = Sigmoid(c)
            y = Gemm(s, w3, b3)
        }""",
        {"w1": (20, 10), "b1": (20,), "w2": (20, 14), "b2": (14,), "w3": (14, 3), "b3": (3,)},
    )


def tied() -> ir.Model:
    """One weight read by two operators."""
    return model(
        """tied (float[N,8] x) => (float[N,3] y) {
            a = MatMul(x, w0)
            r = Relu(a)
            b = MatMul(r, shared)
            s = Relu(b)
            c = MatMul(s, shared)
            t = Relu(c)
            y = MatMul(t, w1)
        }""",
        {"w0": (8, 32), "shared": (32, 32), "w1": (32, 3)},
    )


def behind(width: int = 16) -> ir.Model:
    """Weights behind Transpose, Identity and Cast."""
    return model(
        """behind (float[N,8] x) => (float[N,3] y) {
            t0 = Transpose<perm=[1,0]>(w0)
            a = MatMul(x, t0)
            r = Relu(a)
            i1 = Identity(w1)
            b = MatMul(r, i1)
            s = Relu(b)
            c2 = Cast<to=1>(w2)
            y = MatMul(s, c2)
        }""",
        {"w0": (width, 8), "w1": (width, 16), "w2": np.random.default_rng(1).standard_normal((16, 3))},
    )


def quantized() -> ir.Model:
    """Weights behind DequantizeLinear: one scale for each output channel, or one for all."""
    drawn = np.random.default_rng(2)
    codes = {
        name: drawn.integers(-127, 128, shape) for name, shape in (("w0", (8, 32)), ("w1", (32, 24)), ("w2", (24, 3)))
    }
    return model(
        """quantized (float[N,8] x) => (float[N,3] y) {
            d0 = DequantizeLinear<axis=1>(w0, s0, z0)
            a = MatMul(x, d0)
            r = Relu(a)
            d1 = DequantizeLinear<axis=1>(w1, s1)
            b = MatMul(r, d1)
            s = Relu(b)
            d2 = DequantizeLinear(w2, s2)
            y = MatMul(s, d2)
        }""",
        {
            **{name: array.astype(np.int8) for name, array in codes.items()}, "z0": np.zeros(32, np.int8),
            "s0": drawn.random(32, np.float32) / 100, "s1": drawn.random(24, np.float32) / 100,
            "s2": np.array(0.01, np.float32),
        },
    )  # fmt: skip


def computed_shape() -> ir.Model:
    """A flatten whose target is computed from the input's shape, as exporters write it."""
    return model(
        """computed (float[N,2,4,4] x) => (float[N,5] y) {
            a = Conv(x, w1, b1)
            r = Relu(a)
            s = Shape<start=0, end=1>(x)
            t = Concat<axis=0>(s, minus)
            f = Reshape(r, t)
            y = Gemm<transB=1>(f, w2)
        }""",
        {"w1": (10, 2, 1, 1), "b1": (10,), "w2": (5, 160), "minus": np.array([-1])},
    )


def shape_of_another() -> ir.Model:
    """Heads put together again by the width of another tensor, which loses channels while they lose none."""
    return model(
        """shape_of_another (float[N,4,8] x) => (float[N,4,3] y) {
            a = MatMul(x, w1)
            b = MatMul(x, w2)
            heads = Reshape(b, split)
            soft = Softmax(heads)
            width = Shape<start=2>(a)
            sizes = Concat<axis=0>(same, width)
            whole = Reshape(soft, sizes)
            left = MatMul(a, w3)
            right = MatMul(whole, w4)
            y = Add(left, right)
        }""",
        {
            "w1": (8, 12), "w2": (8, 12), "w3": (12, 3), "w4": (12, 3),
            "split": np.array([0, 4, 2, 6]), "same": np.array([0, 4]),
        },
    )  # fmt: skip


def inner_graph() -> ir.Model:
    """A model whose If reads one tensor from outside: that one freezes, the rest does not."""
    return model(
        """outer (float[N,3,4,4] x, bool flag) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            b = Conv(r, w1, b1)
            s = Relu(b)
            t = If (flag) <
                then_branch = same () => (float[N,6,4,4] u) { u = Neg(s) },
                else_branch = other () => (float[N,6,4,4] v) { v = Identity(s) }
            >
            p = GlobalAveragePool(t)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w2)
        }""",
        {"w0": (8, 3, 1, 1), "b0": (8,), "w1": (6, 8, 1, 1), "b1": (6,), "w2": (4, 6)},
    )


def recurrent(op: str, gates: int, directions: int) -> ir.Model:
    kind = "bidirectional" if directions == 2 else "forward"
    width = 10 * directions
    return model(
        f"""rnn (float[6,N,5] x) => (float[N,3] y) {{
            a = MatMul(x, w0)
            h = {op}<hidden_size=10, direction="{kind}">(a, w, r, b)
            t = Transpose<perm=[0,2,1,3]>(h)
            f = Reshape(t, flat)
            h2, last = {op}<hidden_size=10, direction="{kind}">(f, w2, r2)
            u = Transpose<perm=[1,0,2]>(last)
            g = Reshape(u, rows)
            y = Gemm(g, w3, b3)
        }}""",
        {
            "w0": (5, 8), "w": (directions, 10 * gates, 8), "r": (directions, 10 * gates, 10),
            "b": (directions, 20 * gates), "w2": (directions, 10 * gates, width),
            "r2": (directions, 10 * gates, 10), "w3": (width, 3), "b3": (3,),
            "flat": np.array([0, 0, width]), "rows": np.array([-1, width]),
        },
    )  # fmt: skip


def zero_state() -> ir.Model:
    """An LSTM whose initial states are zeros of a written-out width, as exporters make them."""
    return model(
        """state (float[6,1,5] x) => (float[1,3] y) {
            zeros = ConstantOfShape(shape)
            h, last = LSTM<hidden_size=10>(x, w, r, b, , zeros, zeros)
            f = Reshape(last, rows)
            y = Gemm(f, w3)
        }""",
        {
            "w": (1, 40, 5), "r": (1, 40, 10), "b": (1, 80), "w3": (10, 3), "shape": np.array([1, 1, 10]),
            "rows": np.array([1, 10]),
        },
    )  # fmt: skip


def loop() -> ir.Model:
    """A loop whose body reads a tensor from outside."""
    return model(
        """outer (float[N,8] x) => (float[N,3] y) {
            a = MatMul(x, w0)
            r = Relu(a)
            b = MatMul(r, w1)
            three = Constant<value = int64 {3}>()
            yes = Constant<value = bool {1}>()
            l = Loop (three, yes, b) <
                body = step (int64 i, bool go, float[N,6] before) => (bool more, float[N,6] after) {
                    more = Identity(go)
                    after = Add(before, b)
                }
            >
            y = MatMul(l, w2)
        }""",
        {"w0": (8, 12), "w1": (12, 6), "w2": (6, 3)},
    )


def local_function() -> ir.Model:
    """A call of a function of the model's own."""
    return model(
        """outer (float[N,8] x) => (float[N,3] y) {
            a = MatMul(x, w0)
            r = Relu(a)
            b = MatMul(r, w1)
            t = local.twice(b)
            y = MatMul(t, w2)
        }
        <domain: "local", opset_import: ["" : 18]>
        twice (u) => (v) { v = Add(u, u) }""",
        {"w0": (8, 12), "w1": (12, 6), "w2": (6, 3)},
    )

"""One small network for each way in which channels hang together."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_ir as ir

from .text import model


def conv_chain() -> ir.Model:
    return model(
        """chain (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r = Relu(a)
            c = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w2)
            s = Relu(c)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3, b3)
        }""",
        {"w1": (16, 3, 3, 3), "b1": (16,), "w2": (12, 16, 3, 3), "w3": (5, 12), "b3": (5,)},
    )


def conv_chain_batch_norm() -> ir.Model:
    norm = {f"{i}{k}": (n,) for i, n in (("one_", 16), ("two_", 12)) for k in ("scale", "shift", "mean", "var")}
    return model(
        """chain (float[N,3,8,8] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1)
            n = BatchNormalization(a, one_scale, one_shift, one_mean, one_var)
            r = Relu(n)
            c = Conv<pads=[1,1,1,1]>(r, w2)
            m = BatchNormalization(c, two_scale, two_shift, two_mean, two_var)
            s = Relu(m)
            p = GlobalAveragePool(s)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3, b3)
        }""",
        {"w1": (16, 3, 3, 3), "w2": (12, 16, 3, 3), "w3": (5, 12), "b3": (5,), **norm},
    )


def residual() -> ir.Model:
    return model(
        """residual (float[N,3,8,8] x) => (float[N,4] y) {
            stem = Conv<pads=[1,1,1,1]>(x, w0, b0)
            a = Relu(stem)
            b = Conv<pads=[1,1,1,1]>(a, w1, b1)
            c = Relu(b)
            d = Conv<pads=[1,1,1,1]>(c, w2, b2)
            e = Add(a, d)
            g = Relu(e)
            p = ReduceMean<keepdims=0>(g, axes)
            y = MatMul(p, w3)
        }""",
        {
            "w0": (8, 3, 3, 3), "b0": (8,), "w1": (12, 8, 3, 3), "b1": (12,), "w2": (8, 12, 3, 3), "b2": (8,),
            "w3": (8, 4), "axes": np.array([2, 3]),
        },
    )  # fmt: skip


def padded_residual() -> ir.Model:
    """The shortcut of the CIFAR ResNets: every other pixel, and zero channels on both sides."""
    return model(
        """padded (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1], strides=[2,2]>(r, w1)
            s = Slice(r, starts, ends, axes, steps)
            q = Pad(s, pads)
            e = Add(q, b)
            g = Relu(e)
            p = GlobalAveragePool(g)
            f = Flatten(p)
            y = Gemm(f, w3)
        }""",
        {
            "w0": (8, 3, 3, 3), "w1": (16, 8, 3, 3), "w3": (16, 4), "starts": np.array([0, 0]),
            "ends": np.array([8, 8]), "axes": np.array([2, 3]), "steps": np.array([2, 2]),
            "pads": np.array([0, 4, 0, 0, 0, 4, 0, 0]),
        },
    )  # fmt: skip


def depthwise() -> ir.Model:
    """An inverted residual: expand, depthwise, project, add."""
    return model(
        """inverted (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            b = Conv(a, w1, b1)
            lo = Constant<value = float {0.0}>()
            hi = Constant<value = float {6.0}>()
            c = Clip(b, lo, hi)
            d = Conv<group=24, pads=[1,1,1,1]>(c, w2, b2)
            e = Clip(d, lo, hi)
            f = Conv(e, w3, b3)
            g = Add(a, f)
            p = GlobalAveragePool(g)
            q = Flatten(p)
            y = Gemm<transB=1>(q, w4)
        }""",
        {
            "w0": (8, 3, 1, 1), "b0": (8,), "w1": (24, 8, 1, 1), "b1": (24,), "w2": (24, 1, 3, 3), "b2": (24,),
            "w3": (8, 24, 1, 1), "b3": (8,), "w4": (4, 8),
        },
    )  # fmt: skip


def grouped() -> ir.Model:
    return model(
        """grouped (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            b = Conv<group=4, pads=[1,1,1,1]>(r, w1, b1)
            s = Relu(b)
            p = GlobalAveragePool(s)
            q = Flatten(p)
            y = Gemm<transB=1>(q, w2)
        }""",
        {"w0": (16, 3, 1, 1), "b0": (16,), "w1": (24, 4, 3, 3), "b1": (24,), "w2": (4, 24)},
    )


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


def flatten_to_gemm() -> ir.Model:
    return model(
        """flat (float[N,2,6,6] x) => (float[N,5] y) {
            a = Conv<pads=[1,1,1,1]>(x, w1, b1)
            r = Relu(a)
            m = MaxPool<kernel_shape=[2,2], strides=[2,2]>(r)
            f = Reshape(m, target)
            h = Gemm<transB=1>(f, w2, b2)
            s = Relu(h)
            y = Gemm<transB=1>(s, w3)
        }""",
        {
            "w1": (10, 2, 3, 3), "b1": (10,), "w2": (12, 90), "b2": (12,), "w3": (5, 12), "target": np.array([-1, 90]),
        },
    )  # fmt: skip


def dense() -> ir.Model:
    """Concat growth, as in DenseNet."""
    return model(
        """dense (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            b = Conv<pads=[1,1,1,1]>(r, w1)
            c = Concat<axis=1>(r, b)
            d = Conv<pads=[1,1,1,1]>(c, w2)
            e = Concat<axis=1>(c, d)
            g = Conv(e, w3)
            p = GlobalAveragePool(g)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4)
        }""",
        {
            "w0": (8, 3, 1, 1), "b0": (8,), "w1": (6, 8, 3, 3), "w2": (6, 14, 3, 3), "w3": (10, 20, 1, 1),
            "w4": (4, 10),
        },
    )  # fmt: skip


def squeeze_excitation() -> ir.Model:
    return model(
        """se (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            p = GlobalAveragePool(r)
            q = Conv(p, w1, b1)
            s = Relu(q)
            t = Conv(s, w2, b2)
            u = HardSigmoid(t)
            m = Mul(r, u)
            v = Conv(m, w3)
            z = GlobalAveragePool(v)
            f = Flatten(z)
            y = Gemm<transB=1>(f, w4)
        }""",
        {
            "w0": (12, 3, 1, 1), "b0": (12,), "w1": (4, 12, 1, 1), "b1": (4,), "w2": (12, 4, 1, 1), "b2": (12,),
            "w3": (8, 12, 1, 1), "w4": (4, 8),
        },
    )  # fmt: skip


def shuffle() -> ir.Model:
    """Reshape-Transpose-Reshape between grouped convolutions."""
    return model(
        """shuffle (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            b = Conv<group=2>(a, w1)
            c = Reshape(b, t1)
            d = Transpose<perm=[0,2,1,3,4]>(c)
            e = Reshape(d, t2)
            g = Conv<group=12, pads=[1,1,1,1]>(e, w2)
            h = Conv(g, w3)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4)
        }""",
        {
            "w0": (8, 3, 1, 1), "b0": (8,), "w1": (12, 4, 1, 1), "w2": (12, 1, 3, 3), "w3": (8, 12, 1, 1),
            "w4": (4, 8), "t1": np.array([0, 2, 6, 6, 6]), "t2": np.array([0, 12, 6, 6]),
        },
    )  # fmt: skip


def interleaved() -> ir.Model:
    """Even and odd channels go different ways, and the last comes first, as Slices with steps say it."""
    return model(
        """steps (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            even = Slice(r, zero, far, one, two)
            odd = Slice(r, last, before, one, minus)
            b = Conv<pads=[1,1,1,1]>(even, w1)
            c = Add(b, odd)
            p = GlobalAveragePool(c)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w2)
        }""",
        {
            "w0": (16, 3, 1, 1), "b0": (16,), "w1": (8, 8, 3, 3), "w2": (4, 8), "zero": np.array([0]),
            "far": np.array([2**62]), "one": np.array([1]), "two": np.array([2]), "last": np.array([-1]),
            "before": np.array([-(2**62)]), "minus": np.array([-2]),
        },
    )  # fmt: skip


def split_concat() -> ir.Model:
    """A cross-stage partial block: one half through convolutions, all parts joined again."""
    return model(
        """csp (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            r = Relu(a)
            u, v = Split<axis=1, num_outputs=2>(r)
            b = Conv<pads=[1,1,1,1]>(v, w1)
            s = Relu(b)
            e = Add(v, s)
            c = Concat<axis=1>(u, v, e)
            g = Conv(c, w2)
            p = GlobalAveragePool(g)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3)
        }""",
        {"w0": (16, 3, 1, 1), "b0": (16,), "w1": (8, 8, 3, 3), "w2": (10, 24, 1, 1), "w3": (4, 10)},
    )


def unet() -> ir.Model:
    return model(
        """unet (float[N,2,8,8] x) => (float[N,1,8,8] y) {
            a = Conv<pads=[1,1,1,1]>(x, w0, b0)
            r = Relu(a)
            d = Conv<strides=[2,2]>(r, w1, b1)
            s = Relu(d)
            t = ConvTranspose<strides=[2,2]>(s, w2, b2)
            c = Concat<axis=1>(r, t)
            e = Conv<pads=[1,1,1,1]>(c, w3)
            g = Relu(e)
            y = Conv(g, w4)
        }""",
        {
            "w0": (8, 2, 3, 3), "b0": (8,), "w1": (12, 8, 2, 2), "b1": (12,), "w2": (12, 8, 2, 2), "b2": (8,),
            "w3": (8, 16, 3, 3), "w4": (1, 8, 1, 1),
        },
    )  # fmt: skip


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
        {"w0": (8, 12), "shared": (12, 12), "w1": (12, 3)},
    )


def behind() -> ir.Model:
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
        {"w0": (16, 8), "w1": (16, 12), "w2": np.random.default_rng(1).standard_normal((12, 3))},
    )


def attention() -> ir.Model:
    """Attention written out, with two heads, and a residual stream that ends in a projection."""
    return model(
        """attention (float[N,5,8] x) => (float[N,5,3] y) {
            h = MatMul(x, we)
            q = MatMul(h, wq)
            q4 = Reshape(q, heads)
            qh = Transpose<perm=[0,2,1,3]>(q4)
            k = MatMul(h, wk)
            k4 = Reshape(k, heads)
            kh = Transpose<perm=[0,2,3,1]>(k4)
            v = MatMul(h, wv)
            v4 = Reshape(v, heads)
            vh = Transpose<perm=[0,2,1,3]>(v4)
            s = MatMul(qh, kh)
            a = Softmax<axis=-1>(s)
            o = MatMul(a, vh)
            ot = Transpose<perm=[0,2,1,3]>(o)
            of = Reshape(ot, flat)
            z = MatMul(of, wo)
            e = Add(h, z)
            y = MatMul(e, wy)
        }""",
        {
            "we": (8, 12), "wq": (12, 16), "wk": (12, 16), "wv": (12, 16), "wo": (16, 12), "wy": (12, 3),
            "heads": np.array([0, 5, 4, 4]), "flat": np.array([0, 5, 16]),
        },
    )  # fmt: skip


def one_dimensional() -> ir.Model:
    return model(
        """signal (float[N,2,32] x) => (float[N,3] y) {
            a = Conv<pads=[1,1], dilations=[1]>(x, w1, b1)
            r = LeakyRelu(a)
            b = Conv<pads=[2,2], dilations=[2]>(r, w2)
            s = PRelu(b, slope)
            p = GlobalMaxPool(s)
            f = Squeeze(p, axes)
            y = Gemm<transB=1>(f, w3)
        }""",
        {
            "w1": (12, 2, 3), "b1": (12,), "w2": (10, 12, 3), "slope": (10, 1), "w3": (3, 10), "axes": np.array([2]),
        },
    )  # fmt: skip


def three_dimensional() -> ir.Model:
    return model(
        """volume (float[N,1,4,6,6] x) => (float[N,3] y) {
            a = Conv<pads=[1,1,1,1,1,1]>(x, w1, b1)
            n = InstanceNormalization(a, scale, shift)
            r = Relu(n)
            b = Conv(r, w2)
            p = GlobalAveragePool(b)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3)
        }""",
        {
            "w1": (8, 1, 3, 3, 3), "b1": (8,), "scale": (8,), "shift": (8,), "w2": (6, 8, 1, 1, 1), "w3": (3, 6),
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


def token_on_zeros() -> ir.Model:
    """A class token that is added to zeros, one for each image of the batch, as some exports expand it."""
    return model(
        """token (float[N,4,8] x) => (float[N,5,3] y) {
            a = MatMul(x, w1)
            n = Shape<start=0, end=1>(x)
            sizes = Concat<axis=0>(n, one, width)
            zeros = ConstantOfShape(sizes)
            first = Add(zeros, token)
            c = Concat<axis=1>(first, a)
            b = MatMul(c, w2)
            d = Add(c, b)
            y = MatMul(d, w3)
        }""",
        {
            "w1": (8, 16), "token": (16,), "w2": (16, 16), "w3": (16, 3), "one": np.array([1]),
            "width": np.array([16]),
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


def encoder() -> ir.Model:
    """A BERT block: embeddings, LayerNormalization after each residual sum, attention, feed-forward."""
    weights = {f"{n}{k}": (12,) for n in ("one", "two", "three") for k in ("_scale", "_shift")}
    return model(
        """encoder (int64[N,5] x) => (float[N,5,3] y) {
            e = Gather(table, x)
            ep = Add(e, positions)
            h = LayerNormalization<axis=-1>(ep, one_scale, one_shift)
            q = MatMul(h, wq)
            q4 = Reshape(q, heads)
            qh = Transpose<perm=[0,2,1,3]>(q4)
            k = MatMul(h, wk)
            k4 = Reshape(k, heads)
            kh = Transpose<perm=[0,2,3,1]>(k4)
            v = MatMul(h, wv)
            v4 = Reshape(v, heads)
            vh = Transpose<perm=[0,2,1,3]>(v4)
            s = MatMul(qh, kh)
            a = Softmax<axis=-1>(s)
            o = MatMul(a, vh)
            ot = Transpose<perm=[0,2,1,3]>(o)
            of = Reshape(ot, flat)
            z = MatMul(of, wo)
            zb = Add(z, bo)
            r1 = Add(h, zb)
            n1 = LayerNormalization<axis=-1>(r1, two_scale, two_shift)
            f1 = MatMul(n1, w1)
            f1b = Add(f1, b1)
            g = Relu(f1b)
            f2 = MatMul(g, w2)
            f2b = Add(f2, b2)
            r2 = Add(n1, f2b)
            n2 = LayerNormalization<axis=-1>(r2, three_scale, three_shift)
            y = MatMul(n2, wy)
        }""",
        {
            "table": (20, 12), "positions": (5, 12), "wq": (12, 16), "wk": (12, 16), "wv": (12, 16), "wo": (16, 12),
            "bo": (12,), "w1": (12, 24), "b1": (24,), "w2": (24, 12), "b2": (12,), "wy": (12, 3),
            "heads": np.array([0, 5, 4, 4]), "flat": np.array([0, 5, 16]), **weights,
        },
    )  # fmt: skip


def norm_after_norm() -> ir.Model:
    """LayerNormalization read by LayerNormalization and by a Slice, as behind a patch embedding."""
    norm = {f"{n}{k}": (16,) for n in ("one", "two") for k in ("_scale", "_shift")}
    return model(
        """norms (float[N,4,8] x) => (float[N,4,5] y) {
            a = MatMul(x, w1)
            n = LayerNormalization<axis=-1>(a, one_scale, one_shift)
            m = LayerNormalization<axis=-1>(n, two_scale, two_shift)
            h = MatMul(m, w2)
            k = Relu(h)
            p = MatMul(k, w3)
            s = Slice(n, zero, four, one)
            r = Add(s, p)
            y = MatMul(r, w4)
        }""",
        {
            "w1": (8, 16), "w2": (16, 12), "w3": (12, 16), "w4": (16, 5), "zero": np.array([0]), "four": np.array([4]),
            "one": np.array([1]), **norm,
        },
    )  # fmt: skip


def mean_square_norm() -> ir.Model:
    """RMSNorm written out, as in decoders."""
    return model(
        """rms (float[N,4,8] x) => (float[N,4,5] y) {
            a = MatMul(x, w1)
            two = Constant<value = float {2.0}>()
            q = Pow(a, two)
            m = ReduceMean(q, last)
            eps = Constant<value = float {0.00001}>()
            e = Add(m, eps)
            d = Sqrt(e)
            i = Reciprocal(d)
            n = Mul(a, i)
            s = Mul(n, scale)
            h = MatMul(s, w2)
            k = Relu(h)
            p = MatMul(k, w3)
            r = Add(a, p)
            y = MatMul(r, w4)
        }""",
        {"w1": (8, 16), "scale": (16,), "w2": (16, 12), "w3": (12, 16), "w4": (16, 5), "last": np.array([-1])},
    )


def written_out_layer_norm() -> ir.Model:
    """LayerNormalization written out: subtracting the mean shifts every channel, so the width stays."""
    return model(
        """ln (float[N,4,8] x) => (float[N,4,5] y) {
            a = MatMul(x, w1)
            m = ReduceMean(a, last)
            c = Sub(a, m)
            q = Mul(c, c)
            v = ReduceMean(q, last)
            eps = Constant<value = float {0.00001}>()
            e = Add(v, eps)
            d = Sqrt(e)
            n = Div(c, d)
            h = MatMul(n, w2)
            k = Relu(h)
            y = MatMul(k, w3)
        }""",
        {"w1": (8, 16), "w2": (16, 12), "w3": (12, 5), "last": np.array([-1])},
    )


TOPOLOGIES: dict[str, tuple[Callable[[], ir.Model], float]] = {
    "conv chain": (conv_chain, 0.34),
    "conv chain, batch norm": (conv_chain_batch_norm, 0.36),
    "residual": (residual, 0.36),
    "padded residual": (padded_residual, 0.36),
    "depthwise": (depthwise, 0.53),
    "grouped": (grouped, 0.53),
    "mlp": (mlp, 0.38),
    "flatten to gemm": (flatten_to_gemm, 0.30),
    "dense": (dense, 0.36),
    "squeeze and excitation": (squeeze_excitation, 0.40),
    "shuffle": (shuffle, 0.60),
    "split concat": (split_concat, 0.36),
    "interleaved": (interleaved, 0.36),
    "unet": (unet, 0.33),
    "tied": (tied, 0.38),
    "behind": (behind, 0.37),
    "attention": (attention, 0.36),
    "one-dimensional": (one_dimensional, 0.35),
    "three-dimensional": (three_dimensional, 0.53),
    "computed shape": (computed_shape, 0.51),
    "token on zeros": (token_on_zeros, 0.40),
    "inner graph": (inner_graph, 0.64),
    "lstm": (lambda: recurrent("LSTM", 4, 1), 0.35),
    "lstm, both directions": (lambda: recurrent("LSTM", 4, 2), 0.35),
    "gru": (lambda: recurrent("GRU", 3, 1), 0.35),
    "gru, both directions": (lambda: recurrent("GRU", 3, 2), 0.35),
    "rnn": (lambda: recurrent("RNN", 1, 1), 0.35),
    "lstm, states of zeros": (zero_state, 0.45),
    "encoder": (encoder, 0.36),
    "norm after norm": (norm_after_norm, 0.46),
    "mean square norm": (mean_square_norm, 0.42),
    "written out layer norm": (written_out_layer_norm, 0.75),
}
"""Name → (graph, the largest share of parameters that may be left at sparsity 0.5). The small input and output
layers of these networks weigh more than those of real ones."""

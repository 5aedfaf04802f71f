"""Transformers: attention, residual streams, and normalisations, in operators and written out."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .text import model

TOKENS, WIDTH, HEADS, HIDDEN = 5, 24, 4, 48


def attention_of(x: str, *, shared: bool = False) -> str:
    """Write attention out, from `x` to ``z``; with `shared`, two query heads read each head of keys and values."""
    repeat = """
        {0}t = Transpose<perm=[0,2,1,3]>({0}4)
        {0}u = Unsqueeze({0}t, two)
        {0}e = Expand({0}u, twice)
        {0}r = Reshape({0}e, all_heads)"""
    keys = (
        (repeat.format("k") + "\n kh = Transpose<perm=[0,1,3,2]>(kr)")
        if shared
        else "kh = Transpose<perm=[0,2,3,1]>(k4)"
    )
    values = (repeat.format("v") + "\n vh = Identity(vr)") if shared else "vh = Transpose<perm=[0,2,1,3]>(v4)"
    return f"""
        q = MatMul({x}, wq)
        q4 = Reshape(q, heads)
        qh = Transpose<perm=[0,2,1,3]>(q4)
        k = MatMul({x}, wk)
        k4 = Reshape(k, key_heads)
        {keys}
        v = MatMul({x}, wv)
        v4 = Reshape(v, key_heads)
        {values}
        s = MatMul(qh, kh)
        a = Softmax<axis=-1>(s)
        o = MatMul(a, vh)
        ot = Transpose<perm=[0,2,1,3]>(o)
        of = Reshape(ot, flat)
        z = MatMul(of, wo)"""


def attention_weights(*, shared: bool = False) -> dict[str, tuple[int, ...] | np.ndarray]:
    """What `attention_of` reads."""
    few, size = HEADS // 2 if shared else HEADS, WIDTH // HEADS
    shapes = {"twice": [1, few, 2, TOKENS, size], "two": [2], "all_heads": [0, HEADS, TOKENS, size]}
    return {
        "wq": (WIDTH, WIDTH), "wk": (WIDTH, few * size), "wv": (WIDTH, few * size), "wo": (WIDTH, WIDTH),
        "heads": np.array([0, TOKENS, HEADS, size]), "key_heads": np.array([0, TOKENS, few, size]),
        "flat": np.array([0, TOKENS, WIDTH]), **({n: np.array(a) for n, a in shapes.items()} if shared else {}),
    }  # fmt: skip


def attention(*, shared: bool = False) -> ir.Model:
    """Attention with a residual stream that ends in a projection."""
    return model(
        f"""attention (float[N,{TOKENS},8] x) => (float[N,{TOKENS},3] y) {{
            h = MatMul(x, we)
            {attention_of("h", shared=shared)}
            e = Add(h, z)
            y = MatMul(e, wy)
        }}""",
        {"we": (8, WIDTH), "wy": (WIDTH, 3), **attention_weights(shared=shared)},
    )


def encoder() -> ir.Model:
    """A BERT block: embeddings, LayerNormalization after each residual sum, attention, feed-forward."""
    norms = {f"{n}{k}": (WIDTH,) for n in ("one", "two", "three") for k in ("_scale", "_shift")}
    return model(
        f"""encoder (int64[N,{TOKENS}] x) => (float[N,{TOKENS},3] y) {{
            e = Gather(table, x)
            ep = Add(e, positions)
            h = LayerNormalization<axis=-1>(ep, one_scale, one_shift)
            {attention_of("h")}
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
        }}""",
        {
            "table": (20, WIDTH), "positions": (TOKENS, WIDTH), "bo": (WIDTH,), "w1": (WIDTH, HIDDEN),
            "b1": (HIDDEN,), "w2": (HIDDEN, WIDTH), "b2": (WIDTH,), "wy": (WIDTH, 3), **attention_weights(), **norms,
        },
    )  # fmt: skip


def vision_transformer() -> ir.Model:
    """Patches, a class token, LayerNormalization before attention and feed-forward, q, k and v in one weight."""
    norms = {f"{n}{k}": (WIDTH,) for n in ("one", "two", "three") for k in ("_scale", "_shift")}
    size = WIDTH // HEADS
    return model(
        """vit (float[N,3,8,8] x) => (float[N,4] y) {
            p = Conv<strides=[4,4]>(x, wp, bp)
            pf = Reshape(p, patches)
            pt = Transpose<perm=[0,2,1]>(pf)
            n = Shape<start=0, end=1>(x)
            batch = Concat<axis=0>(n, once, once)
            c = Expand(token, batch)
            t = Concat<axis=1>(c, pt)
            h = Add(t, positions)
            n1 = LayerNormalization<axis=-1>(h, one_scale, one_shift)
            w = MatMul(n1, wqkv)
            w5 = Reshape(w, three_heads)
            wt = Transpose<perm=[2,0,3,1,4]>(w5)
            q1, k1, v1 = Split<axis=0, num_outputs=3>(wt)
            q = Squeeze(q1, zero)
            k = Squeeze(k1, zero)
            v = Squeeze(v1, zero)
            kt = Transpose<perm=[0,1,3,2]>(k)
            s = MatMul(q, kt)
            a = Softmax<axis=-1>(s)
            o = MatMul(a, v)
            ot = Transpose<perm=[0,2,1,3]>(o)
            of = Reshape(ot, flat)
            z = MatMul(of, wo)
            r1 = Add(h, z)
            n2 = LayerNormalization<axis=-1>(r1, two_scale, two_shift)
            f1 = MatMul(n2, w1)
            f1b = Add(f1, b1)
            g = Gelu(f1b)
            f2 = MatMul(g, w2)
            r2 = Add(r1, f2)
            n3 = LayerNormalization<axis=-1>(r2, three_scale, three_shift)
            first = Gather<axis=1>(n3, index)
            y = Gemm<transB=1>(first, wy)
        }""",
        {
            "wp": (WIDTH, 3, 4, 4), "bp": (WIDTH,), "patches": np.array([0, 0, 4]), "once": np.array([1]),
            "token": (1, 1, WIDTH), "positions": (1, TOKENS, WIDTH), "wqkv": (WIDTH, 3 * WIDTH),
            "three_heads": np.array([0, TOKENS, 3, HEADS, size]), "zero": np.array([0]),
            "flat": np.array([0, TOKENS, WIDTH]), "wo": (WIDTH, WIDTH), "w1": (WIDTH, HIDDEN), "b1": (HIDDEN,),
            "w2": (HIDDEN, WIDTH), "index": np.array(0), "wy": (4, WIDTH), **norms,
        },
        opset=20,
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
    """LayerNormalization written out: subtracting the mean shifts every channel."""
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
        {"w1": (8, 32), "w2": (32, 32), "w3": (32, 5), "last": np.array([-1])},
    )


def variance_norm() -> ir.Model:
    """Division by the unbiased deviation, as exporters write ``x.var()``: the width is read off the shape."""
    return model(
        """var (float[N,4,8] x) => (float[N,4,5] y) {
            a = MatMul(x, w1)
            s = Shape(a)
            n = Gather<axis=0>(s, two)
            m = ReduceMean(a, last)
            c = Sub(a, m)
            q = Mul(c, c)
            v = ReduceMean<keepdims=0>(q, last)
            f = Cast<to=1>(n)
            t = Mul(v, f)
            one = Constant<value = float {1.0}>()
            g = Sub(f, one)
            u = Div(t, g)
            e = Unsqueeze(u, last)
            d = Sqrt(e)
            i = Reciprocal(d)
            b = Mul(a, i)
            h = MatMul(b, w2)
            k = Relu(h)
            p = MatMul(k, w3)
            r = Add(a, p)
            y = MatMul(r, w4)
        }""",
        {
            "w1": (8, 32), "w2": (32, 24), "w3": (24, 32), "w4": (32, 5), "last": np.array([-1]), "two": np.array(2),
        },
    )  # fmt: skip


def mixer() -> ir.Model:
    """Tokens mixed by a convolution whose channels they are: the embedding is its spatial axis."""
    return model(
        """mixer (float[N,4,8] x) => (float[N,4,3] y) {
            a = MatMul(x, w1)
            t = Conv(a, wt, bt)
            g = Relu(t)
            r = Add(a, g)
            h = MatMul(r, w2)
            y = MatMul(h, w3)
        }""",
        {"w1": (8, 32), "wt": (4, 4, 1), "bt": (4,), "w2": (32, 24), "w3": (24, 3)},
    )


def linear_attention() -> ir.Model:
    """ReLU attention: a row of ones, which Pad adds to the values, sums up what each output is divided by."""
    return model(
        """linear (float[N,5,8] x) => (float[N,5,3] y) {
            h = MatMul(x, we)
            q = MatMul(h, wq)
            qr = Relu(q)
            k = MatMul(h, wk)
            kr = Relu(k)
            kt = Transpose<perm=[0,2,1]>(kr)
            v = MatMul(h, wv)
            vp = Pad(v, pads, one)
            s = MatMul(kt, vp)
            o = MatMul(qr, s)
            u = Slice(o, zero, last, axis)
            n = Slice(o, last, far, axis)
            e = Add(n, tiny)
            d = Div(u, e)
            z = MatMul(d, wo)
            r = Add(h, z)
            y = MatMul(r, wy)
        }""",
        {
            "we": (8, 24), "wq": (24, 16), "wk": (24, 16), "wv": (24, 16), "wo": (16, 24), "wy": (24, 3),
            "pads": np.array([0, 0, 0, 0, 0, 1]), "one": np.array(1, np.float32), "zero": np.array([0]),
            "last": np.array([-1]), "far": np.array([2**62]), "axis": np.array([2]),
            "tiny": np.array(0.5, np.float32),
        },
    )  # fmt: skip


def gated_heads() -> ir.Model:
    """Heads with a gate each, divided by their own sum: a head of zeros would be 0 / 0."""
    return model(
        """gates (float[N,5,8] x) => (float[N,5,3] y) {
            a = MatMul(x, w1)
            h = Reshape(a, heads)
            e = Sigmoid(h)
            g = Mul(e, gate)
            s = ReduceSum(g, last)
            d = Div(g, s)
            f = Reshape(d, flat)
            b = MatMul(f, w2)
            r = Relu(b)
            y = MatMul(r, w3)
        }""",
        {
            "w1": (8, 32), "gate": (8, 1), "w2": (32, 24), "w3": (24, 3), "heads": np.array([0, 5, 8, 4]),
            "flat": np.array([0, 5, 32]), "last": np.array([-1]),
        },
    )  # fmt: skip


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

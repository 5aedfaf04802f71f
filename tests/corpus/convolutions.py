"""Convolutional networks, one for each way in which their channels hang together."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from .text import model


def conv_chain(first: int = 16, second: int = 12) -> ir.Model:
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
        {
            "w1": (first, 3, 3, 3),
            "b1": (first,),
            "w2": (second, first, 3, 3),
            "w3": (5, second),
            "b3": (5,),
        },
    )


STATISTICS = ("scale", "shift", "mean", "var")


def conv_chain_batch_norm(first: int = 16, second: int = 12) -> ir.Model:
    norm = {f"{i}{k}": (n,) for i, n in (("one_", first), ("two_", second)) for k in STATISTICS}
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
        {"w1": (first, 3, 3, 3), "w2": (second, first, 3, 3), "w3": (5, second), "b3": (5,), **norm},
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


def residual_batch_norm() -> ir.Model:
    """A block with projection, as it is trained: BatchNormalization behind every convolution."""
    widths = {"stem": 16, "one": 24, "two": 32, "skip": 32}
    norm = {f"{name}_{k}": (n,) for name, n in widths.items() for k in STATISTICS}
    return model(
        """block (float[N,3,8,8] x) => (float[N,4] y) {
            s = Conv<pads=[1,1,1,1]>(x, w0)
            sn = BatchNormalization(s, stem_scale, stem_shift, stem_mean, stem_var)
            a = Relu(sn)
            b = Conv<pads=[1,1,1,1], strides=[2,2]>(a, w1)
            bn = BatchNormalization(b, one_scale, one_shift, one_mean, one_var)
            c = Relu(bn)
            d = Conv<pads=[1,1,1,1]>(c, w2)
            dn = BatchNormalization(d, two_scale, two_shift, two_mean, two_var)
            e = Conv<strides=[2,2]>(a, w3)
            en = BatchNormalization(e, skip_scale, skip_shift, skip_mean, skip_var)
            r = Add(dn, en)
            g = Relu(r)
            p = GlobalAveragePool(g)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4)
        }""",
        {"w0": (16, 3, 3, 3), "w1": (24, 16, 3, 3), "w2": (32, 24, 3, 3), "w3": (32, 16, 1, 1), "w4": (4, 32), **norm},
    )


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
            d = Conv<group=64, pads=[1,1,1,1]>(c, w2, b2)
            e = Clip(d, lo, hi)
            f = Conv(e, w3, b3)
            g = Add(a, f)
            p = GlobalAveragePool(g)
            q = Flatten(p)
            y = Gemm<transB=1>(q, w4)
        }""",
        {
            "w0": (16, 3, 1, 1), "b0": (16,), "w1": (64, 16, 1, 1), "b1": (64,), "w2": (64, 1, 3, 3), "b2": (64,),
            "w3": (16, 64, 1, 1), "b3": (16,), "w4": (4, 16),
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


def bottleneck() -> ir.Model:
    """A ResNeXt block: reduce, a grouped and dilated convolution, expand, add."""
    return model(
        """bottleneck (float[N,3,8,8] x) => (float[N,4] y) {
            a = Conv(x, w0, b0)
            b = Conv(a, w1, b1)
            c = Relu(b)
            d = Conv<group=8, pads=[2,2,2,2], dilations=[2,2]>(c, w2, b2)
            e = Relu(d)
            f = Conv(e, w3, b3)
            g = Add(a, f)
            r = Relu(g)
            p = GlobalAveragePool(r)
            q = Flatten(p)
            y = Gemm<transB=1>(q, w4)
        }""",
        {
            "w0": (64, 3, 1, 1), "b0": (64,), "w1": (32, 64, 1, 1), "b1": (32,), "w2": (32, 4, 3, 3), "b2": (32,),
            "w3": (64, 32, 1, 1), "b3": (64,), "w4": (4, 64),
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
            v = Conv<pads=[1,1,1,1]>(m, w3)
            z = GlobalAveragePool(v)
            f = Flatten(z)
            y = Gemm<transB=1>(f, w4)
        }""",
        {
            "w0": (48, 3, 1, 1), "b0": (48,), "w1": (16, 48, 1, 1), "b1": (16,), "w2": (48, 16, 1, 1), "b2": (48,),
            "w3": (64, 48, 3, 3), "w4": (4, 64),
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
            g = Conv<group=24, pads=[1,1,1,1]>(e, w2)
            h = Conv(g, w3)
            p = GlobalAveragePool(h)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w4)
        }""",
        {
            "w0": (16, 3, 1, 1), "b0": (16,), "w1": (24, 8, 1, 1), "w2": (24, 1, 3, 3), "w3": (48, 24, 1, 1),
            "w4": (4, 48), "t1": np.array([0, 2, 12, 6, 6]), "t2": np.array([0, 24, 6, 6]),
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
            b = Conv<pads=[1,1,1,1,1,1]>(r, w2)
            p = GlobalAveragePool(b)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w3)
        }""",
        {
            "w1": (16, 1, 3, 3, 3), "b1": (16,), "scale": (16,), "shift": (16,), "w2": (12, 16, 3, 3, 3), "w3": (3, 12),
        },
    )  # fmt: skip


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


def response_norm() -> ir.Model:
    """ConvNeXt V2's normalisation: each channel's norm against the mean of all norms."""
    return model(
        """grn (float[N,3,6,6] x) => (float[N,4] y) {
            a = Conv(x, w0)
            r = Relu(a)
            n = ReduceL2(r, space)
            m = ReduceMean(n, channels)
            e = Add(m, tiny)
            d = Div(n, e)
            s = Mul(r, d)
            g = Mul(s, scale)
            h = Add(g, shift)
            k = Add(h, r)
            b = Conv<pads=[1,1,1,1]>(k, w1)
            p = GlobalAveragePool(b)
            f = Flatten(p)
            y = Gemm<transB=1>(f, w2)
        }""",
        {
            "w0": (16, 3, 1, 1), "space": np.array([2, 3]), "channels": np.array([1]),
            "tiny": np.array(1e-6, np.float32),
            "scale": (1, 16, 1, 1), "shift": (1, 16, 1, 1), "w1": (24, 16, 3, 3), "w2": (4, 24),
        },
    )  # fmt: skip

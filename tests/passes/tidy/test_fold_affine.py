"""`FoldAffine`: what is folded, what stays, and that the outputs stay the same."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.oracle import drawn_feeds, plain_run
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.graph import shapes
from onnxcompress.passes import FoldAffine

EACH = {"a": (4, 1, 1), "c": (4, 1, 1), "w": (4, 4, 3, 3), "b": (4,)}
ONE = {"s": np.array([0.3], np.float32), "t": np.array([-2], np.float32), "w": (4, 4, 3, 3), "b": (4,)}
ROW = {"a": (5,), "c": (5,), "w": (8, 5), "b": (5,), "v": (5, 8)}
PADDED = "Conv<pads = [1, 1, 1, 1]>"

FOLDED = {
    "behind a convolution": ("N,4,6,6", f"p = {PADDED}(x, w, b) q = Mul(p, a) y = Add(q, c)", EACH, ["Conv"]),
    "one number": ("N,4,6,6", "p = Conv(x, w) q = Div(p, s) r = Sub(q, t) y = Relu(r)", ONE, ["Conv", "Relu"]),
    "before": ("N,4,6,6", f"p = Mul(x, a) y = {PADDED}(p, w, b)", EACH, ["Conv"]),
    "before, for two": ("N,4,6,6", "p = Div(x, a) q = Conv(p, w) r = Conv(p, k) y = Sub(q, r)",
                        EACH | {"k": (4, 4, 3, 3)}, ["Conv", "Conv", "Sub"]),
    "a sum before, without padding": ("N,4,6,6", "p = Add(x, a) y = Conv(p, w, b)", EACH, ["Conv"]),
    "a sum before padding": ("N,4,6,6", f"p = Add(x, a) y = {PADDED}(p, w)", EACH, ["Add", "Conv"]),
    "depthwise": ("N,4,6,6", "p = Mul(x, a) q = Conv<group = 4>(p, d) y = Mul(q, c)",
                  EACH | {"d": (4, 1, 3, 3)}, ["Conv"]),
    "gemm": ("N,8", "p = Gemm<beta = 2.0>(x, w, b) q = Mul(a, p) y = Add(q, c)", ROW, ["Gemm"]),
    "gemm, transposed": ("N,5", "p = Mul(x, a) y = Gemm<transB = 1>(p, w)", ROW, ["Gemm"]),
    "matmul": ("N,3,8", "p = MatMul(x, w) q = Mul(p, a) r = MatMul(q, v) y = Div(r, s)",
               ROW | {"s": (8,)}, ["MatMul"] * 2),
    "matmul keeps its sum": ("N,3,8", "p = MatMul(x, w) y = Add(p, a)", ROW, ["MatMul", "Add"]),
    "two numbers": ("N,4,6,6", "p = Mul(x, s) q = Div(p, t) y = Relu(q)", ONE, ["Div", "Relu"]),
    "one over x": ("N,4,6,6", "p = Conv(x, w) y = Div(s, p)", ONE, ["Conv", "Div"]),
    "read twice": ("N,4,6,6", "p = Conv(x, w) q = Mul(p, s) y = Add(p, q)", ONE, ["Conv", "Mul", "Add"]),
    "by zero": ("N,4,6,6", "p = Conv(x, w) y = Div(p, z)", ONE | {"z": np.zeros(1, np.float32)}, ["Conv", "Div"]),
    "more axes": ("N,4,6,6", "p = Conv(x, w) q = Add(p, k) y = ReduceMax<keepdims = 0>(q)",
                  ONE | {"k": (1, 1, 1, 1, 4)}, ["Conv", "Add", "ReduceMax"]),
    "another axis": ("N,4,6,6", "p = Conv(x, w) y = Mul(p, k)", ONE | {"k": (4, 1)}, ["Conv", "Mul"]),
    "a shared weight": ("N,4,6,6", "p = Conv(x, w) q = Mul(p, s) r = Conv(x, w) y = Add(q, r)", ONE,
                        ["Conv", "Mul", "Conv", "Add"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FOLDED)
def test_constants_go_into_the_weights_beside_them(case: str) -> None:
    shape, body, weights, expected = FOLDED[case]
    used = {n: s for n, s in weights.items() if any(f"{n}{end}" in body for end in (")", ","))}
    rank = 0 if "ReduceMax" in body else shape.count(",") + 1
    out = f"float[{','.join('ABCDE'[:rank])}] y" if rank else "float y"
    subject = model(f"g (float[{shape}] x) => ({out}) {{ {body} }}", used)
    shapes.infer(subject)
    folded = subject.clone()
    changes = FoldAffine().apply(folded, FoldAffine().plan(subject, Context(subject)))
    assert [node.op_type for node in folded.graph] == expected
    assert bool(changes.done) == (len(expected) < len(list(subject.graph)))
    feeds = drawn_feeds(subject)
    before, after = plain_run(subject, feeds)["y"], plain_run(folded, feeds)["y"]
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before[np.isfinite(before)]).max(initial=0))

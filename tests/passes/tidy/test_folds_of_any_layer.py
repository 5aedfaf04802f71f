"""Whatever a layer's attributes and the shapes of its constants, folding computes the same, or does not happen."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.passes import FoldAffine, FoldBatchNorm, FoldConstants, QuantizeDynamic
from onnxcompress.passes.quantize.prepare.prepare import FORMS, prepare

ROWS, INPUTS, OUTPUTS = 3, 6, 4
C_SHAPES: list[tuple[int, ...] | None] = [None, (), (1,), (4,), (1, 1), (1, 4), (3, 1), (3, 4)]
NEXT = {
    "before": "s = {op}(x, k) u = Gemm<{attributes}>(s, w{c}) y = Relu(u)",
    "behind": "u = Gemm<{attributes}>(x, w{c}) v = {op}(u, k) y = Relu(v)",
    "norm": "u = Gemm<{attributes}>(x, w{c}) v = BatchNormalization(u, s, b, m, var) y = Relu(v)",
}
GEMMS = list(itertools.product((1.0, 0.5), (1.0, 2.0), (0, 1), (0, 1), C_SHAPES))


def gemm(where: str, op: str, alpha: float, beta: float, trans: tuple[int, int], c: tuple[int, ...] | None) -> ir.Model:
    attributes = f"alpha = {alpha}, beta = {beta}, transA = {trans[0]}, transB = {trans[1]}"
    x = (INPUTS, ROWS) if trans[0] else (ROWS, INPUTS)
    body = NEXT[where].format(op=op, attributes=attributes, c="" if c is None else ", c")
    weights: dict[str, tuple[int, ...]] = {"w": (OUTPUTS, INPUTS) if trans[1] else (INPUTS, OUTPUTS)}
    weights |= {} if c is None else {"c": c}
    if where == "norm":
        weights |= dict.fromkeys(("s", "b", "m", "var"), (OUTPUTS,))
    else:
        weights["k"] = (x[1],) if where == "before" else (OUTPUTS,)
    return model(f"g (float[{x[0]},{x[1]}] x) => (float[{ROWS},{OUTPUTS}] y) {{ {body} }}", weights)


@pytest.mark.parametrize(
    ("where", "op"),
    [("norm", "")] + [(where, op) for where in ("before", "behind") for op in ("Add", "Mul", "Sub", "Div")],
)
def test_every_gemm(where: str, op: str) -> None:
    folded = 0
    for alpha, beta, trans_a, trans_b, c in GEMMS:
        subject = gemm(where, op, alpha, beta, (trans_a, trans_b), c)
        size = (INPUTS, ROWS) if trans_a else (ROWS, INPUTS)
        feeds = {"x": np.random.default_rng(1).standard_normal(size).astype(np.float32)}
        result = subject.clone()
        prepare(result, FORMS["quantize"].at(18))
        assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-4)
        folded += len(list(result.graph)) == 2
    possible = sum(1 for *_, c in GEMMS if c is None or c in ((), (1,), (4,), (1, 1), (1, 4)))
    assert folded == (possible // 2 if where == "before" else possible)  # transposed inputs have their channels first


CONVOLUTIONS = {
    "Conv": ("w", (8, 4, 3, 3), "group = 1"),
    "grouped Conv": ("w", (8, 2, 3, 3), "group = 2"),
    "depthwise Conv": ("w", (4, 1, 3, 3), "group = 4"),
    "ConvTranspose": ("w", (4, 8, 3, 3), "group = 1"),
    "grouped ConvTranspose": ("w", (4, 3, 3, 3), "group = 2"),
    "padded Conv": ("w", (8, 4, 3, 3), "pads = [1, 1, 1, 1]"),
    "Conv of the same size": ("w", (8, 4, 3, 3), 'auto_pad = "SAME_UPPER"'),
}


@pytest.mark.parametrize("what", CONVOLUTIONS)
@pytest.mark.parametrize("op", ["Add", "Mul", "Sub", "Div"])
@pytest.mark.parametrize("each", [True, False])
def test_every_convolution(what: str, op: str, each: bool) -> None:
    name, shape, attributes = CONVOLUTIONS[what]
    kind = what.split()[-1] if what.split()[-1].startswith("Conv") else "Conv"
    groups = 4 if "depthwise" in what else 2 if "grouped" in what else 1
    channels = shape[1] * groups if kind == "ConvTranspose" else shape[0]
    text = f"""g (float[2,4,7,7] x) => (float[N,C,H,W] y) {{
        a = {op}(x, k) c = {kind}<{attributes}>(a, {name}) d = {op}(c, l)
        e = BatchNormalization(d, s, b, m, var) y = Relu(e) }}"""
    weights: dict[str, tuple[int, ...]] = {
        "w": shape,
        "k": (4 if each else 1, 1, 1),
        "l": (channels if each else 1, 1, 1),
    }
    subject = model(text, weights | dict.fromkeys(("s", "b", "m", "var"), (channels,)))
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 4, 7, 7)).astype(np.float32)}
    result = subject.clone()
    prepare(result, FORMS["quantize"].at(18))
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 1e-4)
    stays = op in ("Add", "Sub") and what not in ("Conv", "grouped Conv", "depthwise Conv")
    assert [node.op_type for node in result.graph] == [*([op] if stays else []), kind, "Relu"]


OLD = {
    "Softmax": "Softmax <axis = 0>",
    "LogSoftmax": "LogSoftmax <axis = 1>",
    "Hardmax": "Hardmax <axis = 0>",
    "TopK": "TopK <axis = 0>",
    "ReduceMean": "ReduceMean <axes = [0], keepdims = 1>",
}


@pytest.mark.parametrize("op", OLD)
@pytest.mark.parametrize("opset", [7, 9, 11, 12])
def test_constants_are_what_onnxruntime_computes(op: str, opset: int) -> None:
    call = f"p, i = {OLD[op]}(c, k)" if op == "TopK" and opset > 9 else f"p = {OLD[op]}(c)"
    if op == "TopK" and opset < 10:
        call = "p, i = TopK <axis = 0, k = 2>(c)"
    weights = {"c": (3, 4, 5)} | ({"k": np.array([2])} if "(c, k)" in call else {})
    subject = model(f"g (float[N,4,5] x) => (float[M,4,5] y) {{ {call} y = Add(x, p) }}", weights, opset=opset)
    result, _ = apply(subject, [FoldConstants()])
    assert [node.op_type for node in result.graph] == ["Add"]
    feeds = {"x": np.zeros((1, 4, 5), np.float32)}
    assert_same(plain_run(subject, feeds), plain_run(result, feeds), 0)


def tied(count: int, move: str, size: int = 96) -> ir.Model:
    """Some products with one weight, each of which reads it through a node of its own."""
    nodes = [f"w{i} = {move}(w) h{i} = MatMul(r{i}, w{i}) r{i + 1} = Relu(h{i})" for i in range(count)]
    text = f"g (float[N,{size}] r0) => (float[N,{size}] y) {{ {' '.join(nodes)} y = Identity(r{count}) }}"
    return model(text, {"w": (size, size)})


def size_of(subject: ir.Model) -> int:
    return len(ir.to_proto(subject).SerializeToString())


@pytest.mark.parametrize("move", ["Identity", "Transpose <perm = [1, 0]>", "Cast <to = 1>", "Neg"])
def test_what_is_computed_alike_is_stored_once(move: str) -> None:
    subject = tied(8, move)
    folded, _ = apply(subject, [FoldConstants()])
    assert size_of(folded) <= 1.05 * size_of(subject)
    assert len(folded.graph.initializers) == 1
    feeds = {"r0": np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32)}
    assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 0)
    assert size_of(apply(folded, [QuantizeDynamic()])[0]) < 0.5 * size_of(subject)


def test_branches_share_what_both_compute() -> None:
    """Exporters write the constants of a slice into each branch anew."""
    gates = """zero = Constant <value_ints = [0]> () half = Constant <value_ints = [48]> ()
        all = Constant <value_ints = [96]> ()
        one = Slice(w, zero, half, zero) other = Slice(w, half, all, zero) turned = Concat <axis = 0> (other, one)"""
    text = f"""g (float[N,96] x, bool c) => (float[N,96] y) {{ y = If(c) <
        then_branch = t () => (float[a,b] p) {{ {gates} p = MatMul(x, turned) }},
        else_branch = e () => (float[a,b] q) {{ {gates} n = Neg(x) q = MatMul(n, turned) }}> }}"""
    subject = model(text, {"w": (96, 96)})
    folded, _ = apply(subject, [FoldConstants()])
    assert size_of(folded) <= size_of(subject)
    assert [tuple(v.const_value.shape) for v in folded.graph.initializers.values() if v.const_value is not None] == [
        (96, 96)
    ]
    for taken in (True, False):
        feeds = {"x": np.random.default_rng(0).standard_normal((2, 96)).astype(np.float32), "c": np.array(taken)}
        assert_same(plain_run(subject, feeds), plain_run(folded, feeds), 0)


def test_other_forms_of_a_large_weight_are_not_stored_beside_it() -> None:
    """A weight that is also read as it is would be there once for each form."""
    text = """g (float[N,600] x) => (float[N,600] y) {
        a = MatMul(x, w) t = Transpose <perm = [1, 0]> (w) b = MatMul(a, t) n = Neg(w) y = MatMul(b, n) }"""
    subject = model(text, {"w": (600, 600)})
    folded, report = apply(subject, [FoldConstants()])
    assert size_of(folded) <= size_of(subject) + (1 << 20)
    assert [r.reason for r in report.steps[0].refused] == ["the file would be larger than it is"] * 2


def test_a_weight_that_norms_share_is_not_copied() -> None:
    """Heads of detectors share a convolution between levels, each with a normalisation of its own."""
    text = """g (float[1,4,8,8] a, float[1,4,4,4] b) => (float[1,4,6,6] y, float[1,4,2,2] z) {
        c = Conv(a, w) y = BatchNormalization(c, s, t, m, var)
        d = Conv(b, w) z = BatchNormalization(d, s, t, m, var) }"""
    subject = model(text, {"w": (4, 4, 3, 3)} | dict.fromkeys(("s", "t", "m", "var"), (4,)))
    folded, report = apply(subject, [FoldBatchNorm()])
    assert "w" in folded.graph.initializers
    assert {r.reason.split(" is ", 1)[1] for r in report.steps[0].refused} == {
        "read elsewhere too, and would be stored twice"
    }


def test_numbers_that_float16_does_not_hold_are_not_folded() -> None:
    half = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float16)
    text = """g (float16[1,3,8,8] x) => (float16[1,4,6,6] y) {
        c = Conv(x, w) y = BatchNormalization(c, s, t, m, var) }"""
    proto = onnx.parser.parse_model('<ir_version: 9, opset_import: ["" : 18]>' + text)
    given = {"w": half, "s": np.full(4, 3e4, np.float16), "var": np.full(4, 1e-3, np.float16)}
    given |= {"t": np.zeros(4, np.float16), "m": np.zeros(4, np.float16)}
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in given.items())
    _, report = apply(proto, [FoldBatchNorm(), FoldAffine()])
    assert "does not hold the product" in report.steps[0].refused[0].reason

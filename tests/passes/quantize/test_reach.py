"""What `Quantize` reaches: inner graphs, local functions, 16-bit floats, weights wherever they are."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from corpus.versions import skip_before

from onnxcompress.contract import Changes, Context
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.passes import Quantize
from onnxcompress.passes.quantize.static.observe import expose
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Kernels = Callable[[Any], Counter[str]]

CONV = "Conv<pads = [1, 1, 1, 1]>"


def close(a: np.ndarray, b: np.ndarray) -> float:
    """Signal to quantization noise, in dB."""
    noise = np.square(a.astype(np.float64) - b).mean()
    return float(10 * np.log10(np.square(a.astype(np.float64)).mean() / max(noise, 1e-30)))


def all_nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from all_nodes(attribute.g)


def optimized(subject: ir.Model, tmp_path: Path) -> Counter[str]:
    """Count the operators that onnxruntime makes of a model, in inner graphs too."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(subject).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in all_nodes(onnx.load(tmp_path / "optimized.onnx").graph))


def images(count: int = 4) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(count, 4, 8, 8)).astype(np.float32)


BRANCHES = f"""g (float[N,4,8,8] x, bool c) => (float[N,4,8,8] y) {{
    k = {CONV}(x, w0)
    y = If (c) <
        then_branch = t () => (float[N,4,8,8] p) {{ [one] a = {CONV}(k, w1) r = Relu(a) [two] p = {CONV}(r, w2) }},
        else_branch = e () => (float[N,4,8,8] p) {{ [three] a = {CONV}(k, w2) q = Relu(a) [four] p = {CONV}(q, w1) }}
    > }}"""
SAME = {"w0": (4, 4, 3, 3), "w1": (4, 4, 3, 3), "w2": (4, 4, 3, 3)}


def both(x: np.ndarray) -> list[dict[str, Any]]:
    return [{"x": x, "c": np.array(True)}, {"x": x * 3, "c": np.array(False)}]


# --- inner graphs ----------------------------------------------------------------------------------------------------


def test_both_branches_of_an_if_compute_on_integers(quantized: Quantizer, tmp_path: Path) -> None:
    skip_before("1.31", "names kernels of inner graphs alike, and cannot write them")
    subject = model(BRANCHES, SAME)
    result, changes = quantized(subject, both(images()))  # type: ignore[arg-type]
    assert not changes.refused
    assert optimized(result, tmp_path)["QLinearConv"] == 5
    stored = [v.const_value for v in edit.values(result.graph) if v.const_value is not None]
    assert [t.size for t in stored if t.dtype == ir.DataType.INT8 and t.size > 4] == [144, 144, 144]  # not one more
    for feeds in both(images()):
        assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_each_branch_has_the_ranges_of_the_samples_that_run_it(quantized: Quantizer) -> None:
    subject, x = model(BRANCHES, SAME), images()
    result, _ = quantized(subject, both(x))  # type: ignore[arg-type]
    weights = {n: v.const_value.numpy() for n, v in subject.graph.initializers.items()}  # type: ignore[union-attr]
    feeds = {"x": x, **weights}
    for branch, factor, first in (("then_branch", 1, "w1"), ("else_branch", 3, "w2")):
        text = f"h (float[N,4,8,8] x) => (float[N,4,8,8] r) {{ k = {CONV}(x, w0) a = {CONV}(k, v) r = Relu(a) }}"
        alone = model(text, {"w0": weights["w0"], "v": weights[first]})
        top = plain_run(alone, {"x": feeds["x"] * np.float32(factor)})["r"].max()
        node = next(n for n in result.graph if n.op_type == "If")
        scales = [
            edit.constant(n.inputs[1]).numpy()  # type: ignore[union-attr]
            for n in node.attributes[branch].as_graph()
            if n.op_type == "QuantizeLinear"
        ]
        assert any(abs(scale / (top / 255) - 1) < 1e-5 for scale in scales)


def test_a_branch_that_no_sample_runs_stays_float_and_is_named(quantized: Quantizer) -> None:
    skip_before("1.31", "names kernels of inner graphs alike, and cannot write them")
    subject = model(BRANCHES, SAME)
    feeds = {"x": images(), "c": np.array(True)}
    result, changes = quantized(subject, feeds)
    never = [r.subject for r in changes.refused if "no sample runs the branch" in r.reason]
    assert never == ["three (Conv)", "four (Conv)"]
    twice = {r.subject for r in changes.refused if "stored twice" in r.reason}
    assert twice == {"w1", "w2"}  # the other branch reads them as integers
    assert {c.subject.split()[0] for c in changes.done} >= {"one", "two"}
    other = {"x": images(), "c": np.array(False)}
    assert close(plain_run(subject, other)["y"], plain_run(result, other)["y"]) > 25


def test_branches_inside_branches(quantized: Quantizer, tmp_path: Path) -> None:
    inner = f"""If (d) <
        then_branch = tt () => (float[N,4,8,8] p) {{ [deep] p = {CONV}(k, w1) }},
        else_branch = ee () => (float[N,4,8,8] p) {{ p = Relu(k) }}>"""
    subject = model(
        f"""g (float[N,4,8,8] x, bool c, bool d) => (float[N,4,8,8] y) {{ k = Tanh(x) y = If (c) <
            then_branch = t () => (float[N,4,8,8] o) {{ o = {inner} }},
            else_branch = e () => (float[N,4,8,8] o) {{ o = Identity(x) }}> }}""",
        {"w1": (4, 4, 3, 3)},
    )
    feeds = {"x": images(), "c": np.array(True), "d": np.array(True)}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    assert optimized(result, tmp_path)["QLinearConv"] == 1
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


LOOPS = {
    "Loop": """g (float[3,16] x, int64 n) => (float[3,16] y, float[n,3,16] s) {
        go = Constant<value = bool {1}>()
        y, s = Loop (n, go, x) <body = b (int64 i, bool c, float[3,16] h) => (bool c2, float[3,16] h3, float[3,16] k) {
            c2 = Identity(c) [first] a = MatMul(h, w1) r = Relu(a) [second] m = MatMul(r, w2) h3 = Tanh(m)
            k = Tanh(m) }> }""",
    "Loop of unknown shape": """g (float[3,16] x, int64 n) => (float[M,16] y) {
        go = Constant<value = bool {1}>()
        y = Loop (n, go, x) <body = b (int64 i, bool c, float[M,16] h) => (bool c2, float[K,16] h3) {
            c2 = Identity(c) [first] a = MatMul(h, w1) r = Relu(a) [second] m = MatMul(r, w2) t = Tanh(m)
            h3 = Concat<axis = 0>(h, t) }> }""",
    "Scan": """g (float[3,16] x, int64 n) => (float[3,16] y, float[5,3,16] s) {
        five = Constant<value = int64[1] {5}>() one = Constant<value = int64[1] {1}>()
        all = Constant<value = int64[3] {5, 3, 16}>() u = Unsqueeze(x, z) e = Expand(u, all)
        y, s = Scan <num_scan_inputs = 1, body = b (float[3,16] h, float[3,16] e1) => (float[3,16] h3, float[3,16] k) {
            q = Add(h, e1) [first] a = MatMul(q, w1) r = Relu(a) [second] m = MatMul(r, w2) h3 = Tanh(m)
            k = Tanh(m) }> (x, e) }""",
}


@pytest.mark.parametrize("case", LOOPS)
def test_bodies_of_loops_compute_on_integers(case: str, quantized: Quantizer, tmp_path: Path) -> None:
    skip_before("1.31", "names kernels of inner graphs alike, and cannot write them")
    weights: dict[str, Any] = {"w1": (16, 16), "w2": (16, 16)}
    if case == "Scan":
        weights["z"] = np.array([0])
    subject = model(LOOPS[case], weights)
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    feeds = {"x": x, "n": np.array(5)}
    result, changes = quantized(subject, [feeds])  # type: ignore[arg-type]
    assert not changes.refused
    found = optimized(result, tmp_path)
    assert found["QLinearMatMul"] + found["MatMulIntegerToFloat"] == 2, found
    for name, array in plain_run(subject, feeds).items():
        assert close(array, plain_run(result, feeds)[name]) > 22


def test_a_body_that_never_runs_is_named(quantized: Quantizer) -> None:
    subject = model(LOOPS["Loop"], {"w1": (16, 16), "w2": (16, 16)})
    _, changes = quantized(subject, [{"x": np.ones((3, 16), np.float32), "n": np.array(0)}])  # type: ignore[arg-type]
    assert [r.subject for r in changes.refused if "no sample runs" in r.reason] == ["first (MatMul)", "second (MatMul)"]


def test_what_is_seen_from_outside_is_what_is_inside() -> None:
    """A tensor of a Loop's body, exposed, is what numpy computes in each iteration."""
    subject = model(LOOPS["Loop"], {"w1": (16, 16), "w2": (16, 16)})
    w1, w2 = (subject.graph.initializers[n].const_value.numpy() for n in ("w1", "w2"))  # type: ignore[union-attr]
    x = np.random.default_rng(0).normal(size=(3, 16)).astype(np.float32)
    value = next(v for v in edit.values(subject.graph) if v.name == "m")
    value.type, value.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([3, 16])
    subject.graph.outputs.append(expose(subject, value))
    expected, h = [], x
    for _ in range(4):
        expected.append(np.maximum(h @ w1, 0) @ w2)
        h = np.tanh(expected[-1])
    found = list(plain_run(subject, {"x": x, "n": np.array(4)}).values())[-1]
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_graphs_of_other_operators_are_refused_by_name(quantized: Quantizer) -> None:
    subject = model(
        f"""g (float[1,4,8,8] x) => (float[1,4,8,8] y) {{
            k = {CONV}(x, w1) i = Constant<value = int64 {{0}}>() q = SequenceConstruct(k)
            [map] s = SequenceMap <body = b (float[1,4,8,8] e) => (float[1,4,8,8] o) {{ [deep] o = {CONV}(e, w1) }}> (q)
            y = SequenceAt(s, i) }}""",
        {"w1": (4, 4, 3, 3)},
    )
    _, changes = quantized(subject, {"x": images(1)})
    found = {r.subject: r.reason for r in changes.refused}
    assert found["deep (Conv)"] == "it is inside an inner graph of map (SequenceMap), where no range can be measured"


@pytest.mark.slow
def test_a_detector_that_sits_inside_an_if(kit: Path, quantized: Quantizer, tmp_path: Path) -> None:
    from onnxcompress.graph.load import load

    subject = load(kit / "models" / "silero_vad.onnx")
    random = np.random.default_rng(0)
    feeds = [
        {
            "input": random.normal(size=(1, 576), scale=0.1).astype(np.float32),
            "state": random.normal(size=(2, 1, 128), scale=0.1).astype(np.float32),
            "sr": np.array(16000),
        }
        for _ in range(4)
    ]
    result, changes = quantized(subject, feeds)  # type: ignore[arg-type]
    assert optimized(result, tmp_path)["QLinearConv"] >= 5
    assert any("no sample runs the branch" in r.reason for r in changes.refused)
    for feed in feeds:
        a, b = plain_run(subject, feed), plain_run(result, feed)
        assert np.abs(a["output"] - b["output"]).max() < 0.05


# --- local functions -------------------------------------------------------------------------------------------------

FUNCTIONS = """<ir_version: 9, opset_import: ["" : {opset}, "my" : 1]>
    g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ a = my.Block(x, w1) y = my.Block(a, w2) }}
    <domain: "my", opset_import: ["" : {opset}, "my" : 1]> Block (a, w) => (o) {{ c = my.Conv3(a, w) o = Relu(c) }}
    <domain: "my", opset_import: ["" : {opset}]> Conv3 (a, w) => (o) {{ o = Conv<pads = [1, 1, 1, 1]>(a, w) }}"""


def functions(opset: int) -> ir.Model:
    proto = onnx.parser.parse_model(FUNCTIONS.format(opset=opset))
    for name in ("w1", "w2"):
        array = np.random.default_rng(len(name)).normal(size=(4, 4, 3, 3)).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return ir.from_proto(proto)


@pytest.mark.parametrize("opset", [11, 13, 18])
def test_local_functions_are_inlined(opset: int, quantized: Quantizer, kernels: Kernels) -> None:
    subject, feeds = functions(opset), {"x": images()}
    result, changes = quantized(subject, feeds)
    assert "local functions inlined: Block, Conv3" in [change.what for change in changes.done]
    assert not result.functions
    assert kernels(result)["QLinearConv"] == 2
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def foreign(opset: int, other: int, body: str) -> ir.Model:
    proto = onnx.parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : {opset}, "my" : 1]>
        g (float[N,4] x) => (float[N,4] y) {{ f = my.Foo(x) s = Add(f, x) y = MatMul(s, w) }}
        <domain: "my", opset_import: ["" : {other}]> Foo (a) => (b) {{ {body} }}"""
    )
    weight = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    return ir.from_proto(proto)


@pytest.mark.parametrize(("opset", "other"), [(17, 18), (18, 17), (13, 17)])
def test_a_function_of_another_opset_is_inlined(opset: int, other: int, quantized: Quantizer) -> None:
    subject = foreign(opset, other, "b = Relu(a)")
    feeds = {"x": np.random.default_rng(1).normal(size=(32, 4)).astype(np.float32)}
    result, changes = quantized(subject, feeds)
    assert "local functions inlined: Foo" in [change.what for change in changes.done]
    assert close(plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]) > 25


def test_a_function_whose_operators_are_others_in_its_opset_is_not_inlined() -> None:
    subject = foreign(13, 11, "b = ReduceSum <axes = [1], keepdims = 1> (a)")
    with pytest.raises(PassError, match="'Foo' has opset 11, the model 13, and ReduceSum is not the same in both"):
        Quantize().plan(subject, Context(subject, samples=load_samples({"x": np.ones((1, 4), np.float32)}, subject)))


# --- 16-bit floats ---------------------------------------------------------------------------------------------------

HALF = """g (float16[N,4,8,8] x) => (float16[N,4,8,8] y, float[N,4,8,8] z) {{
    a = {conv}(x, w1, b1) r = Relu(a) m = Mul(r, s) k = {conv}(m, w2)
    f = Cast<to = 1>(k) z = Tanh(f) h = Cast<to = 10>(z) y = Add(h, k) }}"""


def half() -> ir.Model:
    random = np.random.default_rng(0)
    weights = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (4, 8, 3, 3), "s": ()}
    arrays = {n: np.asarray(random.normal(size=s) / 6, np.float16) for n, s in weights.items()}
    return model(HALF.format(conv=CONV), arrays)  # type: ignore[arg-type]


def test_float16_computes_on_integers_and_keeps_its_interface(quantized: Quantizer, kernels: Kernels) -> None:
    subject, feeds = half(), {"x": images().astype(np.float16)}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    assert "float16 computes in float32 where it does not on integers" in [change.what for change in changes.done]
    assert [(v.name, v.dtype) for v in (*result.graph.inputs, *result.graph.outputs)] == [
        ("x", ir.DataType.FLOAT16),
        ("y", ir.DataType.FLOAT16),
        ("z", ir.DataType.FLOAT),
    ]
    assert kernels(result)["QLinearConv"] == 2
    a, b = plain_run(subject, feeds), plain_run(result, feeds)
    assert min(close(a[name], b[name]) for name in a) > 25


def test_float16_weights_that_stay_float_stay_small(quantized: Quantizer) -> None:
    subject, feeds = half(), {"x": images().astype(np.float16)}
    subject.graph[-1].name = "tail"
    result, _ = quantized(subject, feeds, exclude=("k",))
    assert [v.dtype for v in result.graph.initializers.values() if v.shape == (4, 8, 3, 3)] == [ir.DataType.FLOAT16]
    a, b = plain_run(subject, feeds), plain_run(result, feeds)
    assert min(close(a[name], b[name]) for name in a) > 25


def test_float16_inside_branches(quantized: Quantizer, tmp_path: Path) -> None:
    skip_before("1.31", "names kernels of inner graphs alike, and cannot write them")
    text = re.sub(r"float\[", "float16[", BRANCHES)
    random = np.random.default_rng(0)
    subject = model(text, {n: (random.normal(size=s) / 6).astype(np.float16) for n, s in SAME.items()})
    feeds = [f | {"x": f["x"].astype(np.float16)} for f in both(images())]
    result, changes = quantized(subject, feeds)  # type: ignore[arg-type]
    assert not changes.refused
    assert optimized(result, tmp_path)["QLinearConv"] == 5
    for feed in feeds:
        assert close(plain_run(subject, feed)["y"], plain_run(result, feed)["y"]) > 25


def test_bfloat16_is_quantized_too(quantized: Quantizer, kernels: Kernels) -> None:
    text = """g (float[N,4,8,8] x) => (float[N,8,6,6] y) {
        h = Cast<to = 16>(x) v = Cast<to = 16>(w) c = Conv(h, v) y = Cast<to = 1>(c) }"""
    subject, feeds = model(text, {"w": (8, 4, 3, 3)}, opset=22), {"x": images()}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    assert kernels(result)["QLinearConv"] == 1
    w, x = subject.graph.initializers["w"].const_value.numpy(), images()  # type: ignore[union-attr]
    alone = model("g (float[N,4,8,8] x) => (float[N,8,6,6] y) { y = Conv(x, w) }", {"w": w})
    assert close(plain_run(alone, {"x": x})["y"], plain_run(result, feeds)["y"]) > 25

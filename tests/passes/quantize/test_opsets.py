"""`Quantize` on models of every opset and IR version, with operators of other domains, and of any size."""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.versions import skip_before
from onnx import TensorProto, helper, numpy_helper

from onnxcompress import apply
from onnxcompress.contract import Changes, Context
from onnxcompress.graph.load import load
from onnxcompress.graph.opset import raise_opset
from onnxcompress.graph.save import save
from onnxcompress.passes import FreezeInputs, Quantize
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, np.ndarray]
Quantizer = Callable[..., tuple[ir.Model, Changes]]
Kernels = Callable[[Any], Counter[str]]

NEWEST = min(onnx.defs.onnx_opset_version(), 27)
"""The last opset for which onnxruntime 1.32 has QuantizeLinear."""

WEIGHTS = {"w1": (8, 4, 3, 3), "b1": (8,), "w2": (8, 10), "b2": (10,)}


def small(opset: int, ir_version: int) -> ir.Model:
    random = np.random.default_rng(0)
    arrays = {n: random.normal(size=s, scale=0.2).astype(np.float32) for n, s in WEIGHTS.items()}
    nodes = [
        helper.make_node("Conv", ["x", "w1", "b1"], ["c"], pads=[1] * 4),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["p"], ["g"]),
        helper.make_node("Flatten", ["g"], ["f"]),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 8, 8])]
    if ir_version < 4:
        inputs += [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in arrays.items()]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 10])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, [numpy_helper.from_array(a, n) for n, a in arrays.items()])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


@pytest.mark.parametrize("opset", range(7, NEWEST + 1))
def test_every_opset_computes_on_integers(opset: int, quantized: Quantizer, kernels: Kernels) -> None:
    skip_before("1.25", "does not read opset 26", when=opset >= 26)
    skip_before("1.32", "does not read opset 27", when=opset >= 27)
    for ir_version in (3, 4, 8, min(onnx.IR_VERSION, 13)):
        subject = small(opset, ir_version)
        feeds = {"x": np.random.default_rng(1).normal(size=(4, 4, 8, 8)).astype(np.float32)}
        result, changes = quantized(subject, feeds)
        assert not changes.refused
        assert result.opset_imports[""] == max(opset, 13)
        found = kernels(result)
        assert (found["QLinearConv"], found["QLinearGlobalAveragePool"], found["QGemm"]) == (1, 1, 1)
        before, after = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
        assert np.abs(before - after).max() <= 0.03 * np.abs(before).max()


CONV = "Conv<pads = [1, 1, 1, 1]>"
DOMAINS = {
    "onnxruntime's at 11": f"""<ir_version: 6, opset_import: ["" : 11, "com.microsoft" : 1]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ k = {CONV}(x, w) e = com.microsoft.Gelu(k)
            u = Unsqueeze<axes = [0]>(e) s = Squeeze<axes = [0]>(u) y = {CONV}(s, w) }}""",
    "onnxruntime's at 17": f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ k = {CONV}(x, w) e = com.microsoft.Gelu(k) y = {CONV}(e, w) }}""",
    "machine learning at 11": f"""<ir_version: 6, opset_import: ["" : 11, "ai.onnx.ml" : 2]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ b = ai.onnx.ml.Binarizer<threshold = 0.5>(x) k = {CONV}(b, w)
            y = {CONV}(k, w) }}""",
    "an inner graph at 11": f"""<ir_version: 6, opset_import: ["" : 11]>
        g (float[N,4,8,8] x) => (float[N,4,8,8] y) {{ k = {CONV}(x, w) t = Constant<value = bool {{1}}>()
            z = If (t) <
                then_branch = a () => (float[N,4,8,8] p) {{ u = Unsqueeze<axes = [0]>(k) p = Squeeze<axes = [0]>(u) }},
                else_branch = e () => (float[N,4,8,8] q) {{ q = Identity(k) }}>
            y = {CONV}(z, w) }}""",
}


@pytest.mark.parametrize("case", DOMAINS)
def test_other_domains_and_old_inner_graphs(case: str, quantized: Quantizer, kernels: Kernels) -> None:
    proto = onnx.parser.parse_model(DOMAINS[case])
    w = np.random.default_rng(0).normal(size=(4, 4, 3, 3), scale=0.2).astype(np.float32)
    proto.graph.initializer.append(numpy_helper.from_array(w, "w"))
    subject = ir.from_proto(proto)
    feeds = {"x": np.random.default_rng(1).normal(size=(4, 4, 8, 8)).astype(np.float32)}
    result, changes = quantized(subject, feeds)
    assert not changes.refused
    assert kernels(result)["QLinearConv"] == 2
    before, after = plain_run(subject, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.abs(before - after).max() <= 0.04 * np.abs(before).max()


LINE = (1, 3, 48, 192)
"""What a line of text is scaled to; the model's own extents are open, and written as -1."""


@pytest.mark.parametrize("name", ["mnist_cntk", "vit_cifar10", "ultraface_rfb320", "ppocr_cls"])
def test_real_models_of_old_opsets(name: str, kit: Path, quantized: Quantizer) -> None:
    """Opset 8 and IR version 3, opset 9, 9 with weights as inputs, and 11."""
    subject, _ = apply(kit / "models" / f"{name}.onnx", [FreezeInputs()])
    random = np.random.default_rng(0)
    feeds = []
    for _ in range(4):
        free = [v for v in subject.graph.inputs if v.name not in subject.graph.initializers]
        shapes = {str(v.name): LINE if name == "ppocr_cls" else tuple(v.shape or ()) for v in free}
        sizes = {n: [d if isinstance(d, int) else 1 for d in shape] for n, shape in shapes.items()}
        feeds.append({n: random.normal(size=size).astype(np.float32) for n, size in sizes.items()})
    result, changes = quantized(subject, feeds)
    assert any("as int8" in change.what for change in changes.done)
    before, after = plain_run(subject, feeds[0]), plain_run(result, feeds[0])
    for output, array in before.items():
        noise = np.square(array.astype(np.float64) - after[output]).mean()
        assert noise <= 0.01 * np.square(array.astype(np.float64)).mean()  # 20 dB


@pytest.mark.slow
def test_a_model_of_more_than_2_gb(tmp_path: Path) -> None:
    """Its weights lie in a file beside it, and come out as a quarter of it."""
    width, layers = 4096, 33  # 33 x 67 MB
    file = tmp_path / "weights.bin"
    random = np.random.default_rng(0)
    with file.open("wb") as out:
        for _ in range(layers):
            random.normal(size=(width, width), scale=width**-0.5).astype(np.float32).tofile(out)
    size = 4 * width * width
    nodes, tensors, value = [], [], "x"
    for layer in range(layers):
        tensor = TensorProto(name=f"w{layer}", data_type=TensorProto.FLOAT, dims=[width, width])
        tensor.data_location = TensorProto.EXTERNAL
        for key, entry in (("location", file.name), ("offset", layer * size), ("length", size)):
            tensor.external_data.add(key=key, value=str(entry))
        tensors.append(tensor)
        nodes.append(helper.make_node("MatMul", [value, f"w{layer}"], [f"t{layer}"]))
        value = f"t{layer}"
    info = helper.make_tensor_value_info
    graph = helper.make_graph(nodes, "g", [info("x", 1, ["N", width])], [info(value, 1, ["N", width])], tensors)
    path = tmp_path / "large.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    assert file.stat().st_size > 2**31
    subject = load(path)
    feeds = {"x": random.normal(size=(2, width)).astype(np.float32)}
    step = Quantize(correct=False, rounding="nearest")
    plan = step.plan(subject, Context(subject, samples=load_samples(feeds, subject)))
    before = plain_run(path, feeds)[value]
    changes = step.apply(subject, plan)
    assert sum(change.subject != "model" for change in changes.done) == layers
    save(subject, tmp_path / "small.onnx")
    del subject, plan
    gc.collect()
    stored = sum(f.stat().st_size for f in tmp_path.glob("small*"))
    assert stored < 0.26 * file.stat().st_size
    after = plain_run(tmp_path / "small.onnx", feeds)[value]
    assert np.square(before - after).mean() <= 0.03 * np.square(before).mean()


@pytest.mark.parametrize("dtype", ["float", "float16"])
@pytest.mark.parametrize("inside", [False, True])
def test_bounds_of_a_clip_have_its_type_when_the_opset_is_raised(dtype: str, inside: bool) -> None:
    """onnx's version converter writes bounds of float32 for every type."""
    body = "c = Clip <min = 0.0, max = 6.0> (a)"
    if inside:
        body = f"""c = If(go) <then_branch = t () => ({dtype}[p,q] d) {{ d = Clip <min = 0.0, max = 6.0> (a) }},
                              else_branch = e () => ({dtype}[p,q] f) {{ f = Neg(a) }}>"""
    text = f"""<ir_version: 4, opset_import: ["" : 9]>
        g ({dtype}[2,8] x, bool go) => ({dtype}[2,8] y) {{ a = MatMul(x, w) {body} y = MatMul(c, w) }}"""
    proto = onnx.parser.parse_model(text)
    kind = {"float": np.float32, "float16": np.float16}[dtype]
    weight = np.random.default_rng(0).standard_normal((8, 8)).astype(kind)
    proto.graph.initializer.append(numpy_helper.from_array(weight, "w"))
    subject = ir.from_proto(proto)
    raise_opset(subject, 21)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 8)).astype(kind), "go": np.array(True)}
    np.testing.assert_array_equal(plain_run(subject, feeds)["y"], plain_run(proto, feeds)["y"])


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax", "Hardmax"])
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("end", [False, True])
def test_what_means_a_matrix_before_opset_13_still_does(op: str, axis: int, end: bool) -> None:
    """Of Hardmax onnx's version converter forgets it."""
    tail = f"y = {op} <axis = {axis}> (a)" if end else f"b = {op} <axis = {axis}> (a) y = Relu(b)"
    proto = onnx.parser.parse_model(
        f"""<ir_version: 6, opset_import: ["" : 11]>
        g (float[2,3,4] x) => (float[2,3,4] y) {{ a = Neg(x) {tail} }}"""
    )
    subject = ir.from_proto(proto)
    raise_opset(subject, 18)
    onnx.checker.check_model(ir.to_proto(subject), full_check=True)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 3, 4)).astype(np.float32)}
    np.testing.assert_allclose(plain_run(subject, feeds)["y"], plain_run(proto, feeds)["y"], rtol=1e-6)

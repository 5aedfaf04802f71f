"""Folding: no file gets larger, shared constants stay shared, and what a caller may set stays what it is."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Context, Pass
from onnxcompress.passes.tidy import FoldAffine, FoldBatchNorm, FoldConstants
from onnxcompress.passes.tidy.folding import never_larger
from onnxcompress.passes.tidy.folding.never_larger import LARGER

FOLDS: list[Pass] = [FoldConstants(), FoldConstants(keep_shared=True), FoldBatchNorm(), FoldAffine()]

BEFORE = {"": "{to} = Identity({of})", "T": "{to} = Transpose<perm = [1, 0, 2, 3]>({of})", "M": "{to} = Mul({of}, two)"}
BEHIND = {
    "": "",
    "norm": "{to} = BatchNormalization({of}, s{n}, b{n}, m{n}, v{n})",
    "one": "{to} = Add({of}, two)",
    "each": "{to} = Mul({of}, c{n})",
}


@dataclass(frozen=True)
class Layer:
    """A convolution; `weight`, `bias` and `norm` say whose constants it reads, so that layers share them."""

    weight: int
    before: str
    bias: int | None
    behind: str
    norm: int


layers = st.builds(
    Layer,
    weight=st.integers(0, 2),
    before=st.sampled_from(sorted(BEFORE)),
    bias=st.none() | st.integers(0, 1),
    behind=st.sampled_from(sorted(BEHIND)),
    norm=st.integers(0, 1),
)


def built(chain: list[Layer], channels: int, inputs: set[str], outputs: set[str]) -> onnx.ModelProto:
    """Return convolutions one behind the other; initializers of these names are inputs, or outputs, as well."""
    lines, value = [], "x"
    for place, layer in enumerate(chain):
        lines.append(BEFORE[layer.before].format(to=f"k{place}", of=f"w{layer.weight}"))
        bias = "" if layer.bias is None else f", b{layer.bias}"
        lines.append(f"a{place} = Conv({value}, k{place}{bias})")
        value = f"a{place}"
        if layer.behind:
            lines.append(BEHIND[layer.behind].format(to=f"n{place}", of=value, n=layer.norm))
            value = f"n{place}"
    text = f"g (float[N,{channels},2,2] x) => (float[N,{channels},2,2] y) {{ {' '.join(lines)} y = Relu({value}) }}"
    model = onnx.parser.parse_model('<ir_version: 9, opset_import: ["": 17]>\n' + text)
    random, used = np.random.default_rng(0), {name for node in model.graph.node for name in node.input}
    shapes: dict[str, tuple[int, ...]] = {"two": (), **{f"w{n}": (channels, channels, 1, 1) for n in range(3)}}
    shapes |= {f"{kind}{n}": (channels,) for kind in "sbmv" for n in range(2)}
    shapes |= {f"c{n}": (channels, 1, 1) for n in range(2)}
    for name in sorted(used & shapes.keys()):
        array = (random.random(shapes[name]) / channels + 0.5).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        info = onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shapes[name])
        model.graph.input.extend([info] if name in inputs else [])
        model.graph.output.extend([info] if name in outputs and name not in inputs else [])
    onnx.checker.check_model(model, full_check=True)
    return onnx.shape_inference.infer_shapes(model)


def folded(model: onnx.ModelProto, step: Pass) -> tuple[onnx.ModelProto, list[str]]:
    subject = ir.from_proto(model)
    plan = step.plan(subject, Context(subject))
    changes = step.apply(subject, plan)
    return ir.to_proto(subject), [refusal.reason for refusal in changes.refused]


def ran(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [np.asarray(found) for found in session.run(None, feeds)]


NAMES = ["w0", "b0", "s0", "v0", "c0", "two"]


@settings(max_examples=30, deadline=None)
@given(st.lists(layers, min_size=1, max_size=4), st.sampled_from([1, 3, 40]), st.sampled_from(NAMES), st.booleans())
@pytest.mark.parametrize("step", FOLDS, ids=lambda step: f"{step.name}{step.options().get('keep_shared', '')}")
def test_no_fold_makes_a_file_larger(step: Pass, chain: list[Layer], channels: int, name: str, given: bool) -> None:
    model = built(chain, channels, {name} if given else set(), set() if given else {name})
    model = ir.to_proto(ir.from_proto(model))  # which writes a type down more than was there
    result, _ = folded(model, step)
    assert result.ByteSize() <= model.ByteSize() + never_larger.NAMES * len(model.graph.node)
    for ports in ("input", "output"):
        assert [p.name for p in getattr(result.graph, ports)] == [p.name for p in getattr(model.graph, ports)]
    kept = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in result.graph.initializer}
    for tensor in model.graph.initializer:
        if tensor.name == name and given:
            np.testing.assert_array_equal(kept[name], onnx.numpy_helper.to_array(tensor))
    feeds = {"x": np.random.default_rng(1).random((2, channels, 2, 2), np.float32)}
    # Another value for what a caller may set changes both models alike.
    others = {
        t.name: np.asarray(onnx.numpy_helper.to_array(t) * np.float32(1.5))
        for t in model.graph.initializer
        if t.name == name
    }
    for more in ({}, others) if given and others else ({},):
        for before, after in zip(ran(model, feeds | more), ran(result, feeds | more), strict=True):
            np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)


SHARED = Layer(weight=0, before="", bias=0, behind="", norm=0)


def test_a_weight_that_layers_share_through_identities_is_stored_once() -> None:
    model = built([SHARED] * 4, 40, set(), set())
    result, _ = folded(model, FoldConstants())
    assert [node.op_type for node in result.graph.node] == ["Conv"] * 4 + ["Relu"]
    assert {node.input[1] for node in result.graph.node[:-1]} == {"w0"}
    assert sorted(tensor.name for tensor in result.graph.initializer) == ["b0", "w0"]


def test_another_form_of_a_shared_weight_is_left_alone_and_said() -> None:
    model = built([SHARED, replace(SHARED, before="T")], 40, set(), set())
    result, reasons = folded(model, FoldConstants())
    assert [node.op_type for node in result.graph.node] == ["Conv", "Transpose", "Conv", "Relu"]
    assert reasons == [LARGER]


def test_what_is_large_on_the_way_only_is_folded() -> None:
    text = """<ir_version: 9, opset_import: ["": 17]>
      g (float[N] x) => (float[N] y) { wide = Expand(one, shape) m = ReduceSum<keepdims = 0>(wide) y = Add(x, m) }"""
    model = onnx.parser.parse_model(text)
    for name, array in {"one": np.ones((1, 1), np.float32), "shape": np.array([100, 100])}.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    result, reasons = folded(model, FoldConstants())
    assert [node.op_type for node in result.graph.node] == ["Add"]
    assert reasons == []


def test_a_bias_for_each_channel_in_the_place_of_one_number_is_left_alone_and_said() -> None:
    lone = Layer(weight=0, before="", bias=None, behind="one", norm=0)
    for channels, operators in ((3, ["Conv", "Relu"]), (400, ["Conv", "Add", "Relu"])):
        model = built([lone], channels, set(), set())
        del model.graph.node[0]
        model.graph.node[0].input[1] = "w0"
        result, reasons = folded(onnx.shape_inference.infer_shapes(model), FoldAffine())
        assert [node.op_type for node in result.graph.node] == operators
        assert reasons == ([LARGER] if channels == 400 else [])

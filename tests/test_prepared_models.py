"""Every pass, on models that have to be prepared first: a verified result, or one line that is the same in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import onnx
import onnx.parser
import onnxruntime
import pytest

from onnxcompress import apply, pipeline, registry
from onnxcompress.errors import OnnxCompressError
from onnxcompress.passes.quantize.prepare.prepare import FORMS

Weights = dict[str, np.ndarray]

OPTIONS: dict[str, dict[str, object]] = {"distill": {"epochs": 1}, "quantize-weights": {"minimum_size": 16}}
LEFT_OUT = {"apply-mask"}
"""It takes a file of masks for one model."""

SLOW = {"distill": {"a newer function", "opset 9 and a function", "plain", "another Softmax in a function"}}
"""Passes that take seconds run on a few models only."""

PLAIN = "h = MatMul(x, w1) a = Add(h, b1) r = Relu(a) y = MatMul(r, w2)"
CALLING = PLAIN.replace("Relu", "local.f")
BRANCHES = """z = ReduceSum<keepdims = 0>(x) zero = Constant<value_float = 0.0>() c = Greater(z, zero)
  r = If(c)<then_branch = t () => (float[N,16] u) {{ h = MatMul(x, w1) u = {0}(h) }},
            else_branch = e () => (float[N,16] v) {{ h = MatMul(x, w3) v = {1}(h) }}> y = MatMul(r, w2)"""


def weights(dtype: type = np.float32) -> Weights:
    random = np.random.default_rng(0)
    shapes = {"w1": (8, 16), "b1": (16,), "w2": (16, 4), "w3": (8, 16)}
    return {name: (random.standard_normal(shape) / np.sqrt(shape[0])).astype(dtype) for name, shape in shapes.items()}


def built(
    body: str,
    function: str = "",
    *,
    opset: int = 17,
    of_function: int = 18,
    ir: int = 9,
    dtype: str = "float",
    **more: np.ndarray,
) -> onnx.ModelProto:
    """Return a model from (N, 8) to (N, 4), perhaps with a local function of an opset of its own."""
    imports = f'"": {opset}' + (', "local": 1' if function else "")
    text = f"<ir_version: {ir}, opset_import: [{imports}]>\ng ({dtype}[N,8] x) => ({dtype}[N,4] y) {{ {body} }}\n"
    if function:
        text += f'<domain: "local", opset_import: ["": {of_function}]>\nf (x) => (y) {{ {function} }}'
    model = onnx.parser.parse_model(text)
    given = weights(np.float16 if dtype == "float16" else np.float32) | more
    used = {name for node in model.graph.node for name in (*node.input, *_read_inside(node))}
    model.graph.initializer.extend(onnx.numpy_helper.from_array(a, name) for name, a in given.items() if name in used)
    return model


def _read_inside(node: onnx.NodeProto) -> Iterator[str]:
    for attribute in node.attribute:
        for inner in attribute.g.node:
            yield from inner.input


def with_constant_nodes() -> onnx.ModelProto:
    model = built(PLAIN)
    for tensor in list(model.graph.initializer):
        model.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], value=tensor))
    del model.graph.initializer[:]
    return model


def with_a_default() -> onnx.ModelProto:
    model = built(PLAIN)
    model.graph.input.append(onnx.helper.make_tensor_value_info("w1", onnx.TensorProto.FLOAT, [8, 16]))
    return model


NORM = "h = MatMul(x, w1) n = BatchNormalization(h, s, b1, b1, s) r = Relu(n) y = MatMul(r, w2)"
MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    "plain": lambda: built(PLAIN),
    "a newer function": lambda: built(CALLING, "y = Relu(x)"),
    "an older function": lambda: built(CALLING, "y = Relu(x)", opset=18, of_function=17),
    "a function with a weight": lambda: built(CALLING, "w = Constant<value_floats = [2.0]>() y = Mul(x, w)"),
    "another Softmax in a function": lambda: built(CALLING, "y = Softmax(x)", opset=13, of_function=12, ir=8),
    "opset 9": lambda: built(NORM, opset=9, ir=4, s=np.arange(1, 17, dtype=np.float32)),
    "opset 11": lambda: built(PLAIN.replace("Relu(a)", "Clip(a, zero)"), opset=11, ir=6, zero=np.zeros((), np.float32)),
    "opset 9 and a function": lambda: built(CALLING, "y = Relu(x)", opset=9, of_function=9, ir=8),
    "functions in branches": lambda: built(BRANCHES.format("local.f", "local.f"), "y = Relu(x)"),
    "names that branches share": lambda: built(BRANCHES.format("Relu", "Abs")),
    "float16": lambda: built(PLAIN, dtype="float16"),
    "float16 and a function": lambda: built(CALLING, "y = Relu(x)", dtype="float16"),
    "weights behind Identity and Transpose": lambda: built(
        "i = Identity(w1) j = Transpose<perm = [1, 0]>(o) h = MatMul(x, i) r = Relu(h) y = MatMul(r, j)",
        o=np.ones((4, 16), np.float32),
    ),
    "Constant nodes": with_constant_nodes,
    "a default": with_a_default,
}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "TIMED_SECONDS", 0.001)


def ran(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def outcome(model: onnx.ModelProto, name: str, x: np.ndarray) -> str:
    """Return an error's line; empty for a result, which runs and gives what has the same type and shape."""
    step = registry.make(name, OPTIONS.get(name, {}))
    try:
        result, report = apply(model, [step], data={"x": x})
    except OnnxCompressError as error:
        line = str(error)
        assert line and "\n" not in line and "defect" not in line, line
        return line
    assert report.steps[0].name == name
    before, after = ran(model, x), ran(result, x)
    assert before.shape == after.shape and np.isfinite(after).all()
    if name in FORMS or step.promise.tolerance is not None:
        # Some of the samples are kept from the pass, and may leave the ranges that it has seen.
        assert np.abs(before.astype(np.float64) - after).max() <= 0.15 * np.abs(before).max()
    return ""


@pytest.mark.parametrize("what", MODELS)
def test_each_pass_gives_a_result_or_the_same_refusal(what: str) -> None:
    model = MODELS[what]()
    dtype = np.float16 if model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16 else np.float32
    x = np.random.default_rng(1).standard_normal((64, 8)).astype(dtype)
    names = [n for n in registry.names() if n not in LEFT_OUT and what in SLOW.get(n, {what})]
    found = {name: outcome(model, name, x) for name in names}
    lines = {line for line in found.values() if line}
    assert len(lines) <= 1, found
    refusing = {name for name, line in found.items() if line}
    assert not refusing or refusing == {*FORMS} | ({"distill"} & {*names}) or refusing == {*names}, found

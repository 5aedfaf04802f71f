"""Operators of a user's own library, which have no schema: passes work around them."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import pytest
from command_line import call

import onnxcompress
from onnxcompress import Provider
from onnxcompress.errors import ModelError
from onnxcompress.passes import (
    ConvertFloat,
    Distill,
    FoldConstants,
    MagnitudePrune,
    PruneChannels,
    Quantize,
    QuantizeDynamic,
    QuantizeWeights,
    Shrink,
)

LIBRARY = pytest.importorskip("onnxruntime_extensions").get_library_path()
NET = """
<ir_version: 8, opset_import: ["" : 17, "ai.onnx.contrib" : 1]>
net (float[N, 16] x) => (float[N, 3] y) {
    a = MatMul (x, w1)
    b = Relu (a)
    c = MatMul (b, w2)
    below, above = ai.onnx.contrib.NegPos (c)
    size = Sub (above, below)
    y = MatMul (size, w3)
}
"""
SIZES = {"w1": (16, 32), "w2": (32, 32), "w3": (32, 3)}


@pytest.fixture(scope="module")
def weights():
    random = np.random.default_rng(0)
    return {name: random.standard_normal(size).astype(np.float32) for name, size in SIZES.items()}


@pytest.fixture(scope="module")
def model(weights):
    proto = onnx.parser.parse_model(NET)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in weights.items())
    return proto


@pytest.fixture(scope="module")
def data():
    return {"x": np.random.default_rng(1).standard_normal((60, 16)).astype(np.float32)}


def reached(model, weights, data):
    """Run a compressed model, and the original in numpy; returns the cosine between both."""
    session = onnxcompress.runtime.session.open_session(
        onnxcompress.kinds.to_ir(model)[0], provider=Provider(custom_ops=(LIBRARY,))
    )
    found = session.run(data)["y"].ravel().astype(np.float64)
    hidden = np.maximum(data["x"] @ weights["w1"], 0) @ weights["w2"]
    expected = (np.abs(hidden) @ weights["w3"]).ravel()
    return found @ expected / np.sqrt((found @ found) * (expected @ expected))


@pytest.mark.parametrize(
    ("passes", "least"),
    [
        ([FoldConstants(), Shrink()], 0.999999),
        ([Quantize()], 0.999),
        ([Quantize(coverage="all", equalise=True)], 0.99),
        ([QuantizeWeights(dtype="int8")], 0.999),
        ([QuantizeDynamic()], 0.99),
        ([ConvertFloat()], 0.99999),
        ([MagnitudePrune(sparsity=0.2), Shrink()], 0.97),
        ([PruneChannels(sparsity=0.25, compensate=True), Shrink()], 0.6),
    ],
    ids=lambda given: "-".join(step.name for step in given) if isinstance(given, list) else "",
)
def test_passes_work_around_it(model, weights, data, passes, least):
    result, report = onnxcompress.apply(model, passes, data=data, provider=Provider(custom_ops=(LIBRARY,)))
    assert reached(result, weights, data) > least
    assert [node.op_type for node in result.graph.node].count("NegPos") == 1
    if isinstance(passes[0], PruneChannels):
        assert "below (ai.onnx.contrib::NegPos): this operator has no rule" in {
            r.reason for r in report.steps[0].refused
        }
        assert report.stages[-1].parameters < report.stages[0].parameters


def test_training_names_what_it_cannot_differentiate(model, data):
    with pytest.raises(onnxcompress.OnnxCompressError, match="has no gradient"):
        onnxcompress.apply(
            model, [Distill(epochs=1, engine="onnxruntime")], data=data, provider=Provider(custom_ops=(LIBRARY,))
        )


def test_without_the_library_the_message_says_how_to_give_it(model):
    with pytest.raises(ModelError, match="NegPos.* is not a registered function/op; give its library: --custom-ops"):
        onnxcompress.apply(model, [Shrink()])


def test_commands_take_the_library(tmp_path, model, data):
    path, samples = tmp_path / "m.onnx", tmp_path / "d.npz"
    onnx.save(model, path)
    np.savez(samples, **data)
    assert call("inspect", path).exit_code == 0
    out = tmp_path / "o.onnx"
    result = call("apply", path, "-o", out, "-p", "quantize", "--data", samples, "--custom-ops", LIBRARY)
    assert result.exit_code == 0, result.stderr
    assert call("compare", path, out, "--data", samples, "--custom-ops", LIBRARY).exit_code == 0
    assert call("bench", path, out, "--json").exit_code == 2


def test_the_worker_registers_it_too(tmp_path, model):
    from onnxcompress.training.loop import engine

    path = tmp_path / "m.onnx"
    onnx.save(model, path)
    session = engine.open_session(path, {"threads": 1, "custom_ops": [LIBRARY]})
    assert session.run(None, {"x": np.zeros((1, 16), np.float32)})[0].shape == (1, 3)

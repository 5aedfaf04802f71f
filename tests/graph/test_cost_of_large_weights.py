"""Large weights are counted, checked and shared without being copied."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.text import model

from onnxcompress import apply
from onnxcompress.evaluation import timing
from onnxcompress.graph import cost, edit
from onnxcompress.graph.load import load
from onnxcompress.graph.weightless import weightless
from onnxcompress.graph.written import written
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.runtime import session, stored
from onnxcompress.runtime.session import open_session


def wide(width: int = 200) -> ir.Model:
    return model(
        "wide (float[N,8] x) => (float[N,8] y) { a = MatMul(x, w1) b = Relu(a) c = MatMul(b, w2) y = MatMul(c, w3) }",
        {"w1": (8, width), "w2": (width, width), "w3": (width, 8)},
    )


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("size", [127, 129, 16_383, 16_400, 70_000, 2_100_000])
def test_bytes_are_counted_as_protobuf_counts_them(dtype: type, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cost, "COPIED", 0)
    subject = wide(20)
    edit.set_constant(subject.graph.initializers["w2"], np.ones((size, 1), dtype))
    assert cost.model_bytes(subject) == ir.to_proto(written(subject)).ByteSize()


def test_without_weights_the_small_constants_stay() -> None:
    subject = wide()
    edit.Inserter(subject.graph).constant("axes", np.array([1, 2]))
    light = weightless(subject)
    assert [v.name for v in light.graph.inputs] == ["x", "w1", "w2", "w3"]
    assert list(light.graph.initializers) == ["axes"]
    assert [v.name for v in subject.graph.inputs] == ["x"]


def test_sessions_that_share_their_weights_compute_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights in a file, in memory, and computed when they are read, in one model."""
    monkeypatch.setattr(stored, "LEAST_BYTES", 1)
    monkeypatch.setattr(session, "LEAST_BYTES", 1)
    ir.save(wide(), tmp_path / "m.onnx", external_data="m.data")
    subject = load(tmp_path / "m.onnx")
    feeds = {"x": np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)}
    w2, w3 = (subject.graph.initializers[name] for name in ("w2", "w3"))
    edit.set_constant(w2, np.array(w2.const_value.numpy()) * 2)
    old = w3.const_value
    w3.const_value = ir.LazyTensor(lambda: ir.tensor(old.numpy() + 1), dtype=old.dtype, shape=old.shape, name="w3")
    expected = np.maximum(feeds["x"] @ subject.graph.initializers["w1"].const_value.numpy(), 0)
    expected = expected @ w2.const_value.numpy() @ (old.numpy() + 1)
    for limit in (0, 1 << 40):
        monkeypatch.setattr(session, "SHARED_BYTES", limit)
        opened = [open_session(subject) for _ in range(2)]
        for each in opened:
            np.testing.assert_allclose(each.run(feeds)["y"], expected, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(("dtype", "shared"), [(np.float32, True), (np.uint8, False)])
def test_large_models_share_float_weights_and_pack_integers(
    dtype: type, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kernels that read few bits are far slower where they may not arrange them first."""
    asked: list[str] = []
    options = type("Options", (ort.SessionOptions,), {})
    add = ort.SessionOptions.add_session_config_entry
    monkeypatch.setattr(
        options, "add_session_config_entry", lambda o, key, value: (asked.append(key), add(o, key, value))
    )
    monkeypatch.setattr(ort, "SessionOptions", options)
    monkeypatch.setattr(session, "SHARED_BYTES", 0)
    subject = wide()
    if dtype is np.uint8:
        scales = {"s1": np.ones(200, np.float32), "z1": np.zeros(200, np.uint8)}
        text = "g (float[N,8] x) => (float[N,200] y) { w = DequantizeLinear<axis = 1>(q, s1, z1) y = MatMul(x, w) }"
        subject = model(text, {"q": np.ones((8, 200), np.uint8), **scales})
    open_session(subject)
    assert ("session.disable_prepacking" in asked) is shared
    asked.clear()
    open_session(subject, prepack=True)
    assert "session.disable_prepacking" not in asked


def test_a_large_model_is_pruned_and_saved_with_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What took the place of mapped weights is written as they were; small mapped ones are no obstacle."""
    monkeypatch.setattr(session, "SHARED_BYTES", 0)
    monkeypatch.setattr(timing, "SHARED_BYTES", 0)
    monkeypatch.setattr("onnxcompress.pipeline.TIMED_BYTES", 0)
    ir.save(wide(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    recipe = [PruneChannels(sparsity=0.25), Shrink()]
    small, report = apply(tmp_path / "m.onnx", recipe, output=tmp_path / "small.onnx")
    again = load(tmp_path / "small.onnx")
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in again.graph.initializers.values())
    feeds = {"x": np.ones((2, 8), np.float32)}
    np.testing.assert_allclose(open_session(again).run(feeds)["y"], open_session(small).run(feeds)["y"], rtol=1e-5)
    assert [stage.milliseconds is None for stage in report.stages] == [False, True, False]

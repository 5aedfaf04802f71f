"""GroupQueryAttention as it is written before it is differentiated, against the engine's own."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import onnxruntime
import pytest

from onnxcompress.training.composites import write_composites
from onnxcompress.training.loss import CrossEntropy
from onnxcompress.training.objective import build_objective

TEXT = """<ir_version: 9, opset_import: ["" : 17, "com.microsoft" : 1]>
g (float[B,S,64] a, float[B,1,P,16] k, float[B,1,P,16] v, int32[B] seen, int32[1] total, float[8,8] c, float[8,8] s)
    => (float[B,S,32] y) {
    y, pk, pv = com.microsoft.GroupQueryAttention
        <num_heads = 2, kv_num_heads = 1, do_rotary = 1, rotary_interleaved = 1>(a, , , k, v, seen, total, c, s)
}"""


@pytest.mark.parametrize(("batch", "asked", "past"), [(2, 3, 0), (1, 3, 2), (3, 1, 2)])
def test_it_is_what_the_engine_computes(batch: int, asked: int, past: int) -> None:
    random = np.random.default_rng(0)
    shapes = {"a": (batch, asked, 64), "k": (batch, 1, past, 16), "v": (batch, 1, past, 16), "c": (8, 8), "s": (8, 8)}
    feeds = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    feeds |= {"seen": np.full(batch, past + asked - 1, np.int32), "total": np.array([past + asked], np.int32)}
    given = onnx.parser.parse_model(TEXT)
    written = ir.from_proto(given)
    assert write_composites(written.graph)
    results = [
        onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
        for proto in (given, ir.to_proto(written))
    ]
    np.testing.assert_allclose(results[1], results[0], atol=1e-5)


def test_what_is_not_trained_comes_from_the_data_file(tmp_path: Path) -> None:
    """The tables of angles are no weights: the training interpreter gets them with the graph."""
    random = np.random.default_rng(0)
    body = "g (float[N,64] x) => (float[N,64] y) { a = MatMul (x, w) y = Mul (a, n) }"
    text = f'<ir_version: 9, opset_import: ["" : 17]> {body}'
    held = {"w": random.standard_normal((64, 64)).astype(np.float32), "n": np.ones((1, 64), np.float32)}
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in held.items())
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    labels, samples = CrossEntropy(np.arange(3)), {"x": np.ones((3, 64), np.float32)}
    written = build_objective(ir.load(tmp_path / "m.onnx"), labels, frozen={"n"}, samples=samples).proto
    (held_back,) = (tensor for tensor in written.graph.initializer if tensor.name == "n")
    assert held_back.data_location == onnx.TensorProto.DEFAULT

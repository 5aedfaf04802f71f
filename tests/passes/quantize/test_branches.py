"""What both branches of an If read is stored once, whatever is done to it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from onnxcompress import apply
from onnxcompress.passes import Quantize, QuantizeWeights

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 64] x, bool c) => (float[N, 64] y) {
    y = If (c) <
        then_branch = one () => (float[N, 64] a) { h = MatMul(x, w) a = Relu(h) },
        else_branch = other () => (float[N, 64] b) { g = MatMul(x, w) b = Tanh(g) }
    >
}"""


@pytest.mark.parametrize("step", [Quantize(), QuantizeWeights(dtype="int8", granularity="channel")])
def test_a_weight_of_two_branches_is_stored_once(step):
    random = np.random.default_rng(0)
    proto = onnx.parser.parse_model(TEXT)
    weight = random.standard_normal((64, 64)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    x = random.standard_normal((8, 64)).astype(np.float32)
    data = [{"x": x, "c": np.array(chosen)} for chosen in (True, False)]
    made, report = apply(ir.from_proto(proto), [step], data=data)
    assert report.steps[0].done
    tensors = [value.const_value for graph in made.graphs() for value in graph.initializers.values()]
    assert [t.dtype for t in tensors if t is not None and t.size == weight.size] == [ir.DataType.INT8]

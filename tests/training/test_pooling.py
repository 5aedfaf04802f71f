"""AveragePool written as Conv, against ONNX Runtime's own; and what crashed the training interpreter."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from corpus.trainable import make
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.training import measure_saliency, trainable_weights
from onnxcompress.training.pooling import write_out_average_pools


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_equal_weights_are_an_average(data: st.DataObject) -> None:
    size = [data.draw(st.integers(4, 9)) for _ in range(2)]
    kernel = [data.draw(st.integers(1, 4)) for _ in range(2)]
    strides = [data.draw(st.integers(1, 3)) for _ in range(2)]
    pads = [data.draw(st.integers(0, min(2, kernel[axis % 2] - 1))) for axis in range(4)]
    counted = data.draw(st.integers(0, 1))
    attributes = f"kernel_shape = {kernel}, strides = {strides}, pads = {pads}, count_include_pad = {counted}"
    text = f"g (float[N,3,{size[0]},{size[1]}] x) => (float[N,3,?,?] y) {{ y = AveragePool<{attributes}>(x) }}"
    subject = model(text, {})
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)}
    expected = plain_run(ir.to_proto(subject), feeds)["y"]
    write_out_average_pools(subject)
    assert "AveragePool" not in {node.op_type for node in subject.graph}
    np.testing.assert_allclose(plain_run(ir.to_proto(subject), feeds)["y"], expected, rtol=1e-5, atol=1e-6)


CNN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,1,?,?] image) => (float[batch,5] p) {
  c = Conv<pads = [1,1,1,1]>(image, w)
  m = MaxPool<kernel_shape = [2,2], strides = [2,2]>(c)
  a = AveragePool<kernel_shape = [2,3], strides = [2,2]>(m)
  g = GlobalAveragePool(a)
  f = Flatten(g)
  logits = Gemm(f, fc, fb)
  s = Softmax<axis = 1>(logits)
  p = Identity(s)
}"""


@pytest.mark.parametrize("pool", ["ceil_mode = 1, kernel_shape = [2,3], strides = [2,2]", "kernel_shape = [2,3]"])
def test_images_that_are_not_square(pool: str) -> None:
    """Two extents under one name, an AveragePool, and an Identity behind the Softmax."""
    random = np.random.default_rng(0)
    w, fc = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 1, 3, 3), (4, 5)))
    text = CNN.replace("kernel_shape = [2,3], strides = [2,2]", pool)
    subject = make(text, w=w, fc=fc, fb=np.zeros(5, np.float32))
    if "ceil_mode" in pool:
        assert "(AveragePool) has no gradient" in trainable_weights(subject).stopped["w"]
        return
    images, labels = random.standard_normal((6, 1, 8, 40)).astype(np.float32), random.integers(0, 5, 6)
    found = measure_saliency(subject, {"image": images}, labels, ["w", "fc"])

    def losses(weight: np.ndarray) -> np.ndarray:
        scaled = make(text, w=weight.astype(np.float32), fc=fc, fb=np.zeros(5, np.float32))
        p = plain_run(ir.to_proto(scaled), {"image": images})["p"]
        return -np.log(p[np.arange(6), labels].astype(np.float64))

    for channel in range(4):
        ends = []
        for factor in (1.01, 0.99):
            weight = w.copy()
            weight[channel] *= factor
            ends.append(losses(weight))
        slope = np.abs((ends[0] - ends[1]) / 0.02).mean()
        assert found.first["w", 0][channel] == pytest.approx(slope, rel=0.03, abs=1e-4)

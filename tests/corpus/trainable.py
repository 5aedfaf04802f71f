"""Small classifiers that train, with samples."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir

MLP = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,6] x) => (float[batch,4] logits) {
  h = Gemm(x, w1, b1)
  r = Relu(h)
  logits = MatMul(r, w2)
}"""

CNN = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,1,8,8] image) => (float[batch,10] p) {
  c = Conv<pads = [1,1,1,1], strides = [2,2]>(image, w)
  n = BatchNormalization(c, scale, bias, mean, var)
  r = Relu(n)
  f = Flatten(r)
  logits = Gemm(f, fc, fb)
  p = Softmax<axis = 1>(logits)
}"""


def make(text: str, **weights: np.ndarray) -> ir.Model:
    proto = onnx.parser.parse_model(text)
    for name, array in weights.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    return ir.from_proto(proto)


def mlp(text: str = MLP) -> ir.Model:
    random = np.random.default_rng(0)
    w1, b1, w2 = (random.standard_normal(shape).astype(np.float32) for shape in ((6, 8), (8,), (8, 4)))
    return make(text, w1=w1, b1=b1, w2=w2)


def cnn() -> ir.Model:
    random = np.random.default_rng(0)
    ones, zeros = np.ones(8, np.float32), np.zeros(8, np.float32)
    w = (random.standard_normal((8, 1, 3, 3)) / 3).astype(np.float32)
    fc = (random.standard_normal((128, 10)) / 16).astype(np.float32)
    return make(CNN, w=w, scale=ones, bias=zeros, mean=zeros, var=ones, fc=fc, fb=np.zeros(10, np.float32))


def weights_of(model: ir.Model) -> dict[str, np.ndarray]:
    return {name: value.const_value.numpy() for name, value in model.graph.initializers.items()}


def samples(count: int = 50) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    random = np.random.default_rng(1)
    x = random.standard_normal((count, 6)).astype(np.float32)
    teacher = (3 * random.standard_normal((count, 4))).astype(np.float32)
    return {"x": x}, random.integers(0, 4, count), teacher


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(1, keepdims=True)
    return z - np.log(np.exp(z).sum(1, keepdims=True))

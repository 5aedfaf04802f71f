# /// script
# requires-python = ">=3.10,<3.13"
# dependencies = ["onnxruntime-training-cpu==1.19.2", "onnx==1.16.2", "numpy"]
# ///
"""Differentiate one small model per operator in the training interpreter and compare with finite differences.

Started by `test_training.py`: ``gradient_table.py ENGINE`` with the path of `loop/engine.py`; writes one JSON object,
operator to the relative error of its gradient, or to the reason why there is none.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

UNARY = "Abs Cos Erf Exp Identity LeakyRelu Neg Relu Sigmoid Sin Tanh Dropout Flatten GlobalAveragePool Trilu"
POSITIVE = "Log Reciprocal Sqrt"
BINARY = "Add Sub Mul Div"
REDUCE = "ReduceMean ReduceL2 ReduceLogSumExp"
NONE = "Elu HardSwish HardSigmoid Softplus GlobalMaxPool Ceil"
BODIES = {
    **{op: f"y = {op}(x)" for op in UNARY.split()},
    **{op: f"y = {op}(p)" for op in POSITIVE.split()},
    **{op: f"y = {op}(x, p)" for op in BINARY.split()},
    **{op: f"y = {op}<axes = [2, 3]>(x)" for op in REDUCE.split()},
    "ReduceSum": "y = ReduceSum(x, axis1)",
    "Softmax": "y = Softmax<axis = 1>(x)",
    "LogSoftmax": "y = LogSoftmax<axis = 1>(x)",
    "Clip": "y = Clip(x, low, high)",
    "Pow": "y = Pow(p, two)",
    "Min": "y = Min(x, image)",
    "Max": "y = Max(x, image)",
    "Reshape": "y = Reshape(x, flat)",
    "Transpose": "y = Transpose<perm = [0, 2, 3, 1]>(x)",
    "Unsqueeze": "y = Unsqueeze(x, axis1)",
    "Squeeze": "u = Unsqueeze(x, axis1)\n y = Squeeze(u, axis1)",
    "Concat": "y = Concat<axis = 1>(x, p)",
    "Split": "y1, y2 = Split<axis = 1>(x, halves)\n y = Mul(y1, y2)",
    "Slice": "y = Slice(x, axis1, three, two_i)",
    "Expand": "u = Unsqueeze(x, axis1)\n y = Expand(u, expanded)",
    "Tile": "y = Tile(x, repeats)",
    "Pad": "y = Pad(x, pads)",
    "Gather": "y = Gather<axis = 1>(x, picked)",
    "GatherElements": "y = GatherElements<axis = 1>(x, elements)",
    "GatherND": "y = GatherND(x, positions)",
    "ScatterElements": "y = ScatterElements<axis = 1>(x, elements, image)",
    "ScatterND": "y = ScatterND(x, positions, updates)",
    "Where": "y = Where(condition, x, p)",
    "MaxPool": "y = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(x)",
    "Conv": "y = Conv(x, kernel)",
    "Gemm": "f = Flatten(x)\n y = Gemm(f, dense, bias)",
    "MatMul": "y = MatMul(x, matrix)",
    # x + x*x: normalising x itself would take the weight out again; so would the mean of y*y behind BatchNormalization.
    "LayerNormalization": "s = Mul(x, x)\n b = Add(s, x)\n y, m, i = LayerNormalization<axis = -1>(b, gamma, beta)",
    "BatchNormalization": (
        "s = Mul(x, x)\n b = Add(s, x)\n"
        " n, m, v = BatchNormalization<training_mode = 1>(b, scale, shift, mean, var)\n y = Mul(n, image)"
    ),
    "Cast": "h = Cast<to = 11>(x)\n y = Cast<to = 1>(h)",
    "Gelu": "y = Gelu(x)",
    # Not in the table: the reasons why must stay true as well.
    **{op: f"y = {op}(x)" for op in NONE.split()},
    "PRelu": "y = PRelu(x, two)",
    "Sum": "y = Sum(x, p)",
    "ReduceMax": "y = ReduceMax<axes = [2]>(x)",
    "Einsum": 'y = Einsum<equation = "bchw,wv->bchv">(x, matrix)',
    "ConvTranspose": "y = ConvTranspose(x, transposed)",
    "Resize": 'y = Resize<mode = "nearest">(x, , scales)',
}
TEXT = """<ir_version: 9, opset_import: ["" : %d]>
g (float[batch,4,6,6] image, float[4,1,1] w) => (float loss) {
 scaled = Mul(image, w)
 x = Sub(scaled, small)
 size = Abs(x)
 p = Add(size, half)
 %s
 squared = Mul(y, y)
 rows = Flatten(squared)
 loss = ReduceMean<keepdims = 0>(rows)
}"""


def constants(random: np.random.Generator) -> dict[str, np.ndarray]:
    def real(*shape: int) -> np.ndarray:
        return random.uniform(-0.5, 0.5, shape).astype(np.float32)

    return {
        "small": np.float32(0.01),
        "half": np.float32(0.5),
        "two": np.float32(2),
        "low": np.float32(-0.3),
        "high": np.float32(0.3),
        "axis1": np.array([1]),
        "three": np.array([3]),
        "two_i": np.array([2]),
        "flat": np.array([0, 2, -1]),
        "halves": np.array([2, 2]),
        "expanded": np.array([3, 2, 4, 6, 6]),
        "repeats": np.array([1, 2, 1, 1]),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
        "picked": np.array([0, 2, 2]),
        "elements": random.permuted(np.tile(np.arange(4)[None, :, None, None], (3, 1, 6, 6)), axis=1),
        "positions": np.array([[0, 1], [1, 2]]),
        "updates": real(2, 6, 6),
        "condition": random.random((3, 4, 6, 6)) > 0.5,
        "kernel": real(5, 4, 3, 3),
        "transposed": real(4, 5, 3, 3),
        "dense": real(144, 5),
        "bias": real(5),
        "matrix": real(6, 7),
        "gamma": real(6) + 1,
        "beta": real(6),
        **{name: real(4) + 1 for name in ("scale", "shift", "mean", "var")},
        "scales": np.array([1, 1, 2, 2], np.float32),
    }


def error_of(engine, body: str, opset: int, folder: Path) -> float:
    random = np.random.default_rng(0)
    model = onnx.parser.parse_model(TEXT % (opset, body))
    used = {name for node in model.graph.node for name in node.input}
    for name, array in constants(random).items():
        if name in used:
            model.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array), name))
    model.graph.node[-1].output[0] = model.graph.output[0].name = engine.LOSS
    model = onnx.shape_inference.infer_shapes(model)
    image = random.uniform(-0.5, 0.5, (3, 4, 6, 6)).astype(np.float32)
    forward = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    weight = np.full((4, 1, 1), 1.1, np.float32)

    def loss(shift: np.ndarray) -> float:
        return float(forward.run([engine.LOSS], {"image": image, "w": (weight + shift).astype(np.float32)})[0])

    steps = 5e-3 * np.eye(4).reshape(4, 4, 1, 1)
    numeric = np.array([(loss(step) - loss(-step)) / 1e-2 for step in steps])
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    session = engine.open_gradients(folder / "model.onnx", ["w"], 1)
    exact = session.run(["w_grad"], {"image": image, "w": weight})[0].ravel()
    return float(np.abs(exact - numeric).max() / (np.abs(numeric).max() + 1e-6))


def main() -> None:
    onnxruntime.set_default_logger_severity(4)
    spec = importlib.util.spec_from_file_location("engine", sys.argv[1])
    engine = importlib.util.module_from_spec(spec)
    sys.modules["engine"] = engine
    spec.loader.exec_module(engine)
    found: dict[str, float | str] = {}
    with tempfile.TemporaryDirectory() as folder:
        for op, body in BODIES.items():
            try:
                found[op] = error_of(engine, body, 20 if op == "Gelu" else 17, Path(folder))
            except Exception as error:  # noqa: BLE001 - every way to fail means that there is no gradient
                found[op] = str(error).strip().splitlines()[-1]
    sys.stdout.write(json.dumps(found))


if __name__ == "__main__":
    main()

"""Gradients of random small graphs, against differences of the graph itself in double precision."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onnxcompress.training.engines import ENGINES
from onnxcompress.training.loss import LABELS, CrossEntropy
from onnxcompress.training.objective import build_objective

SMOOTH = """
y = Add(a, b)
y = Sub(a, b)
y = Mul(a, b)
y = Tanh(a)
y = Sigmoid(a)
y = Cos(a)
y = Sin(a)
t = Tanh(b); e = Exp(t); y = Div(a, e)
y = Softmax<axis = 1>(a)
y = LayerNormalization<epsilon = 0.1>(a, s)
t = Transpose<perm = [0, 2, 1]>(b); m = MatMul(a, t); y = MatMul(m, b)
m = MatMul(a, square); y = Add(m, b)
m = ReduceMean<axes = [1]>(a); y = Mul(m, b)
m = ReduceSum<keepdims = 0>(a, last); u = Unsqueeze(m, last); y = Sub(b, u)
m = ReduceLogSumExp<axes = [-1]>(a); y = Sub(a, m)
p, q = Split<axis = 1>(a, halves); y = Concat<axis = 1>(q, p)
y = Gather<axis = 1>(a, order)
y = CumSum(a, first)
z = Greater(a, b); y = Where(z, a, b)
y = Einsum<equation = "bij,bkj->bij">(a, b)
y = LpNormalization(a)
"""
LINES = SMOOTH.split("\n")[1:-1]
TEXT = """<ir_version: 9, opset_import: ["" : 17]>
g ({dtype}[N,4,3] v0) => ({dtype}[N,5] logits) {{
 v1 = Mul(v0, w)
{body}
 rows = Flatten({last})
 logits = MatMul(rows, head)
}}"""
BATCH = 3
LARGEST = 30.0
"""Logits up to which single precision tells a gradient."""


@st.composite
def bodies(draw: st.DrawFn) -> str:
    """A few operators, each reading what two before it made, the first one that it made last."""
    count = draw(st.integers(1, 6))
    lines = []
    for number in range(2, count + 2):
        line = draw(st.sampled_from(LINES))
        names = {"a": f"v{number - 1}", "b": f"v{draw(st.integers(0, number - 1))}", "y": f"v{number}"}
        for node in line.split("; "):
            head, _, inputs = node.rpartition("(")
            outputs, _, op = head.partition(" = ")
            renamed = [_renamed(part, names, number) for part in (outputs, inputs.rstrip(")"))]
            lines.append(f" {renamed[0]} = {op}({renamed[1]})")
    return "\n".join(lines)


def _renamed(values: str, names: dict[str, str], number: int) -> str:
    inner = {name: f"{name}{number}" for name in "emtuzpq"}
    return ", ".join((names | inner).get(value, value) for value in values.split(", "))


def constants(dtype: type, weights: dict[str, np.ndarray]) -> list[onnx.TensorProto]:
    integers = {"last": [2], "halves": [2, 2], "order": [2, 0, 3, 3], "first": 1}
    held = {name: np.array(value, np.int64) for name, value in integers.items()}
    held |= {name: array.astype(dtype) for name, array in weights.items()}
    return [onnx.numpy_helper.from_array(array, name) for name, array in held.items()]


def model_of(body: str, dtype: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    last = body.splitlines()[-1].split(" = ")[0].strip()
    model = onnx.parser.parse_model(TEXT.format(dtype=dtype, body=body, last=last))
    model.graph.initializer.extend(constants(np.float64 if dtype == "double" else np.float32, weights))
    return model


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(names, feeds)


def loss_of(logits: np.ndarray) -> float:
    logits = logits - logits.max(1, keepdims=True)
    return float(-(logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(BATCH), np.arange(BATCH)].mean())


@settings(max_examples=25, deadline=None, derandomize=True)
@given(bodies(), st.integers(0, 2**16))
def test_random_graphs(body: str, seed: int) -> None:
    random = np.random.default_rng(seed)
    shapes = {"w": (4, 3), "s": (3,), "square": (3, 3), "head": (12, 5)}
    weights = {name: random.uniform(0.5, 1.5, shape) * random.choice([-1, 1], shape) for name, shape in shapes.items()}
    x = random.uniform(-1, 1, (BATCH, 4, 3))
    feeds = {"v0": x.astype(np.float32)}
    logits = run(model_of(body, "double", weights), {"v0": x}, ["logits"])[0]
    assume(np.abs(logits).max() < LARGEST)
    objective = build_objective(
        ir.from_proto(model_of(body, "float", weights)),
        CrossEntropy(np.arange(BATCH)),
        evaluate=True,
        samples=feeds,
        engine=ENGINES["onnxruntime"],
    )
    fed = {name: weights[name].astype(np.float32) for name in objective.weights}
    names = [f"{name}_grad" for name in objective.weights]
    gradients = run(objective.proto, feeds | fed | {LABELS: np.arange(BATCH)}, names)
    for name, gradient in zip(objective.weights, gradients, strict=True):
        direction = random.standard_normal(gradient.shape)
        losses = []
        for sign in (1, -1):
            moved = weights | {name: weights[name] + sign * 1e-6 * direction}
            losses.append(loss_of(run(model_of(body, "double", moved), {"v0": x}, ["logits"])[0]))
        expected = (losses[0] - losses[1]) / 2e-6
        scale = np.abs(gradient * direction).sum()
        assert float((gradient * direction).sum()) == pytest.approx(expected, abs=2e-3 * scale + 1e-5)

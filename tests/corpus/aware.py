"""A teacher, what earlier steps may have made of it, and training behind them."""

from __future__ import annotations

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from scipy.special import log_softmax

from onnxcompress import apply
from onnxcompress.contract import Pass
from onnxcompress.passes import Cluster, Distill, MagnitudePrune, PruneNOfM, Quantize, QuantizeWeights
from onnxcompress.passes.distill.qat.masters import find_masters

NET = """<ir_version: 8, opset_import: ["" : 17]>
net (float[batch,2,8,8] x) => (float[batch,5] logits) {
  a = Conv<pads = [1,1,1,1]>(x, w1, b1)
  r = Relu(a)
  b = Conv<pads = [1,1,1,1], strides = [2,2]>(r, w2, b2)
  s = Relu(b)
  f = Flatten(s)
  logits = Gemm<transB = 1>(f, w3, b3)
}"""

SHAPES = {"w1": (8, 2, 3, 3), "b1": (8,), "w2": (16, 8, 3, 3), "b2": (16,), "w3": (5, 256), "b3": (5,)}

FOUR = {"weights": "int4", "rounding": "nearest", "correct": False}
EIGHT = {"target": "onnxruntime-cpu", "granularity": "tensor", "rounding": "nearest", "correct": False}

CASES: dict[str, list[Pass]] = {
    "QAT, 4 bits for each channel": [Quantize(**FOUR)],
    "QAT, 4 bits": [Quantize(**FOUR, granularity="tensor")],
    "QAT, 8 bits": [Quantize(**EIGHT)],
    "QAT, 8 bits for each channel": [Quantize(**(EIGHT | {"granularity": "channel"}))],
    "QAT, weights alone": [QuantizeWeights(dtype="int4", granularity="channel", minimum_size=1)],
    "QAT, weights alone in blocks": [QuantizeWeights(dtype="uint4", block_size=16, format="qdq", minimum_size=1)],
    "PQAT": [MagnitudePrune(sparsity=0.6), Quantize(**EIGHT)],
    "PQAT, n of m": [PruneNOfM(), Quantize(**FOUR)],
    "CQAT": [Cluster(clusters=8), Quantize(**EIGHT)],
    "PCQAT": [MagnitudePrune(sparsity=0.6), Cluster(clusters=8), Quantize(**EIGHT)],
}


@cache
def teacher() -> onnx.ModelProto:
    random, proto = np.random.default_rng(0), onnx.parser.parse_model(NET)
    for name, shape in SHAPES.items():
        array = (2 * random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 8))).astype(np.float32)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    return proto


def images(seed: int, count: int) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 2, 8, 8)).astype(np.float32)


def logits(model: onnx.ModelProto) -> np.ndarray:
    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": images(9, 500)})[0]


def divergence(model: onnx.ModelProto) -> float:
    """How far it is from its teacher, on samples that nothing was fitted to."""
    p, q = (log_softmax(logits(m).astype(np.float64), 1) for m in (teacher(), model))
    return float((np.exp(p) * (p - q)).sum(1).mean())


def steps(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    """How far the integers are from their zero points."""
    masters = find_masters(ir.from_proto(model))[0]
    return {name: master.steps for name, master in masters.items() if master.steps.ndim > 1}


def trained(passes: list[Pass], **options: Any) -> tuple[onnx.ModelProto, onnx.ModelProto, Any]:
    """Return the model before and after training, and the report."""
    data = {"x": images(1, 2000)}
    start, _ = apply(teacher(), passes, data=data)
    settings: dict[str, Any] = {"epochs": 5, "batch_size": 32, "learning_rate": 1e-3, "losses": {"kl": 1.0}}
    settings |= {"outputs": {"logits": "classes"}, "teacher": "", "keep_anyway": True} | options
    end, report = apply(teacher(), [*passes, Distill(**settings)], data=data)
    return start, end, report


def integers(model: onnx.ModelProto) -> set[str]:
    return set(find_masters(ir.from_proto(model))[0])


def operators(model: onnx.ModelProto) -> list[str]:
    """The operators that onnxruntime makes of it."""
    options = onnxruntime.SessionOptions()
    with tempfile.TemporaryDirectory() as folder:
        options.optimized_model_filepath = str(Path(folder) / "optimized.onnx")
        options.log_severity_level = 3
        onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return sorted(node.op_type for node in onnx.load(options.optimized_model_filepath).graph.node)

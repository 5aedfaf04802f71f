"""The linter beside the engine itself: what ONNX Runtime leaves in float, is what the linter says it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus import convolutions, layers, transformers
from corpus.oracle import drawn_feeds
from corpus.quantized import BLOCKS, CONV, MATMUL, POOL, SECOND_READER, UNARY, build, f32

from onnxcompress import apply
from onnxcompress.passes import FoldBatchNorm, Quantize
from onnxcompress.targets import lint, load_target, quantize_options, target_names

INTEGER = {"MatMulIntegerToFloat", "MatMulNBits", "QGemm", "QLinearConv", "QLinearMatMul", "QLinearSigmoid"}
FLOAT = {"Conv", "Exp", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul", "Sigmoid"}
PRODUCTS = {"Conv", "FusedConv", "FusedGemm", "FusedMatMul", "Gemm", "MatMul"}


def optimized(subject: ir.Model, folder: Path) -> list[str]:
    """Return the operators of the graph that onnxruntime runs."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    ort.InferenceSession(ir.to_proto(subject).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return [node.op_type for node in onnx.load(folder / "optimized.onnx").graph.node]


SIGNED = {"xz": np.int8(3), "yz": np.int8(7)}
UNSIGNED = {"w": np.ones((6, 4, 3, 3), np.uint8), "wz": np.zeros(6, np.uint8)}
BIAS = {"f": np.ones(6, np.float32)}
TRANSPOSED = MATMUL.replace("MatMul (xd, wd)", "Gemm <transB = 1> (x, wd)").replace("axis = 1", "axis = 0")
VARIANTS: list[tuple[str, dict[str, Any], tuple[str, str]]] = [
    (CONV, {}, ("", "")),
    (CONV, UNSIGNED, ("", "")),
    (CONV, SIGNED, ("", "")),
    (CONV, {"xz": np.uint16(3), "yz": np.uint16(7)}, ("", "")),
    (CONV, BIAS, ("xd, wd, bd", "xd, wd, f")),
    (CONV, {"bs": np.ones(6, np.float32)}, ("", "")),
    (CONV, {"v": np.ones((6, 4, 3, 3), np.float32)}, ("xd, wd, bd", "xd, v, bd")),
    (CONV, BIAS | {"v": np.ones((6, 4, 3, 3), np.float32)}, ("xd, wd, bd", "xd, v, f")),
    (CONV, {}, ("xd, wd, bd", "x, wd, bd")),
    (MATMUL, {}, ("MatMul (xd, wd)", "Gemm (xd, wd)")),
    (MATMUL, {"f": np.ones(8, np.float32)}, ("MatMul (xd, wd)", "Gemm (xd, wd, f)")),
    (CONV, {}, ("[last] y = DequantizeLinear (yq, ys, yz)", SECOND_READER)),
    (MATMUL, {}, ("", "")),
    (MATMUL, {"v": np.ones((32, 8), np.float32)}, ("xd, wd", "xd, v")),
    (UNARY, {}, ("", "")),
    (UNARY, {}, ("Sigmoid", "Exp")),
    (UNARY, {}, ("(xd)", "(x)")),
    (UNARY, {"yz": np.int8(7)}, ("", "")),
    (BLOCKS, {}, ("", "")),
    (MATMUL, {}, ("xd, wd", "x, wd")),
    (MATMUL, {"ws": f32(0.1), "wz": np.int8(0)}, ("xd, wd", "x, wd")),
    (MATMUL, {}, ("MatMul (xd, wd)", "Gemm (x, wd)")),
    (TRANSPOSED, {"w": np.ones((8, 32), np.int8)}, ("", "")),
]


@pytest.mark.parametrize(("text", "change", "replace"), VARIANTS)
def test_onnxruntime_computes_in_float_what_is_said(
    text: str, change: dict[str, Any], replace: tuple[str, str], tmp_path: Path
) -> None:
    subject = build(text, change, replace)
    report = lint(subject, "onnxruntime-cpu")
    ops = set(optimized(subject, tmp_path))
    left = [finding for finding in report.findings if finding.effect == "float"]
    assert bool(left) == bool(ops & FLOAT)
    assert bool(left) != bool(ops & INTEGER)


@pytest.mark.parametrize(("change", "pairs"), [({}, 1), ({"ys": f32(0.25)}, 2), ({"yz": np.uint8(9)}, 2)])
def test_data_movement_passes_integers_through_at_one_scale(change: dict[str, Any], pairs: int, tmp_path: Path) -> None:
    subject = build(POOL, change)
    assert optimized(subject, tmp_path).count("QuantizeLinear") == pairs
    assert bool(lint(subject, "onnxruntime-cpu").findings) == (pairs == 2)


CORPUS = [
    convolutions.residual_batch_norm,
    convolutions.squeeze_excitation,
    convolutions.unet,
    layers.mlp,
    transformers.encoder,
]
NOW = [n for n in target_names() if not (quantize_options(load_target(n))["symmetric"])]
"""Targets for which `quantize` has all options."""


@pytest.mark.parametrize("name", NOW)
@pytest.mark.parametrize("make", CORPUS, ids=lambda make: make.__name__)
def test_quantized_models_are_taken(name: str, make: Any, tmp_path: Path) -> None:
    options = quantize_options(load_target(name))
    subject = make()
    step = Quantize(activations=options["activations"], granularity=options["granularity"])  # type: ignore[arg-type]
    small, _ = apply(subject, [FoldBatchNorm(), step], data=drawn_feeds(subject))
    report = lint(small, name)
    assert report.rejected == []
    if name == "onnxruntime-cpu":
        floats = [f for f in report.findings if f.node.split("(")[1].rstrip(")") in PRODUCTS]
        assert len(floats) == sum(op in PRODUCTS for op in optimized(small, tmp_path))

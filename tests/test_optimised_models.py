"""Models that onnxruntime has optimised, full of its own operators, go through passes like any other."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.topologies import TOPOLOGIES

import onnxcompress
from onnxcompress.passes import ConvertFloat, PruneChannels, QuantizeWeights, Shrink


@pytest.fixture(scope="module")
def optimised(tmp_path_factory: pytest.TempPathFactory) -> onnx.ModelProto:
    path: Path = tmp_path_factory.mktemp("optimised") / "m.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(path)
    given = ir.to_proto(TOPOLOGIES["encoder"][0]()).SerializeToString()
    onnxruntime.InferenceSession(given, options, providers=["CPUExecutionProvider"])
    made = onnx.load(path)
    assert "com.microsoft" in {node.domain for node in made.graph.node}
    return made


@pytest.mark.slow
@pytest.mark.parametrize(
    ("step", "least"),
    [
        (Shrink(), 0.99999),
        (QuantizeWeights(dtype="int8"), 0.99),
        (ConvertFloat(), 0.999),
        (PruneChannels(sparsity=0.1), 0.5),
    ],
    ids=lambda given: given.name if hasattr(given, "name") else "",
)
def test_it_computes_nearly_the_same(optimised: onnx.ModelProto, step: onnxcompress.Pass, least: float) -> None:
    result, _ = onnxcompress.apply(optimised, [step], data="random")
    compared = onnxcompress.compare(optimised, result, data="random")
    assert min(output.cosine for output in compared.outputs) > least

"""Any model can be linted for any target: ONNX's own test models, and the corpus."""

from __future__ import annotations

import warnings

import onnx.backend.test.case.node
import onnx_ir as ir
import pytest
from corpus.topologies import TOPOLOGIES

from onnxcompress.targets import lint, load_target, target_names

QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinear", "Integer")


@pytest.mark.filterwarnings("ignore")
def test_onnx_node_models() -> None:
    """All of them for one engine, and those on integers for every one; the input stays as it was."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some of onnx's generators overflow on purpose
        cases = onnx.backend.test.case.node.collect_testcases(None)
    targets = [load_target(name) for name in target_names()]
    seen = 0
    for case in cases:
        subject = ir.from_proto(case.model)
        before = ir.to_proto(subject).SerializeToString(deterministic=True)
        integers = any(word in node.op_type for node in case.model.graph.node for word in QUANTIZED)
        for target in targets if integers else targets[:1]:
            for finding in lint(subject, target).findings:
                assert finding.node == "model" or "(" in finding.node
        assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
        seen += integers
    assert seen >= 40


def has_integers(name: str) -> bool:
    return any("Linear" in node.op_type for node in TOPOLOGIES[name][0]().graph.all_nodes())


@pytest.mark.parametrize("name", [name for name in TOPOLOGIES if not has_integers(name)])
def test_float_models_have_no_faults_of_storage(name: str) -> None:
    subject = TOPOLOGIES[name][0]()
    for target in target_names():
        assert {finding.rule for finding in lint(subject, target).findings} <= {"float", "opset", "operator"}

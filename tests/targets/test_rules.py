"""Each rule: a model that breaks exactly it, and the same model that does not."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import onnx_ir as ir
import pytest
from corpus.quantized import BLOCKS, CONV, MATMUL, POOL, QLINEAR, SECOND_READER, UNARY, build, f32, weights
from corpus.text import model

from onnxcompress.targets import LintReport, Target, lint, load_target
from onnxcompress.targets.rules import RULES


def strict(**changes: Any) -> Target:
    """ONNX Runtime's target with other rules: ``section={field: value}``."""
    plain = msgspec.to_builtins(load_target("onnxruntime-cpu"))
    for name, value in changes.items():
        plain[name] = plain[name] | value if isinstance(value, dict) else value
    return msgspec.convert(plain, Target)


@dataclass
class Case:
    """A change of constants, text or target after which `rule` complains, at `node`."""

    rule: str
    node: str
    text: str = CONV
    change: dict[str, Any] = field(default_factory=dict)
    replace: tuple[str, str] = ("", "")
    target: dict[str, Any] = field(default_factory=dict)
    always: dict[str, Any] = field(default_factory=dict)
    opset: int = 21
    effect: str = "float"


KERNEL = np.ones((6, 4, 3, 3), np.float32)
ROWS = np.full((32, 8), 100, np.int8)
CASES = [
    Case("opset", "model", target={"opset": {"max": 20}}, effect="rejected"),
    Case("operator", "conv", target={"operators": {"rejected": ["Conv"]}}, effect="rejected"),
    Case("operator", "matmul", QLINEAR, target={"operators": {"qoperators": []}}),
    Case("type", "third", change={"yz": np.int16(0)}),
    Case("type", "first", UNARY, target={"activations": {"dtypes": ["int8"], "outside": "reject"}}, effect="rejected"),
    Case("type", "weight", MATMUL, {"w": np.ones((32, 8), np.int16), "wz": np.zeros(8, np.int16)}),
    Case("type", "matmul", QLINEAR, target={"weights": {"dtypes": ["uint8"]}}),
    Case("pair", "conv", target={"pairs": [["uint8", "uint8"]]}),
    Case(
        "zero-point", "weight", change={"wz": np.int8([0, 0, 1, 0, 0, 0])}, always={"weights": {"symmetric": ["int8"]}}
    ),
    Case("zero-point", "first", UNARY, {"xz": np.uint8(127), "yz": np.uint8(128)}),
    Case("zero-point", "matmul", QLINEAR, {"wz": np.ones(8, np.int8)}, always={"weights": {"symmetric": ["int8"]}}),
    Case("granularity", "weight", target={"weights": {"per_channel": False}}),
    Case("granularity", "first", UNARY, {"xs": np.ones(8, np.float32), "xz": np.zeros(8, np.uint8)}),
    Case(
        "axis", "weight", MATMUL, {"ws": np.ones(32, np.float32), "wz": np.zeros(32, np.int8)}, ("axis = 1", "axis = 0")
    ),
    Case("axis", "weight", target={"axes": {"conv": 1}}),
    Case("block", "weight", BLOCKS, target={"blocks": {"min": 32}}),
    Case("block", "weight", BLOCKS, target={"blocks": {"dtypes": ["int4"]}}),
    Case("scale", "first", UNARY, {"xs": f32(0)}, effect="rejected"),
    Case("scale", "first", UNARY, {"xs": f32(1e-40)}, effect="rejected"),
    Case("scale", "first", UNARY, {"xs": f32(np.inf)}, effect="rejected"),
    Case("scale", "first", UNARY, {"xs": f32(np.nan)}, effect="rejected"),
    Case("scale", "first", UNARY, {"xs": f32(-1)}, effect="rejected"),
    Case("power-of-two", "first", UNARY, {"xs": f32(0.3)}, always={"scales": {"power_of_two": True}}),
    Case("bias", "bias", target={"bias": {"format": "float", "outside": "reject"}}, effect="rejected"),
    Case(
        "bias",
        "conv",
        change={"f": np.ones(6, np.float32)},
        replace=("xd, wd, bd", "xd, wd, f"),
        always={"operators": {"completes": []}},
    ),
    Case("mixed", "conv", CONV, {"v": KERNEL}, ("xd, wd, bd", "xd, v"), effect="advice"),
    Case("bias-scale", "conv", change={"bs": np.ones(6, np.float32)}),
    Case("range", "matmul", MATMUL, {"w": ROWS}, always={"weights": {"range": [-64, 64]}}, effect="advice"),
    Case("mixed", "matmul", MATMUL, {"v": np.ones((32, 8), np.float32)}, ("xd, wd", "xd, v")),
    Case("mixed", "matmul", MATMUL, replace=("xd, wd", "x, wd"), target={"blocks": {"whole": False}}),
    Case("output", "conv", replace=("[last] y = DequantizeLinear (yq, ys, yz)", SECOND_READER)),
    Case("move", "pool", POOL, {"ys": f32(0.25)}),
    Case("move", "pool", POOL, {"yz": np.uint8(9)}),
    Case("stray", "first", UNARY, replace=(UNARY[UNARY.index("[op]") :], "y = Exp (xd)\n}")),
    Case("between", "op", UNARY, replace=("Sigmoid", "Exp")),
    Case("float", "op", UNARY, replace=("(xd)", "(x)")),
]


def found(case: Case, subject: ir.Model, target: Target) -> set[tuple[str, str, str]]:
    return {(f.rule, f.node.split(" ")[0], f.effect) for f in lint(subject, target).findings}


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.rule}-{c.node}")
def test_breaking_one_rule(case: Case) -> None:
    symmetric = case.rule == "zero-point" and case.text == UNARY
    always = {"activations": {"symmetric": ["uint8"]}} if symmetric else case.always
    legal = {"xz": np.uint8(128), "yz": np.uint8(128)} if symmetric else {}
    clean = build(case.text, legal, opset=case.opset)
    assert found(case, clean, strict(**always)) == set()
    broken = build(case.text, case.change, case.replace, opset=case.opset)
    complaints = found(case, broken, strict(**always, **case.target))
    assert (case.rule, case.node, case.effect) in complaints
    assert {rule for rule, _, _ in complaints} == {case.rule}


def test_every_rule_has_a_case() -> None:
    assert {case.rule for case in CASES} == set(RULES)


def rules_of(report: LintReport) -> set[str]:
    return {finding.rule for finding in report.findings}


def test_float_models_are_left_in_float() -> None:
    text = "g (float[2, 32] x) => (float[2, 8] y) { [a] h = MatMul (x, w) [b] y = Add (h, v) }"
    subject = model(text, {"w": (32, 8), "v": (8,)})
    report = lint(subject, "onnxruntime-cpu")
    assert report.clean
    assert [(f.rule, f.node) for f in report.findings] == [("float", "a (MatMul)"), ("float", "b (Add)")]


INNER = """
g (bool c, float[2, 8] x) => (float[2, 8] y) {
    y = If (c) <
        then_branch = a () => (float[2, 8] p) { [inner] p = MatMul (x, w) },
        else_branch = b () => (float[2, 8] q) { q = Exp (x) }
    >
}
"""
FUNCTION = """
g (float[2, 8] x) => (float[2, 8] y) { [call] y = local.twice (x, w) }
<domain: "local", opset_import: ["" : 18]>
twice (a, m) => (b) { [body] b = MatMul (a, m) }
"""


@pytest.mark.parametrize(("text", "name"), [(INNER, "inner"), (FUNCTION, "body")])
def test_inner_graphs_and_functions_count(text: str, name: str) -> None:
    subject = model(text, {"w": (8, 8)})
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    nodes = [finding.node for finding in lint(subject, "onnxruntime-cpu").findings]
    assert len(nodes) == 1
    assert name in nodes[0]
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before


def test_tensorrt_refuses_what_its_importer_refuses() -> None:
    """uint8, zero points other than 0, int32 biases; and takes the same network without them."""
    report = lint(build(CONV, {}), "tensorrt")
    assert {(f.rule, f.node.split(" ")[0]) for f in report.rejected} == {
        ("type", "first"),
        ("type", "third"),
        ("bias", "bias"),
    }
    zero = {"xz": np.int8(0), "yz": np.int8(0), "f": np.ones(6, np.float32)}
    assert lint(build(CONV, zero, ("xd, wd, bd", "xd, wd, f")), "tensorrt").findings == []
    assert rules_of(lint(build(CONV, zero | {"xz": np.int8(1)}, ("xd, wd, bd", "xd, wd, f")), "tensorrt")) == {
        "zero-point"
    }


def test_weights_of_the_full_range_overflow_without_vnni() -> None:
    full = build(MATMUL, {"w": ROWS})
    assert rules_of(lint(full, "onnxruntime-cpu-avx2")) == {"range"}
    assert rules_of(lint(full, "onnxruntime-cpu")) == set()


def test_a_transposed_weight_has_its_channels_elsewhere() -> None:
    """W is stored as [8, 32] with a scale for each of its 8 rows, and transposed before MatMul."""
    text = MATMUL.replace("axis = 1", "axis = 0").replace("(xd, wd)", "(xd, wt)")
    text = text.replace("[matmul]", "wt = Transpose <perm = [1, 0]> (wd)\n [matmul]")
    assert lint(build(text, {**weights(MATMUL), "w": np.ones((8, 32), np.int8)}), "onnxruntime-cpu").findings == []


def test_a_weight_quantized_in_the_graph_is_a_weight() -> None:
    """As pytorch-quantization exports it: a float constant, QuantizeLinear, DequantizeLinear."""
    text = MATMUL.replace("[weight]", "wq = QuantizeLinear <axis = 1> (w, ws, wz)\n [weight]")
    text = text.replace(
        "axis = 1> (w, ws, wz)\n [weight] wd = DequantizeLinear <axis = 1> (w,",
        "axis = 1> (w, ws, wz)\n [weight] wd = DequantizeLinear <axis = 1> (wq,",
    )
    subject = build(text, {**weights(MATMUL), "w": np.ones((32, 8), np.float32)})
    assert lint(subject, "onnxruntime-cpu").findings == []


PRODUCT = """
g (float[2, 8] x, float[8, 8] z) => (float[2, 8] y) {
    xq = QuantizeLinear (x, xs, xz)
    xd = DequantizeLinear (xq, xs, xz)
    zq = QuantizeLinear (z, ys, yz)
    zd = DequantizeLinear (zq, ys, yz)
    [matmul] y = MatMul (xd, zd)
}
"""


def test_products_of_two_activations_have_pairs_of_types_too() -> None:
    """OpenVINO 2026.4 multiplies uint8 by uint8 in float (seen in the graph that it makes)."""
    subject = build(PRODUCT, {})
    assert [(f.rule, f.node) for f in lint(subject, "openvino").findings] == [("pair", "matmul (MatMul)")]
    assert lint(subject, "onnxruntime-cpu").findings == []
    assert lint(build(PRODUCT, {"yz": np.int8(0)}), "openvino").findings == []

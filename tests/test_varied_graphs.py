"""The generator of random graphs, and the judge of what passes make of them."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.varied import varied_graph
from corpus.varied.chains import random_chain, written
from corpus.varied.graph import NEWEST, Varied
from corpus.varied.judge import Runner, judge, untimed
from onnx import numpy_helper

from onnxcompress.contract import Change, Changes, Pass, Plan, Promise
from onnxcompress.errors import PassError

OPERATORS = {
    "Attention", "AveragePool", "BatchNormalization", "Cast", "Clip", "Compress", "ConcatFromSequence", "Constant",
    "ConstantOfShape", "Conv", "ConvTranspose", "DequantizeLinear", "DynamicQuantizeLinear", "Einsum", "Expand",
    "Flatten", "GRU", "Gather", "Gemm", "GroupNormalization", "Hardmax", "Identity", "If", "InstanceNormalization",
    "LSTM", "LayerNormalization", "LogSoftmax", "Loop", "LpPool", "MatMulInteger", "MaxPool", "NonMaxSuppression",
    "NonZero", "Optional", "Pad", "QLinearConv", "QLinearMatMul", "RMSNormalization", "RNN", "Reshape", "Resize",
    "Scan", "SequenceConstruct", "Slice", "Softmax", "Split", "SplitToSequence", "Squeeze", "Tile", "TopK", "Transpose",
    "Unique", "Unsqueeze", "Upsample", "Where",
}  # fmt: skip


def test_random_graphs_are_valid_and_run() -> None:
    for seed in range(60):
        varied = varied_graph(seed)  # which runs the full check
        for optimised in (False, True) if seed % 4 == 0 else (False,):
            runner = Runner(varied.model, optimised=optimised)
            for number in range(2):
                assert runner.run(varied.feeds(number, batch=1 + number))


def test_the_same_seed_gives_the_same_graph_and_feeds() -> None:
    for seed in range(5):
        one, other = varied_graph(seed), varied_graph(seed)
        assert one.model.SerializeToString(deterministic=True) == other.model.SerializeToString(deterministic=True)
        assert str(one.feeds(3)) == str(other.feeds(3))
        assert written(random_chain(seed)) == written(random_chain(seed))


def test_random_graphs_hold_what_real_ones_do() -> None:
    graphs = [varied_graph(seed).model for seed in range(700)]
    nodes = [node for model in graphs for node in model.graph.node]
    assert {node.op_type for node in nodes} >= OPERATORS
    assert {model.opset_import[0].version for model in graphs} == set(range(7, NEWEST + 1))
    kinds = {tensor.data_type for model in graphs for tensor in model.graph.initializer}
    assert kinds >= {
        onnx.TensorProto.DataType.Value(kind) for kind in ("FLOAT", "FLOAT16", "DOUBLE", "BFLOAT16", "INT32")
    }
    shapes = [(len(n.input) > 2, a.name) for n in nodes if n.op_type == "Gemm" for a in n.attribute]
    assert {(there, name) for there in (True, False) for name in ("alpha", "beta", "transA", "transB")} <= set(shapes)
    auto = {(n.op_type, a.s) for n in nodes for a in n.attribute if a.name == "auto_pad"}
    for kind in ("Conv", "Transpose", "Pool"):
        assert {pad for name, pad in auto if name.endswith(kind)} == {b"SAME_UPPER", b"SAME_LOWER", b"VALID"}
    assert {model.ir_version for model in graphs} >= {3, 8, 9, 10}
    assert any(
        {i.name for i in m.graph.input} & {t.name for t in m.graph.initializer} for m in graphs if m.ir_version > 3
    )
    assert any({o.name for o in m.graph.output} & {t.name for t in m.graph.initializer} for m in graphs)
    others = [(f.opset_import[0].version, m.opset_import[0].version) for m in graphs for f in m.functions]
    assert {one == other for one, other in others} == {True, False}


def test_steps_can_be_left_out() -> None:
    varied = varied_graph(3)
    less = varied_graph(3, frozenset({0}))
    assert less.steps[0] == ""
    assert len(less.steps) == len(varied.steps)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spoil(Pass):
    """Does to a model what a pass must not."""

    how: str = ""

    def plan(self, model: ir.Model, context: Any) -> Plan:
        if self.how == "refuse":
            raise PassError("node 'a': it cannot be done; export it with opset 13")
        if self.how == "fail":
            raise KeyError("a")
        return Plan()

    def apply(self, model: ir.Model, plan: Plan) -> Changes:
        if self.how == "default":
            del model.graph.inputs[-1]
        elif self.how == "rename":
            model.graph.outputs[0].name = "other"
        elif self.how == "infinite":
            value = next(iter(model.graph.initializers.values()))
            value.const_value = ir.tensor(np.full(value.shape.numpy(), np.inf, np.float32), name=value.name)  # type: ignore[union-attr]
        elif self.how == "round":
            value = next(iter(model.graph.initializers.values()))
            value.const_value = ir.tensor(np.round(value.const_value.numpy()), name=value.name)  # type: ignore[union-attr]
        return Changes((Change("model", "spoilt"),))


def plain(defaults: bool = False) -> Varied:
    model = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 17]>
        g (float[2, 4] x%s) => (float[2, 3] y) { y = MatMul (x, w) }"""
        % (", float[4, 3] w" if defaults else "")
    )
    array = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(array, "w"))
    varied = varied_graph(0)
    item = dataclasses.replace(varied.inputs[0], name="x", dtype="float32", dims=(2, 4), below=0)
    return Varied(0, model, (item,), {"w": array} if defaults else {}, ())


@pytest.mark.parametrize(
    ("how", "kind", "why"),
    [
        ("refuse", "refused", "PassError: node 'a'"),
        ("fail", "internal error", "KeyError at"),
        ("rename", "rolled back", "outputs changed"),
        ("infinite", "rolled back", "no longer finite"),
        ("nothing", "sane", ""),
    ],
)
def test_the_judge_names_what_came_of_a_pass(how: str, kind: str, why: str) -> None:
    with untimed():
        verdict = judge(plain(), [Spoil(how=how)])
    assert verdict.kind == kind
    assert why in verdict.why


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("infinite", "y is off by inf"),
        ("round", "y is off by"),
        ("default", "the inputs ['w'], which have defaults, are gone"),
    ],
)
def test_the_judge_sees_what_the_verifier_does_not(how: str, why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.verify.Verifier.check", lambda *_, **__: None)
    monkeypatch.setattr(Spoil, "promise", Promise(tolerance=1e-5))
    with untimed():
        verdict = judge(plain(defaults=True), [Spoil(how=how)])
    assert verdict.kind == "wrong"
    assert why in verdict.why


class Quantize(Spoil):
    """By its name, the judge takes it for a quantizer."""


def test_the_judge_sees_more_than_the_noise_of_eight_bits() -> None:
    with untimed():
        verdict = judge(plain(), [Quantize(how="round")])
    assert verdict.kind == "wrong"
    assert "where noise of eight bits everywhere keeps" in verdict.why


def findings(seeds: range) -> list[str]:
    """Return a line for each seed whose passes were wrong or failed, with what replays it."""
    found = []
    for seed in seeds:
        length, chain = 1 + seed % 3, random_chain(seed)
        with untimed():
            verdict = judge(varied_graph(seed, length=length), chain, seed=seed)
        if verdict.kind in ("wrong", "internal error"):
            replay = f"python benchmarks/random_graphs.py --only {seed} --length {length}"
            found.append(f"{replay}: {written(chain)}: {verdict.kind}: {verdict.why}")
    return found


@pytest.mark.parametrize("block", range(4))
def test_passes_on_random_graphs_are_right_or_refuse_by_name(block: int) -> None:
    assert findings(range(20 * block, 20 * block + 20)) == []


@pytest.mark.slow
@pytest.mark.parametrize("block", range(20))
def test_passes_on_many_more_random_graphs(block: int) -> None:
    assert findings(range(1000 + 100 * block, 1100 + 100 * block)) == []

"""What XNNPACK runs sparse: only 1x1 convolutions are pruned, and the report says whether the model qualifies."""

from __future__ import annotations

import re

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model
from corpus.topologies import TOPOLOGIES, conv_chain

from onnxcompress import apply
from onnxcompress.passes import MagnitudePrune, PruneBlocks, PruneNOfM, PruneSlices, RandomPrune
from onnxcompress.passes.prune.policies.weight_pass import WeightPass
from onnxcompress.passes.prune.policies.xnnpack import QUALIFIES

SPARSE = "XNNPACK would not run the model sparse: "
PARTS = {
    "start": "[stem] a = Conv<pads=[1,1,1,1], strides=[2,2]>(x, w0, b0)",
    "activation": "r = HardSwish(a)",
    "expand": "[expand] b = Conv(r, w1) bn = BatchNormalization(b, scale, shift, mean, var)",
    "clip": "c = Clip(bn, zero, six)",
    "depthwise": "[depth] d = Conv<group=8, pads=[2,2,2,2], strides=[2,2]>(c, w2)",
    "squeeze": "s = GlobalAveragePool(d) [gate] g = Conv(s, w3) h = Sigmoid(g) m = Mul(d, h)",
    "project": "[project] p = Conv(m, w4) q = Add(p, p)",
    "end": "e = GlobalAveragePool(q) f = Flatten(e) y = Gemm(f, w5)",
}
SHAPES = {
    "w0": (4, 3, 3, 3), "b0": (4,), "w1": (8, 4, 1, 1), "w2": (8, 1, 5, 5), "w3": (8, 8, 1, 1), "w4": (6, 8, 1, 1),
    "w5": (6, 5), "scale": (8,), "shift": (8,), "mean": (8,), "var": (8,), "row": (1, 1, 1, 4), "each": (1, 8, 1, 1),
}  # fmt: skip
VALUES = {
    "zero": np.array(0, np.float32),
    "six": np.array(6, np.float32),
    "seven": np.array(7, np.float32),
    "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]),
    "axes": np.array([2, 3]),
    "first": np.array([0]),
    "rest": np.array([6]),
}


def network(**changed: str) -> ir.Model:
    text = " ".join((PARTS | changed).values())
    words = re.findall(r"\w+", text)
    used = {name: weight for name, weight in (SHAPES | VALUES).items() if name in words}
    return model(f"g (float[N,3,16,16] x) => (float[N,5] y) {{ {text} }}", used)


def outcome(subject: ir.Model, step: WeightPass) -> tuple[set[str], dict[str, list[str]], tuple[str, ...]]:
    _, report = apply(subject, [step])
    refused: dict[str, list[str]] = {}
    for refusal in report.steps[0].refused:
        refused.setdefault(refusal.subject, []).append(refusal.reason)
    return {change.subject for change in report.steps[0].done}, refused, tuple(report.steps[0].notes)


def test_only_pointwise_convolutions_go_and_the_model_qualifies() -> None:
    done, refused, notes = outcome(network(), MagnitudePrune(sparsity=0.75, policy="xnnpack"))
    assert done == {"w1", "w3", "w4"}
    assert set(refused) == {"stem (Conv)", "depth (Conv)", "y (Gemm)"}
    assert refused["stem (Conv)"][0].endswith("this is 3x3, of stride 2x2, in 1 groups, padded by (1, 1, 1, 1)")
    assert refused["y (Gemm)"][0].endswith("this is a weight of Gemm")
    assert notes == (QUALIFIES,)


@pytest.mark.parametrize(
    "step",
    [
        RandomPrune(sparsity=0.75, policy="xnnpack"),
        PruneBlocks(block=(2, 1), sparsity=0.75, policy="xnnpack"),
        PruneNOfM(n=1, m=4, policy="xnnpack"),
        PruneSlices(sparsity=0.75, policy="xnnpack"),
    ],
    ids=lambda step: step.name,
)
def test_every_pass_on_single_weights_has_the_policy(step: WeightPass) -> None:
    done, _, notes = outcome(network(), step)
    assert done == {"w1", "w3", "w4"}
    assert notes == (QUALIFIES,)


@pytest.mark.parametrize(
    ("changed", "subject", "reason"),
    [
        ({"start": "[stem] a = Conv<pads=[1,1,1,1]>(x, w0, b0)"}, "stem (Conv)", "this is 3x3, of stride 1x1"),
        ({"start": "[stem] a = Conv<strides=[2,2]>(x, w0, b0)"}, "stem (Conv)", "padded by (0, 0, 0, 0)"),
        ({"end": "f = GlobalMaxPool(q) e = Flatten(f) y = Gemm(e, w5)"}, "stem (Conv)", "no global average pooling"),
        ({"activation": "[odd] r = Tanh(a)"}, "odd (Tanh)", "no kernel that works beside the sparse ones"),
        ({"clip": "[odd] c = Clip(bn, zero, seven)"}, "odd (Clip)", "no kernel"),
        ({"depthwise": "[depth] d = Conv<group=8, pads=[1,1,1,1], strides=[2,2]>(c, w2)"}, "depth (Conv)", "no kernel"),
        ({"project": "p = Conv(m, w4) [odd] q = Add(p, row)"}, "odd (Add)", "no kernel"),
        ({"project": "m2 = Mul(m, each) [project] q = Conv<strides=[2,2]>(m2, w4)"}, "project (Conv)", "no kernel"),
    ],
)
def test_what_does_not_fit_is_named(changed: dict[str, str], subject: str, reason: str) -> None:
    _, refused, notes = outcome(network(**changed), MagnitudePrune(sparsity=0.75, policy="xnnpack"))
    of_the_model = {name: text for name, texts in refused.items() for text in texts if text.startswith(SPARSE)}
    assert list(of_the_model) == [subject]
    assert reason in of_the_model[subject]
    assert notes == ()


RESHAPED = """sh = Shape(x) n = Gather(sh, first) size = Concat<axis=0>(n, rest) e = GlobalAveragePool(q)
    f = Reshape(e, size) y = Gemm(f, w5)"""


@pytest.mark.parametrize(
    "changed",
    [
        {"start": "z = Pad(x, pads) [stem] a = Conv<strides=[2,2]>(z, w0, b0)"},
        {"end": "e = ReduceMean<keepdims=0>(q, axes) y = Gemm(e, w5)"},
        {"end": RESHAPED},
        {"project": "m2 = Mul(m, each) [project] p = Conv(m2, w4) q = Add(p, six)"},
    ],
    ids=["pad before", "mean", "shape of the input", "constants"],
)
def test_other_ways_to_write_the_same(changed: dict[str, str]) -> None:
    _, refused, notes = outcome(network(**changed), MagnitudePrune(sparsity=0.75, policy="xnnpack"))
    assert notes == (QUALIFIES,), refused


def test_too_few_zeros() -> None:
    _, refused, notes = outcome(network(), MagnitudePrune(sparsity=0.5, policy="xnnpack"))
    assert refused["model"] == [SPARSE + "2/3 of its 1x1 convolutions' weights must be zeros, and 50.0% would be"]
    assert notes == ()


def test_zeros_that_were_there_count() -> None:
    once, _ = apply(network(), [MagnitudePrune(sparsity=0.75)])
    _, refused, notes = outcome(once, MagnitudePrune(sparsity=0.5, policy="xnnpack"))
    assert notes == (QUALIFIES,), refused


def test_a_model_without_any() -> None:
    done, refused, _ = outcome(conv_chain(), MagnitudePrune(sparsity=0.75, policy="xnnpack"))
    assert done == set()
    assert len(refused) == 3


@pytest.mark.parametrize("topology", TOPOLOGIES)
def test_every_topology_is_judged(topology: str) -> None:
    subject = TOPOLOGIES[topology][0]()
    _, refused, notes = outcome(subject, MagnitudePrune(sparsity=0.75, policy="xnnpack"))
    assert notes == ()
    assert any(text.startswith(SPARSE) for texts in refused.values() for text in texts)

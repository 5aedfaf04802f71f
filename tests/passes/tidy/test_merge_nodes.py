"""What is computed twice is computed once; names are as short as can be."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from corpus.oracle import assert_same, plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.passes import MergeNodes, ShortenNames

TWICE = """g (float[n, 4] first) => (float[n, 4] result)
{
    [one] long_a = MatMul(first, w)
    [two] long_b = MatMul(first, w)
    c = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
    d = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
    e = Add(long_a, c)
    f = Add(long_b, d)
    g1 = Add(e, s)
    h1 = Add(f, t)
    result = Mul(g1, h1)
}"""
FIRST = np.random.default_rng(0).standard_normal((3, 4), np.float32)
WEIGHTS = {"w": (4, 4), "s": np.ones(4, np.float32), "t": np.ones(4, np.float32)}


def operators(subject: ir.Model) -> list[str]:
    return [node.op_type for node in subject.graph]


def test_equal_nodes_and_constants_are_one() -> None:
    subject = model(TWICE, WEIGHTS)
    result, _ = apply(subject, [MergeNodes()])
    assert operators(result) == ["MatMul", "Constant", "Add", "Add", "Mul"]
    assert sorted(result.graph.initializers) == ["s", "w"]
    assert_same(*(plain_run(each, {"first": FIRST}) for each in (subject, result)))


def test_what_is_excluded_or_drawn_at_random_stays() -> None:
    excluded, _ = apply(model(TWICE, WEIGHTS), [MergeNodes(exclude=("two",))])
    assert operators(excluded).count("MatMul") == 2
    drawn = """g (float[n, 4] x) => (float[n, 4] y)
    {
        a = RandomNormalLike(x)
        b = RandomNormalLike(x)
        y = Sub(a, b)
    }"""
    result, _ = apply(model(drawn, {}), [MergeNodes()])
    assert operators(result).count("RandomNormalLike") == 2


def test_all_names_but_those_of_inputs_and_outputs_are_short() -> None:
    subject = model(TWICE, WEIGHTS)
    result, report = apply(subject, [ShortenNames(names="all")])
    outputs = {value.name for node in result.graph for value in node.outputs}
    assert "result" in outputs and max(map(len, outputs - {"result"})) == 1
    assert not any(node.name for node in result.graph)
    assert report.stages[-1].bytes < report.stages[0].bytes
    assert_same(*(plain_run(each, {"first": FIRST}) for each in (subject, result)))
    kept, _ = apply(subject, [ShortenNames()])
    assert [node.name for node in kept.graph][:2] == ["one", "two"]

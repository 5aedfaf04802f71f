"""Gram matrices of what weights are multiplied by: those of numpy, whatever reads them and however samples are cut."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.errors import DataError
from onnxcompress.graph import edit
from onnxcompress.passes.quantize.weight_only import grams
from onnxcompress.samples.samples import load_samples

DECODER = """g (int64[n, m] ids) => (float[n, m, 12] y, float[n, m, 4] b, float[4, 4] f)
{
    x = Gather(table, ids)
    a = MatMul(x, q)
    b = MatMul(x, k)
    r = Relu(a)
    y = MatMul(r, up)
    f = MatMul(c, fixed)
}"""
SHAPES = {"table": (16, 8), "q": (8, 8), "k": (8, 4), "up": (8, 12), "c": (4, 8), "fixed": (8, 4)}


def found(subject: ir.Model, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    context = Context(subject, samples=load_samples(feeds, subject))
    return dict(grams.layer_grams(subject, {*SHAPES, "unknown"}, context))


@pytest.mark.parametrize("block_rows", [7, 4096])
def test_they_are_those_of_what_is_read(monkeypatch: pytest.MonkeyPatch, block_rows: int) -> None:
    monkeypatch.setattr(grams, "BLOCK_ROWS", block_rows)
    subject = model(DECODER, SHAPES)
    ids = np.random.default_rng(0).integers(0, 16, (40, 5))
    result = found(subject, {"ids": ids})
    table, first = (edit.array(subject.graph.initializers[name]) for name in ("table", "q"))
    x = table[ids].reshape(-1, 8).astype(np.float64)
    hidden = np.maximum(x @ first, 0)
    assert list(result) == ["table", "q", "k", "up"]  # what reads a constant has no matrix
    assert result["q"] is result["k"]
    np.testing.assert_allclose(result["q"][0], x.T @ x, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(result["up"][0], hidden.T @ hidden, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(result["table"], np.bincount(ids.ravel(), minlength=16))


def test_the_error_at_the_output_follows_from_it() -> None:
    subject = model("g (float[n, 8] x) => (float[n, 6] y) { y = Gemm<transB = 1>(x, w) }", {"w": (6, 8)})
    x = np.random.default_rng(0).normal(size=(50, 8)).astype(np.float32)
    context = Context(subject, samples=load_samples({"x": x}, subject))
    [(_, gram)] = grams.layer_grams(subject, ["w"], context)
    error = np.random.default_rng(1).normal(size=(6, 8)).astype(np.float32)
    changed = subject.clone()
    value = changed.graph.initializers["w"]
    before = plain_run(ir.to_proto(subject), {"x": x})["y"]
    edit.set_constant(value, edit.array(value) - error)
    after = plain_run(ir.to_proto(changed), {"x": x})["y"]
    assert np.trace(error @ gram[0] @ error.T) == pytest.approx(((before - after) ** 2).sum(), rel=1e-4)


def test_values_that_are_not_finite_are_named() -> None:
    subject = model("g (float[n, 8] x) => (float[n, 4] y) { r = Reciprocal(x) y = MatMul(r, w) }", {"w": (8, 4)})
    with pytest.raises(DataError, match="tensor 'r' holds NaN or infinity"):
        context = Context(subject, samples=load_samples({"x": np.zeros((4, 8), np.float32)}, subject))
        list(grams.layer_grams(subject, ["w"], context))

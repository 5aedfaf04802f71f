"""What the preparation of `quantize` leaves unfolded, because the file would be larger, is in its report."""

from __future__ import annotations

import numpy as np
from corpus.text import model

from onnxcompress import apply
from onnxcompress.passes import FoldConstants, Quantize
from onnxcompress.passes.tidy.folding.never_larger import LARGER

TEXT = """g (float[N,600] x) => (float[N,600] y) {
    a = MatMul(x, w) n = Neg(w) b = MatMul(a, n) y = MatMul(b, w) }"""


def test_it_is_said_as_by_the_fold_itself() -> None:
    subject = model(TEXT, {"w": (600, 600)})
    data = {"x": np.random.default_rng(0).normal(size=(8, 600)).astype(np.float32)}
    _, folded = apply(subject, [FoldConstants(keep_shared=True)])
    wanted = [refusal.subject for refusal in folded.steps[0].refused if refusal.reason == LARGER]
    assert wanted
    _, report = apply(subject, [Quantize(correct=False, rounding="nearest")], data=data)
    found = [refusal.subject for refusal in report.steps[0].refused if refusal.reason == f"not folded: {LARGER}"]
    assert found == wanted


def test_a_model_that_is_folded_to_the_end_has_nothing_to_say() -> None:
    subject = model("g (float[N,8] x) => (float[N,8] y) { n = Neg(w) y = MatMul(x, n) }", {"w": (8, 8)})
    data = {"x": np.random.default_rng(0).normal(size=(8, 8)).astype(np.float32)}
    _, report = apply(subject, [Quantize(correct=False, rounding="nearest")], data=data)
    assert not any("folded" in refusal.reason for refusal in report.steps[0].refused)

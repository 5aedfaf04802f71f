"""The verifier tells rounding from error."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.errors import VerifyError
from onnxcompress.graph import edit
from onnxcompress.graph.verify import Verifier
from onnxcompress.passes import FoldBatchNorm


def amplifying() -> ir.Model:
    """A sum of a convolution and a hundred times what the folded and the plain way to compute it differ by."""
    text = """g (float[1,8,9,9] x) => (float[1,6,7,7] y) {
        c = Conv(x, w)
        n = BatchNormalization(c, scale, shift, mean, var)
        r = Relu(n)
        d = Conv(x, folded, bias)
        q = Relu(d)
        difference = Sub(r, q)
        many = Mul(difference, hundred)
        y = Add(r, many)
    }"""
    random = np.random.default_rng(0)
    w = random.standard_normal((6, 8, 3, 3)).astype(np.float32)
    scale, shift, mean, var = (random.uniform(0.5, 1.5, 6).astype(np.float32) for _ in range(4))
    factor = scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + 1e-5)
    arrays = {"w": w, "scale": scale, "shift": shift, "mean": mean, "var": var, "hundred": np.array(100, np.float32)}
    arrays["folded"] = (w * factor[:, None, None, None]).astype(np.float32)
    arrays["bias"] = (shift - mean * factor).astype(np.float32)
    return model(text, arrays)


def folded(subject: ir.Model) -> ir.Model:
    copy = subject.clone()
    FoldBatchNorm().apply(copy, FoldBatchNorm().plan(subject, Context(subject)))
    return copy


def test_what_the_model_differs_from_itself_by_is_allowed() -> None:
    subject = amplifying()
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 9, 9)).astype(np.float32)}
    verifier = Verifier(subject, feeds)
    before, after = (plain_run(ir.to_proto(m), feeds)["y"] for m in (subject, folded(subject)))
    error = np.abs(before - after).max() / np.abs(before).max()
    verifier.check(folded(subject), tolerance=1e-6)
    assert 1e-6 < error < 1e-4


def test_an_error_of_the_same_size_elsewhere_is_not() -> None:
    subject = amplifying()
    subject.graph[-2].inputs[1].const_value = ir.tensor(np.array(0, np.float32), name="hundred")  # type: ignore[union-attr]
    feeds = {"x": np.random.default_rng(1).standard_normal((1, 8, 9, 9)).astype(np.float32)}
    verifier = Verifier(subject, feeds)
    wrong = subject.clone()
    value = wrong.graph.initializers["w"]
    edit.set_constant(value, value.const_value.numpy() * np.float32(1 + 2e-5))  # type: ignore[union-attr]
    with pytest.raises(VerifyError, match="output 'y' differs by .* relative; at most 1e-05 is promised"):
        verifier.check(wrong, tolerance=1e-5)

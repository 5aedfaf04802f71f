"""Low rank: the best product for what is read, exact where the rank is there, left alone where it saves nothing."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model

from onnxcompress import apply
from onnxcompress.errors import OptionError
from onnxcompress.passes import Factorise

RANK = 3
CASES = {
    "matmul": ("g (float[N,7,16] x) => (float[N,7,12] y) { y = MatMul(x, w) }", (16, 12)),
    "gemm": ("g (float[N,16] x) => (float[N,12] y) { y = Gemm<alpha=0.5>(x, w, b) }", (16, 12)),
    "gemm transposed": ("g (float[N,16] x) => (float[N,12] y) { y = Gemm<transB=1>(x, w, b) }", (12, 16)),
    "conv": (
        "g (float[N,4,8,8] x) => (float[N,12,4,4] y) { y = Conv<pads=[1,1,1,1],strides=[2,2]>(x,w,b) }",
        (12, 4, 3, 3),
    ),
    "conv 1x1": ("g (float[N,16,8,8] x) => (float[N,12,8,8] y) { y = Conv(x, w, b) }", (12, 16, 1, 1)),
}


def subject(case: str, rank: int = RANK) -> ir.Model:
    text, shape = CASES[case]
    random = np.random.default_rng(0)
    rows = shape[0]
    weight = random.standard_normal((rows, rank)) @ random.standard_normal((rank, int(np.prod(shape[1:]))))
    arrays = {"w": weight.reshape(shape).astype(np.float32), "b": random.standard_normal(12).astype(np.float32)}
    return model(text, {name: arrays[name] for name in arrays if name == "w" or "b)" in text})


def feeds(of: ir.Model, count: int = 32) -> dict[str, np.ndarray]:
    shape = (
        of.graph.inputs[0].shape.numpy()[1:] if of.graph.inputs[0].shape.is_static() else of.graph.inputs[0].shape[1:]
    )
    return {"x": np.random.default_rng(1).standard_normal((count, *shape)).astype(np.float32)}


@pytest.mark.parametrize("samples", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_a_weight_of_low_rank_becomes_two_that_compute_the_same(case: str, samples: bool) -> None:
    whole = subject(case)
    given = feeds(whole)
    thin, _ = apply(whole, [Factorise(max_error=1e-6)], data=given if samples else None)
    sizes = [value.const_value.size for name, value in thin.graph.initializers.items() if name != "b"]
    shape = CASES[case][1]
    assert sum(sizes) == RANK * (12 + int(np.prod(shape)) // 12)
    wanted = plain_run(ir.to_proto(whole), given)["y"]
    np.testing.assert_allclose(plain_run(ir.to_proto(thin), given)["y"], wanted, rtol=1e-3, atol=1e-3)


def test_the_error_is_the_least_that_a_product_of_that_rank_can_have() -> None:
    whole = subject("matmul", rank=12)
    random = np.random.default_rng(2)
    x = (random.standard_normal((40, 7, 16)) * np.logspace(0, -2, 16)).astype(np.float32)
    thin, _ = apply(whole, [Factorise(max_error=0.05)], data={"x": x})
    got, wanted = (plain_run(ir.to_proto(m), {"x": x})["y"].reshape(-1, 12) for m in (thin, whole))
    rank = thin.graph.initializers["w"].const_value.shape[0]
    values = np.linalg.svd(wanted, compute_uv=False) ** 2  # Eckart and Young: no matrix of the rank is nearer
    assert values[rank:].sum() / values.sum() <= 0.055 < values[rank - 1 :].sum() / values.sum()
    assert ((got - wanted) ** 2).sum() <= 1.1 * values[rank:].sum()


def test_where_nothing_is_saved_the_layer_stays_and_is_named() -> None:
    whole = subject("gemm", rank=12)
    same, report = apply(whole, [Factorise(max_error=1e-6)])
    assert len(list(same.graph)) == 1
    assert "it needs rank 12, and from 7 on two factors are larger than it is" in report.steps[0].refused[0].reason


def test_a_share_of_the_weights_decides_the_error() -> None:
    whole = subject("matmul", rank=12)
    thin, report = apply(whole, [Factorise(share=0.6)])
    left = sum(value.const_value.size for value in thin.graph.initializers.values())
    assert 0.4 * 192 < left <= 0.6 * 192
    assert "max_error" in report.steps[0].options


def test_both_options_are_too_many() -> None:
    with pytest.raises(OptionError, match="max_error and share say the same thing twice"):
        Factorise(max_error=0.1, share=0.5)

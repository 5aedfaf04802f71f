"""Scales that are trained."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.aware import CASES, FOUR, divergence, images, operators, teacher, trained

from onnxcompress import apply
from onnxcompress.graph import edit
from onnxcompress.passes import Quantize
from onnxcompress.passes.distill.qat.masters import find_masters
from onnxcompress.passes.distill.qat.rounding import integers_of, with_floats
from onnxcompress.passes.distill.qat.scales import trained_scales
from onnxcompress.training.gradients import FACTOR


def quantized(**options: object) -> ir.Model:
    return ir.from_proto(apply(teacher(), [Quantize(**options)], data={"x": images(1, 100)})[0])


@pytest.mark.parametrize("options", [FOUR, {"granularity": "tensor"}])
def test_factors_of_one_change_nothing_and_others_scale(options: dict[str, object]) -> None:
    model = quantized(**options)
    masters, factors = find_masters(model)[0], {}
    copy = with_floats(model, masters, scales=factors)
    run = [onnxruntime.InferenceSession(ir.to_proto(m).SerializeToString()).run for m in (model, copy)]
    x = images(3, 50)
    expected, same = (each(None, {"x": x})[0] for each in run)
    np.testing.assert_allclose(same, expected, atol=0.05 * np.abs(expected).max())
    assert len(factors) >= 6
    assert all(0 < share < 1 for share in factors.values())
    weights = {name: np.full(copy.graph.initializers[name].const_value.shape, 1.5, np.float32) for name in factors}
    scales = trained_scales(model, weights)
    assert {f"{name}{FACTOR}" for name in scales} >= factors.keys()
    for node in model.graph:
        biased = node.op_type in ("Conv", "Gemm")
        before, after = (
            [scales.get(v.name, edit.array(v)) if new else edit.array(v) for v in scales_of(node)] if biased else []
            for new in (False, True)
        )
        for old, new, factor in zip(before, after, (1.5, 1.5, 2.25), strict=False):
            np.testing.assert_allclose(new, old * factor, rtol=1e-5)
    integers = integers_of(model, masters, weights)
    for name, master in masters.items():
        expected = master.steps / (1.5 if master.is_rounded else 2.25)
        np.testing.assert_allclose(master.steps_of(integers[name]), expected, atol=1)


def scales_of(node: ir.Node) -> list[ir.Value]:
    return [value.producer().inputs[1] for value in node.inputs]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["QAT, 4 bits for each channel", "QAT, 4 bits", "PCQAT"])
def test_scales_are_trained_along(name: str) -> None:
    start, end, _ = trained(CASES[name], train_scales=True)
    assert divergence(end) < divergence(start)
    assert operators(start) == operators(end)
    assert [node.SerializeToString() for node in start.graph.node] == [n.SerializeToString() for n in end.graph.node]
    old, new = ({t.name: t.SerializeToString() for t in m.graph.initializer} for m in (start, end))
    assert old.keys() == new.keys()
    assert sum(old[name] != new[name] for name in old if "scale" in name) >= 6
    assert not any(old[name] != new[name] for name in old if "zero_point" in name)

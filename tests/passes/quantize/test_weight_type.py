"""Weights of another type than the target takes first."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.aware import images, teacher

from onnxcompress import apply
from onnxcompress.errors import OptionError
from onnxcompress.passes import Quantize
from onnxcompress.passes.distill.qat.masters import find_masters


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
@pytest.mark.parametrize(("dtype", "most", "opset"), [("int4", 7, 21), ("int8", 127, 17), ("uint8", 127, 17)])
def test_weights_are_of_the_type_that_was_asked_for(dtype: str, most: int, opset: int, granularity: str) -> None:
    step = Quantize(weights=dtype, granularity=granularity, target="onnxruntime-cpu")
    model, _ = apply(teacher(), [step], data={"x": images(1, 200)})
    assert model.opset_import[0].version == opset
    weights = [m for m in find_masters(ir.from_proto(model))[0].values() if m.is_rounded]
    assert len(weights) == 3
    for master in weights:
        assert master.integers.dtype.name == dtype
        assert most - 1 <= np.abs(master.steps).max() <= most  # gptq moves the largest, too
    x = images(9, 200)
    expected, found = (
        onnxruntime.InferenceSession(m.SerializeToString()).run(None, {"x": x})[0] for m in (teacher(), model)
    )
    error = np.square(found - expected).sum() / np.square(expected).sum()
    assert error < (0.1 if dtype == "int4" else 1e-3)


def test_weights_of_a_type_do_not_go_with_floats_of_8_bits() -> None:
    step = Quantize(weights="int8", activations="float8e4m3fn")
    with pytest.raises(OptionError, match="weights = 'int8': activations are float8e4m3fn"):
        step.scheme()

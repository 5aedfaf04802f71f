"""A run through a quantized model, and where what it keeps lies."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest

from onnxcompress.errors import ModelError
from onnxcompress.runtime.provider import Provider
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics.segments import SegmentedRun
from onnxcompress.statistics.spill import Spill, Spilled

QUANTIZED = """
    g (float[N,3] x) => (float[N,3] z) <float scale = {0.02}, uint8 zero = {100}> {
        q = QuantizeLinear(x, scale, zero)
        y = DequantizeLinear(q, scale, zero)
        w = Neg(y)
        z = Mul(w, y)
    }
"""


@pytest.mark.parametrize("in_memory", [0, 10**6])
def test_of_a_dequantized_tensor_the_integers_are_kept(parse, tmp_path, in_memory):
    subject = parse(QUANTIZED)
    array = np.random.default_rng(0).uniform(-3, 4, (5, 3)).astype(np.float32)
    segmented = SegmentedRun(subject, load_samples({"x": array}, subject), tmp_path, batch=2, in_memory=in_memory)
    segmented.advance("z")
    integers = np.concatenate(list(segmented.fetch("y", decode=False)))
    expected = np.clip(np.rint(array / np.float32(0.02)) + 100, 0, 255)
    np.testing.assert_array_equal(integers, expected.astype(np.uint8))
    assert integers.dtype == np.uint8
    found = np.concatenate(list(segmented.fetch("y")))
    np.testing.assert_array_equal(found, (expected.astype(np.float32) - 100) * np.float32(0.02))
    assert segmented.code("w") is None
    np.testing.assert_array_equal(np.concatenate(list(segmented.fetch("w"))), -found)
    sizes = sorted(path.stat().st_size for path in tmp_path.iterdir())
    assert sizes == ([] if in_memory else [3, 6, 6, 12, 24, 24])


def test_what_is_behind_reads_the_integers(parse, tmp_path):
    subject = parse(
        QUANTIZED.replace("float[N,3] z)", "float[N,3] z, float[N,3] last)").replace("z = ", "last = Abs(w) z = ")
    )
    array = np.random.default_rng(1).uniform(-3, 4, (4, 3)).astype(np.float32)
    segmented = SegmentedRun(subject, load_samples({"x": array}, subject), tmp_path, batch=3)
    segmented.advance("last")
    segmented.advance("z", behind=True)
    proto = onnx.parser.parse_model('<ir_version: 8, opset_import: ["" : 17]>' + QUANTIZED)
    expected = ort.InferenceSession(proto.SerializeToString()).run(None, {"x": array})[0]
    np.testing.assert_array_equal(np.concatenate(list(segmented.fetch("z"))), expected)


@pytest.mark.parametrize("dtype", [np.float32, bool, ml_dtypes.bfloat16])
def test_arrays_come_back_from_memory_and_from_files(tmp_path: Path, dtype: type) -> None:
    arrays = [np.arange(6).reshape(shape).astype(dtype) for shape in ((2, 3), (6,), (1, 6, 1))]
    spill = Spill(tmp_path, limit_bytes=arrays[0].nbytes)
    kept = [spill.put(array) for array in arrays]
    assert [isinstance(one, Spilled) for one in kept] == [False, True, True]
    for one, array in zip(kept, arrays, strict=True):
        np.testing.assert_array_equal(spill.get(one), array)
        assert spill.get(one).dtype == array.dtype
    for one in kept:
        spill.drop(one)
    assert not list(tmp_path.iterdir())
    assert spill.put(arrays[1]) is arrays[1]


def test_a_piece_that_a_provider_stumbles_over_runs_on_the_cpu(parse, tmp_path, monkeypatch):
    opened = []

    def stumbling(piece, *, exact, provider):
        opened.append(provider.name)
        if not provider.is_cpu:
            raise ModelError("shapes do not match")
        return open_session(piece, exact=exact, provider=provider)

    monkeypatch.setattr("onnxcompress.statistics.segments.open_session", stumbling)
    monkeypatch.setattr("onnxcompress.statistics.segments.running", lambda: Provider("openvino"))
    subject = parse(QUANTIZED)
    array = np.random.default_rng(0).uniform(-3, 4, (5, 3)).astype(np.float32)
    segmented = SegmentedRun(subject, load_samples({"x": array}, subject), tmp_path)
    segmented.advance("w")
    segmented.advance("z", behind=True)
    assert opened == ["openvino", "cpu", "cpu"]
    assert next(segmented.fetch("z")).shape == (5, 3)

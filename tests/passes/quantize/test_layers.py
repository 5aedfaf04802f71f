"""Rows that a layer reads and rows that it gives belong together."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from corpus import text
from corpus.oracle import plain_run

from onnxcompress.graph.layer import Layer
from onnxcompress.passes.quantize.shared.rows import rows_for_rounding
from onnxcompress.statistics.segments import Code

LAYERS = {
    "padded": ("N,4,9,7", (6, 4, 3, 2), "Conv <pads = [1, 0, 2, 1], strides = [2, 1]> (x, w)"),
    "dilated": ("N,4,9,7", (6, 4, 3, 2), "Conv <dilations = [2, 3], pads = [2, 0, 2, 3]> (x, w)"),
    "same": ("N,4,9,7", (6, 4, 3, 2), 'Conv <strides = [2, 2], auto_pad = "SAME_LOWER"> (x, w)'),
    "depthwise": ("N,4,9,7", (8, 1, 3, 3), "Conv <group = 4, pads = [1, 1, 1, 1]> (x, w)"),
    "pointwise": ("N,4,9,7", (6, 4, 1, 1), "Conv (x, w)"),
    "of one axis": ("N,4,9", (6, 4, 3), "Conv (x, w)"),
    "gemm": ("N,5", (6, 5), "Gemm <transB = 1> (x, w)"),
    "matmul": ("N,7,2,5", (5, 6), "MatMul (x, w)"),
}


@pytest.mark.parametrize("few", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_reads_times_its_weight_is_what_it_gives(
    monkeypatch: pytest.MonkeyPatch, name: str, few: bool
) -> None:
    if few:
        for constant in ("FEWEST_ROWS", "ROWS_OF_GROUPS", "ROWS", "ROWS_FOR_MANY"):
            monkeypatch.setattr(f"onnxcompress.passes.quantize.shared.rows.{constant}", 1)
    read, shape, call = LAYERS[name]
    random = np.random.default_rng(0)
    array = random.standard_normal(shape).astype(np.float32)
    axes = ",".join("NABCD"[: read.count(",") + 1])
    model = text.model(f"g (float[{read}] x) => (float[{axes}] y) {{ y = {call} }}", {"w": array})
    extents = [int(n) for n in read.split(",")[1:]]
    code = Code(model.graph.inputs[0], np.float32(0.03), np.float32(90))
    integers = random.integers(0, 256, (5, *extents), np.uint8)
    x = code.decode(integers)
    y = plain_run(model, {"x": x})["y"]
    layer = Layer(model.graph[0])
    drawn = rows_for_rounding(layer, 5)
    counts = set()
    for first, last in itertools.pairwise([0, 2, 5]):
        rows = drawn.inputs(x[first:last], first)
        given = drawn.outputs(y[first:last], first)
        np.testing.assert_allclose(rows @ layer.blocks(array).swapaxes(1, 2), given, atol=2e-4)
        np.testing.assert_array_equal(drawn.inputs(integers[first:last], first, code), rows)
        counts.add(rows.shape[1] // (last - first))
    every = int(np.prod(y.shape[1:])) // layer.outputs
    assert len(counts) == 1
    assert max(counts) < every if few and every > 5 else max(counts) == every

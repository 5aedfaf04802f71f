"""Weights that lie in a file are stored in few bits without a copy of the model in memory."""

from __future__ import annotations

import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.graph.load import load
from onnxcompress.passes import QuantizeWeights
from onnxcompress.samples.samples import load_samples

WIDTH, LAYERS = 1024, 12


@pytest.mark.slow
@pytest.mark.parametrize(("options", "most"), [({}, 0.5), ({"rounding": "gptq"}, 1.5)], ids=["nearest", "gptq"])
def test_it_takes_less_than_the_model(tmp_path: Path, options: dict[str, Any], most: float) -> None:
    body = " ".join(f"h{i + 1} = MatMul(h{i}, w{i})" for i in range(LAYERS))
    text = f"g (float[n, {WIDTH}] h0) => (float[n, {WIDTH}] h{LAYERS}) {{ {body} }}"
    built = model(text, {f"w{i}": (WIDTH, WIDTH) for i in range(LAYERS)})
    ir.save(built, tmp_path / "m.onnx", external_data="m.data")
    size = (tmp_path / "m.data").stat().st_size
    subject = load(tmp_path / "m.onnx")
    samples = load_samples({"h0": np.random.default_rng(0).standard_normal((64, WIDTH), np.float32)}, subject)
    step = QuantizeWeights(dtype="int4", block_size=32, format="matmulnbits", **options)
    copy = subject.clone()
    del built
    tracemalloc.start()
    step.apply(copy, step.plan(subject, Context(subject, samples=samples)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < most * size

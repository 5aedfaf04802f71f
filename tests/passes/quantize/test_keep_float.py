"""What is left in float between integers is computed in float, also by onnxruntime's own rewriting."""

from __future__ import annotations

import numpy as np
import pytest
from corpus.oracle import plain_run
from corpus.text import model

NET = """g (float[N,3,8,8] x) => (float[N,4,8,8] y) {{
    a = Conv<pads = [1, 1, 1, 1]>(x, w1, b1) r = Relu(a) d = Conv<group = 16, pads = [1, 1, 1, 1]>(r, w2, b2)
    {behind} y = Conv(c, w3, b3) }}"""


@pytest.mark.parametrize("behind", ["c = Clip(d, low, high)", "c = Relu(d)", "c = Identity(d)"])
def test_an_excluded_layer_is_not_quantized_by_the_engine(quantized, literally, behind: str) -> None:
    random = np.random.default_rng(0)
    weights = {
        "w1": (16, 3, 3, 3),
        "b1": (16,),
        # One scale for all of them would leave little of the small ones.
        "w2": (random.normal(size=(16, 1, 3, 3)) * np.geomspace(0.01, 8, 16).reshape(-1, 1, 1, 1)).astype(np.float32),
        "b2": (16,),
        "w3": (random.normal(size=(4, 16, 1, 1)) / np.geomspace(0.01, 8, 16).reshape(-1, 1, 1)).astype(np.float32),
        "b3": (4,),
    }
    weights |= {"low": np.array(0, np.float32), "high": np.array(6, np.float32)} if "Clip" in behind else {}
    subject = model(NET.format(behind=behind), weights, opset=17)
    feeds = {"x": random.normal(size=(20, 3, 8, 8)).astype(np.float32)}
    result, changes = quantized(subject, feeds, exclude=("d",))
    expected, found = literally(result, feeds)["y"], plain_run(result, feeds)["y"]
    assert np.square(found - expected).mean() < 1e-4 * np.square(expected).mean()
    assert [change.what for change in changes.done if "Max" in change.what]

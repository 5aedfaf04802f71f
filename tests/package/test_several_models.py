"""Models of one folder are compressed together; what they share is stored once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import call

from onnxcompress.runtime.session import open_session

TEXT = """<ir_version: 8, opset_import: ["" : 17]>
agraph (float[N, 64] x) => (float[N, 64] y) {{ h = MatMul(x, w)
    g = MatMul(h, {own})
    y = {op}(g) }}"""


@pytest.fixture
def folder(tmp_path):
    random = np.random.default_rng(0)
    shared = (random.standard_normal((64, 64)) / 8).astype(np.float32)
    place = tmp_path / "in"
    place.mkdir()
    for name, op in (("encoder_model", "Relu"), ("decoder_model", "Tanh")):
        proto = onnx.parser.parse_model(TEXT.format(own=op.lower(), op=op))
        own = (random.standard_normal((64, 64)) / 8).astype(np.float32)
        for called, array in (("w", shared), (op.lower(), own)):
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array, called))
        onnx.save(proto, place / f"{name}.onnx")
        np.savez(tmp_path / f"{name}.npz", x=random.standard_normal((4, 64)).astype(np.float32))
    (place / "config.json").write_text("{}")
    return place


@pytest.mark.parametrize("step", ["fold-constants", "quantize-weights dtype=int8 granularity=channel"])
def test_what_two_models_share_is_stored_once(folder, tmp_path, step):
    result = call(
        "apply", folder, "-p", step, "--data", tmp_path, "-o", tmp_path / "out", "--report", tmp_path / "r.json"
    )
    assert result.exit_code == 0, result.output
    made = tmp_path / "out"
    names = {path.name for path in made.iterdir()}
    assert names == {"encoder_model.onnx", "decoder_model.onnx", "weights.onnx.data", "config.json"}
    places = {}
    for path in sorted(made.glob("*.onnx")):
        weights = [v.const_value for v in ir.load(path).graph.initializers.values() if v.const_value.size == 64 * 64]
        places[path.stem] = {(Path(tensor.path).name, tensor.offset) for tensor in weights}
        x = np.load(tmp_path / f"{path.stem}.npz")["x"]
        before, after = (open_session(each).run({"x": x})["y"] for each in (folder / path.name, path))
        np.testing.assert_allclose(after, before, atol=0.05 * np.abs(before).max() if "int8" in step else 1e-6)
    assert len(places["encoder_model"] & places["decoder_model"]) == 1
    assert len(places["encoder_model"] | places["decoder_model"]) == 3
    assert {path.name for path in tmp_path.glob("r-*.json")} == {"r-encoder_model.json", "r-decoder_model.json"}


def test_several_models_go_into_no_file(folder, tmp_path):
    result = call("apply", folder, "-p", "fold-constants", "-o", tmp_path / "out.onnx")
    assert result.exit_code == 2
    assert "has 2 models; give a folder to write" in result.output
    assert not (tmp_path / "out.onnx").exists()

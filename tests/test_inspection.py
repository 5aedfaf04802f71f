"""What `inspect` finds."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from command_line import call, make_model

import onnxcompress
from onnxcompress.display import tables
from onnxcompress.inspection import GroupInfo, NodeInfo, PortInfo

HEADER = '<ir_version: 9, opset_import: ["" : 18 {more}]>\n'

WITH_IF = """
g (bool c, float[2, 3] x) => (float[2, 3] y) {
    y = If (c) <
        then_branch = a () => (float[2, 3] p) { p = Relu (x) },
        else_branch = b () => (float[2, 3] q) { q = Neg (x) }
    >
}
"""

WITH_FUNCTION = """
g (float[2, 3] x) => (float[2, 3] y) { y = local.twice (x) }
<domain: "local", opset_import: ["" : 18]>
twice (a) => (b) { b = Add (a, a) }
"""


def parsed(text, more=""):
    return onnx.parser.parse_model(HEADER.format(more=more) + text)


def test_counts_by_hand(tmp_path):
    path = make_model(tmp_path / "m.onnx")
    found = onnxcompress.inspect(path)
    assert found.bytes == path.stat().st_size
    assert (found.parameters, found.macs) == (56, 56)
    assert (found.ir_version, found.opsets) == (8, {"": 17})
    assert found.inputs == [PortInfo("x", "float", ["N", 4])]
    assert found.outputs == [PortInfo("y", "float", ["N", 3])]
    assert found.nodes == [
        NodeInfo("hidden", "MatMul", 128, 32),
        NodeInfo("positive", "Relu", 0, 0),
        NodeInfo("y", "MatMul", 96, 24),
    ]
    assert found.prunable == [GroupInfo("w1", 8, 2)]
    assert found.frozen == [GroupInfo("w2", 3, 1, "it reaches graph output 'y'")]


def test_every_kind_of_model_gives_the_same(tmp_path):
    path = make_model(tmp_path / "m.onnx")
    proto = onnx.load(path)
    before = proto.SerializeToString()
    kinds = [proto, onnxcompress.load(path), gs.import_onnx(proto)]
    found = [onnxcompress.inspect(kind) for kind in kinds]
    for one in found:
        assert one.nodes[0].bytes == 128
        assert (one.parameters, one.macs, one.prunable[0].channels) == (56, 56, 8)
    assert proto.SerializeToString() == before


def test_external_data_counts(tmp_path):
    make_model(tmp_path / "m.onnx", width=600)
    proto = onnx.load(tmp_path / "m.onnx")
    onnx.save(proto, tmp_path / "e.onnx", save_as_external_data=True, location="e.data", size_threshold=0)
    files = sum((tmp_path / name).stat().st_size for name in ("e.onnx", "e.data"))
    assert onnxcompress.inspect(tmp_path / "e.onnx").bytes == pytest.approx(files, abs=8)


def test_inner_graphs_are_named():
    assert onnxcompress.inspect(parsed(WITH_IF)).inner_graphs == ["y (If)"]


def test_local_functions_are_named():
    assert onnxcompress.inspect(parsed(WITH_FUNCTION, ', "local" : 1')).functions == ["local::twice"]


def test_json_holds_everything(tmp_path):
    found = onnxcompress.inspect(make_model(tmp_path / "m.onnx"))
    decoded = json.loads(found.to_json())
    assert decoded["nodes"][0] == {"name": "hidden", "op": "MatMul", "bytes": 128, "macs": 32}
    assert decoded["frozen"][0]["reason"] == "it reaches graph output 'y'"
    assert set(decoded) == set(found.__dataclass_fields__)


@pytest.mark.parametrize("width", ["80", "120"])
def test_tables_fit(tmp_path, monkeypatch, width):
    """A name of 200 letters is folded, not cut and not let out."""
    monkeypatch.setenv("COLUMNS", width)
    proto = onnx.load(make_model(tmp_path / "m.onnx"))
    proto.graph.node[0].name = "long/" * 40
    onnx.save(proto, tmp_path / "long.onnx")
    text = call("inspect", tmp_path / "long.onnx").stdout
    assert max(map(len, text.splitlines())) <= int(width)
    assert text.count("long/") >= 30
    assert "…" not in text


def test_long_tables_say_what_they_leave_out(tmp_path):
    chain = "".join(f"v{i + 1} = MatMul (v{i}, w)\n" for i in range(40))
    proto = parsed(f"g (float[2, 4] v0) => (float[2, 4] v40) {{ {chain} }}")
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "w"))
    onnx.save(proto, tmp_path / "m.onnx")
    text = call("inspect", tmp_path / "m.onnx").stdout
    assert f"and {40 - tables.LONGEST} more; --json has all" in text

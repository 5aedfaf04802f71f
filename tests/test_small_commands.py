"""Small things that people look for: the version, short help, completion, targets, folders, what is no ONNX model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import call, make_data, make_model

import onnxcompress
from onnxcompress.display.console import Phases
from onnxcompress.errors import ModelError
from onnxcompress.graph.exports import FILES
from onnxcompress.graph.load import load
from onnxcompress.recipe import parse_pass
from onnxcompress.surgery import SurgeonStep
from onnxcompress.targets import target_names


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "m.onnx")


def test_version():
    assert onnxcompress.__version__ == version("onnxcompress")
    result = call("--version")
    assert (result.exit_code, result.stdout) == (0, f"onnxcompress {version('onnxcompress')}\n")


@pytest.mark.parametrize("command", [[], ["apply"], ["bench"], ["targets"], ["passes"]])
def test_help_in_short(command):
    assert call(*command, "-h").stdout == call(*command, "--help").stdout
    assert call(*command, "-h").exit_code == 0


def test_completion_for_a_shell():
    words = {"_ONNXCOMPRESS_COMPLETE": "complete_bash", "COMP_WORDS": "onnxcompress be", "COMP_CWORD": "1"}
    program = "import sys; sys.argv[0] = 'onnxcompress'; from onnxcompress.__main__ import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | words, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["bench"]


def test_bench_takes_samples_threads_and_a_provider(tmp_path, model):
    data = make_data(tmp_path / "d.npz")
    result = call("bench", model, "--data", data, "--threads", "1", "--seconds", "0.1", "--provider", "cpu", "--json")
    assert result.exit_code == 0, result.stderr
    (timing,) = json.loads(result.stdout).values()
    assert timing["runs"] >= 5
    assert "rounds on cpu" in call("bench", model, "--seconds", "0.1").stdout
    assert call("bench", model, "--data", tmp_path / "none.npz").exit_code == 2


def test_targets_are_listed(model):
    listed = json.loads(call("targets", "--json").stdout)
    assert [target["name"] for target in listed] == target_names()
    shown = call("targets").stdout
    assert all(name in shown for name in target_names())
    assert "this is where" in shown
    found = call("lint", model)
    assert found.exit_code == 0
    assert all(name in found.stdout for name in target_names())
    reports = json.loads(call("lint", model, "--json").stdout)
    assert {report["target"] for report in reports} == set(target_names())
    assert "known: npu-power-of-two, onnxruntime-cpu" in call("lint", model, "--target", "nope").stderr


def test_a_step_of_ones_own_on_the_command_line(tmp_path, model):
    edits = tmp_path / "edits.py"
    edits.write_text("def rename(graph):\n    graph.nodes[-1].name = 'last'\n    return graph\n")
    out = tmp_path / "o.onnx"
    result = call("apply", model, "-o", out, "-p", f"surgeon={edits}:rename", "-p", "shrink")
    assert result.exit_code == 0, result.stderr
    assert onnx.load(out).graph.node[-1].name == "last"
    assert isinstance(parse_pass(f"surgeon={edits}:rename"), SurgeonStep)
    for text in ("surgeon", "surgeon=a.py:b x=1"):
        assert "expected surgeon=file.py:function" in call("apply", model, "-o", out, "-p", text).stderr


def test_a_folder_with_one_model_is_that_model(tmp_path, model):
    (tmp_path / "config.json").write_text("{}")
    assert len(load(tmp_path).graph) == 3
    found = json.loads(call("inspect", tmp_path, "--json").stdout)
    assert found["bytes"] == model.stat().st_size
    out = tmp_path / "out" / "o.onnx"
    out.parent.mkdir()
    assert call("apply", tmp_path, "-o", out, "-p", "shrink").exit_code == 0
    assert call("bench", tmp_path, out, "--seconds", "0.1", "--json").exit_code == 0


def test_a_folder_of_several_names_them(tmp_path, model):
    make_model(tmp_path / "decoder.onnx")
    result = call("inspect", tmp_path)
    assert result.exit_code == 2
    assert f"a folder of 2 models; give one of them: {tmp_path / 'decoder.onnx'}, {model}" in result.stderr


@pytest.mark.parametrize(
    ("name", "part"),
    [
        (
            "saved_model.pb",
            "a SavedModel of TensorFlow, and not ONNX; export it: python -m tf2onnx.convert",
        ),
        ("model.safetensors", "optimum-cli export onnx --model"),
        ("a.pdmodel", "paddle2onnx --model_dir"),
        ("Manifest.json", "a package of Core ML"),
        ("notes.txt", "a folder without an .onnx file"),
    ],
)
def test_folders_of_other_frameworks(tmp_path, name, part):
    (tmp_path / name).write_text("x")
    with pytest.raises(ModelError, match=part) as caught:
        load(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("ending", [*FILES])
def test_files_of_other_frameworks_say_how_to_export(tmp_path, ending):
    path = tmp_path / f"net{ending}"
    path.write_bytes(b"\x80\x02}q\x01.")
    result = call("inspect", path)
    assert result.exit_code == 2
    what, how = FILES[ending]
    assert f"net{ending}: {what}, and not ONNX; export it: {how.split('{')[0]}" in result.stderr
    assert "{" not in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_an_onnx_model_of_another_name_is_loaded_all_the_same(tmp_path, model):
    other = tmp_path / "net.pb"
    model.rename(other)
    assert len(load(other).graph) == 3


def test_a_file_that_git_has_not_fetched(tmp_path):
    path = tmp_path / "m.onnx"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(ModelError, match="git lfs pull"):
        load(path)


def test_a_decoder_is_no_hundred_lines(tmp_path):
    """Many inputs that are alike, and many groups that are frozen for the same reason."""
    ports = ", ".join(f"float[N, 8] past{i}" for i in range(60))
    made = ", ".join(f"float[N, 8] present{i}" for i in range(60))
    nodes = "\n".join(f"present{i} = MatMul(past{i}, w{i})" for i in range(60))
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]>\ng ({ports}) => ({made}) {{ {nodes} }}')
    proto.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.eye(8, dtype=np.float32), f"w{i}") for i in range(60)
    )
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    result = call("inspect", path)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) < 75
    assert "and 54 more" in result.stdout
    assert "Frozen groups: 60" in result.stdout


class Bars:
    """Stands for rich's bars; notes what is drawn."""

    def __init__(self):
        self.drawn, self.alive = [], set()

    def add_task(self, what, **options):
        self.alive.add(len(self.drawn))
        self.drawn.append([what, options.get("completed", 0)])
        return len(self.drawn) - 1

    def remove_task(self, task):
        self.alive.remove(task)

    def update(self, task, *, description, completed, total):
        assert completed >= self.drawn[task][1], "a bar goes back"
        self.drawn[task] = [description, completed]


def test_a_bar_counts_up_once():
    bars = Bars()
    phases = Phases(bars)
    for what, done, total in [
        ("quantize", 0, 1), ("ranges", 0, 9), ("ranges", 9, 9), ("ranges", 0, 9), ("ranges", 4, 9), ("quantize", 1, 1)
    ]:  # fmt: skip
        phases(what, done, total)
        assert len(bars.alive) == 1
    assert bars.drawn[1:] == [["quantize", 0], ["ranges", 9], ["ranges (2)", 4], ["quantize", 1]]


def test_file_endings_are_small():
    assert all(ending == ending.lower() and ending == Path(f"x{ending}").suffix for ending in FILES)

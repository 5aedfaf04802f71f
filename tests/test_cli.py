"""The command line: what it prints where, in which order it works, and with which status it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import call, make_data, make_model, spawn

import onnxcompress


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "m.onnx")


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "d.npz")


def test_importing_it_is_cheap():
    """Help and usage errors must not wait for numpy or onnxruntime."""
    program = (
        "import sys, onnxcompress.cli; print([m for m in ('numpy', 'onnx', 'onnxruntime', 'rich') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["demo", "apply", "inspect", "lint", "compare", "sensitivity", "bench", "passes"])
def test_help_for_each_command(command):
    result = call(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: root {command}")
    assert command in call("--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "error: Missing command; see root --help\n"),
        (["frob"], "error: No such command 'frob'; see root --help\n"),
        (["--frob"], "error: No such option: --frob; see root --help\n"),
        (["inspect"], "error: Missing argument 'MODEL'; see root inspect --help\n"),
        (["compare", "a", "b"], "error: Missing option '--data'; see root compare --help\n"),
    ],
)
def test_wrong_usage_is_one_line(arguments, message):
    result = call(*arguments)
    assert (result.exit_code, result.stdout, result.stderr) == (2, "", message)


def test_apply_writes_the_model_and_tells_what_happened(tmp_path, model, data):
    out = tmp_path / "o.onnx"
    result = call("apply", model, "-o", out, "-p", "prune-channels sparsity=0.5", "-p", "shrink", "--data", data)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [i.dims[:] for i in onnx.load(out).graph.initializer] == [[4, 4], [4, 3]]
    for word in ("original", "prune-channels", "shrink", "top1"):
        assert word in result.stdout


def test_order_of_recipes_and_passes_is_kept(tmp_path, model):
    """Typer gathers -r and -p each by itself; the order between them would be lost."""
    recipe = tmp_path / "r.toml"
    recipe.write_text('[[pass]]\nname = "remove-dead"\n[[pass]]\nname = "fold-constants"\n')
    report = tmp_path / "r.json"
    given = ["-pshrink", "-r", recipe, "--pass", "prune-channels sparsity=0.25", f"--recipe={recipe}", "-p", "shrink"]
    result = call("apply", model, "-o", tmp_path / "o.onnx", *given, "--report", report)
    assert result.exit_code == 0, result.stderr
    names = [step["name"] for step in json.loads(report.read_text())["steps"]]
    assert names == [
        "shrink", "remove-dead", "fold-constants", "prune-channels", "remove-dead", "fold-constants", "shrink"
    ]  # fmt: skip


def test_report_as_html(tmp_path, model):
    report = tmp_path / "r.html"
    assert call("apply", model, "-o", tmp_path / "o.onnx", "-p", "shrink", "--report", report).exit_code == 0
    assert report.read_text().startswith("<!doctype html>")


def test_dry_run_shows_the_plan_and_writes_nothing(tmp_path, model):
    result = call(
        "apply", model, "-o", tmp_path / "o.onnx", "--dry-run", "-p", "prune-channels sparsity=0.5", "-p", "shrink"
    )
    assert not (tmp_path / "o.onnx").exists()
    assert result.exit_code == 0
    for text in ("4 of 8 channels zeroed", "4 of 8 channels removed", "it reaches graph output 'y'"):
        assert text in result.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ([], "give -o OUT, or --dry-run"),
        (["--dry-run", "--report", "r.json"], "takes no --report"),
        (["-o", "x", "--report", "x"], "name the same file"),
    ],
)
def test_options_that_contradict(model, extra, message):
    result = call("apply", model, "-p", "shrink", *extra)
    assert result.exit_code == 2
    assert message in result.stderr


def test_overwrite(tmp_path, model):
    before = model.read_bytes()
    assert call("apply", model, "-o", model, "-p", "prune-channels", "-p", "shrink").exit_code == 2
    assert model.read_bytes() == before
    assert call("apply", model, "-o", model, "-p", "prune-channels", "-p", "shrink", "--overwrite").exit_code == 0
    assert len(model.read_bytes()) < len(before)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx"]


def test_same_seed_same_bytes(tmp_path, model):
    outs = [tmp_path / f"{i}.onnx" for i in range(3)]
    for out, seed in zip(outs, (7, 7, 8), strict=True):
        call("apply", model, "-o", out, "-p", "prune-channels importance=random", "--seed", str(seed))
    one, same, other = (out.read_bytes() for out in outs)
    assert one == same != other


def test_inspect(model):
    text = call("inspect", model)
    assert text.exit_code == 0
    assert "Prunable groups: 1" in text.stdout
    found = json.loads(call("inspect", model, "--json").stdout)
    assert found["bytes"] == model.stat().st_size
    assert found["parameters"] == 4 * 8 + 8 * 3


def test_compare_limits_the_drop(tmp_path, model, data):
    other = make_model(tmp_path / "other.onnx", seed=5)
    same = call("compare", model, model, "--data", data, "--metric", "agreement", "--max-drop", "0")
    assert (same.exit_code, same.stderr) == (0, "")
    short = call("compare", model, other, "--data", data, "--metric", "agreement", "--max-drop", "0.01")
    assert short.exit_code == 1
    assert short.stderr.startswith("Not held: agreement lost ")
    assert "agreement" in short.stdout
    assert call("compare", model, other, "--data", data, "--metric", "agreement").exit_code == 0


def test_compare_prints_one_json_document(tmp_path, model, data):
    other = make_model(tmp_path / "other.onnx", seed=5)
    result = call("compare", model, other, "--data", data, "--metric", "max_abs", "--max-drop", "1e-6", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert found["metric"] == "max_abs"
    assert found["drop"] == found["value_b"] > 1e-6
    assert found["outputs"][0]["name"] == "y"


def test_compare_refuses_a_limit_on_what_has_none(model, data):
    result = call("compare", model, model, "--data", data, "--metric", "sqnr", "--max-drop", "1")
    assert (result.exit_code, result.stdout) == (2, "")
    assert "sqnr" in result.stderr


def test_bench(tmp_path, model):
    small = make_model(tmp_path / "small.onnx", width=4)
    found = json.loads(call("bench", model, small, "--json").stdout)
    assert list(found) == [str(model), str(small)]
    assert found[str(model)]["ratio"] == 1.0
    assert found[str(small)]["median_ms"] > 0


def test_bench_refuses_models_with_other_inputs(tmp_path, model):
    text = '<ir_version: 8, opset_import: ["" : 17]> g (float[N, 9] z) => (float[N, 9] y) { y = Relu (z) }'
    onnx.save(onnx.parser.parse_model(text), tmp_path / "other.onnx")
    result = call("bench", model, tmp_path / "other.onnx")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1


def test_passes_lists_all_and_shows_every_option():
    listed = call("passes").stdout
    for name in ("prune-channels", "shrink", "fold-batch-norm", "quantize", "distill"):
        assert name in listed
    shown = call("passes", "prune-channels").stdout
    for word in ("sparsity", "float", "0.5", "≥0", "importance", "lamp"):
        assert word in shown
    assert "did you mean 'shrink'?" in call("passes", "shrik").stderr


def test_internal_errors_are_one_line(monkeypatch, model):
    def broken(_path):
        raise RuntimeError("two\nlines")

    monkeypatch.setattr("onnxcompress.inspection.inspect", broken)
    result = call("inspect", model)
    assert result.exit_code == 70
    expected = "error: internal error: RuntimeError: two lines; run with ONNXCOMPRESS_DEBUG=1 for the traceback\n"
    assert result.stderr == expected
    monkeypatch.setenv("ONNXCOMPRESS_DEBUG", "1")
    assert isinstance(call("inspect", model).exception, RuntimeError)


def test_a_pass_that_breaks_its_promise_falls_short(monkeypatch, tmp_path, model):
    def broken(*_args, **_options):
        raise onnxcompress.errors.VerifyError("shrink: outputs differ")

    monkeypatch.setattr("onnxcompress.pipeline.apply", broken)
    result = call("apply", model, "-o", tmp_path / "o.onnx", "-p", "shrink")
    assert (result.exit_code, result.stderr) == (1, "error: shrink: outputs differ\n")


@pytest.mark.skipif(sys.platform == "win32", reason="pipes close differently")
def test_a_closed_pipe_is_no_error(model):
    process = spawn("inspect", model)
    process.stdout.close()
    assert process.stderr.read() == ""
    assert process.wait(timeout=60) == 141
    process.stderr.close()


def test_no_bar_where_stderr_is_no_terminal(model, tmp_path):
    process = spawn("apply", model, "-o", tmp_path / "o.onnx", "-p", "shrink")
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")
    assert "\x1b" not in stdout
    assert max(len(line) for line in stdout.splitlines()) <= 80


def test_bar_on_a_terminal(monkeypatch):
    """The bar follows the callback."""
    import io

    from onnxcompress.display import console

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with console.progress_bar() as progress:
        progress("training: epoch 1 of 2", 5, 10)
    assert "training" in terminal.getvalue()


@pytest.mark.parametrize("name", onnxcompress.__all__)
def test_every_public_name_is_there(name):
    assert getattr(onnxcompress, name).__name__ == name


def test_public_compare_and_bench_take_every_kind_of_model(model):
    proto = onnx.load(model)
    data = {"x": np.ones((8, 4), np.float32)}
    found = onnxcompress.compare(proto, onnxcompress.load(model), data)
    assert (found.metric, found.value_b, found.max_abs) == ("agreement", 1.0, 0.0)
    first, second = onnxcompress.bench([proto, model], seconds=0.05, data=data)
    assert first.ratio == 1.0
    assert second.runs >= 5
    for wrong in ([], str(model)):
        with pytest.raises(onnxcompress.OnnxCompressError, match="list of one model"):
            onnxcompress.bench(wrong)
    with pytest.raises(onnxcompress.OnnxCompressError, match="seconds > 0"):
        onnxcompress.bench([model], seconds=0)


def test_an_interrupt_while_starting_ends_without_a_traceback(tmp_path: Path) -> None:
    """A stand-in for the first import sends the interrupt."""
    (tmp_path / "typer.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")
    code = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from onnxcompress.__main__ import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    run = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (-signal.SIGINT, "")

"""What is written is compared, as a file, with all that is read; and every kind of file has a stated behaviour."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import call, make_data, make_model, spawn

from onnxcompress import load, save
from onnxcompress.errors import OnnxCompressError, OutputError

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and signals are others there")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_model(Path("m.onnx"))
    make_data(Path("d.npz"))
    Path("r.toml").write_text('[[pass]]\nname = "shrink"\n')
    Path("metric.py").write_text("def metric(outputs, labels):\n    return 1.0\n")


def everything() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def refused(expected: str, *arguments: str) -> None:
    before = everything()
    result = call(*arguments)
    assert (result.exit_code, result.stdout) == (2, ""), result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1
    assert expected in result.stderr
    assert everything() == before


SAME = {
    "the input": ("m.onnx", "--report and MODEL name the same file"),
    "the output": ("o.onnx", "-o and --report name the same file"),
    "the output by another path": ("./sub/../o.onnx", "-o and --report name the same file"),
    "the output in capitals": ("O.ONNX", "-o and --report name the same file"),
    "a link to the input": ("link", "--report and MODEL name the same file"),
    "a hard link to the input": ("hard", "--report and MODEL name the same file"),
    "the samples": ("d.npz", "--report and --data name the same file"),
    "the metric": ("metric.py", "--report and --metric name the same file"),
    "the recipe": ("r.toml", "--report and -r r.toml name the same file"),
    "an option of a pass": ("mask.npz", "--report and masks of apply-mask name the same file"),
    "a data file of the output": ("o.onnx.data", "a report ends in .html, .json or .md"),
    "another model": ("other.onnx", "a report ends in .html, .json or .md"),
}


@pytest.mark.parametrize("case", SAME)
def test_a_report_lands_on_nothing_that_is_read_or_written(case: str) -> None:
    report, expected = SAME[case]
    Path("sub").mkdir()
    Path("link").symlink_to("m.onnx")
    os.link("m.onnx", "hard")
    np.savez("mask.npz", w1=np.ones((4, 8), bool))
    steps = ["-r", "r.toml", "-p", "apply-mask masks=mask.npz", "--data", "d.npz", "--metric", "metric.py:metric"]
    refused(expected, "apply", "m.onnx", "-o", "o.onnx", *steps, "--report", report, "--overwrite")


def test_a_report_does_not_land_on_the_weights() -> None:
    proto = onnx.load("m.onnx")
    onnx.save(proto, "m.onnx", save_as_external_data=True, location="weights.json", size_threshold=0)
    arguments = ["apply", "m.onnx", "-o", "o.onnx", "-p", "shrink", "--report", "weights.json", "--overwrite"]
    refused("--report and the weights of m.onnx name the same file", *arguments)


@pytest.mark.parametrize("report", ["m.onnx", "d.npz"])
def test_the_curves_land_on_nothing_that_is_read(report: str) -> None:
    refused("name the same file", "sensitivity", "m.onnx", "--data", "d.npz", "--report", report, "--overwrite")


@pytest.mark.parametrize("name", ["x.tflite", "x.pb", "x"])
def test_what_is_written_is_onnx(name: str) -> None:
    expected = "what is written is an ONNX model; give a name that ends in .onnx"
    refused(expected, "apply", "m.onnx", "-p", "shrink", "-o", name)
    with pytest.raises(OutputError, match=r"ends in \.onnx"):
        save(load("m.onnx"), name)


def bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)


KINDS: dict[str, tuple[Callable[[str], object], str]] = {
    "folder": (os.mkdir, "is a folder; give the name of a file"),
    "named pipe": (os.mkfifo, "is a named pipe; give the name of a file"),
    "socket": (bind, "is a socket; give the name of a file"),
    "link to a device": (lambda path: Path(path).symlink_to("/dev/null"), "is a device; give the name of a file"),
    "dangling link": (lambda path: Path(path).symlink_to("nowhere"), "is a symbolic link to"),
    "link to itself": (lambda path: Path(path).symlink_to(path), ""),
}


@pytest.mark.parametrize("option", ["-o", "--report"])
@pytest.mark.parametrize("kind", KINDS)
def test_outputs_that_are_no_files(kind: str, option: str) -> None:
    make, expected = KINDS[kind]
    name = "o.onnx" if option == "-o" else "r.json"
    make(name)
    before = os.lstat(name)
    targets = {"-o": "fine.onnx"} | {option: name}
    refused(expected, "apply", "m.onnx", "-p", "shrink", *(a for pair in targets.items() for a in pair), "--overwrite")
    assert os.lstat(name).st_ino == before.st_ino
    assert not Path("fine.onnx").exists()


@pytest.mark.parametrize("kind", ["named pipe", "socket", "link to a device"])
def test_models_that_are_no_files(kind: str) -> None:
    make, _ = KINDS[kind]
    make("in.onnx")
    refused("and a model is read more than once; copy it into a file", "inspect", "in.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_a_symbolic_link_is_followed(external: bool) -> None:
    """The file that it leads to is replaced; a data file lies beside that."""
    Path("real").mkdir()
    target = Path("real/model.onnx")
    target.write_bytes(b"old")
    Path("o.onnx").symlink_to(target)
    if external:
        onnx.save(onnx.load("m.onnx"), "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
        make_wide("m.onnx")
    arguments = ["apply", "m.onnx", "-p", "remove-dead", "-o", "o.onnx"]
    assert "exists already" in call(*arguments).stderr
    result = call(*arguments, "--overwrite")
    assert (result.exit_code, result.stderr) == (0, "")
    assert Path("o.onnx").readlink() == target
    assert len(list(Path("real").iterdir())) == 1 + external
    for path in ("o.onnx", str(target)):
        assert call("inspect", path).exit_code == 0
        assert len(load(path).graph.initializers) == 2


def make_wide(path: str) -> None:
    """Let weights be large enough for a data file."""
    make_model(Path(path), width=64)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="w2.bin", size_threshold=0)


def test_a_hard_link_is_broken_and_the_other_name_keeps_what_it_had() -> None:
    make_model(Path("other.onnx"), seed=1)
    os.link("other.onnx", "o.onnx")
    before = Path("other.onnx").read_bytes()
    assert call("apply", "m.onnx", "-p", "shrink", "-o", "o.onnx", "--overwrite").exit_code == 0
    assert Path("other.onnx").read_bytes() == before != Path("o.onnx").read_bytes()


def test_what_stays_of_a_replaced_model_is_said() -> None:
    make_wide("s.onnx")
    result = call("apply", "s.onnx", "-p", "shrink", "-o", "s.onnx", "--overwrite")
    assert result.exit_code == 0
    assert "w2.bin stays: onnxcompress did not write it for s.onnx" in " ".join(result.stdout.split())
    assert Path("w2.bin").exists()


@pytest.mark.parametrize("name", ["\0", "a\0.onnx", "x" * 300 + ".onnx", "x" * 5000, "\udcff.onnx"])
def test_names_that_no_file_can_have(name: str) -> None:
    model = load("m.onnx")
    for attempt in (lambda: load(name), lambda: save(model, f"{name}/o.onnx")):
        with pytest.raises(OnnxCompressError):
            attempt()
    for option in (["--data", name, "-p", "quantize"], ["-r", name], ["-p", "shrink", "--report", name]):
        result = call("apply", "m.onnx", "-o", "o.onnx", *option)
        assert result.exit_code in (0, 2), result.stderr
        assert result.stderr.count("\n") <= 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a = " + "[" * 5000, "nested too deeply"),
        ("a = " + "{a=" * 5000, "nested too deeply"),
        ("a." * 500 + "a = 1", "nested too deeply"),
        ("a = " + "9" * 5000, "not TOML"),
        ("#" * (1 << 24) + "#", "too large for a recipe"),
        ("\0", "not TOML"),
    ],
)
def test_recipes_that_are_none(text: str, expected: str) -> None:
    Path("r.toml").write_text(text)
    refused(expected, "apply", "m.onnx", "-o", "o.onnx", "-r", "r.toml")
    if "large" not in expected:
        refused(expected, "lint", "m.onnx", "--target", "r.toml")


def test_a_recipe_that_has_no_end() -> None:
    refused("too large for a recipe", "apply", "m.onnx", "-o", "o.onnx", "-r", "/dev/zero")


def test_not_enough_memory_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def greedy(*_: object) -> None:
        np.empty(1 << 45)

    monkeypatch.setattr("onnxcompress.inspection.inspect", greedy)
    refused("not enough memory (Unable to allocate", "inspect", "m.onnx")


def test_an_input_of_a_size_that_no_memory_has() -> None:
    proto = onnx.load("m.onnx")
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 2**40
    onnx.save(proto, "big.onnx")
    start = time.monotonic()
    refused("one sample of it does not fit into memory", "apply", "big.onnx", "-p", "shrink", "-o", "o.onnx")
    assert time.monotonic() - start < 20


def test_a_file_that_goes_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.inspection.inspect", lambda _: Path("gone").read_bytes())
    refused("error: gone: No such file or directory", "inspect", "m.onnx")


HANG = "import time, pathlib\ndef edit(graph):\n    pathlib.Path('ready').touch()\n    time.sleep(60)\n"


def run_until_ready(*arguments: str) -> subprocess.Popen[str]:
    process = spawn(*arguments)
    while not Path("ready").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    return process


@pytest.mark.parametrize(("name", "line", "status"), [("SIGTERM", "terminated", 143), ("SIGHUP", "hung up", 129)])
def test_a_signal_ends_in_one_line(name: str, line: str, status: int) -> None:
    """And a second one does not disturb the tidying up."""
    Path("hang.py").write_text(HANG)
    Path("hang.toml").write_text("[[pass]]\nsurgeon = 'hang.py:edit'\n")
    before = set(everything())
    process = run_until_ready("apply", "m.onnx", "-r", "hang.toml", "-o", "o.onnx")
    for _ in range(2):
        process.send_signal(getattr(signal, name))
    stdout, stderr = process.communicate(timeout=30)
    assert (process.returncode, stdout, stderr) == (status, "", f"{line}; nothing was written\n")
    assert set(everything()) == before | {"ready"}


def test_a_hang_up_that_is_to_be_ignored_is() -> None:
    edit = "import os, signal\ndef edit(graph):\n    os.kill(os.getpid(), signal.SIGHUP)\n    return graph\n"
    Path("hang.py").write_text(edit)
    Path("hang.toml").write_text("[[pass]]\nsurgeon = 'hang.py:edit'\n")

    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    process = spawn("apply", "m.onnx", "-r", "hang.toml", "-o", "o.onnx", preexec_fn=ignore)
    _, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (0, "")


def test_functions_whose_operators_are_others_in_their_opset_are_refused_by_name() -> None:
    text = """
    <ir_version: 8, opset_import: ["" : 17, "own" : 1]>
    g (float[N, 4] x) => (float[N, 1] y) { y = own.Sum (x) }
    <domain: "own", opset_import: ["" : 11]>
    Sum (p) => (q) { q = ReduceSum <axes = [1]> (p) }
    """
    onnx.save(onnx.parser.parse_model(text), "f.onnx")
    refused("FunctionOp imports version 11 whereas model imports version 17", "lint", "f.onnx", "--target", "tensorrt")

"""What users get wrong, and what goes wrong around them: one line, the right status, and nothing half written."""

from __future__ import annotations

import hashlib
import resource
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command_line import NET, call, make_data, make_model, spawn

X = np.zeros((6, 4), np.float32)


def write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def rejected(path: Path) -> Path:
    """A model that reads a value which nothing makes."""
    proto = onnx.parser.parse_model(NET)
    return write(path, proto.SerializeToString())


def escaping(path: Path) -> Path:
    """A model whose weights lie outside its folder."""
    proto = onnx.load(make_model(path))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../outside.bin")
    return write(path, proto.SerializeToString())


def truncated(path: Path) -> Path:
    return write(path, make_model(path).read_bytes()[:200])


def holed(path: Path) -> Path:
    values = X.copy()
    values[3, 1] = np.nan
    return make_data(path, x=values, labels=np.zeros(6, np.int64))


def encrypted(path: Path) -> Path:
    content = bytearray(make_data(path).read_bytes())
    content[content.index(b"PK\x01\x02") + 8] |= 1
    return write(path, bytes(content))


def promising(path: Path, *, compressed: bool) -> Path:
    """An array whose header says that it has 2**40 rows."""
    make_data(path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content.replace(b"(24, 4), }           ", b"(1099511627776, 4), }"))
    return path


MODELS: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path, "no such file"),
    "folder": (lambda path: path.mkdir(), "a folder without an .onnx file"),
    "truncated": (truncated, "not an ONNX model, or truncated"),
    "not ONNX": (lambda path: write(path, b"PK\x03\x04 this is a zip"), "not an ONNX model"),
    "empty": (lambda path: write(path, b""), "not an ONNX model"),
    "rejected by the checker": (rejected, "the ONNX checker rejects it"),
    "external data outside": (escaping, "leaves the model's folder"),
}

DATA: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing": (lambda path: path, "d.npz"),
    "empty file": (lambda path: write(path, b""), "no .npz file, or truncated"),
    "truncated": (lambda path: write(path, make_data(path).read_bytes()[:100]), "no .npz file, or truncated"),
    "wrong name": (lambda path: np.savez(path, X=X, Y=X), "'x' is missing; there are: X, Y"),
    "wrong shape": (lambda path: np.savez(path, x=np.zeros((6, 5), np.float32)), "x"),
    "wrong rank": (lambda path: np.savez(path, x=np.zeros((2, 1, 4), np.float32)), "expected 2 axes [N, 4]"),
    "wrong dtype": (lambda path: np.savez(path, x=X.astype(complex)), "expected float32, got complex128"),
    "NaN": (holed, "NaN"),
    "no samples": (lambda path: np.savez(path, x=X[:0]), "no samples"),
    "labels of another length": (lambda path: make_data(path, labels=np.zeros(3, np.int64)), "3 labels for 24 samples"),
    "encrypted": (encrypted, "is encrypted; save it without a password"),
    "promising more": (
        lambda path: promising(path, compressed=False),
        "its header promises float32 [1099511627776, 4]",
    ),
    "promising more, compressed": (lambda path: promising(path, compressed=True), "its header promises float32"),
    "pickled objects": (lambda path: np.savez(path, x=np.array([{}], object)), "Python objects"),
}

ARGUMENTS: dict[str, tuple[list[str], str]] = {
    "unknown metric": (["-p", "quantize", "--metric", "top2"], "did you mean 'top"),
    "metric that needs labels": (["-p", "quantize", "--data", "random", "--metric", "top1"], "needs labels"),
    "unknown pass": (["-p", "prune-chanels"], "did you mean 'prune-channels'?"),
    "unknown option": (["-p", "prune-channels sparsty=0.5"], "did you mean 'sparsity'?"),
    "option out of range": (["-p", "prune-channels sparsity=1.5"], "sparsity"),
    "option of another type": (["-p", "prune-channels sparsity=half"], "sparsity"),
    "option without a value": (["-p", "prune-channels sparsity"], "expected key=value"),
    "choice that is none": (["-p", "prune-channels importance=l3"], "l1, l2, random"),
    "missing recipe": (["-r", "none.toml"], "no such recipe"),
    "samples that are needed": (["-p", "activation-prune"], "needs samples"),
    "missing function": (["-p", "quantize", "--data", "nothing.py:feed"], "no such file"),
    "no pass at all": ([], "give one recipe (-r) or pass (-p) at least"),
    "unknown flag": (["-p", "shrink", "--frob"], "--frob"),
    "seed that is no number": (["-p", "shrink", "--seed", "x"], "seed"),
}


def assert_refused(result: object, expected: str) -> None:
    text, status = result.stderr, result.exit_code  # type: ignore[attr-defined]
    assert status == 2, text
    assert text.startswith("error: ")
    assert text.count("\n") == 1
    assert expected in text
    assert "Traceback" not in text
    assert result.stdout == ""  # type: ignore[attr-defined]


@pytest.mark.parametrize("command", ["apply", "inspect", "compare", "bench"])
@pytest.mark.parametrize("case", MODELS)
def test_models_that_cannot_be_used(tmp_path, case, command):
    prepare, expected = MODELS[case]
    path = tmp_path / "in" / "m.onnx"
    path.parent.mkdir()
    prepare(path)
    rest = {"apply": ["-p", "shrink", "-o", tmp_path / "o.onnx"], "compare": [path, "--data", "random"]}
    assert_refused(call(command, path, *rest.get(command, [])), expected)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("command", ["apply", "compare"])
@pytest.mark.parametrize("case", DATA)
def test_data_that_does_not_fit(tmp_path, case, command):
    prepare, expected = DATA[case]
    model, data = make_model(tmp_path / "m.onnx"), tmp_path / "d.npz"
    prepare(data)
    rest = {"apply": ["-p", "quantize", "-o", tmp_path / "o.onnx"], "compare": [model]}
    assert_refused(call(command, model, *rest[command], "--data", data), expected)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("case", ARGUMENTS)
def test_arguments_that_are_wrong(tmp_path, case):
    extra, expected = ARGUMENTS[case]
    extra = (
        extra if "--data" in extra or "needs samples" in expected else [*extra, "--data", make_data(tmp_path / "d.npz")]
    )
    assert_refused(call("apply", make_model(tmp_path / "m.onnx"), "-o", tmp_path / "o.onnx", *extra), expected)
    assert not (tmp_path / "o.onnx").exists()


@pytest.mark.parametrize("option", ["-o", "--report"])
@pytest.mark.parametrize(("place", "expected"), [("none/o.x", "does not exist"), ("m.onnx/o.x", "does not exist")])
def test_no_folder_for_the_output(tmp_path, option, place, expected):
    targets = {"-o": tmp_path / "fine.onnx"} | {option: tmp_path / place}
    model = make_model(tmp_path / "m.onnx")
    flat = [item for pair in targets.items() for item in pair]
    assert_refused(call("apply", model, "-p", "shrink", *flat), expected)
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


@pytest.mark.parametrize("option", ["-o", "--report"])
def test_output_that_exists(tmp_path, option):
    model, there = make_model(tmp_path / "m.onnx"), write(tmp_path / "there", b"mine")
    targets = {"-o": tmp_path / "o.onnx"} | {option: there}
    flat = [item for pair in targets.items() for item in pair]
    assert_refused(call("apply", model, "-p", "shrink", *flat), "exists already")
    assert there.read_bytes() == b"mine"
    assert not (tmp_path / "o.onnx").exists()


def test_demo_does_not_touch_a_folder_of_something_else(tmp_path):
    write(tmp_path / "thesis.txt", b"mine")
    assert_refused(call("demo", "--out", tmp_path), "holds other files (thesis.txt)")


class Finished:
    """A process that has ended, in the words of `assert_refused`."""

    def __init__(self, *arguments: str | Path, **options: object) -> None:
        process = spawn(*arguments, **options)
        self.stdout, self.stderr = process.communicate(timeout=60)
        self.exit_code = process.returncode


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can read, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


AS_NOBODY = """
import contextlib, io, os
from onnxcompress import cli, pipeline, recipe
from onnxcompress.machines import dask_workers
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    cli.app(["passes"])  # imports what may lie in folders that only root can read
if os.geteuid() == 0:
    os.setuid(65534)
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="folders have no such permissions")
def test_read_only_folder(open_folder):
    model = make_model(open_folder / "m.onnx")
    model.chmod(0o644)
    locked = open_folder / "locked"
    locked.mkdir(mode=0o555)
    for option, other in (("-o", []), ("--report", ["-o", open_folder / "o.onnx"])):
        result = Finished("apply", model, "-p", "shrink", option, locked / "o.json", *other, program=AS_NOBODY)
        assert_refused(result, "cannot be written: Permission denied")
    assert list(locked.iterdir()) == []


@pytest.mark.skipif(sys.platform == "win32", reason="files have no such permissions")
@pytest.mark.parametrize(
    ("locked", "expected"),
    [
        ("m.onnx", "is not readable"),
        ("w.bin", "cannot be read: Permission denied"),
        ("d.npz", "cannot be read: Permission denied"),
        ("r.toml", "cannot be read: Permission denied"),
    ],
)
def test_files_that_may_not_be_read(open_folder, locked, expected):
    proto = onnx.load(make_model(open_folder / "m.onnx"))
    onnx.save(proto, open_folder / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    make_data(open_folder / "d.npz")
    write(open_folder / "r.toml", b"[[pass]]\nname = 'shrink'\n")
    for path in open_folder.iterdir():
        path.chmod(0o000 if path.name == locked else 0o644)
    arguments = ["-r", open_folder / "r.toml", "--data", open_folder / "d.npz", "--dry-run"]
    result = Finished("apply", open_folder / "m.onnx", *arguments, program=AS_NOBODY)
    assert_refused(result, expected)
    assert locked in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="no limits on file sizes")
def test_full_disk(tmp_path):
    """A limit on file sizes gives the same error where a full disk would."""
    model = make_model(tmp_path / "m.onnx", width=400)
    before = model.read_bytes()

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))

    result = Finished("apply", model, "-p", "shrink", "-o", model, "--overwrite", preexec_fn=limit)
    assert_refused(result, f"{model}: cannot be written: ")
    assert model.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["m.onnx"]


HANG = """
import os, time, traceback
from pathlib import Path

def hang():
    Path({ready!r}).touch()
    time.sleep(60)

def samples():
    import numpy as np
    if {where!r} in [frame.name for frame in traceback.extract_stack()]:
        hang()
    yield {{"x": np.ones((8, 4), np.float32), "labels": np.arange(8) % 3}}

def metric(outputs, labels):
    hang()

def edit(graph):
    hang()

def hang_at_write(graph):
    fsync, left = os.fsync, [{skip}]
    def late(handle):
        left[0] -= 1
        return hang() if left[0] < 0 else fsync(handle)
    os.fsync = late
    return graph
"""

STAGES: dict[str, tuple[str, list[str]]] = {
    "data": ("load_samples", ["-p", "quantize", "--data", "{hang}:samples"]),
    "plan": ("plan", ["-p", "quantize", "--data", "{hang}:samples"]),
    "measure": ("", ["-p", "shrink", "--data", "{data}", "--metric", "{hang}:metric"]),
    "apply": ("edit", ["-r", "{recipe}"]),
    "save": ("hang_at_write", ["-r", "{recipe}"]),
}


def prepare(folder: Path, where: str, skip: int = 0) -> dict[str, Path]:
    """Write a model, samples, the file that hangs, and a recipe that calls it."""
    paths = {name: folder / name for name in ("ready", "hang.py", "recipe.toml", "d.npz", "m.onnx", "out")}
    paths["hang.py"].write_text(HANG.format(ready=str(paths["ready"]), where=where, skip=skip))
    paths["recipe.toml"].write_text(f"[[pass]]\nsurgeon = {str(paths['hang.py']) + ':' + where!r}\n")
    make_data(paths["d.npz"])
    make_model(paths["m.onnx"])
    paths["out"].mkdir()
    return paths


def wait_for(condition: Callable[[], object]) -> None:
    end = time.monotonic() + 50
    while not condition():
        assert time.monotonic() < end, "it never got there"
        time.sleep(0.02)


def interrupt(process: object, when: Callable[[], object]) -> tuple[int, str, str]:
    try:
        wait_for(lambda: when() or process.poll() is not None)  # type: ignore[attr-defined]
        process.send_signal(signal.SIGINT)  # type: ignore[attr-defined]
        stdout, stderr = process.communicate(timeout=30)  # type: ignore[attr-defined]
    finally:
        process.kill()  # type: ignore[attr-defined]
    return process.returncode, stdout, stderr  # type: ignore[attr-defined]


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
@pytest.mark.parametrize("stage", STAGES)
def test_interrupted(tmp_path, stage):
    where, arguments = STAGES[stage]
    paths = prepare(tmp_path, where)
    digest = hashlib.sha256(paths["m.onnx"].read_bytes()).hexdigest()
    filled = [a.format(hang=paths["hang.py"], data=paths["d.npz"], recipe=paths["recipe.toml"]) for a in arguments]
    process = spawn("apply", paths["m.onnx"], "-o", paths["out"] / "o.onnx", *filled)
    status, stdout, stderr = interrupt(process, paths["ready"].exists)
    assert (status, stdout, stderr) == (130, "", "interrupted; nothing was written\n")
    assert list(paths["out"].iterdir()) == []
    assert hashlib.sha256(paths["m.onnx"].read_bytes()).hexdigest() == digest


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_interrupted_while_the_report_is_written(tmp_path):
    """The model is there by then, and the message says so."""
    paths = prepare(tmp_path, "hang_at_write", skip=1)
    out, report = paths["out"] / "o.onnx", paths["out"] / "r.json"
    process = spawn("apply", paths["m.onnx"], "-o", out, "--report", report, "-r", paths["recipe.toml"])
    status, stdout, stderr = interrupt(process, paths["ready"].exists)
    assert (status, stdout, stderr) == (130, "", f"interrupted; {out} was written\n")
    assert list(paths["out"].iterdir()) == [out]


LOADING = """
import time
from pathlib import Path
import onnx
from onnxcompress import cli

def hang(path, **_):
    Path(path).with_suffix(".ready").touch()
    time.sleep(60)

onnx.load = hang
cli.main()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_interrupted_while_loading(tmp_path):
    model = make_model(tmp_path / "m.onnx")
    process = spawn("apply", model, "-p", "shrink", "-o", tmp_path / "o.onnx", program=LOADING)
    status, stdout, stderr = interrupt(process, (tmp_path / "m.ready").exists)
    assert (status, stdout, stderr) == (130, "", "interrupted; nothing was written\n")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.onnx", "m.ready"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds the worker in /proc")
def test_interrupted_while_training(tmp_path):
    pytest.importorskip("uv")
    paths = prepare(tmp_path, "")
    step = "distill epochs=1000000 batch_size=1"
    out = paths["out"] / "o.onnx"
    process = spawn("apply", paths["m.onnx"], "-o", out, "-p", step, "--data", paths["d.npz"])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    seen: list[str] = []

    def training() -> list[str]:
        seen[:] = children.read_text().split()
        return seen

    status, stdout, stderr = interrupt(process, training)
    assert (status, stdout, stderr) == (130, "", "interrupted; nothing was written\n")
    assert list(paths["out"].iterdir()) == []
    wait_for(lambda: not any(Path(f"/proc/{child}").exists() for child in seen))

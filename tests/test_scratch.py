"""Folders of killed processes are swept, those of living ones and of other machines are not."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from command_line import make_data, make_model, spawn

from onnxcompress import scratch
from onnxcompress.errors import OutputError
from onnxcompress.statistics.spill import Spill, Spilled

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is swept there")

HOLD = """
import sys, time
from pathlib import Path
from onnxcompress.scratch import owned_folder
with owned_folder(Path(sys.argv[1]), ".onnxcompress-") as folder:
    (folder / "half").write_bytes(bytes(100))
    print(folder, flush=True)
    time.sleep(60)
"""


def held(folder: Path) -> tuple[subprocess.Popen[str], Path]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_a_folder_goes_with_its_block(tmp_path: Path) -> None:
    with scratch.owned_folder(tmp_path, scratch.BESIDE) as folder:
        (folder / "inner").mkdir()
        assert folder.parent == tmp_path
    assert list(tmp_path.iterdir()) == []


def test_only_folders_of_dead_processes_are_swept(tmp_path: Path) -> None:
    living, stays = held(tmp_path)
    killed, goes = held(tmp_path)
    killed.kill()
    killed.communicate()
    try:
        scratch.sweep(tmp_path, scratch.BESIDE)
        assert stays.is_dir()
        assert not goes.exists()
    finally:
        living.kill()
        living.communicate()
    scratch.sweep(tmp_path, scratch.BESIDE)
    assert list(tmp_path.iterdir()) == []


def abandoned(folder: Path, owner: bytes | None) -> Path:
    folder.mkdir()
    if owner is not None:
        (folder / scratch.OWNER).write_bytes(owner)
    return folder


def test_what_is_not_certainly_ours_is_not_swept(tmp_path: Path) -> None:
    here = socket.gethostname().encode()
    goes = abandoned(tmp_path / ".onnxcompress-ours", here)
    kept = [
        abandoned(tmp_path / ".onnxcompress-elsewhere", b"another-" + here),
        abandoned(tmp_path / ".onnxcompress-nobody", None),
        abandoned(tmp_path / ".onnxcompress-starting", b""),
        abandoned(tmp_path / "mine", here),
    ]
    link = tmp_path / ".onnxcompress-link"
    link.symlink_to(abandoned(tmp_path / "target", here))
    scratch.sweep(tmp_path, scratch.BESIDE)
    assert not goes.exists()
    assert all(folder.is_dir() for folder in (*kept, link))


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root gives files away")
def test_another_users_folder_is_not_swept(tmp_path: Path) -> None:
    folder = abandoned(tmp_path / ".onnxcompress-theirs", socket.gethostname().encode())
    os.chown(folder, 65534, 65534)
    scratch.sweep(tmp_path, scratch.BESIDE)
    assert folder.is_dir()


def test_a_killed_run_is_swept_by_the_next(tmp_path: Path) -> None:
    """In the output folder and in the temporary one."""
    temporary, out = tmp_path / "tmp", tmp_path / "out"
    temporary.mkdir()
    out.mkdir()
    hang = tmp_path / "hang.py"
    hang.write_text(
        "import os, time, pathlib\n"
        "from onnxcompress.runtime import stored\n"
        "def edit(graph):\n"
        "    stored.store()\n"
        "    def late(handle):\n"
        f"        pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(60)\n"
        "    os.fsync = late\n"
        "    return graph\n"
    )
    (tmp_path / "r.toml").write_text(f"[[pass]]\nsurgeon = {str(hang) + ':edit'!r}\n")
    model = make_model(tmp_path / "m.onnx")
    environment = {**os.environ, "TMPDIR": str(temporary)}
    process = spawn("apply", model, "-r", tmp_path / "r.toml", "-o", out / "o.onnx", env=environment)
    while not (tmp_path / "ready").exists():
        assert process.poll() is None, process.communicate()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert list(out.iterdir())
    assert list(temporary.glob("onnxcompress-*"))
    make_data(tmp_path / "d.npz")
    step = "quantize-weights rounding=gptq minimum_size=1"
    arguments = ["-p", step, "--data", tmp_path / "d.npz", "-o", out / "o.onnx"]
    process = spawn("apply", model, *arguments, env=environment)
    _, stderr = process.communicate()
    assert process.returncode == 0, stderr
    assert [path.name for path in out.iterdir()] == ["o.onnx"]
    assert list(temporary.glob("onnxcompress-*")) == []


def full(*_: object, **__: object) -> None:
    raise OSError(28, "No space left on device")


def test_a_full_temporary_folder_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    message = f"temporary folder {tmp_path} cannot be written: No space left on device; make room there, or .*TMPDIR"
    with pytest.raises(OutputError, match=message), scratch.temporary_folder():
        full()
    monkeypatch.setattr(tempfile, "mkdtemp", full)
    with pytest.raises(OutputError, match=message), scratch.temporary_folder():
        pass
    monkeypatch.undo()
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_block_stay_what_they_are() -> None:
    with pytest.raises(FileNotFoundError), scratch.temporary_folder() as folder:
        (folder / "none").read_bytes()


def test_what_finds_no_room_in_files_waits_in_memory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spill = Spill(tmp_path, limit_bytes=0)
    array = np.arange(10, dtype=np.float32)
    in_file = spill.put(array)
    assert isinstance(in_file, Spilled)
    monkeypatch.setattr(Path, "write_bytes", full)
    in_memory = spill.put(array)
    assert in_memory is array
    assert [path.name for path in tmp_path.iterdir()] == ["0"]
    for kept in (in_file, in_memory):
        np.testing.assert_array_equal(spill.get(kept), array)
        spill.drop(kept)


def test_a_full_temporary_folder_does_not_stop_a_run(tmp_path: Path) -> None:
    """Weights that find no room in files stay in memory."""
    model = make_model(tmp_path / "m.onnx", width=20_000)
    program = (
        "import pathlib\nfrom onnxcompress import cli\n"
        "from onnxcompress.runtime import stored\n"
        "def full(*_, **__):\n    raise OSError(28, 'No space left on device')\n"
        "stored.owned_folder = full\ncli.main()\n"
    )
    process = spawn("apply", model, "-p", "shrink", "-o", tmp_path / "o.onnx", program=program)
    _, stderr = process.communicate()
    assert (process.returncode, stderr) == (0, "")

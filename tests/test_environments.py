"""Installing the package beside an onnxruntime that is there already, in fresh environments."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OTHERS = {
    "onnxruntime-openvino": ("openvino", ["--provider", "openvino", "--provider-option", "device_type=CPU"]),
    "onnxruntime-gpu": ("cuda", []),
}
"""Package → a provider that it alone has, and what the command line is given to run on it here."""


def run(*command: str | Path) -> str:
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, check=False, cwd=Path(command[0]).parent
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def digests(python: Path, package: str) -> dict[str, str]:
    """Return a digest of each file that a package has put there."""
    program = f"from importlib.metadata import files; print(*(f.locate() for f in files({package!r})), sep='\\n')"
    listed = [Path(line) for line in run(python, "-c", program).splitlines()]
    kept = [path for path in listed if path.suffix not in {".pyc", ""} or path.name == "RECORD"]
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in kept if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("package", OTHERS)
def test_another_onnxruntime_stays_as_it_is_and_works(package, tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    install = [python, "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    got = subprocess.run([*map(str, install), package], capture_output=True, text=True, check=False, cwd=tmp_path)
    if got.returncode:
        pytest.skip(f"{package} cannot be had here: {got.stderr.strip().splitlines()[-1]}")
    before = digests(python, package)
    assert len(before) > 10
    run(*install, ROOT)
    assert digests(python, package) == before
    names = {line.split("==")[0] for line in run(python, "-m", "pip", "freeze").splitlines()}
    assert {name for name in names if name.startswith("onnxruntime")} == {package}
    provider, arguments = OTHERS[package]
    program = "from onnxcompress.runtime.provider import available; print(*available())"
    assert provider in run(python, "-c", program).split()
    out, model = tmp_path / "o.onnx", ROOT / "models" / "digits.onnx"
    command = [python, "-m", "onnxcompress", "apply", model, "-o", out, "-p", "quantize", "--data", "random"]
    found = json.loads(run(*command, *arguments, "--json"))
    assert package in found["versions"]
    assert found["provider"] == (f"{provider} (device_type=CPU)" if arguments else "cpu")
    assert found["stages"][-1]["agreement"] > 0.8
    assert out.stat().st_size < model.stat().st_size / 3


@pytest.mark.slow
def test_without_any_onnxruntime_every_command_that_needs_one_says_how_to_get_it(tmp_path):
    run(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    run(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", ROOT)
    run(python, "-c", "import onnxcompress, onnxcompress.passes; print(onnxcompress.__version__)")
    model = ROOT / "models" / "digits.onnx"
    run(python, "-m", "onnxcompress", "passes")
    run(python, "-m", "onnxcompress", "inspect", model)
    for command in (["bench", model], ["apply", model, "--dry-run", "-p", "shrink"]):
        done = subprocess.run(
            [str(python), "-m", "onnxcompress", *map(str, command)],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: onnxruntime is not installed; get it with: pip install")
        assert len(done.stderr.splitlines()) == 1

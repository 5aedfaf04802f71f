"""What comes along with the package: never an onnxruntime that nobody asked for."""

from __future__ import annotations

import subprocess
import sys
import types
import warnings
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from onnxcompress.errors import NoRuntimeError
from onnxcompress.runtime import installed

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
EXTRAS = {
    "cpu": "onnxruntime",
    "gpu": "onnxruntime-gpu",
    "openvino": "onnxruntime-openvino",
    "directml": "onnxruntime-directml",
    "qnn": "onnxruntime-qnn",
}


def test_no_dependency_brings_onnxruntime():
    """Neither ours nor one of theirs, as deep as it goes."""
    waiting, seen = [Requirement(line) for line in PROJECT["dependencies"]], set()
    while waiting:
        one = waiting.pop()
        if one.name in seen or (one.marker is not None and not one.marker.evaluate({"extra": ""})):
            continue
        seen.add(one.name)
        try:
            waiting += map(Requirement, metadata.requires(one.name) or ())
        except metadata.PackageNotFoundError:
            assert one.marker is not None  # tomli, for an older Python
    assert {"numpy", "onnx", "protobuf"} <= seen
    assert not {name for name in seen if name.startswith(("onnxruntime", "ort-nightly"))}


def test_each_extra_brings_one_and_all_ask_for_the_lowest_version():
    least = ".".join(map(str, installed.LOWEST))
    for extra, package in EXTRAS.items():
        (requirement,) = map(Requirement, PROJECT["optional-dependencies"][extra])
        assert requirement.name == package
        assert package in {*installed.DISTRIBUTIONS, "onnxruntime-qnn"}
        assert package == "onnxruntime-qnn" or str(requirement.specifier) == f">={least}"
    for extra in ("demo", "test"):  # the README's two commands
        wanted = map(Requirement, PROJECT["optional-dependencies"][extra])
        assert "cpu" in next(one for one in wanted if one.name == "onnxcompress").extras


@pytest.fixture
def fresh():
    installed.import_onnxruntime.cache_clear()
    yield
    installed.import_onnxruntime.cache_clear()


def pretend(monkeypatch, module, *distributions):
    monkeypatch.setitem(sys.modules, "onnxruntime", module)
    monkeypatch.setattr(installed, "installed", lambda: list(distributions))


def test_without_onnxruntime_there_is_one_sentence(fresh, monkeypatch):
    pretend(monkeypatch, None)
    with pytest.raises(
        NoRuntimeError, match=r'onnxruntime is not installed; get it with: pip install "onnxcompress\[cpu\]"'
    ):
        installed.import_onnxruntime()


def test_one_that_is_too_old_or_damaged(fresh, monkeypatch):
    module = types.ModuleType("onnxruntime")
    pretend(monkeypatch, module)
    with pytest.raises(NoRuntimeError, match="onnxruntime is damaged"):
        installed.import_onnxruntime()
    module.__version__ = "1.20.1"
    pretend(monkeypatch, module, ("onnxruntime-gpu", "1.20.1"))
    with pytest.raises(
        NoRuntimeError, match=r"onnxruntime-gpu 1.20.1 is too old, 1.24 is the lowest; pip install -U onnxruntime-gpu"
    ):
        installed.import_onnxruntime()


def test_two_in_one_folder_are_told_of(fresh, monkeypatch):
    module = types.ModuleType("onnxruntime")
    module.__version__ = "1.99.0"
    pretend(monkeypatch, module, ("onnxruntime", "1.99.0"), ("onnxruntime-gpu", "1.31.1"))
    with pytest.warns(UserWarning, match="onnxruntime and onnxruntime-gpu are installed into one folder"):
        assert installed.import_onnxruntime() is module
    pretend(monkeypatch, module, ("onnxruntime-gpu", "1.99.0"))
    installed.import_onnxruntime.cache_clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        installed.import_onnxruntime()
    assert installed.runtime_version() == ("onnxruntime-gpu", "1.99.0")


def test_what_lies_in_the_folder_of_the_module_is_found(tmp_path):
    """Two packages in one folder, and a third in another that nobody imports from."""
    first, second = tmp_path / "first", tmp_path / "second"
    for folder, names in ((first, ["onnxruntime", "onnxruntime-gpu"]), (second, ["onnxruntime-openvino"])):
        (folder / "onnxruntime").mkdir(parents=True)
        (folder / "onnxruntime" / "__init__.py").write_text('__version__ = "1.99.0"\n')
        for name in names:
            info = folder / f"{name.replace('-', '_')}-1.99.0.dist-info"
            info.mkdir()
            (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.99.0\n")
    program = (
        f"import sys; sys.path[:0] = [{str(first)!r}, {str(second)!r}]; "
        "from onnxcompress.runtime import installed; print(installed.installed()); installed.import_onnxruntime()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[('onnxruntime', '1.99.0'), ('onnxruntime-gpu', '1.99.0')]\n"
    assert "onnxruntime and onnxruntime-gpu are installed into one folder" in done.stderr


def test_what_runs_no_model_needs_no_onnxruntime():
    program = "import sys; sys.modules['onnxruntime'] = None; from onnxcompress.cli import app; app(sys.argv[1:])"
    for command, status in (("targets", 0), ("bench models/digits.onnx", 2)):
        done = subprocess.run(
            [sys.executable, "-c", program, *command.split()],
            capture_output=True,
            text=True,
            check=False,
            cwd=Path(__file__).parents[1],
        )
        assert done.returncode == status
        assert done.stderr.startswith("error: onnxruntime is not installed; get it with: pip" if status else "")
        assert len(done.stderr.splitlines()) == (1 if status else 0)

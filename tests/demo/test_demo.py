"""The demonstration keeps what the README says of it."""

from __future__ import annotations

import builtins
import json
from hashlib import sha256
from importlib.resources import files

import numpy as np
import onnx
import pytest

from onnxcompress.demo.data import SPLITS, load_split
from onnxcompress.demo.run import Demonstration, run_demo
from onnxcompress.errors import DataError, OutputError
from onnxcompress.evidence import Stage
from onnxcompress.report import Report

pytest.importorskip("sklearn")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    pytest.importorskip("uv")
    return run_demo(tmp_path_factory.mktemp("demo") / "new" / "folder")


def test_it_holds_what_it_promises(found):
    assert found.bytes_before >= 4 * found.bytes_after
    assert found.faster > 1
    assert found.lost <= 1
    assert found.holds
    assert found.lines()[-1].startswith("Holds: ")


def test_files(found):
    assert sorted(p.name for p in found.folder.iterdir()) == [
        "compressed.onnx",
        "original.onnx",
        "report.html",
        "report.json",
    ]
    onnx.checker.check_model(str(found.folder / "compressed.onnx"), full_check=True)
    report = json.loads((found.folder / "report.json").read_text())
    assert report["stages"][0]["bytes"] == (found.folder / "original.onnx").stat().st_size
    assert report["stages"][-1]["bytes"] == (found.folder / "compressed.onnx").stat().st_size
    assert report["samples"] == 400


def test_accuracy_is_that_of_the_file_on_the_test_split(found):
    """Measured once more, without any of our code."""
    import onnxruntime

    images, labels = load_split("test")
    session = onnxruntime.InferenceSession(found.folder / "compressed.onnx", providers=["CPUExecutionProvider"])
    right = (session.run(None, {"image": images})[0].argmax(1) == labels).mean()
    assert right == pytest.approx(found.report.stages[-1].metric)


def test_original_is_the_model_of_the_manifest(found):
    manifest = json.loads(files("onnxcompress.models").joinpath("manifest.json").read_text())["digits.onnx"]
    assert sha256((found.folder / "original.onnx").read_bytes()).hexdigest() == manifest["sha256"]
    assert found.report.stages[0].metric == pytest.approx(manifest["top-1 accuracy"]["test"])


def test_splits_have_no_sample_in_common():
    positions = [set(range(1797)[where]) for where in SPLITS.values()]
    assert sum(map(len, positions)) == len(set.union(*positions)) == 1797
    images, labels = load_split("validation")
    assert (images.shape, images.dtype, labels.dtype) == ((200, 1, 8, 8), np.float32, np.int64)
    assert 0 <= images.min() < images.max() <= 1


@pytest.mark.parametrize(
    ("after", "ratio", "metric", "holds"),
    [(250, 0.5, 0.99, True), (251, 0.5, 0.99, False), (250, 1.0, 0.99, False), (250, 0.5, 0.98, False)],
)
def test_verdict(tmp_path, after, ratio, metric, holds):
    stages = [Stage("original", 1000, 1, 1, 1.0, 1.0, 1.0, 1.0), Stage("last", after, 1, 1, metric, 1.0, ratio, ratio)]
    found = Demonstration(tmp_path, Report(metric="top1", samples=400, stages=stages), 1000, after)
    assert found.holds is holds
    assert found.lines()[-1].startswith("Holds" if holds else "FALLS SHORT")


def test_without_scikit_learn(tmp_path, monkeypatch):
    real = builtins.__import__

    def without(name, *args, **options):
        if name.startswith("sklearn"):
            raise ImportError(name)
        return real(name, *args, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(DataError, match=r'pip install "onnxcompress\[demo\]"'):
        run_demo(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        run_demo(tmp_path / "file" / "below")

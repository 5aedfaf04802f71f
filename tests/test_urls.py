"""Models, samples and results under URLs, in memory and in archives, beside what a plain file gives."""

import zipfile
from pathlib import Path

import fsspec
import numpy as np
import onnx
import pytest
from command_line import call, make_data, make_model

from onnxcompress import apply, load, urls
from onnxcompress.errors import DataError, ModelError, OutputError
from onnxcompress.graph.save import save
from onnxcompress.passes import Quantize
from onnxcompress.samples.samples import load_samples

MEMORY = fsspec.filesystem("memory")


@pytest.fixture(autouse=True)
def _empty():
    urls._copied.cache_clear()
    yield
    MEMORY.store.clear()


@pytest.fixture
def model(tmp_path):
    path = make_model(tmp_path / "m.onnx", width=64)
    MEMORY.put_file(str(path), "/models/m.onnx")
    return path


@pytest.fixture
def data(tmp_path):
    path = make_data(tmp_path / "d.npz")
    MEMORY.put_file(str(path), "/data/d.npz")
    return path


def test_a_recipe_reads_and_writes_urls(model, data, tmp_path):
    apply(model, [Quantize()], data=str(data), output=tmp_path / "plain.onnx")
    _, report = apply("memory://models/m.onnx", [Quantize()], data="memory://data/d.npz", output="memory://out/o.onnx")
    assert MEMORY.cat_file("/out/o.onnx") == (tmp_path / "plain.onnx").read_bytes()
    assert report.stages[0].bytes == model.stat().st_size
    assert report.data == "d.npz"


def test_the_command_line_does(model, data):
    work = ("apply", "memory://models/m.onnx", "-p", "quantize", "--data", "memory://data/d.npz")
    done = call(*work, "-o", "memory://out/o.onnx", "--report", "memory://out/o.json", "--plans", "memory://out/plans")
    assert done.exit_code == 0, done.stderr
    assert "Written: memory://out/o.onnx" in done.stdout
    onnx.load_from_string(MEMORY.cat_file("/out/o.onnx"))
    assert {Path(name).name for name in MEMORY.find("/out")} >= {"o.onnx", "o.json", "01-quantize.json"}
    again = call(*work, "-o", "memory://out/o.onnx")
    assert again.exit_code == 2
    assert again.stderr.startswith("error: memory://out/o.onnx: exists already; give another name, or --overwrite")
    assert call("inspect", "memory://models/m.onnx", "--json").stdout == call("inspect", model, "--json").stdout


def test_folders_archives_and_local_urls(model, data, tmp_path):
    for name in ("a", "b"):
        MEMORY.put_file(str(data), f"/many/{name}.npz")
    assert load_samples("memory://many", load(model)).count == 48
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.write(model, "inside/m.onnx")
        archive.write(data, "d.npz")
    zipped = tmp_path / "all.zip"
    for chain in (f"zip://inside/m.onnx::{zipped}", Path(f"zip://inside/m.onnx::file://{zipped}"), f"file://{model}"):
        assert [node.op_type for node in load(chain).graph] == ["MatMul", "Relu", "MatMul"]
    assert load_samples(f"zip://d.npz::{zipped}", load(model)).count == 24


def test_weights_in_a_file_of_their_own_come_and_go_along(tmp_path):
    proto = onnx.load(make_model(tmp_path / "m.onnx", width=64))
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    (tmp_path / "apart").mkdir()
    onnx.save(proto, tmp_path / "apart" / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    for name in ("m.onnx", "w.bin"):
        MEMORY.put_file(str(tmp_path / "apart" / name), f"/big/{name}")
    found = load("memory://big/m.onnx")
    for name, expected in weights.items():
        np.testing.assert_array_equal(found.graph.initializers[name].const_value.numpy(), expected)
    save(found, "memory://written/n.onnx")
    assert sorted(Path(name).name for name in MEMORY.find("/written")) == ["n.onnx", "n.onnx.data"]
    again = load("memory://written/n.onnx")
    for name, expected in weights.items():
        np.testing.assert_array_equal(again.graph.initializers[name].const_value.numpy(), expected)


def test_a_name_that_leads_out_of_the_folder_is_not_followed(tmp_path):
    proto = onnx.load(make_model(tmp_path / "m.onnx"))
    onnx.save(proto, tmp_path / "m.onnx", save_as_external_data=True, location="w.bin", size_threshold=0)
    proto = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "../secret"
    MEMORY.pipe_file("/in/m.onnx", proto.SerializeToString())
    MEMORY.pipe_file("/secret", b"x" * 1000)
    with pytest.raises(ModelError, match="secret"):
        load("memory://in/m.onnx")


def test_a_url_is_copied_once(model, monkeypatch):
    first = urls.here("memory://models/m.onnx", ModelError)
    MEMORY.store.clear()
    assert urls.here(Path("memory://models/m.onnx"), ModelError) == first


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda m: load("memory://none/m.onnx"), ModelError, "^memory://none/m.onnx: there is no such file$"),
        (lambda m: load("nowhere://m.onnx"), ModelError, "^nowhere://m.onnx: Protocol not known: nowhere$"),
        (lambda m: load("s3://bucket/m.onnx"), ModelError, "^s3://bucket/m.onnx: Install s3fs to access S3"),
        (lambda m: load_samples("memory://none", load(m)), DataError, "^memory://none: there is no such file$"),
        (lambda m: save(load(m), "nowhere://m.onnx"), OutputError, "^nowhere://m.onnx: Protocol not known"),
        (lambda m: save(load(m), "memory://models/m.txt"), OutputError, "give a name that ends in .onnx"),
        (lambda m: save(load(m), "memory://models/m.onnx"), OutputError, "exists already"),
    ],
)
def test_what_cannot_be_is_said(model, make, error, message):
    with pytest.raises(error, match=message):
        make(model)

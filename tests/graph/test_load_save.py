"""A model goes through load and save unharmed, whatever happens on the way."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.topologies import conv_chain, mlp

from onnxcompress import load, save
from onnxcompress.errors import ModelError, OutputError
from onnxcompress.graph.load import from_proto


def external_model(folder: Path) -> Path:
    path = folder / "model.onnx"
    ir.save(mlp(), path, external_data="weights.bin", size_threshold_bytes=0)
    return path


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_round_trip(tmp_path: Path) -> None:
    model = conv_chain()
    save(model, tmp_path / "a.onnx")
    feeds = drawn_feeds(model)
    assert_same(plain_run(model, feeds), plain_run(tmp_path / "a.onnx", feeds), 0)
    assert [p.name for p in tmp_path.iterdir()] == ["a.onnx"]


def test_external_data_stays_external_and_mapped(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    model = load(path)
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())
    (tmp_path / "out").mkdir()
    save(model, tmp_path / "out" / "b.onnx")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["b.onnx", "b.onnx.data"]
    feeds = drawn_feeds(mlp())
    assert_same(plain_run(path, feeds), plain_run(tmp_path / "out" / "b.onnx", feeds), 0)


def test_overwriting_the_input_with_external_data_keeps_it_usable(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    save(load(external_model(tmp_path)), path)
    feeds = drawn_feeds(mlp())
    before = plain_run(path, feeds)
    for _ in range(3):
        model = load(path)
        save(model, path, overwrite=True)
        assert_same(before, plain_run(path, feeds), 0)
    assert len(list(tmp_path.glob("m.onnx*data"))) == 1


def test_existing_output_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    save(mlp(), path)
    before = digest(path)
    with pytest.raises(OutputError, match=r"a\.onnx: exists already; .*--overwrite"):
        save(conv_chain(), path)
    assert digest(path) == before


def test_missing_folder_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="nowhere does not exist"):
        save(mlp(), tmp_path / "nowhere" / "a.onnx")


@pytest.mark.parametrize("external", [False, True])
def test_full_disk_leaves_what_was_there(tmp_path: Path, external: bool) -> None:
    source = external_model(tmp_path) if external else tmp_path / "source.onnx"
    if not external:
        save(mlp(), source)
    target = tmp_path / "target.onnx"
    target.write_bytes(b"what was there")
    code = (
        "import resource, signal, sys\n"
        "from onnxcompress import load, save, OnnxCompressError\n"
        "model = load(sys.argv[1])\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (512, 512))\n"
        "try:\n    save(model, sys.argv[2], overwrite=True)\n"
        "except OnnxCompressError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, source, target], capture_output=True, text=True, check=True)
    assert "target.onnx: cannot be written: File too large" in done.stdout
    assert target.read_bytes() == b"what was there"
    assert not list(tmp_path.glob(".onnxcompress-*"))


def test_a_kill_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    """The rename is the only moment at which the target changes."""
    target = tmp_path / "target.onnx"
    save(mlp(), target)
    before = digest(target)
    code = (
        "import os, sys, onnx_ir\nfrom onnxcompress import load, save\n"
        "model = load(sys.argv[1])\n"
        "real = onnx_ir.save\n"
        "def half(*args, **kwargs):\n    real(*args, **kwargs)\n    os._exit(9)\n"
        "onnx_ir.save = half\n"
        "save(model, sys.argv[1], overwrite=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, target], check=False)
    assert done.returncode == 9
    assert digest(target) == before


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an ONNX model"),
        (b"these are not the bytes of a model", "not an ONNX model"),
        (b"\x08\x07", "not an ONNX model"),
    ],
)
def test_not_onnx(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "x.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=rf"x\.onnx: {message}"):
        load(path)


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    save(conv_chain(), path)
    whole = path.read_bytes()
    for length in range(1, len(whole), 97):
        path.write_bytes(whole[:length])
        with pytest.raises(ModelError, match=r"x\.onnx: "):
            load(path)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load(tmp_path / "none.onnx")
    with pytest.raises(ModelError, match="a folder without an .onnx file"):
        load(tmp_path)


def test_checker_rejects(tmp_path: Path) -> None:
    proto = ir.to_proto(mlp())
    proto.graph.node[0].op_type = "NoSuchOperator"
    path = tmp_path / "x.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="the ONNX checker rejects it: .*NoSuchOperator"):
        load(path)


def hostile(folder: Path, **entries: str) -> Path:
    path = external_model(folder)
    proto = onnx.load(path, load_external_data=False)
    tensor = proto.graph.initializer[0]
    for entry in tensor.external_data:
        if entry.key in entries:
            entry.value = entries[entry.key]
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret"}, "leaves the model's folder"),
        ({"location": "/etc/passwd"}, "leaves the model's folder"),
        ({"location": "link"}, "leaves the model's folder"),
        ({"location": "hard"}, "has other hard links"),
        ({"location": "absent.bin"}, "is missing"),
        ({"offset": "999999"}, "is too short"),
        ({"length": "-5"}, "is too short"),
        ({"offset": "many"}, "is no number"),
        ({"offset": "1e3"}, "is no number"),
        ({"offset": "9" * 5000}, "is no number"),
        ({"length": str(2**62)}, "is too short"),
        ({"length": "1"}, "and its length is 1"),
        ({"location": "a\0b"}, "cannot be read: embedded null byte"),
        ({"location": "x" * 5000}, "cannot be read: File name too long"),
        ({"location": "inner"}, "is a folder; a file is expected"),
        ({"location": "pipe"}, "is a named pipe; a file is expected"),
    ],
)
def test_external_data_that_must_not_be_read(tmp_path: Path, entries: dict[str, str], message: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "secret").write_bytes(bytes(10_000))
    (folder / "link").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "secret", folder / "hard")
    os.mkfifo(folder / "pipe")
    (folder / "inner").mkdir()
    with pytest.raises(ModelError, match=f"tensor 'w1': external data .*{message}"):
        load(hostile(folder, **entries))


def test_external_data_without_a_length_has_that_of_its_tensor(tmp_path: Path) -> None:
    path = external_model(tmp_path)
    before = plain_run(path, feeds := drawn_feeds(mlp()))
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        kept = [entry for entry in tensor.external_data if entry.key != "length"]
        assert len(kept) < len(tensor.external_data)
        del tensor.external_data[:]
        tensor.external_data.extend(kept)
    path.write_bytes(proto.SerializeToString())
    save(load(path), tmp_path / "again.onnx")
    assert_same(before, plain_run(tmp_path / "again.onnx", feeds), 0)


@pytest.mark.parametrize("offset", [0, 8])
def test_external_data_in_an_attribute_are_saved_with_it(tmp_path: Path, offset: int) -> None:
    (tmp_path / "in").mkdir()
    text = '<ir_version: 9, opset_import: ["" : 17]> g () => (float[2] y) { y = Constant <value = float[2] {3, 4}> () }'
    proto = onnx.parser.parse_model(text)
    tensor = proto.graph.node[0].attribute[0].t
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", "w.bin"), ("offset", str(offset)), ("length", "8")):
        tensor.external_data.add(key=key, value=value)
    (tmp_path / "in" / "w.bin").write_bytes(np.arange(4, dtype=np.float32).tobytes())
    (tmp_path / "in" / "m.onnx").write_bytes(proto.SerializeToString())
    save(load(tmp_path / "in" / "m.onnx"), tmp_path / "o.onnx")
    found = plain_run(tmp_path / "o.onnx", {})
    np.testing.assert_array_equal(found["y"], np.arange(4, dtype=np.float32)[offset // 4 :][:2])


def test_a_sparse_initializer_is_refused_by_name(tmp_path: Path) -> None:
    proto = ir.to_proto(mlp())
    values = onnx.numpy_helper.from_array(np.ones(1, np.float32), "thin")
    indices = onnx.numpy_helper.from_array(np.zeros(1, np.int64), "where")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [5]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="initializer 'thin' is sparse, which cannot be read; store it densely"):
        load(tmp_path / "m.onnx")


@pytest.mark.parametrize("kind", [0, 99])
def test_an_unknown_data_type_is_refused_by_name(tmp_path: Path, kind: int) -> None:
    proto = ir.to_proto(mlp())
    proto.graph.initializer[0].data_type = kind
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=f"tensor 'w1': its data type, {kind}, is none that ONNX has"):
        load(tmp_path / "m.onnx")


def test_names_that_are_no_text(tmp_path: Path) -> None:
    content = ir.to_proto(mlp()).SerializeToString()
    assert content.count(b"w1") > 1
    (tmp_path / "m.onnx").write_bytes(content.replace(b"w1", b"\xff\xfe"))
    with pytest.raises(ModelError, match=r"m\.onnx: ") as caught:
        load(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)


def test_external_data_in_an_attribute_is_checked_too(tmp_path: Path) -> None:
    tensor = onnx.numpy_helper.from_array(np.ones(4, np.float32), "inside")
    node = onnx.helper.make_node("Constant", [], ["y"], value=tensor)
    kept = node.attribute[0].t
    kept.ClearField("raw_data")
    kept.data_location = onnx.TensorProto.EXTERNAL
    kept.external_data.add(key="location", value="../secret")
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4])
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [output]))
    (tmp_path / "m.onnx").write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match="tensor 'inside': .*leaves the model's folder"):
        load(tmp_path / "m.onnx")


@pytest.mark.slow
def test_more_than_two_gigabytes(tmp_path: Path) -> None:
    """Weights beyond the protobuf limit get a data file, and come back the same."""
    model = mlp()
    big = np.zeros((20, 28_000_000), np.float32)
    big[7, 12_345] = 3
    text = onnx.parser.parse_model(
        '<ir_version: 9, opset_import: ["" : 18]> g (float[1,20] x) => (float[1,M] y) { y = MatMul(x, w) }'
    )
    model = ir.from_proto(text)
    model.graph.register_initializer(ir.val("w", const_value=ir.tensor(big, name="w")))
    save(model, tmp_path / "big.onnx")
    again = load(tmp_path / "big.onnx")
    weight = again.graph.initializers["w"].const_value
    assert isinstance(weight, ir.ExternalTensor)
    assert weight.numpy()[7, 12_345] == 3


TEXTS = ["producer_name", "doc_string", "graph.name", "graph.doc_string", "node.name", "node.op_type", "node.domain"]
TEXTS += ["node.doc_string", "input.name", "input.doc_string", "tensor.name", "tensor.doc_string"]
TEXTS += ["metadata.value", "data.value"]


def _with_mark(field: str) -> bytes:
    """Return a model in which one text is MARK."""
    proto = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["" : 17]>g (float[N] x) => (float[N] y) <float[2] w = {1, 2}> { y = Add(x, w) }'
    )
    graph = proto.graph
    tensor = graph.initializer[0]
    holders = {"": proto, "graph": graph, "node": graph.node[0], "input": graph.input[0], "tensor": tensor}
    holder, _, name = field.rpartition(".")
    if holder == "metadata":
        proto.metadata_props.add(key="k", value="MARK")
    elif holder == "data":
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="MARK")
    else:
        setattr(holders[holder], name, "MARK")
    return proto.SerializeToString()


@pytest.mark.parametrize("field", TEXTS)
def test_text_that_is_none_is_one_line(field: str, tmp_path: Path) -> None:
    content = _with_mark(field)
    assert content.count(b"MARK") == 1
    content = content.replace(b"MARK", b"\xff\xfeRK")
    (tmp_path / "m.onnx").write_bytes(content)
    with pytest.raises(ModelError, match="UTF-8 text") as caught:
        load(tmp_path / "m.onnx")
    assert "\n" not in str(caught.value)
    with pytest.raises(ModelError, match="UTF-8 text"):
        from_proto(onnx.ModelProto.FromString(content))


def test_a_node_for_devices_that_the_model_does_not_name_is_refused() -> None:
    proto = onnx.ModelProto.FromString(_with_mark("node.name"))
    proto.graph.node[0].device_configurations.add()
    with pytest.raises(ModelError, match="without a configuration"):
        from_proto(proto)


def test_what_onnxruntime_adds_to_the_domain_of_onnx_is_known(tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
        g (float[2, 4] x, float[4] s) => (float[2, 4] y) { y = SimplifiedLayerNormalization<axis = -1>(x, s) }"""
    proto = onnx.parser.parse_model(text)
    path = tmp_path / "m.onnx"
    onnx.save(proto, path)
    assert [node.op_type for node in load(path).graph] == ["SimplifiedLayerNormalization"]
    onnx.save(onnx.parser.parse_model(text.replace("axis", "axes")), path)
    with pytest.raises(ModelError, match="Unrecognized attribute: axes"):
        load(path)

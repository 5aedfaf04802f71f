"""A model and its data file belong together, whoever writes or reads beside; and only what was written here goes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from onnxcompress import load, save
from onnxcompress.errors import ModelError, OutputError
from onnxcompress.graph.data_file import RECORD, DataFile

TEXT = '<ir_version: 9, opset_import: ["" : 17]> g (float[N,64] x) => (float[N,64] y) {{ y = MatMul (x, w{n}) }}'


def source(folder: Path, number: int) -> Path:
    """A model whose one weight lies in a data file, and is as its name says."""
    folder.mkdir(exist_ok=True)
    proto = onnx.parser.parse_model(TEXT.format(n=number))
    proto.graph.initializer.append(onnx.numpy_helper.from_array(np.full((64, 64), number, np.float32), f"w{number}"))
    path = folder / "m.onnx"
    onnx.save(proto, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    return path


def content(path: Path) -> int:
    """Which model is there; fails if its weights are another's."""
    model = load(path)
    ((name, value),) = model.graph.initializers.items()
    assert value.const_value is not None
    values = value.const_value.numpy()
    assert (values == int(name[1:])).all(), f"{name} holds {values.flat[0]}"
    return int(name[1:])


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_data_file_of_a_new_model_is_called_after_it(tmp_path: Path) -> None:
    save(load(source(tmp_path / "a", 1)), tmp_path / "o.onnx")
    assert names(tmp_path) == ["a", "o.onnx", "o.onnx.data"]
    assert content(tmp_path / "o.onnx") == 1


def test_another_models_weights_never_come_back_under_a_name(tmp_path: Path) -> None:
    """Whoever has read the graph, and reads the weights later, finds its own or none."""
    seen: dict[str, int] = {}
    for number in (1, 2, 3, 1, 2, 2, 2):
        assert save(load(source(tmp_path / str(number), number)), tmp_path / "o.onnx", overwrite=True) == []
        assert content(tmp_path / "o.onnx") == number
        (data,) = tmp_path.glob("o.onnx.*")
        assert seen.setdefault(data.name, number) == number


def test_the_same_call_writes_the_same_bytes(tmp_path: Path) -> None:
    model = load(source(tmp_path / "a", 1))
    written = []
    for folder in (tmp_path / "b", tmp_path / "c"):
        folder.mkdir()
        for _ in range(3):
            save(model, folder / "o.onnx", overwrite=True)
        written.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert written[0] == written[1]


def test_the_record_stands_in_the_file_alone(tmp_path: Path) -> None:
    path = source(tmp_path / "a", 1)
    proto = onnx.load(path, load_external_data=False)
    proto.metadata_props.add(key="author", value="somebody")
    path.write_bytes(proto.SerializeToString())
    save(load(path), tmp_path / "o.onnx")
    saved = {entry.key for entry in onnx.load(tmp_path / "o.onnx", load_external_data=False).metadata_props}
    assert saved == {"author", RECORD}
    assert load(tmp_path / "o.onnx").metadata_props == {"author": "somebody"}
    in_memory = ir.from_proto(onnx.load(tmp_path / "o.onnx"))
    save(in_memory, tmp_path / "inline.onnx")
    assert in_memory.metadata_props.keys() == {"author", RECORD}
    assert [entry.key for entry in onnx.load(tmp_path / "inline.onnx").metadata_props] == ["author"]


def copied(folder: Path) -> None:
    shutil.copy(folder / "o.onnx", folder / "backup.onnx")


def copied_under_any_name(folder: Path) -> None:
    shutil.copy(folder / "o.onnx", folder / "o.bak")


def linked(folder: Path) -> None:
    (folder / "elsewhere").mkdir()
    os.link(folder / "o.onnx", folder / "elsewhere" / "o.onnx")


def moved(folder: Path) -> None:
    (folder / "o.onnx").rename(folder / "p.onnx")
    shutil.copy(folder / "p.onnx", folder / "o.onnx")
    (folder / "p.onnx").unlink()
    rewrite_record(folder, b'"model":"o.onnx"', b'"model":"p.onnx"')


def not_recorded(folder: Path) -> None:
    rewrite_record(folder, RECORD.encode(), b"a" * len(RECORD))


def replaced_by_the_user(folder: Path) -> None:
    data = folder / "o.onnx.data"
    data.write_bytes(b"\1" * data.stat().st_size)


def behind_a_link(folder: Path) -> None:
    (folder / "o.onnx.data").rename(folder / "weights")
    (folder / "o.onnx.data").symlink_to("weights")


def linked_data(folder: Path) -> None:
    os.link(folder / "o.onnx.data", folder / "weights")


def rewrite_record(folder: Path, old: bytes, new: bytes) -> None:
    path = folder / "o.onnx"
    path.write_bytes(path.read_bytes().replace(old, new))


KEPT = {
    copied: "backup.onnx reads it",
    copied_under_any_name: "o.bak reads it",
    linked: "has another name",
    moved: "did not write it for o.onnx",
    not_recorded: "did not write it for o.onnx",
    replaced_by_the_user: "not as it was written",
    behind_a_link: None,
    linked_data: "not as it was written",
}


@pytest.mark.parametrize("prepare", KEPT, ids=lambda prepare: prepare.__name__)
def test_a_data_file_stays_unless_it_is_certain_that_nothing_else_needs_it(tmp_path: Path, prepare) -> None:
    one, other = load(source(tmp_path / "a", 1)), load(source(tmp_path / "b", 2))
    folder = tmp_path / "out"
    folder.mkdir()
    save(one, folder / "o.onnx")
    prepare(folder)
    before = (folder / "o.onnx.data").read_bytes()
    stays = save(other, folder / "o.onnx", overwrite=True)
    assert (folder / "o.onnx.data").read_bytes() == before
    assert content(folder / "o.onnx") == 2
    reason = KEPT[prepare]
    assert [line.startswith(f"{folder / 'o.onnx.data'} stays: ") and reason in line for line in stays] == (
        [] if reason is None else [True]
    )


@pytest.mark.parametrize("location", ["o.onnx.d/../../victim", "../victim", "o.onnx.d/data", "{absolute}"])
def test_nothing_is_deleted_that_a_hostile_model_names(tmp_path: Path, location: str) -> None:
    (tmp_path / "victim").write_bytes(b"x" * 100)
    folder = tmp_path / "out"
    (folder / "o.onnx.d").mkdir(parents=True)
    (folder / "o.onnx.d" / "data").write_bytes(b"x" * 100)
    location = location.format(absolute=tmp_path / "victim")
    proto = onnx.load(source(tmp_path / "a", 1), load_external_data=False)
    proto.graph.initializer[0].external_data[0].value = location
    record = DataFile("o.onnx", location, 100, hashlib.sha256(b"x" * 100).hexdigest())
    proto.metadata_props.add(key=RECORD, value=record.to_json())
    (folder / "o.onnx").write_bytes(proto.SerializeToString())
    save(load(source(tmp_path / "b", 2)), folder / "o.onnx", overwrite=True)
    assert (tmp_path / "victim").exists()
    assert (folder / "o.onnx.d" / "data").exists()


def test_a_free_name_goes_to_one_writer(tmp_path: Path) -> None:
    """Of those that may not overwrite, the first wins."""
    model = load(source(tmp_path / "a", 1))
    save(model, tmp_path / "o.onnx")
    with pytest.raises(OutputError, match="exists already"):
        save(model, tmp_path / "o.onnx")
    (tmp_path / "p.onnx.data").write_bytes(b"mine")
    save(model, tmp_path / "p.onnx")
    assert (tmp_path / "p.onnx.data").read_bytes() == b"mine"
    assert content(tmp_path / "p.onnx") == 1


WRITER = """
import sys, time
from onnxcompress import load, save
model, start = load(sys.argv[1]), float(sys.argv[3])
for turn in range(60):
    time.sleep(max(0.0, start + turn / 50 - time.time()))
    save(model, sys.argv[2], overwrite=True)
"""


def test_writers_and_readers_never_see_a_mixture(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    path = folder / "o.onnx"
    origins = [source(tmp_path / str(number), number) for number in (1, 2, 3)]
    save(load(origins[0]), path)
    start = str(time.time() + 2)  # all of them have been imported by then
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, origin, path, start]) for origin in origins]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        with suppress(FileNotFoundError):  # the weights went between graph and weights: no model, but no mixture
            seen.add(content(path))
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    assert content(path) in (1, 2, 3)
    assert seen == {1, 2, 3}
    assert not list(folder.glob(".onnxcompress-*"))


KINDS = {kind.value for kind in ir.DataType} - {ir.DataType.UNDEFINED.value, ir.DataType.STRING.value}


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    dims=st.lists(st.integers(-1, 2**62), max_size=40),
    kind=st.integers(0, 40),
    raw=st.binary(max_size=40),
    where=st.sampled_from(["initializer", "constant", "inner"]),
)
def test_shapes_that_promise_more_than_is_there_are_refused(tmp_path_factory, dims, kind, raw, where) -> None:
    folder = tmp_path_factory.mktemp("model")
    tensor = onnx.TensorProto(name="t", data_type=kind, dims=dims, raw_data=raw)
    text = '<ir_version: 9, opset_import: ["" : 17]> g (bool c) => (float y) { y = Constant <value = float {1}> () }'
    proto = onnx.parser.parse_model(text)
    if where == "initializer":
        proto.graph.initializer.append(tensor)
    elif where == "constant":
        proto.graph.node.add(op_type="Constant", output=["t"]).attribute.append(
            onnx.helper.make_attribute("value", tensor)
        )
    else:
        inner = onnx.helper.make_graph([], "inner", [], [], [tensor])
        branches = {"then_branch": inner, "else_branch": inner}
        proto.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], **branches))
    (folder / "m.onnx").write_bytes(proto.SerializeToString())
    fits = kind in KINDS and len(raw) == -(-np.prod(dims, dtype=object) * ir.DataType(kind).bitwidth // 8)
    if fits and min(dims, default=0) >= 0:
        load(folder / "m.onnx")
        return
    with pytest.raises(ModelError) as caught:
        load(folder / "m.onnx")
    assert str(caught.value).startswith(f"{folder / 'm.onnx'}: ")
    assert "\n" not in str(caught.value)

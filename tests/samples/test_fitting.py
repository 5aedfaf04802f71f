"""Arrays are fitted where it is plain what was meant; the rest is explained with the model's own inputs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.errors import DataError
from onnxcompress.samples.fitting import fit
from onnxcompress.samples.inputs import find_layout, model_inputs
from onnxcompress.samples.samples import load_samples

FLOAT = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"
WHOLE = "g (int32[N,3] x) => (int32[N,3] y) { y = Identity(x) }"
HALF = "g (float16[N,3] x) => (float16[N,3] y) { y = Relu(x) }"
FLAG = "g (bool[N,3] x) => (bool[N,3] y) { y = Not(x) }"
GREY = "g (float[N,1,4,5] x) => (float[N,1,4,5] y) { y = Relu(x) }"
TWO = "g (float[N,3] a, float[N,2] b) => (float[N,3] y) { y = Relu(a) }"


@pytest.mark.parametrize(
    ("model", "given", "values"),
    [
        (FLOAT, "float64", [[0.5, 1, -2]]),
        (FLOAT, "float16", [[0.5, 1, -2]]),
        (FLOAT, "uint8", [[0, 255, 3]]),
        (FLOAT, "int64", [[0, 255, -3]]),
        (FLOAT, "bool", [[0, 1, 1]]),
        (WHOLE, "int64", [[0, 2**31 - 1, -(2**31)]]),
        (WHOLE, "float64", [[0, 7, -3]]),
        (WHOLE, "uint8", [[0, 255, 3]]),
        (HALF, "float32", [[0, 65504, 0.5]]),
        (FLAG, "int64", [[0, 1, 1]]),
    ],
)
def test_what_loses_nothing_is_cast_and_said(parse, model, given, values):
    samples = load_samples({"x": np.array(values, given)}, parse(model))
    (feed,) = samples.batches()
    assert feed["x"].tolist() == values
    assert samples.notes == [f"input 'x': {given} cast to {feed['x'].dtype}"]


@pytest.mark.parametrize(
    ("model", "array", "message"),
    [
        (WHOLE, np.array([[0, 2**31, 0]]), "data: input 'x': holds 2147483648, which int32 cannot"),
        (WHOLE, np.array([[0, 0.5, 0]]), "data: input 'x': holds 0.5, which int32 cannot"),
        (WHOLE, np.array([[0, np.nan, 0]]), "data: input 'x': holds nan, which int32 cannot"),
        (HALF, np.array([[0, 1e6, 0]]), r"data: input 'x': holds 1e\+06, beyond what float16 can"),
        (FLAG, np.array([[0, 2, 0]]), "data: input 'x': holds 2, which bool cannot"),
        (FLOAT, np.array([["a", "b", "c"]]), "expected float32, got <U1; the model takes x: float32"),
        (
            FLOAT,
            np.zeros((2, 3), complex),
            r"got complex128; the model takes x: float32 \[N, 3\]; for example np.savez",
        ),
        (GREY, np.zeros((2, 3)), r"takes x: float32 \[N, 1, 4, 5\]; for example --data photos/ --preprocess imagenet"),
    ],
)
def test_what_does_not_fit_is_explained(parse, model, array, message):
    with pytest.raises(DataError, match=message):
        load_samples({"x": array}, parse(model))


@pytest.mark.parametrize("name", ["labels", "label", "y", "target", "targets"])
def test_labels_are_found(parse, name):
    samples = load_samples({"x": np.ones((2, 3), np.float32), name: [1, 2]}, parse(FLOAT))
    assert samples.labels.tolist() == [1, 2]
    model = parse(FLOAT.replace("=> (float[N,3] y)", "=> (float[N,3] out)").replace("{ y =", "{ out ="))
    assert load_samples({"x": np.ones((2, 3), np.float32), name: [1, 2]}, model).labels.tolist() == [1, 2]


def test_arrays_without_a_name(parse, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((2, 3), np.float32))
    np.savez(tmp_path / "a.npz", np.ones((2, 3), np.float32), label=[1, 2])
    np.savez(tmp_path / "b.npz", np.ones((2, 3), np.float32), np.zeros((2, 2), np.float32))
    np.savez(tmp_path / "c.npz", features=np.ones((2, 3), np.float32))
    samples = load_samples(tmp_path / "a.npy", parse(FLOAT))
    assert (samples.arrays()["x"].tolist(), samples.notes) == ([[1] * 3] * 2, [])
    assert load_samples(tmp_path / "a.npz", parse(FLOAT)).labels.tolist() == [1, 2]
    samples = load_samples(tmp_path / "b.npz", parse(TWO))
    assert samples.arrays()["b"].shape == (2, 2)
    assert samples.notes == ["arrays without a name are taken for the model's inputs in their order: a, b"]
    samples = load_samples(tmp_path / "c.npz", parse(FLOAT))
    assert samples.notes == ["array 'features' is taken for the model's one input 'x'"]
    (tmp_path / "bad.npy").write_bytes(b"junk")
    with pytest.raises(DataError, match=r"bad\.npy: "):
        load_samples(tmp_path / "bad.npy", parse(FLOAT))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "a.npy").read_bytes()[:-4])
    with pytest.raises(DataError, match=r"cut\.npy: its header promises float32 \[2, 3\], and it holds"):
        load_samples(tmp_path / "cut.npy", parse(FLOAT))


def test_a_folder_of_arrays(parse, tmp_path):
    for number in range(3):
        np.save(tmp_path / f"{number}.npy", np.full(3, number, np.float32))
    (tmp_path / "notes.txt").write_text("not read")
    samples = load_samples(tmp_path, parse(FLOAT))
    assert samples.arrays()["x"].tolist() == [[0] * 3, [1] * 3, [2] * 3]
    assert samples.notes == [
        f"{tmp_path.name}/: read as arrays; 1 files of other kinds left out (notes.txt)",
        "input 'x': came without an axis for samples; axis 0 is added",
    ]


def test_an_axis_for_channels(parse):
    samples = load_samples({"x": np.ones((7, 4, 5), np.float32)}, parse(GREY))
    assert samples.arrays()["x"].shape == (7, 1, 4, 5)
    assert samples.notes == ["input 'x': came without an axis for channels; axis 1 is added"]
    assert load_samples({"x": np.ones((1, 4, 5), np.float32)}, parse(GREY)).count == 1


@given(count=st.integers(1, 50), at_once=st.integers(8, 400))
@settings(max_examples=20, deadline=None)
def test_large_arrays_are_cast_in_parts(parse, count, at_once):
    from unittest import mock

    array = np.arange(count * 3, dtype=np.uint8).reshape(count, 3)
    layout = find_layout(model_inputs(parse(FLOAT)))
    with mock.patch("onnxcompress.samples.fitting.MOST_CAST", at_once):
        parts = list(fit(layout, {"x": array, "y": array[:, 0]}, "data", {}))
    assert (len(parts) > 1) == (array.nbytes > at_once and count * at_once // array.nbytes < count)
    np.testing.assert_array_equal(np.concatenate([part["x"] for part in parts]), array)
    np.testing.assert_array_equal(np.concatenate([part["labels"] for part in parts]), array[:, 0])
    assert {part["x"].dtype for part in parts} == {np.dtype(np.float32)}


def tensor(path, array, name="") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(onnx.numpy_helper.from_array(array, name).SerializeToString())


def test_test_data_of_the_model_zoo(parse, tmp_path):
    for number in range(2):
        place = tmp_path / f"test_data_set_{number}"
        tensor(place / "input_0.pb", np.full((1, 3), number, np.float32))
        tensor(place / "input_1.pb", np.zeros((1, 2), np.float32), "b")
        tensor(place / "output_0.pb", np.zeros((1, 9), np.float32))
    samples = load_samples(tmp_path, parse(TWO))
    assert samples.arrays()["a"].tolist() == [[0] * 3, [1] * 3]
    assert load_samples(tmp_path / "test_data_set_1", parse(TWO)).count == 1


def test_test_data_that_is_not_to_be_trusted(parse, tmp_path):
    outside = onnx.TensorProto(data_type=1, dims=[1, 3], data_location=onnx.TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="/etc/passwd")
    large = onnx.TensorProto(data_type=1, dims=[1 << 40, 3], raw_data=b"1234")
    strange = onnx.TensorProto(data_type=99, dims=[1])
    path = tmp_path / "set" / "input_0.pb"
    path.parent.mkdir()
    for content, message in {
        outside.SerializeToString(): r"set/input_0\.pb: its values are in another file, which is not read",
        large.SerializeToString(): r"set/input_0\.pb: no tensor: ",
        strange.SerializeToString(): r"set/input_0\.pb: no tensor: ",
        b"\xff\xff": r"set/input_0\.pb: no tensor, or truncated",
    }.items():
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_samples(path.parent, parse(FLOAT))
    path.rename(path.with_name("output_0.pb"))
    with pytest.raises(DataError, match=r"output_0\.pb: expected files called input_0\.pb"):
        load_samples(path.parent, parse(FLOAT))


def test_folders_with_nothing_in_them(parse, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "again").symlink_to(tmp_path)
    (tmp_path / "in" / "paper.pdf").write_text("")
    with pytest.raises(DataError, match=r"the folder holds no samples \(but paper\.pdf\); expected images, sound"):
        load_samples(tmp_path, parse(FLOAT))

import gc
import subprocess
import sys
from contextlib import nullcontext

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.text import model

from onnxcompress.errors import ModelError
from onnxcompress.runtime import session as session_module
from onnxcompress.runtime import stored
from onnxcompress.runtime.session import open_session

RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"
TIMES_W = (
    "g (float[N,4] x) => (float[N,4] y) <float[4,4] w = {1,0,0,0, 0,2,0,0, 0,0,3,0, 0,0,0,4}> { y = MatMul(x, w) }"
)
ONES = np.ones((1, 4), np.float32)
EXPECTED = np.array([[1, 2, 3, 4]], np.float32)


@pytest.mark.parametrize("optimize", ["all", "extended", "basic", "none"])
def test_runs_a_model_at_every_level_of_optimisation(parse, optimize):
    found = open_session(parse(TIMES_W), optimize=optimize, threads=1).run({"x": ONES})
    np.testing.assert_array_equal(found["y"], EXPECTED)


def test_ports_have_dtype_and_shape(parse):
    session = open_session(parse(RELU))
    assert session.inputs == {"x": (np.dtype(np.float32), ("N", 3))}
    assert session.outputs == {"y": (np.dtype(np.float32), ("N", 3))}
    assert session.types["x"] == "tensor(float)"


def test_only_the_outputs_asked_for_are_run(parse):
    model = parse("g (float[2] x) => (float[2] y, float[2] z) { y = Relu(x) z = Neg(x) }")
    assert list(open_session(model).run({"x": np.ones(2, np.float32)}, ["z"])) == ["z"]


def test_mapped_weights_are_read_where_they_lie(parse, tmp_path, monkeypatch):
    ir.save(parse(TIMES_W), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    model = ir.load(tmp_path / "m.onnx")
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    monkeypatch.chdir("/")
    np.testing.assert_array_equal(open_session(model).run({"x": ONES})["y"], EXPECTED)
    assert isinstance(model.graph.initializers["w"].const_value, ir.ExternalTensor)
    np.testing.assert_array_equal(open_session(tmp_path / "m.onnx").run({"x": ONES})["y"], EXPECTED)


def test_weights_too_large_for_one_protobuf_go_through_a_folder(parse, monkeypatch):
    monkeypatch.setattr(session_module, "INLINE_LIMIT", 1)
    model = parse(TIMES_W)
    np.testing.assert_array_equal(open_session(model).run({"x": ONES})["y"], EXPECTED)
    assert isinstance(model.graph.initializers["w"].const_value, ir.TensorProtocol)
    np.testing.assert_array_equal(model.graph.initializers["w"].const_value.numpy(), np.diag([1, 2, 3, 4]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16, np.int8, np.uint8])
@pytest.mark.parametrize("optimize", ["all", "none"])
def test_large_weights_are_handed_over_as_they_lie(monkeypatch, dtype, optimize):
    """Not in the bytes, whatever they are stored in; the model is what it was."""
    w = np.random.default_rng(0).integers(-3, 4, (96, 256)).astype(dtype).T  # not contiguous
    subject = model("g (float[N,256] x) => (float[N,96] y) { c = Cast<to = 1>(w) y = MatMul(x, c) }", {"w": w})
    monkeypatch.setattr(stored, "LEAST_BYTES", 1000)
    monkeypatch.setattr(session_module, "INLINE_LIMIT", 1000)
    monkeypatch.setattr(session_module, "temporary_folder", None)
    x = np.random.default_rng(1).integers(-9, 9, (5, 256)).astype(np.float32)
    proto = onnx.numpy_helper.from_array(np.ascontiguousarray(w), "w")
    for tensor in (ir.tensor(w, name="w"), ir.from_proto(proto)):
        subject.graph.initializers["w"].const_value = tensor
        session = open_session(subject.clone(deep_copy=True), optimize=optimize)  # the model is gone when it runs
        gc.collect()
        np.full((4096, 96), 7, dtype)
        found = session.run({"x": x})["y"]
        np.testing.assert_array_equal(found, x @ w.astype(np.float32))
        assert subject.graph.initializers["w"].const_value is tensor


def test_large_weights_that_nothing_reads_or_only_an_inner_graph(monkeypatch):
    monkeypatch.setattr(stored, "LEAST_BYTES", 1)
    text = """g (float[N,4] x, bool c) => (float[N,4] y) {
        y = If (c) <then_branch = t () => (float[N,4] z) { z = MatMul(x, w) },
                    else_branch = e () => (float[N,4] z) { z = Relu(x) }> }"""
    w = np.full((4, 4), 0.5, np.float32)
    subject = model(text, {"w": w, "unread": (9, 9)})
    for c in (True, False):
        found = open_session(subject).run({"x": ONES, "c": np.array(c)})["y"]
        np.testing.assert_array_equal(found, ONES @ w if c else ONES)


@pytest.fixture
def store(monkeypatch, tmp_path):
    """A store of its own, for weights of any size."""
    monkeypatch.setattr(stored, "LEAST_BYTES", 1)
    monkeypatch.setattr(stored, "_store", None)
    monkeypatch.setattr(stored, "owned_folder", lambda *_: nullcontext(tmp_path))
    return tmp_path


def times_w():
    return model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})


def test_a_weight_is_written_once_and_gone_with_its_tensor(store):
    subject = times_w()
    w = subject.graph.initializers["w"].const_value.numpy().copy()
    sessions = [open_session(subject), open_session(subject.clone())]
    assert len(list(store.iterdir())) == 1
    subject.graph.initializers["w"].const_value = None
    del subject
    gc.collect()
    assert not list(store.iterdir())
    for session in sessions:
        np.testing.assert_allclose(session.run({"x": ONES})["y"], ONES @ w, rtol=1e-6)


def test_an_array_that_is_changed_under_its_tensor_is_seen(store):
    subject, array = times_w(), np.eye(4, dtype=np.float32)
    subject.graph.initializers["w"].const_value = ir.tensor(array, name="w")
    for factor in (1, 3):
        array[:] = np.eye(4) * factor
        np.testing.assert_array_equal(open_session(subject).run({"x": ONES})["y"], ONES * factor)


@pytest.mark.parametrize("broken", ["no folder", "no room"])
def test_without_room_for_files_weights_are_in_the_bytes(store, monkeypatch, broken):
    def no_folder(*_):
        raise OSError(28, "No space left on device")

    def no_room(path, data):
        path.touch()
        raise OSError(28, "No space left on device")

    if broken == "no folder":
        monkeypatch.setattr(stored, "owned_folder", no_folder)
    else:
        monkeypatch.setattr(stored.Path, "write_bytes", no_room)
    subject = times_w()
    w = subject.graph.initializers["w"].const_value.numpy()
    np.testing.assert_allclose(open_session(subject).run({"x": ONES})["y"], ONES @ w, rtol=1e-6)
    assert not list(store.iterdir())


def test_a_weight_stays_in_the_model_when_onnxruntime_fails(monkeypatch):
    monkeypatch.setattr(stored, "LEAST_BYTES", 1)
    subject = model("g (float[N,4] x) => (float[N,4] y) { y = MatMul(x, w) }", {"w": (4, 4)})
    subject.graph.initializers["w"].const_value = ir.tensor(np.ones((3, 4), np.float32), name="w")
    tensor = subject.graph.initializers["w"].const_value
    with pytest.raises(ModelError, match="Incompatible dimensions"):
        open_session(subject)
    assert subject.graph.initializers["w"].const_value is tensor


def test_writes_the_optimized_graph(parse, tmp_path):
    open_session(parse(RELU), optimize="basic", optimized_path=tmp_path / "o.onnx")
    assert onnx.load(tmp_path / "o.onnx").graph.node[0].op_type == "Relu"


def test_a_sequence_output_comes_back_as_a_list(parse):
    model = parse("g (float[4] x) => (seq(float[2]) y) { y = SplitToSequence(x, two) two = Constant<value_int=2>() }")
    nodes = list(model.graph)
    model.graph.insert_before(nodes[0], ir.node("Identity", [nodes[0].outputs[0]]))
    model.graph.sort()
    session = open_session(model)
    assert session.outputs["y"].dtype is None
    found = session.run({"x": np.arange(4, dtype=np.float32)})["y"]
    assert [part.tolist() for part in found] == [[0, 1], [2, 3]]


def test_bfloat16_goes_in_and_out(parse):
    model = parse("g (bfloat16[2] x) => (bfloat16[2] y) { a = Cast<to=1>(x) b = Add(a, a) y = Cast<to=16>(b) }")
    found = open_session(model).run({"x": np.array([1, 2.5], ml_dtypes.bfloat16)})["y"]
    assert found.dtype == ml_dtypes.bfloat16
    assert found.tolist() == [2, 5]


@pytest.mark.parametrize(
    ("feeds", "message"),
    [
        ({"x": np.ones((1, 5), np.float32)}, "invalid dimensions for input: x"),
        ({"x": np.ones((1, 3))}, r"expected: \(tensor\(float\)\)"),
        ({"z": np.ones((1, 3), np.float32)}, "Required inputs"),
    ],
)
def test_wrong_feeds_are_one_line(parse, feeds, message):
    with pytest.raises(ModelError, match=message) as caught:
        open_session(parse(RELU)).run(feeds)
    assert "\n" not in str(caught.value)


def test_an_unknown_output_is_a_model_error(parse):
    with pytest.raises(ModelError, match="Invalid output name"):
        open_session(parse(RELU)).run({"x": np.ones((1, 3), np.float32)}, ["q"])


def test_files_that_cannot_be_opened(tmp_path):
    with pytest.raises(ModelError, match=r"gone\.onnx: no such file"):
        open_session(tmp_path / "gone.onnx")
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    with pytest.raises(ModelError, match=r"junk\.onnx: onnxruntime: .*Protobuf parsing failed"):
        open_session(tmp_path / "junk.onnx")


def test_an_operator_without_a_kernel_is_one_line_and_quiet(parse, capfd):
    with pytest.raises(ModelError, match="g: onnxruntime: ") as caught:
        open_session(parse("g (float[2] x) => (float[2] y) { y = NoSuchOp(x) }"))
    assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_onnxruntime_is_not_imported_with_the_modules():
    code = (
        "import sys; from onnxcompress.runtime import session; from onnxcompress.samples import samples; "
        "from onnxcompress.statistics import ranges; from onnxcompress.evaluation import compare, metrics, timing; "
        "sys.exit('onnxruntime' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

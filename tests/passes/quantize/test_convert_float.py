"""`ConvertFloat`: which node computes in which type, with what values, and where the casts are."""

from __future__ import annotations

import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
from corpus.oracle import drawn_feeds, plain_run
from corpus.text import model
from loading import load_kit

from onnxcompress import apply
from onnxcompress.contract import Changes, Context
from onnxcompress.graph import edit
from onnxcompress.graph.save import save
from onnxcompress.passes import ConvertFloat, FreezeInputs
from onnxcompress.passes.quantize.convert_float import FloatPlan
from onnxcompress.passes.quantize.half.apply import LARGEST
from onnxcompress.runtime.session import open_session

FLOAT16, FLOAT = ir.DataType.FLOAT16, ir.DataType.FLOAT


def converted(subject: ir.Model, **options: Any) -> tuple[ir.Model, Changes]:
    step = ConvertFloat(**options)
    before = ir.to_proto(subject).SerializeToString(deterministic=True)
    plan = step.plan(subject, Context(subject))
    assert ir.to_proto(subject).SerializeToString(deterministic=True) == before
    copies = [subject.clone(), subject.clone()]
    changes = step.apply(copies[0], plan)
    step.apply(copies[1], FloatPlan.from_json(plan.to_json()))
    first, second = (ir.to_proto(copy).SerializeToString(deterministic=True) for copy in copies)
    assert first == second
    onnx.checker.check_model(ir.to_proto(copies[0]), full_check=True)
    assert not needless_casts(copies[0])
    return copies[0], changes


def needless_casts(subject: ir.Model) -> list[str]:
    """Name the casts to the type that is there already, and those that undo another one's widening or narrowing."""
    found = []
    for node in subject.graph.all_nodes():
        given = node.inputs[0] if node.op_type == "Cast" else None
        if given is None:
            continue
        maker = given.producer()
        undone = maker is not None and maker.op_type == "Cast" and maker.inputs[0].dtype == node.outputs[0].dtype
        if given.dtype == node.outputs[0].dtype or undone:
            found.append(edit.label(node))
    return found


def types(subject: ir.Model) -> dict[str, str]:
    return {
        node.op_type: node.outputs[0].dtype.name
        for node in subject.graph.all_nodes()
        if node.op_type != "Cast" and node.outputs[0].dtype is not None
    }


def kinds(subject: ir.Model) -> Counter[str]:
    return Counter(node.op_type for node in subject.graph.all_nodes())


def close(subject: ir.Model, result: ir.Model, feeds: dict[str, Any], tolerance: float = 4e-3) -> None:
    before, after = plain_run(subject, feeds), plain_run(result, feeds)
    for name, array in before.items():
        assert array.dtype == after[name].dtype and array.shape == after[name].shape
        assert np.abs(array - after[name]).max() <= tolerance * np.abs(array).max()


@pytest.mark.parametrize("opset", [10, 11, 13, 15, 18, 21])
def test_layers_and_weights_become_float16(opset: int) -> None:
    text = """g (float[2,3,8,8] x) => (float[2,5] y) {
        a = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(a) p = GlobalAveragePool(r) f = Flatten(p)
        z = Gemm(f, v, c) y = Softmax<axis = 1>(z) }"""
    subject = model(text, {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 5), "c": (5,)}, opset=opset)
    result, changes = converted(subject)
    assert set(types(result).values()) <= {"FLOAT16", "FLOAT"} and types(result)["Conv"] == "FLOAT16"
    assert kinds(result)["Cast"] == 2 and not changes.refused
    for name in ("w", "b", "v", "c"):
        expected = subject.graph.initializers[name].const_value.numpy().astype(np.float16)  # type: ignore[union-attr]
        found = result.graph.initializers[f"{name}_float16"].const_value.numpy()  # type: ignore[union-attr]
        np.testing.assert_array_equal(found, expected)
    assert len(result.graph.initializers) == 4
    close(subject, result, drawn_feeds(subject))


def test_without_keep_io_inputs_and_outputs_change_and_nothing_is_cast() -> None:
    subject = model("g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) y = Relu(a) }", {"w": (8, 4)})
    result, _ = converted(subject, keep_io=False)
    assert result.graph.inputs[0].dtype == result.graph.outputs[0].dtype == FLOAT16
    assert kinds(result) == {"MatMul": 1, "Relu": 1}
    x = drawn_feeds(subject)["x"].astype(np.float16)
    w = subject.graph.initializers["w"].const_value.numpy().astype(np.float16)  # type: ignore[union-attr]
    expected = np.maximum(x.astype(np.float64) @ w.astype(np.float64), 0)
    np.testing.assert_allclose(plain_run(result, {"x": x})["y"].astype(np.float64), expected, rtol=2e-3, atol=1e-3)
    _, report = apply(subject, [ConvertFloat(keep_io=False)], data={"x": drawn_feeds(subject)["x"]})
    assert report.stages[-1].metric is not None


def test_a_constant_beyond_the_range_keeps_its_reader_in_float32() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { a = Mul(x, big) b = Div(a, big) y = MatMul(b, w) }"
    subject = model(text, {"big": np.array(1e6, np.float32), "w": (4, 4)})
    result, changes = converted(subject)
    assert [r.subject for r in changes.refused] == ["a (Mul)", "b (Div)"]
    assert "'big' reaches 1e+06, and float16 ends at 65504" in changes.refused[0].reason
    assert types(result) == {"Mul": "FLOAT", "Div": "FLOAT", "MatMul": "FLOAT16"}
    close(subject, result, drawn_feeds(subject))


@pytest.mark.parametrize("value", [-3.4028235e38, -1e38])
def test_a_mask_of_infinity_is_cut_off_and_said_so(value: float) -> None:
    text = "g (float[3,4] x, bool[3,4] m) => (float[3,4] y) { a = Where(m, zero, low) b = Add(x, a) y = Softmax(b) }"
    subject = model(text, {"zero": np.array(0, np.float32), "low": np.array(value, np.float32)})
    result, changes = converted(subject)
    assert changes.notes == ("'low': 1 of 1 values stand for infinity and were cut off",)
    x = drawn_feeds(subject)["x"]
    mask = np.array([[True, False, True, False], [True] * 4, [False, True, True, True]])
    close(subject, result, {"x": x, "m": mask})
    assert np.isfinite(plain_run(result, {"x": x, "m": np.zeros((3, 4), bool)})["y"]).all()


def test_a_number_that_would_become_zero_keeps_its_reader_in_float32() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { a = Add(x, epsilon) y = Div(x, a) }"
    subject = model(text, {"epsilon": np.array(1e-12, np.float32)})
    result, changes = converted(subject)
    assert "'epsilon' of 1e-12 would become 0" in changes.refused[0].reason
    assert types(result) == {"Add": "FLOAT", "Div": "FLOAT16"}


def test_small_weights_that_vanish_are_counted() -> None:
    weight = np.array([[1, 1e-9], [-1e-10, 2]], np.float32)
    subject = model("g (float[N,2] x) => (float[N,2] y) { y = MatMul(x, w) }", {"w": weight})
    _, changes = converted(subject)
    assert changes.notes == ("'w': 2 of 4 values are so small that they are 0",)


def test_tensors_that_overflow_over_the_samples_stay_in_float32() -> None:
    text = """g (float[N,8] x) => (float[N,4] y) {
        a = MatMul(x, w) b = Mul(a, a) c = Sqrt(b) d = Mul(c, small) y = MatMul(d, v) }"""
    subject = model(text, {"w": (8, 8), "v": (8, 4), "small": np.array(0.001, np.float32)})
    data = {"x": (np.random.default_rng(0).normal(size=(16, 8)) * 1000).astype(np.float32)}
    result, report = apply(subject, [ConvertFloat()], data=data)
    assert {r.subject for r in report.steps[0].refused} == {"b (Mul)", "c (Sqrt)"}
    assert "tensor 'b' spans" in report.steps[0].refused[0].reason
    close(subject, result, data)
    assert not converted(subject)[1].refused


def test_inputs_that_onnx_wants_in_float32_stay() -> None:
    text = "g (float[1,2,4,4] x) => (float[1,2,8,8] y) { r = Relu(x) y = Resize(r, roi, scales) }"
    weights = {"roi": np.zeros(0, np.float32), "scales": np.array([1, 1, 2, 2], np.float32)}
    subject = model(text, weights, opset=13)
    result, _ = converted(subject)
    assert types(result) == {"Relu": "FLOAT16", "Resize": "FLOAT16"}
    assert result.graph.initializers["scales"].dtype == FLOAT
    close(subject, result, drawn_feeds(subject))


def test_operators_without_float16_are_named() -> None:
    text = """g (float[1,4,4] boxes, float[1,1,4] scores) => (int64[N,3] y) {
        b = Relu(boxes) y = NonMaxSuppression(b, scores) }"""
    result, changes = converted(model(text, {}))
    assert "takes no float16 in opset 18" in changes.refused[0].reason
    assert kinds(result)["Cast"] == 2


def test_shapes_are_computed_exactly() -> None:
    text = """g (float[N] x) => (int64[1] y, float[N] z) {
        s = Shape(x) f = Cast<to = 1>(s) h = Mul(f, two) y = Cast<to = 7>(h) z = Relu(x) }"""
    subject = model(text, {"two": np.array(2, np.float32)})
    result, changes = converted(subject)
    assert {r.reason for r in changes.refused} == {"it computes with shapes; it stays in float32"}
    assert plain_run(result, {"x": np.ones(2049, np.float32)})["y"].tolist() == [4098]


INNER = """g (float[3,4] x, bool c) => (float[3,4] y) {
    h = MatMul(x, w)
    i = If(c) <then_branch = t () => (float[3,4] p) { p = MatMul(h, w) },
               else_branch = e () => (float[3,4] m) { n = MatMul(h, w) m = Neg(n) }>
    y = MatMul(i, w) }"""


def test_inner_graphs_are_converted_and_share_weights() -> None:
    subject = model(INNER, {"w": (4, 4)})
    result, changes = converted(subject)
    assert types(result)["MatMul"] == types(result)["Neg"] == "FLOAT16" and types(result)["If"] == "FLOAT"
    assert list(result.graph.initializers) == ["w_float16"]
    assert [r.subject for r in changes.refused] == ["i (If)"]
    for flag in (True, False):
        close(subject, result, {"x": drawn_feeds(subject)["x"], "c": np.array(flag)})


def test_loops_are_converted() -> None:
    text = """g (float[3,4] x) => (float[3,4] y) {
        y = Loop(count, go, x) <body = b (int64 i, bool c, float[3,4] s) => (bool d, float[3,4] t) {
            d = Identity(c) u = MatMul(s, w) t = Tanh(u) }> }"""
    subject = model(text, {"w": (4, 4), "count": np.array(3), "go": np.array(True)})
    result, _ = converted(subject)
    assert types(result)["MatMul"] == types(result)["Tanh"] == "FLOAT16"
    close(subject, result, drawn_feeds(subject))


def test_local_functions_are_inlined() -> None:
    proto = onnx.parser.parse_model("""<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
        g (float[N,2] x) => (float[N,2] y) { h = local.f(x) y = local.f(h) }
        <domain: "local", opset_import: ["" : 18]>
        f (a) => (b) { w = Constant<value = float[2,2] {1.0, 2.0, -3.0, 4.0}>() b = MatMul(a, w) }""")
    subject = ir.from_proto(proto)
    result, changes = converted(subject)
    assert changes.done[0].what == "local functions inlined: f"
    assert types(result)["MatMul"] == "FLOAT16"
    close(subject, result, {"x": np.array([[0.5, -1.0], [2.0, 3.0]], np.float32)})


def test_each_tensor_is_cast_once_and_casts_that_were_there_are_used() -> None:
    text = """g (float[N,4] x) => (float[N,4] y) {
        a = Relu(x) b = Neg(x) h = Cast<to = 10>(a) i = Cast<to = 1>(h) c = Add(i, b) e = Exp(c) f = Exp(c)
        y = Add(e, f) }"""
    subject = model(text, {})
    result, _ = converted(subject)
    assert kinds(result)["Cast"] == 5  # x, c for both Exp, e, f, y
    close(subject, result, drawn_feeds(subject))


def test_values_moved_between_two_float32_nodes_are_not_cast() -> None:
    text = "g (float[2,4] x) => (float[4,2] y) { a = Exp(x) b = Transpose<perm = [1,0]>(a) y = Exp(b) }"
    subject = model(text, {})
    result, _ = converted(subject)
    assert kinds(result)["Cast"] == 0


def test_names_that_are_taken_are_avoided() -> None:
    text = (
        "g (float[N,4] x) => (float[N,4] y) { x_float16 = Relu(x) w_float16 = MatMul(x_float16, w) y = Neg(w_float16) }"
    )
    subject = model(text, {"w": (4, 4)})
    result, _ = converted(subject)
    assert [value.name for value in result.graph.outputs] == ["y"]
    close(subject, result, drawn_feeds(subject))


def test_constant_nodes_and_filled_tensors() -> None:
    text = """g (float[2,2] x, int64[2] s) => (float[2,2] y) {
        k = Constant<value_float = 1.5>() m = Constant<value = float[2] {2.0, 3.0}>()
        z = ConstantOfShape<value = float[1] {0.25}>(s) a = Mul(x, k) b = Add(a, m) y = Add(b, z) }"""
    subject = model(text, {})
    result, _ = converted(subject)
    x = np.array([[1, 2], [3, 4]], np.float32)
    found = plain_run(result, {"x": x, "s": np.array([2, 2])})["y"]
    np.testing.assert_array_equal(found, x * 1.5 + np.array([2, 3], np.float32) + 0.25)
    assert types(result)["ConstantOfShape"] == "FLOAT16"


def test_options_say_what_stays() -> None:
    text = "g (float[N,4] x) => (float[N,4] y) { a = MatMul(x, w) b = Tanh(a) y = MatMul(b, w) }"
    subject = model(text, {"w": (4, 4)})
    result, changes = converted(subject, exclude=("type:Tanh", "y"))
    assert {r.subject: r.reason for r in changes.refused} == {
        "b (Tanh)": "excluded by 'type:Tanh'; it stays in float32",
        "y (MatMul)": "excluded by 'y'; it stays in float32",
    }
    assert set(result.graph.initializers) == {"w", "w_float16"}
    close(subject, result, drawn_feeds(subject))


def test_large_weights_are_converted_when_they_are_read() -> None:
    subject = model("g (float[N,512] x) => (float[N,1024] y) { y = MatMul(x, w) }", {"w": (512, 1024)})
    result, _ = converted(subject)
    tensor = result.graph.initializers["w_float16"].const_value
    assert isinstance(tensor, ir.LazyTensor)
    close(subject, result, drawn_feeds(subject))


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_mapped_weights_are_saved_one_at_a_time(tmp_path: Path, dtype: str) -> None:
    count, weight = 12, (512, 1024)
    drawn = np.random.default_rng(0).standard_normal((count, *weight)).astype(np.float32)
    sums = " ".join(f"y{i} = MatMul(x, w{i})" for i in range(count))
    outputs = ", ".join(f"float[N,1024] y{i}" for i in range(count))
    subject = model(f"g (float[N,512] x) => ({outputs}) {{ {sums} }}", {f"w{i}": w for i, w in enumerate(drawn)})
    onnx.save(ir.to_proto(subject), tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
    mapped = ir.load(tmp_path / "m.onnx")
    step = ConvertFloat(dtype=dtype)
    tracemalloc.start()
    step.apply(mapped, step.plan(mapped, Context(mapped)))
    save(mapped, tmp_path / "half.onnx")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (tmp_path / "half.onnx").stat().st_size < 10_000
    result = ir.load(tmp_path / "half.onnx")
    for i, w in enumerate(drawn):
        found = result.graph.initializers[f"w{i}_{dtype}"].const_value.numpy()  # type: ignore[union-attr]
        np.testing.assert_array_equal(found, w.astype(ir.DataType[dtype.upper()].numpy()))
    # Looking for what does not fit takes a few arrays of one weight's size; all of them converted take half of this.
    assert peak < drawn.nbytes / 2.5


def test_converted_weights_of_a_single_file_stay_in_a_single_file(tmp_path: Path) -> None:
    subject = model("g (float[N,512] x) => (float[N,1024] y) { y = MatMul(x, w) }", {"w": (512, 1024)})
    save(converted(subject)[0], tmp_path / "half.onnx")
    assert [file.name for file in tmp_path.iterdir()] == ["half.onnx"]


def test_the_largest_numbers() -> None:
    assert {name: float(ml_dtypes.finfo(name).max) for name in LARGEST} == LARGEST


@pytest.mark.parametrize("keep_io", [True, False])
def test_bfloat16_is_checked_in_float32_that_is_rounded(keep_io: bool) -> None:
    text = "g (float[N,8] x) => (float[N,4] y) { a = MatMul(x, w) b = Clip(a, l, h) y = Add(b, c) }"
    limits = {"l": np.array(0, np.float32), "h": np.array(1, np.float32)}
    subject = model(text, {"w": (8, 4), "c": (4,), **limits}, opset=11)
    x = drawn_feeds(subject)["x"]
    result, report = apply(subject, [ConvertFloat(dtype="bfloat16", keep_io=keep_io)], data={"x": x})
    assert types(result) == {"MatMul": "BFLOAT16", "Clip": "BFLOAT16", "Add": "BFLOAT16"}
    assert "its times say nothing" in report.steps[0].notes[0]

    def short(array: np.ndarray) -> np.ndarray:
        return array.astype(ml_dtypes.bfloat16).astype(np.float32)

    w, c = (subject.graph.initializers[name].const_value.numpy() for name in "wc")  # type: ignore[union-attr]
    expected = short(short(np.clip(short(short(x) @ short(w)), 0, 1)) + short(c))
    found = open_session(result).run({"x": x})["y"].astype(np.float32)
    np.testing.assert_allclose(found, expected, rtol=2**-7)
    assert (found == short(found)).all()


def conv_net(extra: str, opset: int) -> ir.Model:
    text = f"""g (float[N,3,6,6] x) => (float[N,4,6,6] y) {{
        a = Conv<pads = [1,1,1,1]>(x, w, b) r = Relu(a) {extra} y = ConvTranspose(r, v) }}"""
    return model(text, {"w": (4, 3, 3, 3), "b": (4,), "v": (4, 4, 1, 1)}, opset=opset)


@pytest.mark.parametrize("opset", [11, 13, 17, 21, 22])
def test_convolutions_raise_the_opset_for_bfloat16(opset: int) -> None:
    subject = conv_net("", opset)
    x = drawn_feeds(subject)["x"]
    result, report = apply(subject, [ConvertFloat(dtype="bfloat16")], data={"x": x})
    assert result.opset_imports[""] == 22
    assert set(types(result).values()) == {"BFLOAT16"}
    raised = [c.what for c in report.steps[0].done if "opset" in c.what]
    assert raised == ([] if opset == 22 else ["opset raised to 22"])
    found = open_session(result).run({"x": x})["y"].astype(np.float32)
    before = plain_run(subject, {"x": x})["y"]
    assert 0 < np.abs(found - before).max() < 0.02 * np.abs(before).max()
    other, _ = apply(subject, [ConvertFloat()], data={"x": x})
    assert other.opset_imports[""] == opset


def test_a_model_whose_opset_cannot_be_raised_keeps_its_convolutions() -> None:
    subject = conv_net("", 15)
    odd = ir.node("Unknown", [subject.graph.inputs[0]], name="odd")
    odd.outputs[0].name, odd.outputs[0].type = "z", subject.graph.inputs[0].type
    subject.graph.append(odd)
    subject.graph.outputs.append(odd.outputs[0])
    plan = ConvertFloat(dtype="bfloat16").plan(subject, Context(subject))
    reasons = [r.reason for r in plan.refused if r.subject == "model"]
    assert "convolutions in bfloat16 need opset 22" in reasons[0]
    assert reasons[0].endswith("convolutions stay in float32")
    assert [r.reason for r in plan.refused if "(Conv" in r.subject] == [
        "the operator takes no bfloat16 in opset 15; it stays in float32"
    ] * 2
    copy = subject.clone()
    ConvertFloat(dtype="bfloat16").apply(copy, plan)
    assert copy.opset_imports[""] == 15
    assert types(copy) | {"Conv": "FLOAT", "Relu": "BFLOAT16", "ConvTranspose": "FLOAT"} == types(copy)


def test_an_output_that_a_recurrent_layer_leaves_out_stays_out() -> None:
    text = "g (float[5,1,3] x) => (float[1,1,4] y) { left, y, c = LSTM<hidden_size = 4>(x, w, r) }"
    subject = model(text, {"w": (1, 16, 3), "r": (1, 16, 4)}, opset=22)
    left = subject.graph.node(0).outputs[0]
    left.name, left.type = "", ir.TensorType(FLOAT)
    x = drawn_feeds(subject)["x"]
    result, _ = apply(subject, [ConvertFloat(dtype="bfloat16")], data={"x": x})
    assert types(result) == {"LSTM": "BFLOAT16"}
    before, after = plain_run(subject, {"x": x})["y"], open_session(result).run({"x": x})["y"]
    assert np.abs(after - before).max() < 0.03 * np.abs(before).max()


@pytest.mark.parametrize(
    ("dtype", "name"),
    [
        ("float16", "vit_cifar10"),
        ("float16", "gtcrn_simple"),
        ("float16", "silero_vad"),
        ("float16", "mnist_cntk"),
        ("bfloat16", "vit_cifar10"),
        ("bfloat16", "mnist_cntk"),
        *(pytest.param("bfloat16", name, marks=pytest.mark.slow) for name in ("gtcrn_simple", "silero_vad")),
        *(pytest.param(dtype, "ultraface_rfb320", marks=pytest.mark.slow) for dtype in ("float16", "bfloat16")),
    ],
)
def test_real_models(kit: Path, tmp_path: Path, name: str, dtype: str) -> None:
    path = kit / "models" / f"{name}.onnx"
    result, _ = apply(path, [FreezeInputs(), ConvertFloat(dtype=dtype)], output=tmp_path / "half.onnx")
    assert not needless_casts(result)
    share = 0.9 if name == "gtcrn_simple" else 0.6
    assert (tmp_path / "half.onnx").stat().st_size < share * path.stat().st_size


def test_a_real_model_keeps_its_score(kit: Path, tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    module = load_kit(kit)
    path = kit / "models" / "resnet20_cifar10.onnx"
    _, report = apply(path, [ConvertFloat()], output=tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.55 * path.stat().st_size
    assert not report.steps[0].refused
    for feed in module.feeds("resnet20_cifar10", "test")[:3]:
        before, after = plain_run(path, feed)["logits"], plain_run(tmp_path / "half.onnx", feed)["logits"]
        assert np.abs(before - after).max() < 0.01 * np.abs(before).max()


def test_operators_of_onnxruntime_compute_in_float16() -> None:
    proto = onnx.parser.parse_model(
        """<ir_version: 9, opset_import: ["" : 18, "com.microsoft" : 1]>
        g (float[1, 3, 16] x, float[1, 3, 16] skip, int32[1] length) => (float[1, 3, 16] y) {
            total = Constant <value = int32 {3}> ()
            n = SimplifiedLayerNormalization <axis = -1> (x, scale)
            s, , , sum = com.microsoft.SkipSimplifiedLayerNormalization (n, skip, scale)
            qkv = com.microsoft.FusedMatMul <transB = 1> (s, weight)
            a = com.microsoft.GroupQueryAttention <num_heads = 2, kv_num_heads = 1> (qkv, , , , , length, total)
            y = com.microsoft.QuickGelu (a)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"scale": (16,), "weight": (32, 16)}.items():
        drawn = rng.normal(size=shape).astype(np.float32) / 4
        proto.graph.initializer.append(onnx.numpy_helper.from_array(drawn, name))
    subject = ir.from_proto(proto)
    result, changes = converted(subject)
    assert not changes.refused
    assert set(types(result).values()) == {"FLOAT16", "INT32"}
    assert kinds(result)["Cast"] == 3
    feeds = {name: rng.normal(size=(1, 3, 16)).astype(np.float32) for name in ("x", "skip")}
    close(subject, result, feeds | {"length": np.array([2], np.int32)})

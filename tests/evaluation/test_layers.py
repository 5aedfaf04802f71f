"""What the page says of single layers and samples, against numpy and ONNX Runtime by themselves."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import math
import shlex
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from command_line import call, make_data, make_model
from corpus.topologies import conv_chain, residual_batch_norm
from PIL import Image

import onnxcompress
from onnxcompress.evaluation.compare import Reference
from onnxcompress.evaluation.layer_noise import EQUAL, layer_noise
from onnxcompress.evaluation.layers import Pair, precision, sparsity
from onnxcompress.evaluation.preview import preview
from onnxcompress.evaluation.worst import worst_samples
from onnxcompress.passes import FoldBatchNorm, PruneChannels, Quantize, QuantizeDynamic, Shrink
from onnxcompress.samples.samples import load_samples

TWO_LAYERS = """g (float[N, 4] x, float[4, 8] w1, float[8, 3] w2) => (float[N, 3] y) {
    h = MatMul (x, w1)
    r = Relu (h)
    y = MatMul (r, w2)
}"""


def two_layers(parse, **weights: np.ndarray) -> ir.Model:
    return with_constants(parse(TWO_LAYERS), **weights)


def with_constants(model: ir.Model, **constants: np.ndarray) -> ir.Model:
    """Make constants of inputs, and name each node after its output."""
    for name, array in constants.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        model.graph.initializers.add(value)
    for node in model.graph:
        node.name = node.outputs[0].name
    return model


@pytest.fixture
def weights() -> dict[str, np.ndarray]:
    random = np.random.default_rng(0)
    return {"w1": random.normal(size=(4, 8)).astype("f"), "w2": random.normal(size=(8, 3)).astype("f")}


def test_noise_of_layers_is_what_numpy_says(parse, weights) -> None:
    x = np.random.default_rng(1).normal(size=(16, 4)).astype("f")
    w1 = weights["w1"] + np.random.default_rng(2).normal(size=(4, 8)).astype("f") * 0.01
    original, other = two_layers(parse, **weights), two_layers(parse, w1=w1, w2=weights["w2"])
    pair = Pair(original, other)
    assert pair.tensors() == {"h": ("h", "h"), "y": ("y", "y")}
    found = layer_noise(original, other, pair.tensors(), [{"x": x[:8]}, {"x": x[8:]}])
    for layer, (a, b) in {
        "h": (x @ weights["w1"], x @ w1),
        "y": (np.maximum(x @ weights["w1"], 0) @ weights["w2"], np.maximum(x @ w1, 0) @ weights["w2"]),
    }.items():
        scale = (a * b).sum(0) / (b * b).sum(0)
        expected = 10 * math.log10((a**2).sum() / ((a - scale * b) ** 2).sum())
        assert found[layer] == pytest.approx(expected, rel=1e-3)
    assert layer_noise(original, original, pair.tensors(), [{"x": x}]) == {"h": EQUAL, "y": EQUAL}


def test_factors_that_moved_between_layers_are_no_noise(parse, weights) -> None:
    factors = np.float32([1, 2, 4, 8, 16, 0.5, 0.25, 1])
    moved = two_layers(parse, w1=weights["w1"] * factors, w2=weights["w2"] / factors[:, None])
    original = two_layers(parse, **weights)
    x = np.random.default_rng(1).normal(size=(16, 4)).astype("f")
    found = layer_noise(original, moved, Pair(original, moved).tensors(), [{"x": x}])
    assert found["h"] > 100 and found["y"] > 100


def test_what_was_folded_is_compared_where_it_ended() -> None:
    subject = residual_batch_norm()
    folded, _ = onnxcompress.apply(subject, [FoldBatchNorm()])
    pair = Pair(subject, folded)
    gone = [node.outputs[0].name for node in subject.graph if node.op_type == "BatchNormalization"]
    assert gone and any(old in gone for old, _ in pair.tensors().values())
    shape = [d if isinstance(d, int) else 2 for d in subject.graph.inputs[0].shape]
    feed = {subject.graph.inputs[0].name: np.random.default_rng(0).normal(size=shape).astype("f")}
    assert min(value for value in layer_noise(subject, folded, pair.tensors(), [feed]).values()) > 80


def test_rows_share_out_the_time_of_the_run(tmp_path: Path) -> None:
    data = {"x": np.random.default_rng(0).normal(size=(60, 3, 8, 8)).astype("f"), "labels": np.arange(60) % 5}
    subject = conv_chain()
    _, report = onnxcompress.apply(subject, [PruneChannels(), Shrink(), Quantize()], data=data, details=True)
    first, last = report.stages[0], report.stages[-1]
    assert sum(row.milliseconds or 0 for row in report.layers) == pytest.approx(first.milliseconds)
    assert sum(row.milliseconds_after or 0 for row in report.layers) == pytest.approx(last.milliseconds)
    rows = {row.name: row for row in report.layers}
    convs = [node.name or node.outputs[0].name for node in subject.graph if node.op_type == "Conv"]
    assert [rows[name].precision_after for name in convs] == ["int8"] * len(convs)
    assert all(rows[name].sqnr is None for name in convs[:1]), "fewer channels cannot be compared"
    assert sum(row.macs or 0 for row in report.layers) == first.macs
    text = report.to_html()
    assert "Kernel" in text and "SQNR" in text and "Samples that suffer most" in text
    assert report.left_out == []


def test_a_layer_goes_on_where_its_weight_is(parse, weights) -> None:
    """What was one product is several nodes then, and the one with the integers is not the one with the output."""
    original = two_layers(parse, **weights)
    made, _ = onnxcompress.apply(original, [QuantizeDynamic()])
    first, second = (layer for layer in Pair(original, made).layers() if layer.operator == "MatMul")
    integers = [v.const_value for v in made.graph.initializers.values() if v.const_value.dtype == ir.DataType.INT8]
    assert [first.precision_after, second.precision_after] == ["int8", "int8"]
    assert first.bytes_after >= min(tensor.nbytes for tensor in integers) == 24 and second.bytes_after >= 24
    assert Pair(original, made).tensors()["h"] == ("h", "h")


def test_zeros_are_counted_and_types_named(parse, weights) -> None:
    weights["w1"][:, :3] = 0
    model = two_layers(parse, **weights)
    first, _, last = model.graph
    assert (sparsity(first), sparsity(last)) == (3 / 8, 0.0)
    assert (precision(first), precision(model.graph[1])) == ("float", "")


def test_a_model_that_is_too_large_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxcompress.examine.MOST_BYTES", 100)
    _, report = onnxcompress.apply(conv_chain(), [PruneChannels()], details=True)
    assert "takes minutes to look into" in report.left_out[0] and "Left out: " in report.to_html()
    assert all(row.milliseconds is None for row in report.layers)


def test_the_worst_samples_are_those_that_changed(parse, weights) -> None:
    x = np.random.default_rng(3).normal(size=(50, 4)).astype("f")
    w2 = weights["w2"] + np.random.default_rng(4).normal(size=(8, 3)).astype("f") * 0.4
    original, other = two_layers(parse, **weights), two_layers(parse, w1=weights["w1"], w2=w2)
    hidden = np.maximum(x @ weights["w1"], 0)
    before, after = hidden @ weights["w2"], hidden @ w2
    labels = before.argmax(1)
    labels[::2] = (labels[::2] + 1) % 3
    wrong = {*np.flatnonzero((before.argmax(1) == labels) & (after.argmax(1) != labels))}
    assert wrong
    reference = Reference(original, load_samples({"x": x, "labels": labels}, original, 0))
    found, seen = worst_samples(reference, other, "top1", shown=len(wrong))
    assert seen == 50 and {one.number for one in found} == wrong
    for one in found:
        order = np.argsort(-before[one.number])
        assert [index for index, _ in one.before.classes] == [*order]
        assert one.after.classes[0][0] == after[one.number].argmax()
        a, b = before[one.number].astype(float), after[one.number].astype(float)
        assert one.sqnr == pytest.approx(10 * math.log10((a**2).sum() / ((a - b) ** 2).sum()), rel=1e-3)
        assert (one.label, one.changed) == (str(labels[one.number]), True)
    assert worst_samples(reference, original, "top1") == ([], 50)


def test_pictures_are_what_pillow_reads() -> None:
    image = np.random.default_rng(0).integers(0, 256, (1, 3, 20, 30)).astype(np.uint8)
    found = preview("image", image)
    assert found.kind == "picture"
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(found.content.partition(",")[2]))))
    np.testing.assert_array_equal(read, image[0].transpose(1, 2, 0))
    grey = preview("image", np.linspace(-1, 1, 400, dtype="f").reshape(1, 20, 20, 1))
    read = np.asarray(Image.open(io.BytesIO(base64.b64decode(grey.content.partition(",")[2]))))
    assert (read.shape, read.min(), read.max()) == ((20, 20), 0, 255)
    large = preview("image", np.zeros((1, 3, 500, 300), "f"))
    assert Image.open(io.BytesIO(base64.b64decode(large.content.partition(",")[2]))).height <= 96


def test_sound_text_and_values_are_told_apart() -> None:
    sound = preview("wave", np.sin(np.linspace(0, 9, 16000, dtype="f"))[None])
    heights = [float(height) for height in sound.content.split()]
    assert sound.kind == "waveform" and len(heights) == 160 and max(map(abs, heights)) == 1
    assert preview("ids", np.array([[101, 7592, 102]])) == preview("ids", np.array([101, 7592, 102]))
    assert preview("ids", np.array([[101, 7592, 102]])).content == "101 7592 102"
    assert preview("x", np.float32([[0.5, 2]])).content == "1×2: 0.5, 2"
    assert preview("state", np.zeros((2, 1, 64), "f")).kind == "values"
    assert preview("n", np.array(3)).content == ": 3"


def test_tokens_are_shown_as_the_text_that_they_were(parse) -> None:
    original = parse("g (int64[N, 3] ids, float[5, 2] table) => (float[N, 3, 2] y) { y = Gather(table, ids) }")
    tables = [np.arange(10, dtype="f").reshape(5, 2), np.arange(10, dtype="f")[::-1].reshape(5, 2).copy()]
    models = [with_constants(original.clone(), table=table) for table in tables]
    samples = load_samples({"ids": np.array([[0, 1, 2], [2, 3, 4]])}, models[0], 0)
    words = ["the", "cat", "sat", "on", "mats"]
    object.__setattr__(samples._source, "decoders", {"ids": lambda ids: " ".join(words[i] for i in ids)})
    found, _ = worst_samples(Reference(models[0], samples), models[1], "cosine")
    assert {one.inputs[0].content for one in found} == {"the cat sat", "sat on mats"}
    assert {one.inputs[0].kind for one in found} == {"text"}
    assert found[0].before.values and not found[0].before.classes, "no classes where the metric needs none"


def test_a_report_says_who_made_it_and_its_command_makes_it_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    model, data = make_model(Path("m.onnx")), make_data(Path("d.npz"))
    _, report = onnxcompress.apply(model, [PruneChannels(sparsity=0.25), Shrink()], data=data, output="o.onnx", seed=3)
    origin = report.origin
    assert (origin.model, origin.made) == ("m.onnx", "1970-01-02T00:00:00+00:00")
    assert origin.sha256 == hashlib.sha256(model.read_bytes()).hexdigest()
    assert "1970-01-02, 00:00 UTC" in report.to_html() and origin.sha256 in report.to_html()
    made = Path("o.onnx").read_bytes()
    Path("o.onnx").unlink()
    again = call(*shlex.split(origin.command)[1:], "--report", "r.json")
    assert again.exit_code == 0, again.stderr
    assert Path("o.onnx").read_bytes() == made
    typed = json.loads(Path("r.json").read_text())["origin"]["command"]
    assert typed == f"{origin.command} --report r.json"
    _, report = onnxcompress.apply(conv_chain(), [Shrink()])
    assert report.origin.command == ""


@pytest.mark.parametrize("command", ["apply", "sensitivity", "inspect"])
def test_a_name_that_asks_for_nothing_is_refused_before_work(command: str, tmp_path: Path) -> None:
    model, data = make_model(tmp_path / "m.onnx"), make_data(tmp_path / "d.npz")
    given = {
        "apply": ["-o", tmp_path / "o.onnx", "-p", "shrink", "--report", "r.txt"],
        "sensitivity": ["--data", data, "-p", "quantize", "--report", "r.md"],
        "inspect": ["--html", "r.json"],
    }
    result = call(command, model, *given[command])
    assert result.exit_code == 2 and result.stderr.count("\n") == 1
    assert "a report ends in .html" in result.stderr
    assert not (tmp_path / "o.onnx").exists()


def test_pages_of_the_other_commands_are_written(tmp_path: Path) -> None:
    model, data = make_model(tmp_path / "m.onnx"), make_data(tmp_path / "d.npz")
    result = call("sensitivity", model, "--data", data, "-p", "quantize", "--report", tmp_path / "s.html")
    assert result.exit_code == 0, result.stderr
    assert "Layers, each alone" in (tmp_path / "s.html").read_text()
    result = call("inspect", model, "--html", tmp_path / "i.html")
    assert result.exit_code == 0, result.stderr
    assert "Channels that can go" in (tmp_path / "i.html").read_text()
    result = call("apply", model, "-o", tmp_path / "o.onnx", "-p", "shrink", "--report", tmp_path / "r.md")
    assert (tmp_path / "r.md").read_text().startswith("### Compression report: m.onnx")

"""What each group alone costs, against models masked by hand and run in plain ONNX Runtime."""

from __future__ import annotations

import json

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from command_line import call, make_data, make_model
from corpus.oracle import plain_run
from test_report import Checker

import onnxcompress
from onnxcompress import OnnxCompressError, apply, load
from onnxcompress.contract import Plan
from onnxcompress.display import curves
from onnxcompress.passes import Cluster, MagnitudePrune, PruneChannels, Shrink


@pytest.fixture
def model(tmp_path):
    return make_model(tmp_path / "m.onnx", width=16)


@pytest.fixture
def data(tmp_path):
    return make_data(tmp_path / "d.npz")


def masked(path, gone: list[int]) -> onnx.ModelProto:
    """Zero hidden units by hand."""
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        array = onnx.numpy_helper.to_array(tensor).copy()
        array[(slice(None), gone) if tensor.name == "w1" else (gone,)] = 0
        tensor.CopyFrom(onnx.numpy_helper.from_array(array, tensor.name))
    return proto


def top1(proto: onnx.ModelProto, data) -> float:
    with np.load(data) as arrays:
        return float((plain_run(proto, {"x": arrays["x"]})["y"].argmax(1) == arrays["labels"]).mean())


def test_each_point_is_the_masked_model(model, data):
    found = onnxcompress.sensitivity(model, data, PruneChannels(), shares=(0.5, 0.25, 0.26))
    ((name, points),) = found.curves.items()
    whole = top1(onnx.load(model), data)
    assert (found.metric, found.value, found.count, found.shares) == ("top1", whole, 24, (0.25, 0.26, 0.5))
    assert name == "w1"
    assert [p.share for p in points] == [0.25, 0.5]  # .26 of 16 are 4 as well
    arrays = {t.name: onnx.numpy_helper.to_array(t) for t in onnx.load(model).graph.initializer}
    norms = [np.linalg.norm(arrays["w1"], axis=0), np.linalg.norm(arrays["w2"], axis=1)]
    order = np.argsort(sum(n / n.mean() for n in norms))
    for point in points:
        proto = masked(model, order[: int(16 * point.share)].tolist())
        assert point.value == pytest.approx(top1(proto, data))
        assert point.drop == pytest.approx(whole - point.value)
        with np.load(data) as arrays:
            a, b = (plain_run(p, {"x": arrays["x"]})["y"].astype(float) for p in (onnx.load(model), proto))
        cosines = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
        assert point.cosine == pytest.approx(cosines.mean(), rel=1e-5)


def test_the_model_stays_as_it_is(model, data):
    loaded = load(model)
    before = ir.to_proto(loaded).SerializeToString()
    onnxcompress.sensitivity(loaded, data, PruneChannels())
    assert ir.to_proto(loaded).SerializeToString() == before


def test_wrong_use_is_said(model, data):
    with pytest.raises(OnnxCompressError, match=r"shares = \[0\.5, 1\.0\]: expected numbers above 0 and below 1"):
        onnxcompress.sensitivity(model, data, PruneChannels(), shares=(0.5, 1.0))
    with pytest.raises(OnnxCompressError, match="what cluster does cannot be taken apart"):
        onnxcompress.sensitivity(model, data, Cluster())
    with pytest.raises(OnnxCompressError, match=r"metric 'sqnr' has no drop"):
        onnxcompress.sensitivity(model, data, PruneChannels(), metric="sqnr")
    with pytest.raises(OnnxCompressError, match="prune-channels: nothing goes at these shares"):
        onnxcompress.sensitivity(model, data, PruneChannels(), shares=(0.01,))


def test_command_prints_and_plots(model, data, tmp_path):
    page = tmp_path / "curves.html"
    result = call("sensitivity", model, "--data", data, "--share", "0.25", "--share", "0.5", "--report", page)
    assert result.exit_code == 0, result.stderr
    points = onnxcompress.sensitivity(model, data, PruneChannels(), shares=(0.25, 0.5)).curves["w1"]
    (row,) = (line.split() for line in result.stdout.splitlines() if line.strip().startswith("w1"))
    assert row[1:3] == [f"{p.drop:.4f}" for p in points]
    checker = Checker()
    text = page.read_text(encoding="utf-8")
    checker.feed(text)
    assert (checker.open, checker.wrong, checker.foreign) == ([], [], [])
    assert text.count("<circle") == 3
    for point in points:
        assert f"{point.share:.0%} gone: {point.value:.4f}" in text
    again = call("sensitivity", model, "--data", data, "--report", page)
    assert again.exit_code == 2
    assert "curves.html" in again.stderr
    as_json = json.loads(call("sensitivity", model, "--data", data, "--json").stdout)
    assert [p["share"] for p in as_json["curves"]["w1"]] == [0.1, 0.25, 0.5, 0.75]


def test_the_most_sensitive_group_comes_first(data, tmp_path):
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[N, 4] x) => (float[N, 3] y) {
        a = MatMul (x, w1)
        p = Relu (a)
        b = MatMul (p, w2)
        q = Relu (b)
        y = MatMul (q, w3)
    }"""
    proto = onnx.parser.parse_model(text)
    random = np.random.default_rng(0)
    arrays = {
        "w1": random.standard_normal((4, 8)),
        "w2": np.repeat(random.standard_normal((8, 4)), 8, 1),  # 32 hidden units, eight of each kind
        "w3": random.standard_normal((32, 3)),
    }
    for name, array in arrays.items():
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    found = onnxcompress.sensitivity(proto, str(data), PruneChannels(), metric="max_abs", shares=(0.5,))
    drops = {name: points[0].drop for name, points in found.curves.items()}
    assert len(drops) == 2
    assert [name for name, _ in curves.ranked(found)] == sorted(drops, key=lambda name: -drops[name])


def test_weights_one_by_one(model, data):
    found = onnxcompress.sensitivity(model, data, MagnitudePrune(), shares=(0.5,))
    assert set(found.curves) == {"w1", "w2"}
    proto = onnx.load(model)
    (tensor,) = (t for t in proto.graph.initializer if t.name == "w2")
    array = onnx.numpy_helper.to_array(tensor).copy()
    array.ravel()[np.argsort(np.abs(array), axis=None)[: array.size // 2]] = 0
    tensor.CopyFrom(onnx.numpy_helper.from_array(array, "w2"))
    assert found.curves["w2"][0].value == pytest.approx(top1(proto, data))


def apply_auto(model, data, **options) -> tuple[ir.Model, Plan]:
    return apply(model, [PruneChannels(sparsity="auto", **options), Shrink()], data=str(data), metric="max_abs")


@pytest.mark.parametrize("compensate", [False, True])
def test_auto_loses_at_most_what_is_allowed(model, data, compensate):
    sizes = []
    for max_drop in (0.5, 2.0, 8.0):
        pruned, _ = apply_auto(model, data, max_drop=max_drop, compensate=compensate)
        with np.load(data) as arrays:
            x = arrays["x"][12 if compensate else 0 :]  # the other half is fitted to
            before, after = (plain_run(p, {"x": x})["y"] for p in (onnx.load(model), ir.to_proto(pruned)))
        assert np.abs(before - after).max() <= max_drop
        sizes.append(pruned.graph.initializers["w1"].shape[1])
    assert 16 >= sizes[0] >= sizes[1] >= sizes[2]
    assert sizes[2] < 16


def test_auto_says_when_nothing_can_go(model, data):
    pruned, report = apply_auto(model, data, max_drop=0.0)
    assert pruned.graph.initializers["w1"].shape[1] == 16
    reasons = {refusal.subject: refusal.reason for refusal in report.steps[0].refused}
    assert reasons["model"] == "even the cheapest cut that was tried loses more than max_drop"


def test_auto_keeps_to_overrides(model, data):
    pruned, _ = apply_auto(model, data, max_drop=100.0, overrides={"w1": {"sparsity": 0.25}})
    assert pruned.graph.initializers["w1"].shape[1] == 12


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sparsity": "auto"}, "go together"),
        ({"max_drop": 0.1}, "go together"),
        ({"sparsity": "auto", "max_drop": -0.1}, "max_drop = -0.1: expected `float` >= 0.0"),
        ({"sparsity": "auto", "max_drop": 0.1, "ranking": "global"}, "leave ranking, budget and steps out"),
        ({"sparsity": "auto", "max_drop": 0.1, "budget": "macs"}, "leave ranking, budget and steps out"),
        ({"sparsity": "most"}, "sparsity = 'most': expected a number, or one of auto"),
        ({"sparsity": 1.5}, "sparsity = 1.5: expected `float` < 1.0, or one of auto"),
    ],
)
def test_auto_options_are_checked(options, message):
    with pytest.raises(OnnxCompressError, match=message):
        PruneChannels(**options)


def test_auto_from_the_command_line(model, data, tmp_path):
    step = "prune-channels sparsity=auto max_drop=0.25"
    result = call("apply", model, "-o", tmp_path / "o.onnx", "-p", step, "-p", "shrink", "--data", data)
    assert result.exit_code == 1, "24 samples, all of which it was fitted to, show nothing"
    assert "Not shown: top1 lost" in result.stderr
    assert top1(onnx.load(model), data) - top1(onnx.load(tmp_path / "o.onnx"), data) <= 0.25
    missing = call("apply", model, "-o", tmp_path / "p.onnx", "-p", step)
    assert missing.exit_code == 2
    assert "needs samples" in missing.stderr

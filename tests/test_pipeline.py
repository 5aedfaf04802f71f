"""The pipeline: kinds in and out, evidence, rollback, nothing lost."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, drawn_feeds, plain_run
from corpus.topologies import conv_chain, mlp

from onnxcompress import apply, load, save
from onnxcompress.contract import Change, Changes, Context, Pass, Plan, Promise
from onnxcompress.errors import ModelError, OptionError, OutputError, VerifyError
from onnxcompress.graph import edit
from onnxcompress.passes import MagnitudePrune, PruneChannels, Shrink

RECIPE = [PruneChannels(sparsity=0.5), Shrink()]


def test_a_path_comes_back_as_a_model_and_the_file_is_untouched(tmp_path: Path) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    save(conv_chain(), path)
    before = hashlib.sha256(path.read_bytes()).hexdigest()
    model, _ = apply(path, RECIPE, output=out)
    assert isinstance(model, ir.Model)
    assert hashlib.sha256(path.read_bytes()).hexdigest() == before
    feeds = drawn_feeds(conv_chain())
    assert_same(plain_run(model, feeds), plain_run(out, feeds), 0)


def test_every_kind_comes_back_in_kind() -> None:
    proto = ir.to_proto(conv_chain())
    feeds = drawn_feeds(conv_chain())
    expected = plain_run(apply(conv_chain(), RECIPE)[0], feeds)
    as_proto, _ = apply(proto, RECIPE)
    assert isinstance(as_proto, onnx.ModelProto)
    assert_same(expected, plain_run(as_proto, feeds))
    as_graph, _ = apply(gs.import_onnx(proto), RECIPE)
    assert isinstance(as_graph, gs.Graph)
    assert_same(expected, plain_run(gs.export_onnx(as_graph), feeds))


def test_what_is_no_model_is_refused_by_its_type() -> None:
    with pytest.raises(
        ModelError, match="expected a path, an onnx.ModelProto, an onnx_ir.Model or a gs.Graph, got int"
    ):
        apply(3, RECIPE)  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="expected Pass objects, got str"):
        apply(conv_chain(), ["shrink"])  # type: ignore[list-item]


def test_the_same_call_gives_the_same_bytes() -> None:
    recipe = [PruneChannels(importance="random"), Shrink()]
    results = [apply(conv_chain(), recipe, seed=seed)[0] for seed in (3, 3, 4)]
    one, same, other = (ir.to_proto(r).SerializeToString() for r in results)
    assert one == same != other


def test_stages_are_measured() -> None:
    feeds = drawn_feeds(conv_chain(), batch=40)
    labels = plain_run(conv_chain(), feeds)["y"].argmax(1)
    small, report = apply(conv_chain(), RECIPE, data={**feeds, "labels": labels})
    original, masked, shrunk = report.stages
    predicted = plain_run(small, feeds)["y"].argmax(1)
    assert report.metric == "top1"
    assert original.metric == 1.0
    assert shrunk.metric == masked.metric == pytest.approx((predicted == labels).mean())
    assert shrunk.agreement == shrunk.metric
    counted = [sum(int(np.prod(t.dims)) for t in ir.to_proto(m).graph.initializer) for m in (conv_chain(), small)]
    assert [original.parameters, shrunk.parameters] == counted
    assert original.bytes == ir.to_proto(conv_chain()).ByteSize() or original.bytes > 0
    macs = 16 * 3 * 9 * 64 + 12 * 16 * 9 * 16 + 12 * 5
    assert original.macs == macs
    assert shrunk.macs == 8 * 3 * 9 * 64 + 6 * 8 * 9 * 16 + 6 * 5
    assert original.ratio == 1.0
    assert report.samples == 40


def test_bytes_are_those_of_the_saved_file(tmp_path: Path) -> None:
    _, report = apply(conv_chain(), RECIPE, output=tmp_path / "out.onnx")
    assert report.stages[-1].bytes == (tmp_path / "out.onnx").stat().st_size


def test_layers_are_compared() -> None:
    _, report = apply(conv_chain(), RECIPE)
    (c,) = (layer for layer in report.layers if layer.name == "c")
    assert (c.bytes, c.bytes_after) == (4 * 12 * 16 * 9, 4 * 6 * 8 * 9)


def test_random_data_is_marked() -> None:
    _, report = apply(conv_chain(), RECIPE, data="random")
    assert report.random
    assert json.loads(report.to_json())["random"] is True


def test_evaluate_on_other_samples() -> None:
    fit, judge = drawn_feeds(conv_chain(), batch=8, seed=1), drawn_feeds(conv_chain(), batch=24, seed=2)
    _, report = apply(conv_chain(), RECIPE, data=fit, evaluate_on=judge)
    assert report.samples == 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sabotage(Pass):
    """Break the model in one of several ways."""

    how: str
    promise = Promise(tolerance=1e-5)

    def plan(self, model: ir.Model, context: Context) -> Plan:
        return Plan()

    def apply(self, model: ir.Model, plan: Any) -> Changes:
        value = model.graph.initializers["w1"]
        array = edit.constant(value).numpy().copy()  # type: ignore[union-attr]
        if self.how == "changed":
            edit.set_constant(value, array * 1.01)
        elif self.how == "nan":
            edit.set_constant(value, array * np.nan)
        elif self.how == "shape":
            edit.set_constant(value, array[:, :2])
        elif self.how == "output":
            model.graph.outputs[0].name = "other"
        return Changes((Change("w1", self.how),))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("changed", "output 'y' differs by .* relative; at most 1e-05 is promised"),
        ("nan", "output 'y' is no longer finite"),
        ("shape", "rejects the result|refuses the result"),
        ("output", "the outputs changed: y before, other after"),
    ],
)
def test_a_pass_that_breaks_its_promise_is_rolled_back(tmp_path: Path, how: str, message: str) -> None:
    with pytest.raises(VerifyError, match=f"sabotage: .*({message}).*; it was rolled back and nothing is written"):
        apply(conv_chain(), [Sabotage(how=how)], output=tmp_path / "out.onnx")
    assert list(tmp_path.iterdir()) == []


def test_existing_output_is_refused_before_any_work(tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    out.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        apply(conv_chain(), [Sabotage(how="nan")], output=out)
    assert out.read_bytes() == b"precious"


def test_a_pass_that_changes_nothing_is_said() -> None:
    _, report = apply(mlp(), [Shrink()])
    assert report.steps[0].done == []


def test_weights_of_the_copy_are_shared(tmp_path: Path) -> None:
    """A mask on one tensor copies that tensor alone; the others stay mapped from the file."""
    ir.save(mlp(), tmp_path / "m.onnx", external_data="m.data", size_threshold_bytes=0)
    model, _ = apply(load(tmp_path / "m.onnx"), [MagnitudePrune(threshold=0.0), Shrink()])
    assert all(isinstance(v.const_value, ir.ExternalTensor) for v in model.graph.initializers.values())


def test_first_generation_models_get_an_ir_version_that_allows_plain_initializers() -> None:
    proto = ir.to_proto(conv_chain())
    proto.ir_version = 3
    for tensor in proto.graph.initializer:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    small, _ = apply(proto, RECIPE)
    assert small.ir_version == 4
    feeds = drawn_feeds(conv_chain())
    assert_same(plain_run(apply(conv_chain(), RECIPE)[0], feeds), plain_run(small, feeds))

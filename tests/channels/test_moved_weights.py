"""A weight is a weight however it reaches what computes with it: pruned equals masked, or nothing is touched."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from corpus.moved import CONSUMERS, FORMS, WAYS, moved
from corpus.oracle import drawn_feeds
from corpus.text import model

from onnxcompress.contract import Context
from onnxcompress.graph import shapes
from onnxcompress.passes import PruneChannels, Shrink

TOLERANCE = {np.float32: 1e-5, np.float16: 3e-2}
REFUSED = {"DequantizeLinear with a zero point"}


def run_as_written(subject: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Run without onnxruntime's own rewriting, which multiplies by dequantized weights in integers."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    proto = ir.to_proto(subject)
    onnx.checker.check_model(proto, full_check=True)
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, feeds)[0]
    return found


def assert_close(one: np.ndarray, other: np.ndarray, tolerance: float) -> None:
    assert one.shape == other.shape
    assert np.abs(one.astype(np.float64) - other).max() <= tolerance * np.abs(one).max()


def elements(subject: ir.Model) -> int:
    return sum(int(np.prod(t.dims)) for t in ir.to_proto(subject).graph.initializer)


def check(consumer: str, way: str, **options: object) -> tuple[int, int, int] | None:
    """Prune and shrink, and shrink a model with dead channels; returns how many elements are left of how many."""
    subject = moved(consumer, way, dead=(1, 4), **options)  # type: ignore[arg-type]
    if subject is None:
        return None
    shapes.infer(subject)
    dtype = options.get("dtype", np.float32)
    feeds = {name: (2 * array).astype(dtype) for name, array in drawn_feeds(subject).items()}
    masked = subject.clone()
    prune, shrink = PruneChannels(importance="random"), Shrink()
    prune.apply(masked, prune.plan(subject, Context(subject)))
    left = [elements(subject)]
    for before in (masked, subject):
        after = before.clone()
        shrink.apply(after, shrink.plan(before, Context(before)))
        tolerance = TOLERANCE[dtype]  # type: ignore[index]
        assert_close(run_as_written(before, feeds), run_as_written(after, feeds), tolerance)
        left.append(elements(after))
    return left[0], left[1], left[2]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_pruned_equals_masked_whatever_moves_the_weights(consumer: str, way: str) -> None:
    opset = 23 if consumer == "RMSNormalization" else 21
    found = check(consumer, way, opset=opset)
    if found is not None and way in ("as it is", "Identity", "two Identities", "Cast from double"):
        whole, pruned, _ = found
        assert pruned < whole
    elif found is not None and way in REFUSED:
        assert found[0] == found[1] == found[2]


@pytest.mark.parametrize("form", FORMS[1:])
@pytest.mark.parametrize("consumer", CONSUMERS)
def test_pruned_equals_masked_however_weights_are_stored(consumer: str, form: str) -> None:
    for way in ("Identity", "Cast from int32", "Reshape", "DequantizeLinear"):
        check(consumer, way, form=form, opset=13 if form == "Identity" else 17, dtype=np.float16)


@pytest.mark.slow
@pytest.mark.parametrize("opset", [11, 13, 17, 21, 23])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("form", FORMS)
def test_every_way_in_every_opset_and_type(opset: int, dtype: type, form: str) -> None:
    for consumer in CONSUMERS:
        for way in WAYS:
            check(consumer, way, opset=opset, dtype=dtype, form=form)


@pytest.mark.parametrize("way", ["Identity", "Transpose", "Cast from double", "DequantizeLinear", "Transpose and Cast"])
def test_constant_channels_are_folded_into_what_reads_them_through_a_move(way: str) -> None:
    for consumer in ("MatMul", "Gemm transposed"):
        found = check(consumer, way, opset=21)
        assert found is None or found[2] < found[0]


def test_a_constant_goes_into_a_bias_that_an_identity_hands_on() -> None:
    """Gemm's beta is not 1, so what is added to the bias is divided by it."""
    subject = model(
        """g (float[N,6] x) => (float[N,4] y) {
            a = MatMul(x, w1) c = Add(a, b1) r = Relu(c) b = Identity(b2) y = Gemm<alpha = 0.5, beta = 3.0>(r, w2, b)
        }""",
        {"w1": np.eye(6, 8, dtype=np.float32), "b1": np.arange(8, dtype=np.float32), "w2": (8, 4), "b2": (4,)},
    )
    shapes.infer(subject)
    after = subject.clone()
    changes = Shrink().apply(after, Shrink().plan(subject, Context(subject)))
    assert [change.what for change in changes.done] == ["2 of 8 channels removed"]
    feeds = drawn_feeds(subject)
    assert_close(run_as_written(subject, feeds), run_as_written(after, feeds), 1e-5)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_integer_parameters_keep_their_type(dtype: type) -> None:
    numbers = {"s": [4], "e": [12], "ax": [1], "st": [1], "i": [7, 1, 2, 0]}
    subject = model(
        """g (float[N,3,8,8] x) => (float[N,2,8,8] y) {
            a = Conv(x, w1) b = Slice(a, s, e, ax, st) c = Gather<axis = 1>(b, i) y = Conv(c, w2)
        }""",
        {"w1": (16, 3, 1, 1), "w2": (2, 4, 1, 1), **{name: np.array(v, dtype) for name, v in numbers.items()}},
    )
    shapes.infer(subject)
    masked = subject.clone()
    prune = PruneChannels(importance="random")
    prune.apply(masked, prune.plan(subject, Context(subject)))
    pruned = masked.clone()
    Shrink().apply(pruned, Shrink().plan(masked, Context(masked)))
    feeds = drawn_feeds(subject)
    assert_close(run_as_written(masked, feeds), run_as_written(pruned, feeds), 1e-5)
    assert elements(pruned) < elements(subject)
    kinds = {node.op_type: {str(v.dtype) for v in node.inputs[1:] if v is not None} for node in pruned.graph}
    assert kinds["Slice"] == kinds["Gather"] == {np.dtype(dtype).name.upper()}

"""Streams: which can be turned, and that the model computes the same then."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import plain_run
from corpus.text import model
from scipy.stats import ortho_group

from onnxcompress import apply
from onnxcompress.channels.groups import find_groups
from onnxcompress.channels.rotation import rotate
from onnxcompress.channels.streams import find_streams
from onnxcompress.errors import PassError
from onnxcompress.graph import edit
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.passes.prune.masks.masks import ChannelPlan, apply_channels

WIDTH, HIDDEN, TOKENS = 12, 16, 20
NORM = """p = Pow(h, two) m = ReduceMean(p, axes) e = Add(m, eps) r = Sqrt(e)
    i = Div(one, r) n = Mul(h, i)"""
TEXT = (
    "g (int64[N,T] x) => (float[N,T,5] y) {"
    "h0 = Gather(table, x) d0 = MatMul(h0, first) h1 = Add(h0, d0) h = Add(h1, b)"
    f"{NORM} s = Mul(SCALED) u = MatMul(s, up) v = Relu(u) w = MatMul(v, down) h2 = Add(h, w) y = MatMul(h2, head) }}"
)
SHAPES = {
    "table": (TOKENS, WIDTH),
    "first": (WIDTH, WIDTH),
    "b": (WIDTH,),
    "scale": (WIDTH,),
    "up": (WIDTH, HIDDEN),
    "down": (HIDDEN, WIDTH),
    "head": (WIDTH, 5),
}


def stream_model(text: str = TEXT, rank: int = WIDTH) -> ir.Model:
    """A stream whose vectors lie in a space of `rank` dimensions that no axis of it is in."""
    random = np.random.default_rng(0)
    arrays = {name: random.standard_normal(shape).astype(np.float32) / 2 for name, shape in SHAPES.items()}
    arrays["scale"] += 2
    basis = ortho_group.rvs(WIDTH, random_state=1)[:, :rank]
    for name in ("table", "first", "b", "down"):
        arrays[name] = (arrays[name] @ basis @ basis.T).astype(np.float32)
    numbers = {
        "two": np.array(2, np.float32),
        "eps": np.array(1e-6, np.float32),
        "one": np.array(1, np.float32),
        "axes": np.array([-1]),
    }
    return model(
        text.replace("SCALED", "scale, n"), {k: v for k, v in (arrays | numbers).items() if k in text + "scale"}
    )


def ids() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(2).integers(0, TOKENS, (16, 6))}


def run(subject: ir.Model) -> np.ndarray:
    return plain_run(ir.to_proto(subject), ids())["y"]


def test_a_turned_stream_computes_the_same_and_its_scale_is_gone() -> None:
    subject = stream_model()
    before = run(subject)
    ((stream,), _) = find_streams(find_groups(subject))
    changed = set(rotate(stream, ortho_group.rvs(WIDTH, random_state=3)))
    assert changed == {"table", "first", "b", "scale", "up", "down", "head"}
    np.testing.assert_allclose(run(subject), before, rtol=2e-4, atol=2e-5)
    assert (subject.graph.initializers["scale"].const_value.numpy() == 1).all()


@pytest.mark.parametrize(
    "replaced",
    [
        ("h2 = Add(h, w)", "a2 = Add(h, w) h2 = Relu(a2)"),
        ("h = Add(h1, b)", "h = Mul(h1, b)"),
        ("y = MatMul(h2, head)", "o = Softmax(h2) y = MatMul(o, head)"),
    ],
)
def test_what_treats_channels_one_by_one_is_not_turned(replaced: tuple[str, str]) -> None:
    text = TEXT.replace(*replaced)
    assert not find_streams(find_groups(stream_model(text)))[0]


def test_pruning_finds_the_directions_that_a_stream_does_not_use() -> None:
    subject = stream_model(rank=9)
    options = {"sparsity": 3, "compensate": True, "round_to": 1, "include": ("first",), "ranking": "local"}
    pruned, _ = apply(subject, [PruneChannels(**options), Shrink()], data=ids())
    kept, _ = apply(subject, [PruneChannels(**options, rotate=False), Shrink()], data=ids())
    assert tuple(pruned.graph.initializers["table"].shape) == (TOKENS, 9)
    wanted = run(subject)
    assert np.abs(run(pruned) - wanted).max() < 1e-2 * np.abs(wanted).max() < np.abs(run(kept) - wanted).max()


def test_a_plan_of_another_model_is_refused() -> None:
    with pytest.raises(PassError, match="'first': the model has no such stream"):
        apply_channels(stream_model(), ChannelPlan(rotations={"first": np.eye(3, dtype=np.float32)}))


def test_a_weight_with_a_mask_is_named() -> None:
    subject = stream_model()
    up = subject.graph.initializers["up"]
    edit.set_constant(up, np.where(np.arange(HIDDEN) % 2, edit.array(up), 0).astype(np.float32))
    streams, stay = find_streams(find_groups(subject))
    assert not [stream for stream in streams if stream.residual]
    assert [str(error) for error in stay] == ["'up' has a mask of zeros, which a rotation would fill"]


@pytest.mark.parametrize(("mean", "turned"), [("LayerNormalization", False), ("SimplifiedLayerNormalization", True)])
def test_pruning_says_which_stream_is_not_turned(mean: str, turned: bool) -> None:
    text = TEXT.replace(NORM, "").replace("s = Mul(SCALED)", f"s = {mean}(h, scale)")
    options = {"sparsity": 3, "compensate": True, "round_to": 1, "include": ("first",), "ranking": "local"}
    _, report = apply(stream_model(text), [PruneChannels(**options)], data=ids())
    said = [refusal for stage in report.steps for refusal in stage.refused if "principal axes" in refusal.reason]
    assert [refusal.subject for refusal in said] == ([] if turned else ["s (LayerNormalization)"])

"""Heads go with their keys and values in a cache where the interface may change, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from corpus.oracle import assert_same, plain_run
from corpus.text import model

from onnxcompress import apply, compare
from onnxcompress.channels.groups import find_groups
from onnxcompress.contract import Context
from onnxcompress.errors import OnnxCompressError, VerifyError
from onnxcompress.graph import interface
from onnxcompress.graph.caches import find_caches
from onnxcompress.graph.load import load
from onnxcompress.kinds import working_copy
from onnxcompress.passes import PruneChannels, Shrink
from onnxcompress.runtime.session import open_session
from onnxcompress.verify import Verifier

BODY = """
    q = MatMul(x, wq) q1 = Reshape(q, four) q2 = Transpose<perm=[0,2,1,3]>(q1)
    k = MatMul(x, wk) k1 = Reshape(k, two) k2 = Transpose<perm=[0,2,1,3]>(k1)
    v = MatMul(x, wv) v1 = Reshape(v, two) v2 = Transpose<perm=[0,2,1,3]>(v1)
    present_key = Concat<axis=2>(past_key, k2) present_value = Concat<axis=2>(past_value, v2)
    ATTENTION
    t = Transpose<perm=[0,2,1,3]>(a) f = Reshape(t, three) y = MatMul(f, wo)"""
HEAD = """g (float[B,S,16] x, float[B,2,P,4] past_key, float[B,2,P,4] past_value)
    => (float[B,S,12] y, float[B,2,T,4] present_key, float[B,2,T,4] present_value)"""
WHOLE = "a = Attention(q2, present_key, present_value)"
WRITTEN = """
    k3 = Unsqueeze(present_key, at2) k4 = Tile(k3, twice) k5 = Reshape(k4, heads) k6 = Transpose<perm=[0,1,3,2]>(k5)
    v3 = Unsqueeze(present_value, at2) v4 = Tile(v3, twice) v5 = Reshape(v4, heads)
    s = MatMul(q2, k6) p = Softmax(s) a = MatMul(p, v5)"""
SIZES = {"wq": (16, 16), "wk": (16, 8), "wv": (16, 8), "wo": (16, 12)}
NUMBERS = {
    "four": np.array([0, 0, 4, 4]),
    "two": np.array([0, 0, 2, 4]),
    "three": np.array([0, 0, 16]),
    "at2": np.array([2]),
    "twice": np.array([1, 1, 2, 1, 1]),
    "heads": np.array([0, 4, -1, 4]),
}
STEPS = [PruneChannels(round_to=1, ranking="local", interface="may change"), Shrink(exact=True, interface="may change")]


def decoder(attention: str = WHOLE) -> ir.Model:
    text = BODY.replace("ATTENTION", attention)
    return model(f"{HEAD} {{ {text} }}", SIZES | {n: a for n, a in NUMBERS.items() if n in text}, opset=23)


def feeds(past: int, heads: int = 2) -> dict[str, np.ndarray]:
    random = np.random.default_rng(past)
    x, k, v = ((2, 3, 16), (2, heads, past, 4), (2, heads, past, 4))
    named = zip(("x", "past_key", "past_value"), (x, k, v), strict=True)
    return {name: random.standard_normal(shape).astype(np.float32) for name, shape in named}


@pytest.mark.parametrize("past", [0, 4])
@pytest.mark.parametrize("attention", [WHOLE, WRITTEN])
def test_a_group_of_heads_goes_with_its_cache(attention: str, past: int) -> None:
    subject = decoder(attention)
    zeroed, _ = apply(subject, STEPS[:1])
    small, report = apply(subject, STEPS)
    cuts = interface.read(small.metadata_props)
    assert [len(axes[1][1]) for axes in cuts.values()] == [1, 1, 1, 1]
    given = feeds(past)
    cut = {name: interface.cut(cuts, name, array) for name, array in given.items()}
    expected, found = plain_run(zeroed, given), plain_run(small, cut)
    assert_same({"y": expected["y"]}, {"y": found["y"]}, 1e-5)
    kept = list(cuts["present_key"][1][1])
    assert_same({"k": expected["present_key"][:, kept]}, {"k": found["present_key"]}, 1e-5)
    said = {change.subject: change.what for change in report.steps[1].done}
    assert said["past_key"] == "its shape changed from [B, 2, P, 4] to [B, 1, P, 4]"
    assert said["present_value"] == "its shape changed from [B, 2, T, 4] to [B, 1, T, 4]"
    assert (
        sum(v.const_value.size for n, v in small.graph.initializers.items() if n in SIZES)
        == sum(v.const_value.size for n, v in subject.graph.initializers.items() if n in SIZES) / 2
    )


def test_by_default_the_interface_stays() -> None:
    small, report = apply(decoder(), [PruneChannels(round_to=1, ranking="local"), Shrink(exact=True)])
    assert interface.read(small.metadata_props) == {}
    assert small.graph.inputs[1].shape[1] == 2
    assert [v.const_value.shape.numpy() for n, v in small.graph.initializers.items() if n == "wk"] == [(16, 8)]
    assert any("positions that stay" in refusal.reason for refusal in report.steps[0].refused)


def test_what_was_made_for_the_original_runs() -> None:
    subject = decoder()
    small, _ = apply(subject, STEPS)
    session = open_session(small)
    assert session.run(feeds(3))["present_key"].shape == (2, 1, 6, 4)
    assert session.run(feeds(3, heads=1))["present_key"].shape == (2, 1, 6, 4)
    found = compare(subject, small, feeds(3))
    assert {item.name for item in found.outputs if item.sqnr is not None} >= {"y", "present_key"}


STREAM = """g (float[B,S,10] e, float[B,2,P,4] past_key, float[B,2,P,4] past_value)
    => (float[B,S,12] out, float[B,2,T,4] present_key, float[B,2,T,4] present_value) {
    h = MatMul(e, we) x = RMSNormalization<axis=-1>(h, g1) BODY
    h1 = Add(h, y) n = RMSNormalization<axis=-1>(h1, g2) out = MatMul(n, wl) }"""


def stream_decoder() -> ir.Model:
    """A decoder whose stream has 8 dimensions that no axis of it is in, and whose first cached head changes nothing."""
    random = np.random.default_rng(0)
    shapes = {**SIZES, "wo": (16, 16), "we": (10, 16), "wl": (16, 12)}
    arrays = {name: random.standard_normal(shape).astype(np.float32) / 2 for name, shape in shapes.items()}
    basis = np.linalg.qr(random.standard_normal((16, 8)))[0]
    arrays["wo"][:8] *= 1e-6  # zeros would be a mask, and a masked stream is not turned
    for name in ("we", "wo"):
        arrays[name] = (arrays[name] @ basis @ basis.T).astype(np.float32)
    norms = {name: random.uniform(0.5, 2, 16).astype(np.float32) for name in ("g1", "g2")}
    text = STREAM.replace("BODY", BODY.replace("ATTENTION", WHOLE))
    return model(text, arrays | norms | {n: a for n, a in NUMBERS.items() if n in text}, opset=23)


def test_a_turned_stream_and_heads_of_a_cache_go_together() -> None:
    subject, random = stream_decoder(), np.random.default_rng(7)
    shapes = {"e": (4, 16, 10), "past_key": (4, 2, 3, 4), "past_value": (4, 2, 3, 4)}
    given = {name: random.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}
    options = {"sparsity": 0.5, "compensate": True, "round_to": 1, "ranking": "local", "interface": "may change"}
    steps = [PruneChannels(**options), Shrink(exact=True, interface="may change")]
    small, report = apply(subject, steps, data=given)
    assert any("after turning them to their principal axes" in change.what for change in report.steps[0].done)
    cuts = interface.read(small.metadata_props)
    assert {name: axes[1] for name, axes in cuts.items()} == dict.fromkeys(
        ("past_key", "past_value", "present_key", "present_value"), (2, (1,))
    )
    assert small.graph.initializers["wl"].const_value.shape == (8, 12)
    expected = plain_run(subject, given)
    found = plain_run(small, {name: interface.cut(cuts, name, array) for name, array in given.items()})
    left = {name: interface.cut(cuts, name, array) for name, array in expected.items()}
    assert_same(left, found, 1e-4)


def test_the_verifier_accepts_what_is_declared_and_no_more() -> None:
    subject = decoder()
    small, _ = apply(subject, STEPS)
    verifier = Verifier(subject)
    with pytest.raises(VerifyError, match="input 'past_key' changed its shape"):
        verifier.compare(small)
    verifier.compare(small, narrows=True)
    undeclared = small.clone()
    undeclared.metadata_props.clear()
    with pytest.raises(VerifyError):
        verifier.compare(undeclared, narrows=True)


def test_a_second_round_counts_from_the_original() -> None:
    cuts = {}
    subject = decoder()
    for kept in ([True, False, True, True], [False, True, True]):
        interface.note(subject, "past", 1, np.array(kept))
    cuts = interface.read(subject.metadata_props)
    assert cuts == {"past": {1: (4, (2, 3))}}
    assert interface.cut(cuts, "past", np.arange(8).reshape(2, 4)).tolist() == [[2, 3], [6, 7]]
    assert interface.since({"past": {1: (4, (0, 2, 3))}}, cuts) == {"past": {1: (3, (1, 2))}}


@pytest.mark.parametrize("text", ["{", '{"a": 3}', '{"a": {"x": [1, [0]]}}', "[]"])
def test_metadata_of_others_are_nothing(text: str) -> None:
    assert interface.read({interface.KEY: text}) == {}


def test_heads_that_a_reshape_fixes_stay() -> None:
    text = BODY.replace("ATTENTION", WHOLE).replace("Reshape(t, three)", "Reshape(t, given)")
    subject = model(
        f"{HEAD.replace('] x,', '] x, int64[3] given,')} {{ {text} }}",
        SIZES | {n: a for n, a in NUMBERS.items() if n in text and n != "three"},
        opset=23,
    )
    refused = {group.frozen for group in find_groups(subject, "may change").frozen}
    assert "f (Reshape): the shape of 'f' is not known" in refused


def test_without_a_cache_nothing_may_change() -> None:
    subject = model("g (float[2,8] x) => (float[2,8] y) { y = MatMul(x, w) }", {"w": (8, 8)})
    small, _ = apply(subject, STEPS)
    assert small.graph.inputs[0].shape == [2, 8]
    assert interface.read(small.metadata_props) == {}


def test_the_option_is_checked() -> None:
    with pytest.raises(OnnxCompressError, match="expected one of stays, may change"):
        Shrink(interface="changes")  # type: ignore[arg-type]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["llm/llama_tiny.onnx", "llm/llama_tiny_genai/model.onnx", "structures/llama_opset23.onnx"]
)
def test_decoders_lose_heads_with_their_caches(kit: Path, name: str) -> None:
    subject = working_copy(load(kit / name))
    zeroed, small = subject.clone(), subject.clone()
    step, shrink = STEPS
    step.apply(zeroed, step.plan(subject, Context(subject)))
    small = zeroed.clone()
    shrink.apply(small, shrink.plan(zeroed, Context(zeroed)))
    cuts = interface.read(small.metadata_props)
    caches = find_caches(subject.graph)
    assert set(cuts) == {value.name for cache in caches for value in (cache.past, cache.present) if value is not None}
    assert all(len(left) == 1 for axes in cuts.values() for count, left in axes.values() if count == 2)
    random = np.random.default_rng(0)
    given = {"input_ids": random.integers(0, 2000, (1, 6)), "position_ids": np.arange(3, 9)[None]}
    given |= {"attention_mask": np.ones((1, 9), np.int64)}
    given |= {str(c.past.name): random.standard_normal((1, 2, 3, 32)).astype(np.float32) for c in caches}
    one, other = open_session(zeroed), open_session(small)
    given = {name: array for name, array in given.items() if name in one.inputs}
    assert_same({"y": one.run(given)["logits"]}, {"y": other.run(given)["logits"]}, 1e-5)

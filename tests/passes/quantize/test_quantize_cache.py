"""Caches become integers: decoding goes on as before, with a quarter of the bytes, whatever computes attention."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.decoders import WORDS, grouped
from corpus.text import model

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.passes import QuantizeCache
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import load_samples

Feeds = dict[str, Any]

WRITTEN = """g (float[n, 2, m, 4] k, float[n, 2, m, 4] q, float[n, 2, past, 4] past_key) =>
    (float[n, 2, m, 4] y, float[n, 2, total, 4] present_key)
{
    new = Mul(k, w)
    present_key = Concat<axis = 2>(past_key, new)
    turned = Transpose<perm = [0, 1, 3, 2]>(present_key)
    scores = MatMul(q, turned)
    shares = Softmax(scores)
    y = MatMul(shares, present_key)
}"""


def written(text: str = WRITTEN) -> ir.Model:
    return model(text, {"w": np.array([1, 4, 0.1, 20], np.float32)})


def tokens(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, WORDS, (3, count))


def raw(subject: ir.Model) -> Any:
    """A session as anyone opens it."""
    import onnxruntime

    return onnxruntime.InferenceSession(ir.to_proto(subject).SerializeToString(), providers=["CPUExecutionProvider"])


def decoded(subject: ir.Model, ids: np.ndarray, dtype: Any) -> tuple[np.ndarray, int]:
    """Logits of one token after the other, and the bytes of the cache at the end."""
    session, found = raw(subject), []
    kept = {i.name: np.zeros((3, 2, 0, 16), dtype) for i in session.get_inputs() if i.name.startswith("past")}
    for step in range(ids.shape[1]):
        feeds = {"input_ids": ids[:, step : step + 1], "attention_mask": np.ones((3, step + 1), np.int64), **kept}
        results = dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))
        found.append(results["logits"])
        kept = {name: results[name.replace("past_key_values", "present")] for name in kept}
    return np.concatenate(found, 1), sum(array.nbytes for array in kept.values())


def test_decoding_with_grouped_queries_goes_on_as_before() -> None:
    subject, ids = grouped(), tokens(12)
    data = {"input_ids": np.random.default_rng(1).integers(0, WORDS, (32, 12))}
    data["attention_mask"] = np.ones((32, 12), np.int64)
    result, report = apply(subject, [QuantizeCache()], data=data)
    assert report.steps[0].refused == []
    before, size = decoded(subject, ids, np.float32)
    after, small = decoded(result, ids, np.int8)
    assert size == 4 * small
    assert np.linalg.norm(after - before) < 0.03 * np.linalg.norm(before)
    assert (after != before).any()


def test_written_out_attention_reads_what_was_rounded_once() -> None:
    subject, random = written(), np.random.default_rng(0)
    data = {name: random.normal(size=(8, 2, 3, 4)).astype(np.float32) for name in "kq"}
    data["past_key"] = random.normal(size=(8, 2, 5, 4)).astype(np.float32)
    context = Context(subject, samples=load_samples(data, subject))
    plan = QuantizeCache().plan(subject, context)
    [stored] = plan.caches
    new = data["k"] * np.array([1, 4, 0.1, 20], np.float32)
    largest = np.abs(np.concatenate([data["past_key"], new], 2)).max((0, 2))[:, None]
    np.testing.assert_allclose(stored.scale, largest / 127, rtol=1e-6)
    result = subject.clone()
    QuantizeCache().apply(result, type(plan).from_json(plan.to_json()))
    onnx.checker.check_model(ir.to_proto(result), full_check=True)
    past = np.clip(np.rint(data["past_key"] / stored.scale), -127, 127).astype(np.int8)
    found = dict(zip("yp", raw(result).run(["y", "present_key"], {**data, "past_key": past}), strict=True))
    assert (found["p"][:, :, :5] == past).all()
    np.testing.assert_array_equal(found["p"][:, :, 5:], np.rint(new * (1 / stored.scale)))
    expected = open_session(subject).run({**data, "past_key": past * stored.scale})["y"]
    assert np.abs(found["y"] - expected).max() < 0.05 * np.abs(expected).max()
    seen = open_session(result).run(data)  # floats in, floats out
    np.testing.assert_array_equal(seen["present_key"], found["p"] * stored.scale)


def test_a_cache_that_is_read_before_it_is_joined_is_rounded_at_the_door() -> None:
    text = WRITTEN.replace("new = Mul(k, w)", "new = Mul(k, w) z = Mul(past_key, w)").replace(
        "present_key)\n{", "present_key, float[n, 2, past, 4] z)\n{"
    )
    subject, random = written(text), np.random.default_rng(0)
    data = {name: random.normal(size=(8, 2, 3, 4)).astype(np.float32) for name in ("k", "q", "past_key")}
    result, report = apply(subject, [QuantizeCache()], data=data)
    assert len(report.steps[0].done) == 1
    before, after = open_session(subject).run(data), open_session(result).run(data)
    for name, array in before.items():
        assert np.linalg.norm(after[name] - array) < 0.2 * np.linalg.norm(array), name


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("past_key) =>", "memory) =>", "none of its inputs is a cache"),
        ("present_key)\n", "other)\n", "no output gives it back"),
    ],
)
def test_what_is_no_cache_is_named(old: str, new: str, reason: str) -> None:
    text = WRITTEN.replace(old, new)
    text = text.replace("past_key", "memory") if "memory" in new else text.replace("present_key", "other")
    subject = written(text)
    data = {name: np.ones((4, 2, 3, 4), np.float32) for name in ("k", "q", str(subject.graph.inputs[2].name))}
    plan = QuantizeCache().plan(subject, Context(subject, samples=load_samples(data, subject)))
    assert [reason in refusal.reason for refusal in plan.refused] == [True]
    assert plan.caches == ()


def test_a_cache_that_is_excluded_stays() -> None:
    subject = written()
    data = {name: np.ones((4, 2, 3, 4), np.float32) for name in ("k", "q", "past_key")}
    plan = QuantizeCache(exclude=("past_key",)).plan(subject, Context(subject, samples=load_samples(data, subject)))
    assert (plan.caches, [refusal.reason for refusal in plan.refused]) == ((), ["excluded by 'past_key'"])

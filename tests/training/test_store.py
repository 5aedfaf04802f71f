"""Samples on disk: sorted by shape, padded where a mask tells, read where they lie, and answered by the teacher."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from corpus.trainable import make, mlp
from hypothesis import given
from hypothesis import strategies as st

from onnxcompress.errors import DataError, TrainingError
from onnxcompress.samples.samples import load_samples
from onnxcompress.training import sort_samples
from onnxcompress.training.held_out import hold_out
from onnxcompress.training.loop.data import batches, held_batches, step_count
from onnxcompress.training.sort import rounded
from onnxcompress.training.store import Store

TOKENS = """<ir_version: 8, opset_import: ["" : 17]>
net (int64[batch,tokens] input_ids, int64[batch,tokens] attention_mask) => (int64[batch,tokens] y) {
  y = Mul(input_ids, attention_mask)
}"""
BARE = """<ir_version: 8, opset_import: ["" : 17]>
net (int64[batch,tokens] input_ids) => (int64[batch,tokens] y) { y = Identity(input_ids) }"""


def text_model(text: str) -> ir.Model:
    return ir.from_proto(onnx.parser.parse_model(text))


def store(model: ir.Model, data: object, folder: Path, holdout: float = 0.2) -> tuple[Store, np.ndarray]:
    found = sort_samples(load_samples(data, model))
    train, held = hold_out(found.count, holdout, 0)
    return Store(folder, found, train, held), held


def test_an_uncompressed_file_is_read_where_it_lies(tmp_path: Path) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    folder = tmp_path / "store"
    folder.mkdir()
    written, held = store(mlp(), str(tmp_path / "data.npz"), folder)
    with contextlib.closing(written):
        (bucket,) = written.buckets
        assert bucket.rows["x"].files == [str(tmp_path / "data.npz")]
        assert list(folder.iterdir()) == []
        np.testing.assert_array_equal(bucket.read(np.array([3, 29, 0]))["x"], x[[3, 29, 0]])
        assert held.sum() == 10 and not set(bucket.held) & set(bucket.trained)


@pytest.mark.parametrize("kind", ["compressed", "function", "strided"])
def test_what_lies_in_no_file_is_written_once(tmp_path: Path, kind: str) -> None:
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    np.savez_compressed(tmp_path / "data.npz", x=x)
    data = {
        "compressed": str(tmp_path / "data.npz"),
        "function": lambda: ({"x": part} for part in np.split(x, 3)),
        "strided": {"x": np.repeat(x, 2, axis=0)[::2]},
    }[kind]
    folder = tmp_path / "store"
    folder.mkdir()
    written, _ = store(mlp(), data, folder)
    with contextlib.closing(written):
        assert sum(file.stat().st_size for file in folder.iterdir()) == x.nbytes
        np.testing.assert_array_equal(written.buckets[0].read(np.arange(30))["x"], x)


def test_sentences_are_padded_to_few_lengths_where_there_is_a_mask(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, 40)
    feeds = [{"input_ids": random.integers(1, 9, (1, n)), "attention_mask": np.ones((1, n), np.int64)} for n in lengths]
    written, _ = store(text_model(TOKENS), feeds, tmp_path)
    with contextlib.closing(written):
        sizes = {bucket.rows["input_ids"].shape[0] for bucket in written.buckets}
        assert len(sizes) == len(written.buckets) == len({rounded(int(n)) for n in lengths})
        assert max(sizes) == lengths.max()
        for bucket, numbers in zip(written.buckets, written.numbers, strict=True):
            read = bucket.read(np.arange(len(numbers)))
            for ids, mask, number in zip(read["input_ids"], read["attention_mask"], numbers, strict=True):
                n = lengths[number]
                np.testing.assert_array_equal(ids[:n], feeds[number]["input_ids"][0])
                assert not ids[n:].any() and mask.sum() == n


def test_without_a_mask_each_length_has_its_own_bucket(tmp_path: Path) -> None:
    feeds = [{"input_ids": np.full((2, n), n)} for n in (3, 4, 3, 5)]
    written, _ = store(text_model(BARE), feeds, tmp_path)
    with contextlib.closing(written):
        assert sorted(len(numbers) for numbers in written.numbers) == [2, 2, 4]
        assert {n for bucket in written.buckets for n in bucket.rows["input_ids"].shape} == {3, 4, 5}


def test_targets_follow_their_samples_into_the_buckets(tmp_path: Path) -> None:
    feeds = [{"input_ids": np.full((2, n), n)} for n in (3, 4, 3, 5)]
    written, _ = store(text_model(BARE), feeds, tmp_path)
    with contextlib.closing(written):
        written.add({"labels": np.array([3, 3, 4, 4, 3, 3, 5, 5])})
        for bucket in written.buckets:
            read = bucket.read(np.arange(len(bucket.rows["labels"].offset)))
            np.testing.assert_array_equal(read["labels"], read["input_ids"][:, 0])
        with pytest.raises(DataError, match="'labels' has 7 rows for 8 samples"):
            written.add({"labels": np.arange(7)})


@pytest.mark.parametrize("batch", ["batch", "4"])
def test_the_teacher_answers_every_sample(tmp_path: Path, batch: str) -> None:
    """Also one that takes four samples at a time, of which 30 are no multiple."""
    text = f"""<ir_version: 8, opset_import: ["" : 17]>
    net (float[{batch},6] x) => (float[{batch},2] y) {{ h = MatMul(x, w)
      y = Relu(h) }}"""
    w = np.random.default_rng(1).standard_normal((6, 2)).astype(np.float32)
    x = np.random.default_rng(0).standard_normal((30, 6)).astype(np.float32)
    written, _ = store(mlp(), {"x": x}, tmp_path)
    with contextlib.closing(written):
        written.teach(make(text, w=w), {"soft": "y", "hidden": "h"})
        read = written.buckets[0].read(np.arange(30))
        np.testing.assert_allclose(read["hidden"], x @ w, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(read["soft"], np.maximum(x @ w, 0), rtol=1e-5, atol=1e-6)


def test_a_teacher_whose_first_axis_counts_nothing_is_named(tmp_path: Path) -> None:
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[batch,6] x) => (float[6,batch] y) { y = Transpose<perm = [1, 0]>(x) }"""
    written, _ = store(mlp(), {"x": np.zeros((30, 6), np.float32)}, tmp_path)
    with contextlib.closing(written), pytest.raises(TrainingError, match="teacher's 'y' has 6 rows for 30 samples"):
        written.teach(make(text), {"soft": "y"})


def test_a_function_that_gives_other_shapes_the_second_time_is_an_error(tmp_path: Path) -> None:
    calls = []

    def data():
        calls.append(0)
        yield {"input_ids": np.ones((2, 3 + (len(calls) > 2)), np.int64)}

    with pytest.raises(DataError, match="other shapes than the first time"):
        store(text_model(BARE), data, tmp_path)


@given(st.integers(1, 400), st.floats(0, 0.5))
def test_what_is_held_out_never_trains_but_where_there_is_next_to_nothing(count: int, share: float) -> None:
    train, held = hold_out(count, share, 1)
    if not share:
        assert train.all() and not held.any()
    elif count < 3 and round(share * count) == 0:
        assert train.all() and held.all()
    else:
        assert not (train & held).any() and (train | held).all()
        assert held.sum() >= min(50, count // 3)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=4), st.integers(1, 17), st.sampled_from([None, 1, 2, 3]))
def test_every_sample_comes_once_an_epoch(counts: list[int], size: int, fixed: int | None) -> None:
    from onnxcompress.training.loop.data import Bucket

    size = size if fixed is None else max(size // fixed, 1) * fixed
    buckets = [Bucket({}, np.arange(n), np.arange(n, n + 5)) for n in counts]
    found = list(batches(buckets, size, 0, 3, fixed))
    assert len(found) == step_count(buckets, size, fixed)
    for bucket in buckets:
        seen = np.concatenate([picked for other, picked in found if other is bucket])
        if fixed is None:
            assert sorted(seen) == list(bucket.trained)
        assert set(seen) <= set(bucket.trained)
        held = np.concatenate([picked for other, picked in held_batches(buckets, size, fixed) if other is bucket])
        assert set(held) == set(bucket.held)
    assert all(len(picked) <= size and (fixed is None or len(picked) % fixed == 0) for _, picked in found)


@given(st.integers(1, 5000))
def test_padding_adds_a_quarter_at_most(length: int) -> None:
    assert length <= rounded(length) < length + max(8, length / 4 + 1)


@given(st.integers(60, 200), st.integers(1, 50), st.integers(0, 40))
def test_pieces_hold_the_samples_of_the_batches(count: int, limit: int, skip: int) -> None:
    x = np.arange(count, dtype=np.float32)[:, None] * np.ones(6, np.float32)
    parts = load_samples([{"x": part} for part in np.array_split(x, 3)], mlp()).split()
    assert parts is not None
    for part in parts:
        for samples in (part, part.head(limit), part.tail(skip)):
            try:
                expected = np.concatenate([feeds["x"] for feeds in samples.batches()])
            except DataError:
                continue
            found = np.concatenate([batch.feeds["x"][places] for batch, places in samples.lying()])
            np.testing.assert_array_equal(found, expected)

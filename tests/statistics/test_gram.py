from itertools import pairwise

import numpy as np
import pytest

from onnxcompress.errors import DataError, PassError
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics.gram import collect_grams
from onnxcompress.statistics.segments import SegmentedRun

CHAIN = "g (float[N,C,W] x) => (float[N,C,W] z) { y = Neg(x) w = Relu(y) z = Add(w, y) }"


def drawn(count):
    return np.random.default_rng(0).standard_normal((count, 3, 500)).astype(np.float32)


def test_grams_equal_numpy_and_do_not_depend_on_how_samples_are_split(parse):
    subject, array = parse(CHAIN), drawn(23)
    whole = load_samples({"x": array}, subject)
    split = load_samples(lambda: iter([{"x": array[a:b]} for a, b in pairwise([0, 1, 5, 18, 23])]), subject)
    split.labelled = lambda size=None, inner=split.labelled: inner(3)
    reads = [("z", 0, 1), ("w", 0, 1)]
    one, other = (collect_grams(subject, samples, reads) for samples in (whole, split))
    for read, value in zip(reads, (np.maximum(-array, 0), -array), strict=True):
        rows = np.moveaxis(value.astype(np.float64), 1, -1).reshape(-1, 3)
        np.testing.assert_allclose(one[read].covariance(), np.cov(rows.T, bias=True), rtol=1e-9)
        rows = np.append(rows, np.ones((len(rows), 1)), 1)
        np.testing.assert_allclose(one[read].own, rows.T @ rows, rtol=1e-12)
        np.testing.assert_array_equal(one[read].own, other[read].own)
        assert one[read].count == other[read].count == 23 * 500
        np.testing.assert_allclose(one[read].merge(other[read]).own, 2 * rows.T @ rows, rtol=1e-12)


def test_overflow_is_an_error_that_names_the_tensor(parse):
    subject = parse("g (float[N,3] x) => (float[N,3] z) { y = Exp(x) w = Relu(y) z = Neg(w) }")
    samples = load_samples({"x": np.full((4, 3), 200, np.float32)}, subject)
    with pytest.raises(DataError, match="tensor 'y'"):
        collect_grams(subject, samples, [("w", 0, 1)])


def test_constants_have_no_gram(parse):
    subject = parse("g (float[N,3] x) => (float[N,3] z) <float[3] c = {1, 2, 3}> { z = Add(x, c) }")
    samples = load_samples({"x": np.ones((4, 3), np.float32)}, subject)
    with pytest.raises(PassError, match="input 1 is constant"):
        collect_grams(subject, samples, [("z", 1, 0)])


def test_a_walk_keeps_only_what_is_read_later(parse, tmp_path):
    subject = parse(CHAIN)
    segmented = SegmentedRun(subject, load_samples({"x": drawn(5)}, subject), tmp_path, batch=2, in_memory=0)
    segmented.advance("z")
    assert [segmented.has(name) for name in ("x", "y", "w")] == [False, True, True]
    assert len(list(tmp_path.iterdir())) == 6
    with pytest.raises(PassError, match="still to run"):
        segmented.advance("w")

from functools import reduce
from itertools import pairwise

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Context
from onnxcompress.errors import DataError, PassError
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics.calibration import METHODS, clipped_range
from onnxcompress.statistics.channel_ranges import collect_channel_ranges
from onnxcompress.statistics.histogram import POSITIONS, Histogram, positions
from onnxcompress.statistics.observation import Observation
from onnxcompress.statistics.ranges import observe
from onnxcompress.statistics.summaries import Range

QUIET = {"progress": lambda _what, _done, _total: None}
NET = """
g (float[N,C,W] x, int64[N,W] ids) => (float[N,C,W] z, int64[N,W] i)
{ y = Neg(x) e = Exp(x) z = Relu(y) i = Abs(ids) }
"""
TAPPED = ["x", "y", "e", "z", "ids", "i"]
KINDS = [(method, symmetric) for method in METHODS for symmetric in (False, True)]


def draw(seed, count, width=700):
    """Samples whose widths differ, some larger than what is counted of one."""
    random = np.random.default_rng(seed)
    widths = random.choice([0, 1, width], count)
    return [
        {
            "x": (random.standard_normal((1, 4, w)) * random.choice([0, 1e-3, 5])).astype(np.float32),
            "ids": random.integers(-9, 9, (1, w)),
        }
        for w in widths
    ]


def joined(samples):
    """The same samples, neighbours of the same width as one dict."""
    found = []
    for sample in samples:
        if found and found[-1]["x"].shape[1:] == sample["x"].shape[1:]:
            found[-1] = {name: np.concatenate([found[-1][name], sample[name]]) for name in sample}
        else:
            found.append(sample)
    return found


def same(one, other):
    assert one.keys() == other.keys()
    for name in one:
        a, b = one[name], other[name]
        assert a.extremes == b.extremes
        assert a.means.count == b.means.count
        np.testing.assert_array_equal(a.means.limbs, b.means.limbs)
        np.testing.assert_array_equal(a.histogram.keys, b.histogram.keys)
        np.testing.assert_array_equal(a.histogram.counts, b.histogram.counts)
        for method, symmetric in KINDS:
            kwargs = {"method": method, "symmetric": symmetric}
            assert clipped_range(a, **kwargs) == clipped_range(b, **kwargs)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 9999), st.lists(st.integers(1, 7), max_size=3), st.randoms(use_true_random=False))
def test_the_same_to_the_last_bit_however_split_ordered_and_merged(parse, seed, cuts, random):
    model = parse(NET)
    drawn = draw(seed, 8)
    whole = observe(model, load_samples(joined(drawn), model), TAPPED, histograms=True, **QUIET)
    shuffled = random.sample(drawn, len(drawn))
    edges = sorted({0, *cuts, 8})
    parts = [
        observe(model, load_samples(shuffled[a:b], model), TAPPED, histograms=True, **QUIET) for a, b in pairwise(edges)
    ]
    random.shuffle(parts)
    same(whole, {name: reduce(Observation.merge, [part[name] for part in parts]) for name in TAPPED})
    right = {name: reduce(lambda a, b: b.merge(a), [part[name] for part in parts[::-1]]) for name in TAPPED}
    same(whole, right)


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_the_same_on_any_number_of_cores_in_any_number_of_lots(parse, monkeypatch, cores):
    model = parse(NET)
    samples = load_samples(draw(3, 20), model)
    expected = observe(model, samples, TAPPED, histograms=True, **QUIET)
    monkeypatch.setattr("onnxcompress.statistics.fetch.usable_cores", lambda: cores)
    for limit in (1, 1 << 30):
        same(expected, observe(model, samples, TAPPED, histograms=True, limit_bytes=limit, **QUIET))


def test_a_product_does_not_depend_on_how_samples_come(parse):
    """Engines add in another order for another number of rows."""
    model = parse("g (float[N,300] x) => (float[N,64] y) { y = MatMul(x, w) }".replace("x)", "x, float[300,64] w)", 1))
    random = np.random.default_rng(0)
    x, w = random.standard_normal((40, 300)).astype(np.float32), random.standard_normal((300, 64)).astype(np.float32)
    pieces = [load_samples([{"x": x[i : i + n], "w": w} for i in range(0, 40, n)], model) for n in (1, 8, 40)]
    found = [observe(model, samples, ["y"], histograms=True, **QUIET) for samples in pieces]
    same(found[0], found[1])
    same(found[0], found[2])


def test_a_fixed_batch_counts_single_samples(parse):
    model = parse("g (float[4,2] x) => (float[4,2] y) { y = Neg(x) }")
    array = np.arange(16, dtype=np.float32).reshape(8, 2)
    found = observe(model, load_samples({"x": array}, model), ["y"], histograms=True, **QUIET)["y"]
    assert found.extremes == Range(-15, 0)
    assert found.means.count == 8
    assert found.means.mean.tolist() == [(-array).min(axis=1).mean(), (-array).max(axis=1).mean()]
    bad = parse("g (float[4,2] x) => (float[4,2] y) { y = Log(x) }")
    layout = load_samples({"x": np.where(np.arange(16).reshape(8, 2) == 13, -1, 1).astype(np.float32)}, bad)
    for call in (lambda: observe(bad, layout, ["y"], **QUIET), lambda: channels(bad, layout, [("y", 1)])):
        with pytest.raises(DataError, match="tensor 'y' holds NaN or infinity for sample 6$"):
            call()


def channels(model, samples, keys):
    return collect_channel_ranges(model, samples, keys, **QUIET)


@pytest.mark.parametrize("place", [0, 1, 17, 63, 699])
def test_nan_is_found_wherever_it_stands_and_the_first_sample_named(parse, place):
    model = parse("g (float[N,700] x) => (float[N,700] y) { l = Log(x) y = Relu(l) }")
    array = np.full((30, 700), 2, np.float32)
    array[11:, place] = -1
    samples = load_samples({"x": array}, model)
    with pytest.raises(DataError, match="tensor 'l' holds NaN or infinity for sample 11$"):
        observe(model, samples, ["l"], **QUIET)
    with pytest.raises(DataError, match="tensor 'l' holds NaN or infinity for sample 11$"):
        channels(model, samples, [("l", 1)])


def test_a_constant_that_is_not_finite_is_named(parse):
    model = parse("g (float[N,2] x) => (float[N,2] y) <float[2] w = {1,2}> { y = Add(x, w) }")
    model.graph.initializers["w"].const_value = ir.tensor(np.array([1, np.nan], np.float32), name="w")
    samples = load_samples({"x": np.ones((1, 2), np.float32)}, model)
    with pytest.raises(DataError, match="tensor 'w' holds NaN or infinity$"):
        observe(model, samples, ["w"], **QUIET)


@pytest.mark.parametrize(("method", "symmetric"), KINDS)
@pytest.mark.parametrize("value", [0.0, 3.0, -2.5, 1e-30, 1e30])
def test_constant_tensors(parse, method, symmetric, value):
    model = parse("g (float[N,9] x) => (float[N,9] y) { y = Identity(x) }")
    array = np.full((1, 9), value, np.float32)
    found = Context(model, samples=load_samples({"x": array}, model)).ranges(["y"], method, symmetric=symmetric)["y"]
    exact = float(array[0, 0])
    expected = Range(-abs(exact), abs(exact)) if symmetric else Range(exact, exact)
    # What is kept may not be more than there is, nor less than nearly all of the only value.
    assert expected.low <= found.low <= found.high <= expected.high
    assert max(-found.low, found.high) >= 0.9 * max(-expected.low, expected.high)


@pytest.mark.parametrize("method", METHODS)
def test_what_never_held_a_value(parse, method):
    model = parse(NET)
    samples = load_samples([{"x": np.ones((1, 4, 0), np.float32), "ids": np.ones((1, 0), np.int64)}], model)
    context = Context(model, samples=samples)
    assert context.ranges(["y", "i"], method) == {"y": Range(0, 0), "i": Range(0, 0)}
    assert context.channel_ranges([("y", 1)])["y", 1].high.tolist() == [0] * 4


def exact_error(x, low, high, levels):
    """What numpy says of quantizing x, computed value by value."""
    step = (high - low) / (levels - 1)
    return np.square(x - np.rint(np.clip(x, low, high) / step) * step).mean()


SHAPES = {
    "normal": lambda r, n: r.standard_normal(n),
    "relu": lambda r, n: np.maximum(r.standard_normal(n), 0),
    "outliers": lambda r, n: r.standard_normal(n) * np.where(r.random(n) < 1e-4, 40, 1),
    "laplace": lambda r, n: r.laplace(size=n),
    "skewed": lambda r, n: np.maximum(0.05 * (x := r.standard_normal(n)), x * 3),
}


@pytest.fixture(params=SHAPES)
def observed(request, parse):
    """All values of a tensor of which only some are counted, and what was observed."""
    random = np.random.default_rng(5)
    array = SHAPES[request.param](random, (40, 20000)).astype(np.float32)
    model = parse("g (float[N,20000] x) => (float[N,20000] y) { y = Identity(x) }")
    samples = load_samples({"x": array}, model)
    return array.astype(np.float64), observe(model, samples, ["y"], histograms=True, **QUIET)["y"]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("levels", [16, 256])
def test_mse_is_near_the_best_of_all_values(observed, symmetric, levels):
    x, seen = observed
    found = clipped_range(seen, "mse", symmetric=symmetric, levels=levels)
    levels -= symmetric
    low, high = (-np.abs(x).max(), np.abs(x).max()) if symmetric else (min(x.min(), 0), x.max())
    grid = np.linspace(0.04, 1, 49)
    some = x[:, ::20]
    if symmetric or low == 0:
        best = min((exact_error(some, low * a, high * a, levels), a) for a in grid)[1]
        ends = (low * best, high * best)
    else:
        best = min((exact_error(some, low * a, high * b, levels), a, b) for a in grid[::3] for b in grid[::3])
        ends = (low * best[1], high * best[2])
    # A tenth of the values is counted, and with them only eight of the outliers.
    assert exact_error(x, min(found.low, 0), found.high, levels) <= 1.15 * exact_error(x, *ends, levels)


def test_percentile_is_near_numpys(observed):
    x, seen = observed
    found = clipped_range(seen, "percentile")
    for side, share in ((found.low, 5e-6), (found.high, 1 - 5e-6)):
        near = np.quantile(x, [max(share - 5e-5, 0), min(share + 5e-5, 1)])
        assert near[0] - 0.01 * abs(near[0]) <= side <= near[1] + 0.01 * abs(near[1])
    limit = clipped_range(seen, "percentile", symmetric=True).high
    assert np.quantile(np.abs(x), 1 - 6e-5) * 0.99 <= limit <= np.abs(x).max()


def test_moving_average_is_the_mean_of_the_samples(observed):
    x, seen = observed
    found = clipped_range(seen, "moving_average")
    np.testing.assert_allclose([found.low, found.high], [x.min(axis=1).mean(), x.max(axis=1).mean()], rtol=1e-12)


def migacz(x, groups, bins=2048):
    """The published algorithm, bin by bin, over all values."""
    x = np.abs(x[x != 0])
    counts, edges = np.histogram(x, bins, (0, x.max()))
    scores = {}
    for end in range(bins, groups - 1, -16):
        p = counts[:end].astype(np.float64)
        q = np.zeros(end)
        p[-1] += counts[end:].sum()
        for part in np.array_split(np.arange(end), groups):
            full = part[p[part] > 0]
            q[full] = counts[part].sum() / max(len(full), 1)
        if (q[p > 0] > 0).all():
            p, q = p[p > 0] / p.sum(), q[p > 0] / q.sum()
            scores[edges[end]] = float((p * np.log(p / q)).sum())
    return scores


def test_entropy_is_as_published(observed):
    x, seen = observed
    found = clipped_range(seen, "entropy", symmetric=True)
    scores = migacz(x, 128)
    limits = np.array(sorted(scores))
    at = scores[limits[np.argmin(np.abs(limits - found.high))]]
    assert at <= min(scores.values()) + 0.1 * (scores[limits[-1]] - min(scores.values())) + 1e-3


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=40))
def test_a_histogram_rounds_to_one_in_512(values):
    array = np.array(values, np.float32)
    found, counts = Histogram.of(array).values
    assert counts.sum() == array.size
    assert (np.diff(found) >= 0).all()
    exact = np.sort(array.astype(np.float64))
    np.testing.assert_allclose(np.repeat(found, counts), exact, rtol=2.0**-8, atol=1e-38)


@given(st.integers(POSITIONS + 1, 1 << 40))
def test_positions_are_one_of_each_stretch(size):
    found = positions(size)
    assert found.shape == (POSITIONS,)
    assert found[0] >= 0
    assert found[-1] < size
    stretches = np.floor(found * (POSITIONS / size) + 1e-9)
    assert np.abs(stretches - np.arange(POSITIONS)).max() <= 1
    np.testing.assert_array_equal(found, positions(size))


def test_channel_ranges_equal_numpy(parse):
    model = parse(NET)
    samples = draw(1, 9)
    keys = [("y", 1), ("y", -2), ("e", 1), ("ids", 0)]
    found = Context(model, samples=load_samples(samples, model)).channel_ranges(keys)
    x = np.concatenate([sample["x"][0] for sample in samples], axis=1)
    for key, array in ((("y", 1), -x), (("y", -2), -x)):
        np.testing.assert_array_equal(found[key].low, array.min(axis=1))
        np.testing.assert_array_equal(found[key].high, array.max(axis=1))
    np.testing.assert_allclose(found["e", 1].high, np.exp(x).max(axis=1), rtol=1e-6)
    assert found["ids", 0].low.tolist() == [min(s["ids"].min(initial=0) for s in samples)]
    with pytest.raises(PassError, match="tensor 'y' has 3 axes; it has no axis 3"):
        channels(model, load_samples(samples, model), [("y", 3)])
    with pytest.raises(DataError, match="tensor 'y': axis 2 has different lengths for different samples"):
        channels(model, load_samples(samples, model), [("y", 2)])


def test_a_context_asks_once_for_all_that_count(parse):
    model = parse(NET)
    seen = []
    context = Context(model, samples=load_samples(draw(0, 5), model), progress=lambda *args: seen.append(args))
    for method, symmetric in [("mse", False), *KINDS]:
        context.ranges(["y", "z"], method, symmetric=symmetric)
    assert len(seen) == 5


def test_one_sample_is_enough_and_none_is_refused(parse):
    model = parse("g (float[N,3] x) => (float[N,3] y) { y = Neg(x) }")
    one = Context(model, samples=load_samples({"x": np.array([[1, 2, 4]], np.float32)}, model))
    for method in METHODS:
        assert one.ranges(["y"], method)["y"].low == pytest.approx(-4, rel=0.02)
    with pytest.raises(DataError, match="there are none; give them"):
        Context(model).ranges(["y"], "mse")
    with pytest.raises(DataError, match=r"x"):
        load_samples({"labels": np.array([1, 2])}, model)
    with pytest.raises(DataError, match="no samples"):
        load_samples([], model)

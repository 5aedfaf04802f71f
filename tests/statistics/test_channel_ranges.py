"""Ranges of channels: what the same method says of that slice as a tensor of its own, however the samples come."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import onnx_ir as ir
import pytest
from corpus.text import model
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.contract import Context
from onnxcompress.samples.samples import load_samples
from onnxcompress.statistics import channel_ranges
from onnxcompress.statistics.calibration import METHODS
from onnxcompress.statistics.channel_histogram import ChannelCounter, ChannelHistogram
from onnxcompress.statistics.channel_ranges import ChannelObservation, Part, observe_channels
from onnxcompress.statistics.histogram import Histogram

QUIET: Any = {"progress": lambda _what, _done, _total: None}
KINDS = [(method, symmetric) for method in METHODS for symmetric in (False, True)]
CHANNELS = 3
NET = "g (float[N,3,W] x) => (float[N,3,W] y, float[N,W,3] z) { y = Neg(x) z = Transpose<perm=[0,2,1]>(x) }"
KEYS = [("x", 1), ("y", -2), ("z", 2)]


def draw(seed: int, count: int, width: int = 2500) -> list[dict[str, np.ndarray]]:
    """Samples whose widths differ, some channels of which are larger than what is counted of one."""
    random = np.random.default_rng(seed)
    scales = np.array([1e-3, 1, 40], np.float32)[:, None]
    shapes = [(1, CHANNELS, w) for w in random.choice([0, 1, 30, width], count)]
    return [{"x": (random.standard_normal(shape) ** 3 * scales).astype(np.float32)} for shape in shapes]


def sliced(axis: int, length: int, shape: str, extra: str = "") -> ir.Model:
    """A model that gives each index of an axis of x, cut off by a Slice, as tensors c0, c1, …."""
    cuts = " ".join(f"c{i} = Slice(x, i{i}, i{i + 1}, axis)" for i in range(length))
    indices = {f"i{i}": np.array([i]) for i in range(length + 1)}
    text = f"g (float[{shape}] x) => (float[{shape}] y) {{ y = Identity(x) {extra} {cuts} }}"
    return model(text, {**indices, "axis": np.array([axis])})


@pytest.mark.parametrize(("method", "symmetric"), KINDS)
@pytest.mark.parametrize("levels", [16, 256])
@pytest.mark.parametrize(
    ("axis", "shape", "count"),
    [(1, (3, 2500), 6), (1, (3, 7, 5), 9), (2, (2100, 3), 4), (3, (2, 1500, 3), 3), (2, (40, 3, 70), 3)],
)
def test_a_channel_has_the_range_of_its_slice(
    method: Any, symmetric: bool, levels: int, axis: int, shape: tuple[int, ...], count: int
) -> None:
    random = np.random.default_rng(len(shape))
    scales = np.array([0.2, 1, 30]).reshape([-1 if i + 1 == axis else 1 for i in range(len(shape))])
    x = (random.laplace(size=(count, *shape)) * scales).astype(np.float32)
    subject = sliced(axis, 3, ",".join(["N", *map(str, shape)]))
    context = Context(subject, samples=load_samples({"x": x}, subject))
    found = context.channel_ranges([("y", axis), ("x", axis)], method, symmetric=symmetric, levels=levels)
    expected = context.ranges(["c0", "c1", "c2"], method, symmetric=symmetric, levels=levels)
    for name in ("x", "y"):
        assert found[name, axis].low.tolist() == [expected[f"c{i}"].low for i in range(3)]
        assert found[name, axis].high.tolist() == [expected[f"c{i}"].high for i in range(3)]
    assert (np.diff(found["y", axis].high) > 0).all()


@pytest.mark.parametrize(("method", "symmetric"), KINDS)
def test_a_channel_of_a_constant_has_the_range_of_its_slice(method: Any, symmetric: bool) -> None:
    w = np.random.default_rng(0).laplace(size=(2300, 3)).astype(np.float32)
    columns = {f"c{i}": np.ascontiguousarray(w[:, i]) for i in range(3)}
    text = "g (float[N,2300] x) => (float[N,3] y) { y = MatMul(x, w) a = Add(c0, c1) b = Add(a, c2) }"
    subject = model(text, {"w": w, **columns})
    context = Context(subject, samples=load_samples({"x": np.ones((1, 2300), np.float32)}, subject))
    found = context.channel_ranges([("w", 1)], method, symmetric=symmetric)["w", 1]
    expected = context.ranges(["c0", "c1", "c2"], method, symmetric=symmetric)
    assert found.low.tolist() == [expected[f"c{i}"].low for i in range(3)]
    assert found.high.tolist() == [expected[f"c{i}"].high for i in range(3)]


@pytest.mark.parametrize("method", METHODS)
def test_a_fixed_batch_counts_single_samples(method: Any) -> None:
    x = np.random.default_rng(0).laplace(size=(8, 3, 50)).astype(np.float32)
    found = []
    for shape in ("4,3,50", "N,3,50"):
        subject = sliced(1, 3, shape)
        context = Context(subject, samples=load_samples({"x": x}, subject))
        found.append(context.channel_ranges([("y", 1)], method)["y", 1].high.tolist())
        expected = context.ranges(["c0", "c1", "c2"], method)
        assert found[-1] == [expected[f"c{i}"].high for i in range(3)]
    assert found[0] == found[1]


def observed(samples: list[dict[str, np.ndarray]], **options: Any) -> dict[Part, ChannelObservation]:
    subject = model(NET, {})
    parts = [Part(*key) for key in KEYS]
    return observe_channels(subject, load_samples(samples, subject), parts, histograms=True, **options, **QUIET)


def same(one: dict[Part, ChannelObservation], other: dict[Part, ChannelObservation]) -> None:
    assert one.keys() == other.keys()
    for part, seen in one.items():
        for name in ("low", "high", "limbs", "counts"):
            np.testing.assert_array_equal(getattr(seen.extremes, name), getattr(other[part].extremes, name))
        a, b = seen.histogram, other[part].histogram
        assert a is not None and b is not None and len(a.codes)
        np.testing.assert_array_equal(a.codes, b.codes)
        np.testing.assert_array_equal(a.counts, b.counts)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 9999), st.lists(st.integers(1, 7), max_size=3), st.randoms(use_true_random=False))
def test_the_same_to_the_last_bit_however_split_ordered_and_merged(seed: int, cuts: list[int], random: Any) -> None:
    drawn = draw(seed, 8)
    drawn[0]["x"] = np.ones((1, CHANNELS, 1), np.float32)
    whole = observed(drawn)
    shuffled = random.sample(drawn, len(drawn))
    parts = [observed(shuffled[a:b]) for a, b in pairwise(sorted({0, *cuts, 8}))]
    random.shuffle(parts)
    for order in (parts, parts[::-1]):
        same(whole, {part: reduce(ChannelObservation.merge, [each[part] for each in order]) for part in whole})
        same(whole, {part: reduce(lambda a, b: b.merge(a), [each[part] for each in order]) for part in whole})


@pytest.mark.parametrize("cores", [1, 2, 5])
def test_the_same_in_any_batches_on_any_number_of_cores(monkeypatch: pytest.MonkeyPatch, cores: int) -> None:
    drawn = [{"x": each["x"]} for each in draw(3, 30) if each["x"].shape[2] == 2500]
    monkeypatch.setattr("onnxcompress.statistics.fetch.usable_cores", lambda: cores)
    expected = observed(drawn)
    for size in (3, len(drawn)):
        batches = [drawn[i : i + size] for i in range(0, len(drawn), size)]
        joined = [{"x": np.concatenate([each["x"] for each in batch])} for batch in batches]
        for limit in (1, 1 << 30):
            same(expected, observed(joined, limit_bytes=limit))


@pytest.mark.parametrize("most", [1, 2, 4, 5])
def test_the_same_in_any_number_of_passes(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    subject = model(NET, {})
    samples = load_samples(draw(1, 6), subject)
    expected = Context(subject, samples=samples).channel_ranges(KEYS, "mse")
    monkeypatch.setattr(channel_ranges, "MOST_CHANNELS", most)
    passes = []
    context = Context(subject, samples=samples, progress=lambda *args: passes.append(args))
    found = context.channel_ranges(KEYS, "mse")
    for key in KEYS:
        np.testing.assert_array_equal(found[key].low, expected[key].low)
        np.testing.assert_array_equal(found[key].high, expected[key].high)
    # An axis of three stays in one piece wherever a pass can hold it; two do not fit in one of five.
    assert len(passes) == 6 * {1: 9, 2: 6, 4: 3, 5: 3}[most]


@given(st.integers(0, 9999))
@settings(max_examples=20, deadline=None)
def test_a_channels_histogram_is_that_of_its_values(seed: int) -> None:
    random = np.random.default_rng(seed)
    counter = ChannelCounter()
    cubes = [random.standard_normal((2, 4, n)).astype(np.float32) for n in random.integers(1, 500, 5)]
    for cube in cubes:
        counter.add(cube)
    for index, found in enumerate(counter.histogram.split(4)):
        expected = Histogram.of(np.concatenate([cube[:, index].reshape(-1) for cube in cubes]))
        np.testing.assert_array_equal(found.keys, expected.keys)
        np.testing.assert_array_equal(found.counts, expected.counts)
        assert found.keys.dtype == expected.keys.dtype and found.counts.dtype == expected.counts.dtype


def test_empty_histograms_merge_and_split() -> None:
    none = ChannelCounter().histogram
    some = ChannelHistogram.of(np.array([1 << 16, 3, 3], np.uint32))
    assert none.merge(none).codes.size == 0
    for merged in (none.merge(some), some.merge(none)):
        assert [each.counts.tolist() for each in merged.split(3)] == [[2], [1], []]


@pytest.mark.parametrize("method", METHODS)
def test_what_never_held_a_value_is_zero(method: Any) -> None:
    subject = model(NET, {})
    samples = load_samples([{"x": np.ones((1, 3, 0), np.float32)}], subject)
    found = Context(subject, samples=samples).channel_ranges([("y", 1)], method)["y", 1]
    assert found.low.tolist() == found.high.tolist() == [0, 0, 0]


def test_memory_does_not_grow_with_the_samples() -> None:
    subject = model("g (float[N,200,640] x) => (float[N,200,640] y) { y = Neg(x) }", {})

    def peak(count: int) -> int:
        def draws() -> Iterator[dict[str, np.ndarray]]:
            random = np.random.default_rng(0)
            for _ in range(count):
                yield {"x": random.integers(-9, 9, (1, 200, 640)).astype(np.float32)}

        context = Context(subject, samples=load_samples(draws, subject))
        tracemalloc.start()
        context.channel_ranges([("y", 1)], "percentile")
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    # One sample's values take half a megabyte; kept until the end, sixty-four more would take thirty.
    assert peak(128) < peak(64) + 1e7

import numpy as np
import onnx_ir as ir
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.errors import ModelError
from onnxcompress.evaluation import timing
from onnxcompress.evaluation.timing import example_feed, summarise, time_models

RELU = "g (float[N,3] x) => (float[N,3] y) { y = Relu(x) }"


def test_models_are_timed_in_turning_order(parse, monkeypatch):
    calls = []

    class Recorder:
        def __init__(self, name):
            self.name = name

        def run(self, _feeds):
            calls.append(self.name)

    monkeypatch.setattr(timing, "open_session", lambda model, **_: Recorder(model))
    found = time_models(["a", "b"], {}, seconds=0)
    assert "".join(calls) == "aaabbb" + "abbaabbaab"
    assert [item.runs for item in found] == [5, 5]


@pytest.mark.parametrize(("widths", "order"), [((9, 3), "bab"), ((3, 9), "aba"), ((9, 3, 5), "abca")])
def test_large_models_take_turns_and_the_machine_favours_none(parse, monkeypatch, widths, order):
    """One is open at a time; of two the smaller one is opened twice, whatever drifts is in both of its turns."""
    opened = []
    monkeypatch.setattr(timing, "SHARED_BYTES", 0)
    text = "{0} (float[N] x) => (float[N] y) <float[{1}] w = {{{2}}}> {{ y = Relu(x) }}"
    models = [parse(text.format(*each, ",".join("1" * each[1]))) for each in zip("abc", widths, strict=False)]

    class Recorder:
        def run(self, _feeds):
            pass

    def open_session(model, *, prepack, **_):
        assert prepack
        opened.append(model.graph.name)
        return Recorder()

    monkeypatch.setattr(timing, "open_session", open_session)
    found = time_models(models, {}, seconds=0)
    assert "".join(opened) == order
    assert [item.runs for item in found] == [5] * len(models)


def test_three_rounds_are_enough_where_one_takes_more_than_a_second(monkeypatch):
    ticks = iter(range(0, 10**13, 600_000_000))
    runs = []
    session = type("Slow", (), {"run": lambda _, feeds: runs.append(feeds)})()
    assert timing._measure([session, session], {}, 0, lambda: next(ticks)).tolist() == [[600, 600]] * 3
    assert len(runs) == 6


def test_real_models_and_paths(parse, tmp_path):
    ir.save(parse(RELU), tmp_path / "m.onnx")
    first, second = time_models([tmp_path / "m.onnx", parse(RELU)], seconds=0, threads=1)
    assert (first.ratio, first.ratio_low, first.ratio_high) == (1, 1, 1)
    assert 0 < second.low <= second.median_ms <= second.high
    assert time_models([]) == []


def test_a_feed_that_does_not_fit(parse):
    with pytest.raises(ModelError, match="invalid dimensions for input: x"):
        time_models([parse(RELU)], {"x": np.ones((1, 4), np.float32)}, seconds=0)


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(0.1, 100), min_size=5, max_size=40), st.floats(0.1, 10))
def test_a_model_that_always_takes_k_times_as_long_has_ratio_k(times, k):
    slow = np.array(times)
    first, second = summarise(np.stack([slow, slow * k], axis=1))
    assert first.median_ms == np.median(slow)
    assert (second.ratio, second.ratio_low, second.ratio_high) == pytest.approx((k, k, k))
    assert slow.min() <= first.low <= first.median_ms <= first.high <= slow.max()


def test_the_interval_holds_the_median():
    noisy = np.random.default_rng(1).normal(10, 1, (200, 2))
    found = summarise(noisy)
    assert found == summarise(noisy)
    assert found[1].ratio_low < 1 < found[1].ratio_high
    assert found[0].high - found[0].low < 1


def test_the_example_feed_is_the_same_for_the_same_seed(parse):
    one, other = example_feed(parse(RELU), 1), example_feed(parse(RELU), 1)
    np.testing.assert_array_equal(one["x"], other["x"])

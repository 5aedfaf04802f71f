"""Which trial is the best, which are on the front, and what luck is."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from onnxcompress.search.budget import Budget
from onnxcompress.search.decide import Base, best, cost_of, excess, front, gains, loss_of, neighbours
from onnxcompress.search.job import Outcome

BASE = Base(bytes=1000, zipped=900, macs=500, memory=2000)


def outcome(number=0, **fields):
    known = {"bytes": 500, "macs": 500, "memory": 1000, "metric": "cosine", "drop": 0.0, "error": 0.0}
    known |= {"ratio": 0.5, "ratio_low": 0.49, "ratio_high": 0.51, "milliseconds": 1.0}
    return Outcome(number, **known | fields)


@pytest.mark.parametrize(
    ("objective", "cost"), [("latency", 0.5), ("size", 0.5), ("zipped", 0.4), ("macs", 1.0), ("memory", 0.5)]
)
def test_costs_are_parts_of_the_original(objective, cost):
    assert cost_of(outcome(zipped=360), BASE, Budget(objective)) == cost


def test_what_was_not_measured_costs_all():
    assert cost_of(outcome(ratio=None), BASE, Budget("latency")) == math.inf


def test_margins_tell_more_than_a_count_unless_that_is_far_beyond():
    lucky = outcome(metric="top1", drop=0.0, error=0.045, likely=0.02, likely_error=0.004)
    assert loss_of(lucky) == (0.02, 0.004)
    assert loss_of(replace(lucky, drop=0.1)) == (pytest.approx(0.055), 0.004)
    assert loss_of(replace(lucky, likely=None)) == (0.0, 0.045)
    assert loss_of(replace(lucky, drop=None)) == (1.0, 0.0)


def test_what_holds_with_its_error_comes_before_what_is_cheaper_and_holds_without():
    sure = outcome(0, ratio=0.8, ratio_high=0.81, drop=0.001, error=0.002)
    quick = outcome(1, ratio=0.3, drop=0.009, error=0.005)
    assert best([quick, sure], BASE, Budget()) is sure
    assert best([quick], BASE, Budget()) is quick
    assert best([replace(quick, drop=0.02)], BASE, Budget()) is None


def test_what_is_slower_has_to_be_smaller_by_more():
    slow = outcome(0, ratio=1.4, ratio_low=1.35, ratio_high=1.45, bytes=250)
    quick = outcome(1, bytes=300)
    assert best([slow, outcome(1, bytes=400)], BASE, Budget("size")) is slow
    assert best([slow], BASE, Budget("latency")) is None
    assert best([slow], BASE, Budget("size", speedup=1.0)) is None
    assert best([slow], BASE, Budget("size")) is slow
    assert best([slow, quick], BASE, Budget("size")) is quick
    assert best([slow, quick], BASE, Budget("size", speedup=0.7)) is slow


def test_within_the_error_of_a_clock_nothing_is_faster():
    assert not gains(outcome(ratio=0.99, ratio_high=0.995), BASE, Budget())
    assert not gains(outcome(ratio=0.9, ratio_high=1.1), BASE, Budget())
    assert gains(outcome(ratio=0.9, ratio_high=0.95), BASE, Budget())


@pytest.mark.parametrize(
    ("limits", "over"),
    [
        ({"target_size": 400}, 0.25),
        ({"target_size": 500}, 0.0),
        ({"max_memory": 800}, 0.25),
        ({"max_ms": 0.5}, 1.0),
        ({"speedup": 3.0}, 0.5),
        ({"speedup": 2.0}, 0.0),
    ],
)
def test_how_far_a_limit_is_exceeded(limits, over):
    assert excess(outcome(), BASE, Budget("size", **limits)) == pytest.approx(over)


def test_where_a_limit_cannot_be_kept_the_drop_is_and_what_comes_nearest_is_taken():
    near, far, lossy = outcome(0, bytes=450), outcome(1, bytes=800), outcome(2, bytes=100, drop=0.5)
    assert best([near, far, lossy], BASE, Budget("size", target_size=300)) is near


def test_trials_that_failed_or_were_stopped_are_not_taken():
    assert best([outcome(failed="no"), outcome(stopped=True)], BASE, Budget()) is None


def test_the_front_is_what_no_other_is_better_than():
    points = [(0.5, 0.01), (0.6, 0.02), (0.7, 0.001), (0.4, 0.05), (0.7, 0.0005)]
    trials = [outcome(n, ratio=ratio, drop=drop) for n, (ratio, drop) in enumerate(points)]
    found = front(trials, BASE, Budget())
    assert [each.number for each in found] == [3, 0, 4]
    assert [each.number for each in neighbours(trials[0], found, 2)] == [3, 4]
    assert [each.number for each in neighbours(trials[3], found, 1)] == [0]

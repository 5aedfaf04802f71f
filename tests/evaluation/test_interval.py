"""The interval of a drop against the likelihood itself, and how often it holds the truth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxcompress.evaluation.fidelity import Fidelity
from onnxcompress.evaluation.interval import Z, counts, mean_error, mean_interval, paired_interval, samples_needed


def off(lost: int, gained: int, count: int, delta: float) -> float:
    """Return the score statistic, with the most likely share of gains among a million that go with `delta`."""
    gains = np.linspace(max(0.0, -delta), min(1.0, (1 - delta) / 2), 1_000_001)[1:-1]
    losses, kept = gains + delta, np.maximum(1 - 2 * gains - delta, 1e-300)
    likely = lost * np.log(losses) + gained * np.log(gains) + (count - lost - gained) * np.log(kept)
    best = gains[likely.argmax()]
    return abs(lost - gained - count * delta) / np.sqrt(count * (2 * best + delta - delta**2))


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 20), st.integers(0, 20), st.integers(1, 200))
def test_the_ends_are_where_the_likelihood_says(lost: int, gained: int, unchanged: int) -> None:
    count = lost + gained + unchanged
    low, high = paired_interval(lost, gained, count)
    assert -1 <= low <= (lost - gained) / count <= high <= 1
    for end in (low, high):
        assert off(lost, gained, count, end) == pytest.approx(Z, abs=2e-3)
    assert paired_interval(gained, lost, count) == pytest.approx((-high, -low), abs=1e-12)


def test_it_holds_the_truth_as_often_as_it_says() -> None:
    random = np.random.default_rng(0)
    for shares in ((0.02, 0.01, 0.97), (0.10, 0.05, 0.85), (0.004, 0.0, 0.996)):
        truth = shares[0] - shares[1]
        drawn = random.multinomial(100, shares, size=400)
        ends = [paired_interval(lost, gained, 100) for lost, gained, _ in drawn]
        assert np.mean([low <= truth <= high for low, high in ends]) >= 0.93


def test_no_change_on_few_samples_shows_little() -> None:
    assert paired_interval(0, 0, 40)[1] == pytest.approx(Z**2 / (40 + Z**2))
    needed = samples_needed(0.0, paired_interval(0, 0, 40)[1], 40, 0.01, (0, 0))
    assert needed == pytest.approx(Z**2 / 0.01 - Z**2, rel=0.02)
    assert samples_needed(0.02, 0.05, 40, 0.01, (3, 1)) is None


def test_other_numbers_have_the_interval_of_their_mean() -> None:
    losses = np.random.default_rng(0).normal(0.1, 2.0, 500)
    error = losses.std(ddof=1) / 500**0.5
    assert counts(losses) is None
    assert mean_error(losses) == pytest.approx(error)
    assert mean_interval(losses) == pytest.approx((losses.mean() - Z * error, losses.mean() + Z * error))
    assert samples_needed(losses.mean(), losses.mean() + 0.2, 500, losses.mean() + 0.1, None) == 2000


def test_what_belongs_to_one_sample_counts_once() -> None:
    """A sample with 1000 decisions that fall together says no more than one with a single decision."""
    random = np.random.default_rng(0)
    one = random.normal(size=(50, 3)).astype(np.float32)
    other = random.normal(size=(50, 3)).astype(np.float32)
    single, many = Fidelity("y"), Fidelity("y")
    single.update(one, other)
    many.update(*(np.repeat(values[:, None], 1000, axis=1) for values in (one, other)))
    np.testing.assert_array_equal(single.losses(), many.losses())  # type: ignore[arg-type]

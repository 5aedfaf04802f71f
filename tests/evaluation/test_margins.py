"""The drop that margins lead to expect, against all pairs one by one, and against counting."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.evaluation.margins import Margins


def scores(seed: int, count: int, classes: int = 5) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    labels = random.integers(0, classes, count)
    first = random.normal(size=(count, classes)) + 2 * np.eye(classes)[labels]
    return first, first + 0.3 * random.normal(size=first.shape), labels


def test_it_is_the_mean_over_all_pairs() -> None:
    first, second, labels = scores(0, 30)
    margins = Margins()
    for part in (slice(0, 7), slice(7, 30)):
        margins.update(first[part], second[part], labels[part])

    def ahead(row: np.ndarray, label: int) -> float:
        return float(row[label] - max(value for index, value in enumerate(row) if index != label))

    before = [ahead(row, label) for row, label in zip(first, labels, strict=True)]
    moved = [ahead(row, label) - old for row, label, old in zip(second, labels, before, strict=True)]
    pairs = [(old > 0) - (old + move > 0) for old in before for move in moved]
    found = margins.expected()
    assert found is not None
    assert found[0] == pytest.approx(np.mean(pairs))


def test_it_varies_less_than_counting_and_is_right_on_average() -> None:
    counted, expected, errors = [], [], []
    for seed in range(200):
        first, second, labels = scores(seed, 100)
        margins = Margins()
        margins.update(first, second, labels)
        likely = margins.expected()
        assert likely is not None
        counted.append(np.mean(1.0 * (first.argmax(1) == labels) - (second.argmax(1) == labels)))
        expected.append(likely[0])
        errors.append(likely[1])
    assert np.std(expected) < 0.75 * np.std(counted)
    assert abs(np.mean(expected) - np.mean(counted)) < 3 * np.std(counted) / 200**0.5
    assert np.mean(errors) == pytest.approx(np.std(expected), rel=0.25)


def test_probabilities_are_compared_by_their_logarithms() -> None:
    first, second, labels = scores(0, 50)
    plain, soft = Margins(), Margins()
    plain.update(first, second, labels)
    exps = (np.exp(values) / np.exp(values).sum(1, keepdims=True) for values in (first, second))
    soft.update(*exps, labels)
    assert soft.expected() == pytest.approx(plain.expected())


def test_what_has_no_classes_has_no_margins() -> None:
    margins = Margins()
    margins.update(np.ones((4, 1)), np.ones((4, 1)), None)
    margins.update(np.ones(4, np.int64), np.ones(4, np.int64), None)
    margins.update(np.ones((4, 3)), np.ones((4, 2)), None)
    margins.update([1], [1], None)
    assert margins.expected() is None


def test_what_is_not_finite_is_left_out() -> None:
    first, second, labels = scores(0, 30)
    margins, fewer = Margins(), Margins()
    fewer.update(first[2:], second[2:], labels[2:])
    second[0], second[1] = np.inf, np.nan
    margins.update(first, second, labels)
    assert margins.expected() == fewer.expected()

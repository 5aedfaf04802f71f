"""The error at the output of a layer that its Gram matrix predicts."""

from __future__ import annotations

import numpy as np
import pytest

from onnxcompress.passes.quantize.weight_only.errors import output_error


def test_it_is_the_squared_difference_of_products() -> None:
    random = np.random.default_rng(0)
    weight, data = random.normal(size=(2, 1500, 8)), random.normal(size=(2, 50, 8))
    rounded = np.rint(weight * 4) / 4
    wanted = np.square(data @ (weight - rounded).swapaxes(1, 2)).sum()
    assert output_error(weight, rounded, data.swapaxes(1, 2) @ data) == pytest.approx(wanted)


def test_rows_of_a_table_count_as_often_as_they_are_looked_up() -> None:
    random = np.random.default_rng(0)
    table, ids = random.normal(size=(20, 8)), random.integers(0, 20, 100)
    rounded = np.rint(table * 4) / 4
    wanted = np.square((table - rounded)[ids]).sum()
    assert output_error(table, rounded, np.bincount(ids, minlength=20)) == pytest.approx(wanted)

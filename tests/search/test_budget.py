"""Budgets as users write them."""

from __future__ import annotations

import pytest

from onnxcompress.errors import OptionError
from onnxcompress.search.budget import read_budget, read_bytes, read_seconds, read_share


@pytest.mark.parametrize(
    ("text", "value"), [("1%", 0.01), ("0.5 %", 0.005), ("0.02", 0.02), (0.03, 0.03), ("0", 0.0), ("100%", 1.0)]
)
def test_shares(text, value):
    assert read_share("max_drop", text) == pytest.approx(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [("300kB", 300_000), ("1.5MB", 1_500_000), ("2 MiB", 2 * 2**20), ("1GB", 10**9), (1234, 1234), ("7b", 7)],
)
def test_sizes(text, value):
    assert read_bytes("target_size", text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("90s", 90), ("5m", 300), ("1h30m", 5400), ("1.5m", 90), (45, 45), ("45", 45), ("0", 0)]
)
def test_times(text, value):
    assert read_seconds("budget", text) == value


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("max_drop", "-1%", "max_drop = '-1%': expected a share of 0 or more, such as 1% or 0.01"),
        ("max_drop", "1", "max_drop = '1': that is all there is to lose; write 1% for a hundredth, or 100%"),
        ("speedup", 0.5, "speedup = 0.5: for latency nothing slower is taken; give 1 or more, or another aim"),
        ("max_drop", "one", "max_drop = 'one': expected a share of 0 or more, such as 1% or 0.01"),
        ("max_drop", "nan", "max_drop = 'nan': expected a share of 0 or more, such as 1% or 0.01"),
        ("target_size", "0", "target_size = '0': expected more than 0 bytes, such as 300kB or 1.5MB"),
        ("target_size", "3 apples", "target_size = '3 apples': expected more than 0 bytes, such as 300kB or 1.5MB"),
        ("max_memory", "-5MB", "max_memory = '-5MB': expected more than 0 bytes, such as 300kB or 1.5MB"),
        ("speedup", 0.0, "speedup = 0: expected a factor such as 1.5, above 0"),
        ("max_ms", -1.0, "max_ms = -1: expected milliseconds, above 0"),
        ("budget", "soon", "budget = 'soon': expected a time such as 90s, 5m or 1h30m"),
        ("budget", "0", "budget = 0: expected a time such as 5m, above 0"),
        ("objective", "latncy", "for = 'latncy': expected one of latency, size, zipped, macs, memory; did you mean"),
    ],
)
def test_what_is_no_budget(option, value, said):
    with pytest.raises(OptionError) as error:
        read_budget(**{option: value})
    assert str(error.value).startswith(said)


def test_what_was_asked_for_is_told():
    assert read_budget().asked() == {"for": "latency", "max_drop": 0.01}
    found = read_budget("size", max_drop="2%", speedup=1.5, target_size="1kB", max_ms=3, max_memory="1MB").asked()
    limits = {"speedup": 1.5, "target_size": 1000, "max_ms": 3.0, "max_memory": 10**6}
    assert found == {"for": "size", "max_drop": 0.02, **limits}

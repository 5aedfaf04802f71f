"""Numbers as people read them, and options as they type them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

PREFIXES = ("", "k", "M", "G", "T", "P")


def count(value: int) -> str:
    """Return a count with three or four digits and a prefix.

    >>> count(166730), count(6191040), count(950), count(0)
    ('166.7 k', '6.19 M', '950', '0')
    """
    return _prefixed(value, "").strip()


def size(value: int) -> str:
    """Return a number of bytes; a kB is 1,000 of them.

    >>> size(670475), size(12), size(102_230_129)
    ('670.5 kB', '12 B', '102.2 MB')
    """
    return _prefixed(value, "B")


def _prefixed(value: int, unit: str) -> str:
    power, scaled = 0, float(value)
    while abs(scaled) >= 999.95 and power < len(PREFIXES) - 1:
        scaled /= 1000
        power += 1
    digits = 0 if power == 0 else 2 if abs(scaled) < 9.995 else 1
    return f"{scaled:.{digits}f} {PREFIXES[power]}{unit}"


def number(value: float | None, form: str = ".4f") -> str:
    """Return a measurement, or a dash where there is none.

    >>> number(0.98765), number(None), number(float("inf"))
    ('0.9877', '–', '∞')
    """
    if value is None:
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    return format(value, form)


def times(before: float, after: float) -> str:
    """Return how many times smaller `after` is than `before`.

    >>> times(400, 100), times(100, 0)
    ('4.00×', '∞')
    """
    return f"{before / after:.2f}×" if after else "∞"


def smaller(before: float, after: float) -> str:
    """Say how much smaller something became, or larger.

    >>> smaller(400, 100), smaller(100, 400), smaller(100, 100)
    ('4.00× smaller', '4.00× larger', 'as large')
    """
    if before == after:
        return "as large"
    return f"{times(after, before)} larger" if after > before else f"{times(before, after)} smaller"


def plain(value: float | None) -> str:
    """Return a number for a script to sort by; nothing where there is none.

    >>> plain(0.5), plain(None), plain(float("nan"))
    ('0.5', '', '')
    """
    return "" if value is None or math.isnan(value) else repr(value).replace("inf", "Infinity")


def round_size(value: float) -> str:
    """Return a round number of bytes.

    >>> round_size(200000.0)
    '200 kB'
    """
    return size(int(value)).replace(".0 ", " ").replace(".00 ", " ")


def date(iso: str) -> str:
    """Return a time as people read it.

    >>> date("2026-11-30T22:38:43+00:00")
    '2026-11-30, 22:38 UTC'
    """
    day, _, time = iso.partition("T")
    return f"{day}, {time[:5]} UTC"


def shape(sizes: Sequence[int | str | None] | None) -> str:
    """Return a shape; an extent without a size has its name.

    >>> shape([1, "n", None]), shape(None)
    ('[1, n, ?]', 'of any rank')
    """
    return "of any rank" if sizes is None else f"[{', '.join('?' if d is None else str(d) for d in sizes)}]"


def milliseconds(value: float | None) -> str:
    """Return a time with three digits.

    >>> milliseconds(0.0751), milliseconds(7.88), milliseconds(1234.5), milliseconds(None)
    ('0.0751', '7.88', '1234', '–')
    """
    if value is None:
        return "–"
    digits = 2 - math.floor(math.log10(value)) if value > 0 else 0
    return f"{value:.{min(max(digits, 0), 6)}f}"


def as_typed(value: Any) -> str:
    """Return the value of an option as the command line takes it."""
    if isinstance(value, (tuple, list, dict)):
        return ",".join(as_typed(item) for item in value) or "none"
    if isinstance(value, bool):
        return str(value).lower()
    return {None: "none", "": '""'}.get(value, str(value))


def typed_options(options: Mapping[str, Any], table: str = "") -> Iterator[str]:
    """Yield ``name=value`` for each option that says something, tables of options as dotted names."""
    for name, value in options.items():
        if isinstance(value, dict):
            yield from typed_options(value, f"{table}{name}.")
        elif value is not None and value not in ("", (), []):
            yield f"{table}{name}={as_typed(value)}"

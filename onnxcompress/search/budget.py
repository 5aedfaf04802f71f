"""What the user asks for: at most this loss, this size, this time; read from text, and held against itself."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from ..errors import OptionError, did_you_mean

Objective: TypeAlias = Literal["latency", "size", "zipped", "macs", "memory"]

MAX_DROP = 0.01
SECONDS = 300.0

BYTES = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "kib": 2**10, "mib": 2**20, "gib": 2**30}
SPANS = {"s": 1.0, "m": 60.0, "h": 3600.0}


@dataclass(frozen=True)
class Budget:
    """What a search has to keep to, and how long it may take.

    Attributes
    ----------
    objective : {"latency", "size", "zipped", "macs", "memory"}
        What is to become small: time, bytes of the file, bytes of the file compressed by zlib, multiply-accumulates,
        or the memory of a run (estimated).
    max_drop : float
        How much of the metric may be lost.
    speedup : float or None
        How many times as fast as the original it must be at least. None: what is slower has to be smaller by more.
    target_size, max_memory : int or None
        In bytes.
    max_ms : float or None
    seconds, train : float
        How long the search, and training behind it, may take.
    """

    objective: Objective = "latency"
    max_drop: float = MAX_DROP
    speedup: float | None = None
    target_size: int | None = None
    max_ms: float | None = None
    max_memory: int | None = None
    seconds: float = SECONDS
    train: float = 0.0

    def asked(self) -> dict[str, float | str]:
        """Return what was asked for, by name."""
        found: dict[str, float | str] = {"for": self.objective, "max_drop": self.max_drop}
        for name in ("speedup", "target_size", "max_ms", "max_memory"):
            value = getattr(self, name)
            found |= {} if value is None else {name: value}
        return found


def read_budget(
    objective: str = "latency",
    *,
    max_drop: float | str = MAX_DROP,
    speedup: float | None = None,
    target_size: int | str | None = None,
    max_ms: float | None = None,
    max_memory: int | str | None = None,
    budget: float | str = SECONDS,
    train: float | str = 0.0,
) -> Budget:
    """Read a budget as the user wrote it.

    Raises
    ------
    OptionError
        Names the option, its value and what is expected.
    """
    known = list(get_args(Objective))
    if objective not in known:
        raise OptionError(f"for = {objective!r}: expected one of {', '.join(known)}{did_you_mean(objective, known)}")
    if objective == "latency" and speedup is not None and 0 < speedup < 1:
        raise OptionError(f"speedup = {speedup:g}: for latency nothing slower is taken; give 1 or more, or another aim")
    return Budget(
        objective=objective,  # type: ignore[arg-type]
        max_drop=read_share("max_drop", max_drop),
        speedup=None if speedup is None else _positive("speedup", speedup, "a factor such as 1.5"),
        target_size=None if target_size is None else read_bytes("target_size", target_size),
        max_ms=None if max_ms is None else _positive("max_ms", max_ms, "milliseconds"),
        max_memory=None if max_memory is None else read_bytes("max_memory", max_memory),
        seconds=_positive("budget", read_seconds("budget", budget), "a time such as 5m"),
        train=read_seconds("train", train),
    )


def read_share(option: str, value: float | str) -> float:
    """Read a part of the metric.

    >>> read_share("max_drop", "1%"), read_share("max_drop", 0.005)
    (0.01, 0.005)
    """
    text = str(value).strip()
    number = _number(text.removesuffix("%"))
    number = number / 100 if text.endswith("%") else number
    if text == "1":
        raise OptionError(f"{option} = {value!r}: that is all there is to lose; write 1% for a hundredth, or 100%")
    if not 0 <= number < math.inf:
        raise OptionError(f"{option} = {value!r}: expected a share of 0 or more, such as 1% or 0.01")
    return number


def read_bytes(option: str, value: int | str) -> int:
    """Read a size.

    >>> read_bytes("target_size", "300kB"), read_bytes("target_size", "1.5 MiB")
    (300000, 1572864)
    """
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-zA-Z]*)\s*", str(value))
    number = _number(found[1]) if found else math.nan
    if not found or found[2].lower() not in BYTES or not number > 0:
        raise OptionError(f"{option} = {value!r}: expected more than 0 bytes, such as 300kB or 1.5MB")
    return int(number * BYTES[found[2].lower()])


def read_seconds(option: str, value: float | str) -> float:
    """Read a time.

    >>> read_seconds("budget", "5m"), read_seconds("budget", "1h30m"), read_seconds("budget", 90)
    (300.0, 5400.0, 90.0)
    """
    text = str(value).strip()
    parts = re.findall(r"([0-9.]+)([smh])", text)
    whole = "".join(f"{number}{unit}" for number, unit in parts) == text and parts
    seconds = sum(_number(number) * SPANS[unit] for number, unit in parts) if whole else _number(text)
    if not 0 <= seconds < math.inf:
        raise OptionError(f"{option} = {value!r}: expected a time such as 90s, 5m or 1h30m")
    return seconds


def _positive(option: str, value: float, expected: str) -> float:
    if not 0 < value < math.inf:
        raise OptionError(f"{option} = {value:g}: expected {expected}, above 0")
    return float(value)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan

"""Rounds: passes that are repeated together, with numbers that grow from one round to the next.

Passes in a row that have the same ``rounds`` are repeated together so many times. In them a number may be written as
``{initial = 0.2, final = 0.8}``: in the first and the last round it is that, and between them it follows a polynomial.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from itertools import groupby, pairwise
from operator import attrgetter
from typing import Annotated, Any, TypeAlias

import msgspec

from . import registry
from .errors import OptionError, did_you_mean

ROUNDS = "rounds"
"""What stands beside a pass's own options."""

Table: TypeAlias = dict[str, Any]
"""One pass as it is written: its name and its options."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Growth:
    """A number that grows from round to round.

    Attributes
    ----------
    initial, final : int or float
        What it is in the first round and in the last; of whole numbers all are.
    power : float
        It grows fast at first: ``final + (initial - final) · (1 - t)^power``, with t from 0 to 1. 1 is a straight line.
    relative : bool
        It is a share of what the round before left, as it must be where `shrink` is one of the passes.
    """

    initial: int | float
    final: int | float
    power: Annotated[float, msgspec.Meta(gt=0)] = 3.0
    relative: bool = False

    def values(self, rounds: int) -> list[int] | list[float]:
        """Return the number in each round."""
        found = polynomial(self.initial, self.final, rounds, self.power)
        if self.relative:
            return of_what_is_left(found)
        whole = isinstance(self.initial, int) and isinstance(self.final, int)
        return [round(value) for value in found] if whole else found


GROWTH = tuple(field.name for field in dataclasses.fields(Growth))


def polynomial(initial: float, final: float, rounds: int, power: float = 3.0) -> list[float]:
    """Return a number for each round, from `initial` to `final`, growing fast at first; of one round, `final`.

    Zhu and Gupta, "To prune, or not to prune", arXiv:1710.01878; TensorFlow's ``PolynomialDecay``.

    >>> [round(s, 3) for s in polynomial(0.0, 0.8, 5)]
    [0.0, 0.462, 0.7, 0.787, 0.8]
    """
    if rounds == 1:
        return [final]
    return [final + (initial - final) * (1 - number / (rounds - 1)) ** power for number in range(rounds)]


def of_what_is_left(sparsities: Sequence[float]) -> list[float]:
    """Turn shares of the original into shares of what the round before left, as they must be once `Shrink` ran.

    >>> of_what_is_left([0.5, 0.75])
    [0.5, 0.5]
    """
    if not all(0 <= sparsity < 1 for sparsity in sparsities):
        raise OptionError(f"shares of what is left: expected numbers in [0, 1), got {list(sparsities)}")
    return [max(0.0, 1 - (1 - now) / (1 - before)) for before, now in pairwise([0.0, *sparsities])]


@dataclasses.dataclass(frozen=True)
class Written:
    """A pass as it is written, in a recipe or on the command line.

    Attributes
    ----------
    table : dict
        Its name and options, and how many rounds.
    where : str
        What errors begin with.
    strict : bool
        Numbers are numbers; on the command line they are text.
    """

    table: Table
    where: str
    strict: bool = True

    @property
    def rounds(self) -> int | None:
        """How often it is repeated; None where that is not said."""
        given = self.table.get(ROUNDS)
        return None if given is None else self._read(ROUNDS, given, Annotated[int, msgspec.Meta(ge=1, le=1000)])

    def in_round(self, number: int, rounds: int | None) -> Written:
        """Return the pass as it is in one of the rounds."""
        plain = registry.plain_tables(str(self.table.get("name")))
        table = {k: v if k in plain else self._at(k, v, number, rounds) for k, v in self.table.items() if k != ROUNDS}
        return Written(table, self.where if rounds is None else f"{self.where}, round {number + 1}", self.strict)

    def _at(self, key: str, value: Any, number: int, rounds: int | None) -> Any:
        if not isinstance(value, dict):
            return value
        if not any(name in GROWTH and not isinstance(inner, dict) for name, inner in value.items()):
            return {name: self._at(f"{key}.{name}", inner, number, rounds) for name, inner in value.items()}
        for name in value:
            if name not in GROWTH:
                hint = did_you_mean(name, list(GROWTH)) or f"; expected one of {', '.join(GROWTH)}"
                raise OptionError(f"{self.where}: {key}: unknown '{name}'{hint}")
        if rounds is None:
            raise OptionError(f"{self.where}: {key} grows from round to round; say how many, with {ROUNDS} = NUMBER")
        growth: Growth = self._read(key, value, Growth)
        try:
            return growth.values(rounds)[number]
        except OptionError as error:
            raise OptionError(f"{self.where}: {key}: {error}") from None

    def _read(self, key: str, value: Any, kind: Any) -> Any:
        try:
            return msgspec.convert(value, kind, strict=self.strict)
        except msgspec.ValidationError as error:
            text = str(error)
            raise OptionError(f"{self.where}: {key} = {value!r}: {text[:1].lower()}{text[1:]}") from None


def expand(steps: Sequence[Written]) -> list[Written]:
    """Repeat what has `rounds`: passes in a row that have as many are repeated together."""
    found = []
    for rounds, block in groupby(steps, key=attrgetter("rounds")):
        together = list(block)
        found += [step.in_round(number, rounds) for number in range(rounds or 1) for step in together]
    return found

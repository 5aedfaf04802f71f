"""The user's own metric."""

from __future__ import annotations

from collections.abc import Callable
from inspect import Parameter, signature
from typing import Any

import numpy as np

from ...errors import MetricError
from ...runtime.session import Array
from ...runtime.user_code import describe
from ...samples.samples import Batch
from .score import Outputs

NAMES = ("outputs", "labels", "reference")
"""What a function may ask for, by these names, or by place in this order."""


class Own:
    """Keeps all outputs in memory, because a function may ask anything of them."""

    def __init__(self, spec: str, function: Callable[..., Any]) -> None:
        self._spec, self._function = spec, function
        self._asked = _asked(function)
        self._outputs: dict[str, list[Any]] = {}
        self._references: dict[str, list[Any]] = {}
        self._labels: list[Array] = []
        self._count = 0

    def update(self, outputs: Outputs, reference: Outputs, batch: Batch) -> None:
        """Take in one batch."""
        for name, value in outputs.items():
            self._outputs.setdefault(name, []).append(value)
            self._references.setdefault(name, []).append(reference[name])
        self._labels += [batch.labels] if batch.labels is not None else []
        self._count += batch.count

    def value(self) -> float:
        """Return what the function returns, or the mean of that."""
        found = self._call(self._outputs)
        return float(np.mean(found))

    def losses(self) -> Array | None:
        """Return what each sample loses, where the function returns a number for each."""
        found = self._call(self._outputs)
        return None if found.ndim == 0 else np.asarray(self._call(self._references) - found)

    def _call(self, outputs: dict[str, list[Any]]) -> Array:
        given = {
            "outputs": {name: _joined(values) for name, values in outputs.items()},
            "labels": np.concatenate(self._labels) if self._labels else None,
            "reference": {name: _joined(values) for name, values in self._references.items()},
        }
        try:
            if isinstance(self._asked, int):
                value = self._function(*[given[name] for name in NAMES[: self._asked]])
            else:
                value = self._function(**{name: given[name] for name in self._asked})
        except Exception as error:
            raise MetricError(f"metric '{self._spec}' failed: {describe(error)}") from error
        return self._checked(value)

    def _checked(self, value: Any) -> Array:
        numbers = np.asarray(value) if isinstance(value, (int, float, np.integer, np.floating, np.ndarray)) else None
        if numbers is not None and numbers.size == 1:
            numbers = numbers.reshape(())
        fits = numbers is not None and numbers.dtype.kind in "fiub" and numbers.shape in ((), (self._count,))
        if numbers is None or not fits or not np.isfinite(numbers).all():
            raise MetricError(
                f"metric '{self._spec}' must return one finite number, or one for each of {self._count} samples, "
                f"got {value!r:.60}"
            )
        return numbers.astype(np.float64)


def _asked(function: Callable[..., Any]) -> int | tuple[str, ...]:
    """Return the names that a function asks for, or where it has others, how many arguments it takes by place."""
    try:
        given = signature(function).parameters.values()
    except (TypeError, ValueError):
        return 2
    places = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
    needed = [p for p in given if p.default is p.empty and p.kind in (*places, Parameter.KEYWORD_ONLY)]
    if needed and all(p.name in NAMES and p.kind is not Parameter.POSITIONAL_ONLY for p in needed):
        return tuple(p.name for p in given if p.name in NAMES)
    return len(NAMES) if len([p for p in needed if p.kind in places]) == len(NAMES) else 2


def _joined(values: list[Any]) -> Any:
    """One array if the batches' arrays fit together along the first axis, else a list of them."""
    if not all(isinstance(value, np.ndarray) and value.ndim for value in values):
        return values
    same = len({value.shape[1:] for value in values}) == 1
    return np.concatenate(values) if same else values

"""How a model's outputs are scored: a table of metrics, and the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import partial
from inspect import signature
from typing import Any, Protocol

import numpy as np

from ..errors import MetricError, OptionError, did_you_mean
from ..runtime.session import Array
from ..runtime.user_code import describe, load_function
from .fidelity import Fidelity, class_scores, decisions

Outputs = Mapping[str, Any]


class Score(Protocol):
    """Adds up what is needed of the outputs, batch by batch."""

    def update(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        """Take in one batch; `reference` holds the original's outputs for the same samples."""

    def value(self) -> float:
        """Return the metric over all batches."""

    def losses(self) -> Array | None:
        """Return how much is lost on each sample, so that the mean is the drop; None where that cannot be told."""


@dataclass(frozen=True)
class Metric:
    """One way to score a model by its outputs.

    Attributes
    ----------
    name : str
    needs_labels, needs_reference : bool
        What it compares the outputs with: the labels, the original's outputs.
    make : callable
        Returns a `Score` that has seen nothing yet; see `start`.
    loss : callable or None
        ``(reference value, value)`` to how much was lost (higher is worse); None if the metric cannot tell.
    """

    name: str
    needs_labels: bool
    needs_reference: bool
    make: Callable[[Collection[str]], Score]
    loss: Callable[[float, float], float] | None

    def start(self, resizable: Collection[str] = ()) -> Score:
        """Return a `Score` that has seen nothing yet; the two models may give outputs `resizable` in other sizes."""
        return self.make(resizable)

    def drop(self, reference_value: float, value: float) -> float:
        """Return how much was lost; higher is worse, and 0 is nothing.

        Raises
        ------
        MetricError
            The metric has no such number (sqnr has no upper end).
        """
        if self.loss is None:
            raise MetricError(f"metric '{self.name}' has no drop to limit; use agreement, cosine or max_abs instead")
        return self.loss(reference_value, value)


class _TopK:
    def __init__(self, k: int) -> None:
        self._k = k
        self._right = self._seen = 0
        self._losses: list[Array] = []

    def update(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        name, output = first_output(outputs)
        wanted = labels if labels is not None else np.zeros(0)
        right, was_right = (_hits(name, array, wanted, self._k) for array in (output, reference[name]))
        self._right += int(right.sum())
        self._seen += right.size
        self._losses.append(by_sample(was_right.astype(np.float64) - right, len(wanted) if wanted.ndim else 1))

    def value(self) -> float:
        return self._right / self._seen

    def losses(self) -> Array:
        return np.concatenate(self._losses)


def by_sample(values: Array, count: int) -> Array:
    """Return the mean for each of `count` samples: what belongs to one sample says less than as many samples would."""
    return np.asarray(values.reshape(count, -1).mean(axis=1))


def _hits(name: str, output: Array, labels: Array, k: int) -> Array:
    """For each label, whether it is among the `k` highest classes (equal ones count in their order)."""
    scores = class_scores(output)
    if scores is None:
        found = decisions(output)
        if found is None:
            raise MetricError(f"output '{name}' of shape {list(output.shape)} holds no classes; {_OWN}")
        return np.asarray(found.reshape(-1) == _flat_labels(name, labels, found.size))
    rows = scores.reshape(-1, scores.shape[-1])
    wanted = _flat_labels(name, labels, len(rows))
    if wanted.dtype.kind not in "iub":
        raise MetricError(f"labels: expected class numbers (integers), got {wanted.dtype}; {_OWN}")
    wanted = wanted.astype(np.int64)
    wrong = (wanted < 0) | (wanted >= rows.shape[1])
    if wrong.any():
        raise MetricError(f"label {wanted[wrong][0]}: output '{name}' has classes 0 to {rows.shape[1] - 1}")
    own = np.take_along_axis(rows, wanted[:, None], axis=1)
    earlier = np.arange(rows.shape[1]) < wanted[:, None]
    rank = ((rows > own) | ((rows == own) & earlier)).sum(axis=1)
    # A comparison with NaN is false, which would make a broken model perfect.
    return np.asarray((rank < k) & ~np.isnan(rows).any(axis=1))


def _flat_labels(name: str, labels: Array, count: int) -> Array:
    if labels.size != count:
        raise MetricError(f"output '{name}' holds {count} decisions for labels of shape {list(labels.shape)}; {_OWN}")
    return labels.reshape(-1)


_OWN = 'use a metric of your own (metric = "file.py:function")'


class _FidelityScore:
    def __init__(self, field: str, resizable: Collection[str]) -> None:
        self._field, self._resizable = field, resizable
        self._fidelity: Fidelity | None = None

    def update(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        name, output = first_output(outputs)
        self._fidelity = self._fidelity or Fidelity(name, resizable=name in self._resizable)
        self._fidelity.update(reference[name], output)

    def value(self) -> float:
        if self._fidelity is None:
            raise MetricError(f"metric '{self._field}': there are no outputs")
        value: float | None = getattr(self._fidelity.result(), self._field)
        if value is None:
            raise MetricError(
                f"metric '{self._field}': output '{self._fidelity.name}' {self._fidelity.why_none}; {_OWN}"
            )
        return value

    def losses(self) -> Array | None:
        return None if self._field != "agreement" or self._fidelity is None else self._fidelity.losses()


class _UserScore:
    """Keeps all outputs in memory, because a function may ask anything of them."""

    def __init__(self, spec: str, function: Callable[..., Any]) -> None:
        self._spec = spec
        self._function = function
        self._outputs: dict[str, list[Any]] = {}
        self._references: dict[str, list[Any]] | None = {} if _takes_reference(function) else None
        self._labels: list[Array] = []

    def update(self, outputs: Outputs, reference: Outputs, labels: Array | None) -> None:
        for name, value in outputs.items():
            self._outputs.setdefault(name, []).append(value)
            if self._references is not None:
                self._references.setdefault(name, []).append(reference[name])
        self._labels += [labels] if labels is not None else []

    def value(self) -> float:
        outputs = {name: _joined(values) for name, values in self._outputs.items()}
        labels = np.concatenate(self._labels) if self._labels else None
        try:
            if self._references is None:
                value = self._function(outputs, labels)
            else:
                originals = {name: _joined(values) for name, values in self._references.items()}
                value = self._function(outputs, labels, originals)
        except Exception as error:
            raise MetricError(f"metric '{self._spec}' failed: {describe(error)}") from error
        if isinstance(value, np.ndarray) and value.size == 1:
            value = value.item()
        if not isinstance(value, (int, float, np.integer, np.floating)) or not math.isfinite(value):
            raise MetricError(f"metric '{self._spec}' must return one finite number, got {value!r:.60}")
        return float(value)

    def losses(self) -> None:
        return None


def _takes_reference(function: Callable[..., Any]) -> bool:
    """Tell whether a metric asks for the original's outputs as well: it has a third parameter without a default."""
    try:
        given = signature(function).parameters.values()
    except (TypeError, ValueError):
        return False
    needed = [p for p in given if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    return len(needed) == REFERENCE_PARAMETERS


REFERENCE_PARAMETERS = 3
"""Of a metric that compares with the original: outputs, labels, and the original's outputs."""


def _joined(values: list[Any]) -> Any:
    """One array if the batches' arrays fit together along the first axis, else a list of them."""
    if not all(isinstance(value, np.ndarray) and value.ndim for value in values):
        return values
    same = len({value.shape[1:] for value in values}) == 1
    return np.concatenate(values) if same else values


def first_output(outputs: Outputs) -> tuple[str, Array]:
    """Return the output that is scored, the first, with its name.

    Raises
    ------
    MetricError
        It is no tensor.
    """
    name, output = next(iter(outputs.items()))
    if not isinstance(output, np.ndarray):
        raise MetricError(f"output '{name}' is a {type(output).__name__}, not a tensor; {_OWN}")
    return name, output


def _difference(reference_value: float, value: float) -> float:
    return reference_value - value


def _below_one(_reference_value: float, value: float) -> float:
    return 1.0 - value


def _itself(_reference_value: float, value: float) -> float:
    return value


METRICS = {
    metric.name: metric
    for metric in (
        Metric("top1", True, False, lambda _: _TopK(1), _difference),
        Metric("top5", True, False, lambda _: _TopK(5), _difference),
        Metric("agreement", False, True, partial(_FidelityScore, "agreement"), _below_one),
        Metric("cosine", False, True, partial(_FidelityScore, "cosine"), _below_one),
        Metric("max_abs", False, True, partial(_FidelityScore, "max_abs"), _itself),
        Metric("sqnr", False, True, partial(_FidelityScore, "sqnr"), None),
    )
}
"""The metrics by name. All score the model's first output."""


def find_metric(name: str) -> Metric:
    """Return a metric by its name, or the user's own for ``file.py:function`` and ``module:function``.

    The user's function is called as ``function(outputs, labels)``: a dict of all outputs by name, each one array, or
    a list of arrays (one for each batch) where shapes vary; and the labels, or None. One with three parameters gets
    the original's outputs as well, for the same samples, in the same form. It returns a number; higher is better.

    Raises
    ------
    MetricError
        There is no such metric, or the function cannot be loaded.
    """
    if ":" in name:
        try:
            function = load_function(name, "metric")
        except OptionError as error:
            raise MetricError(str(error)) from error
        return Metric(name, False, False, lambda _: _UserScore(name, function), _difference)
    if name not in METRICS:
        known = ", ".join(METRICS)
        raise MetricError(
            f"unknown metric '{name}'{did_you_mean(name, list(METRICS))} (metrics: {known}, file.py:function)"
        )
    return METRICS[name]

"""Which samples passes are fitted to, and which judge what came of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx_ir as ir

from .data import as_data
from .samples import Samples, load_samples


@dataclass(frozen=True)
class Split:
    """Samples for the passes, and samples to measure on.

    Attributes
    ----------
    fit, judge : Samples or None
        What passes see takes a decoder's tokens in steps; it is judged by whole texts.
    apart : bool
        No sample that passes see judges.
    """

    fit: Samples | None
    judge: Samples | None
    apart: bool


def split(model: ir.Model, data: Any, evaluate_on: Any = None, *, fits: bool, seed: int = 0) -> Split:
    """Load samples, and keep some of them to judge by.

    Parameters
    ----------
    model : onnx_ir.Model
        Whose inputs they must fit.
    data, evaluate_on
        Samples for the passes, and to measure on, as for `load_samples`; None for none. Without `evaluate_on` one in
        five of `data` judges, if there are at least 50; else all of them serve for both.
    fits : bool
        Some pass is fitted to samples. If none is, nothing is kept from anyone.
    seed : int
        Seeds ``"random"``.
    """
    given = None if data is None else load_samples(data, model, seed)
    if evaluate_on is not None:
        judge = load_samples(evaluate_on, model, seed)
        return Split(_in_steps(given), judge, apart=not _is_same(data, evaluate_on))
    parts = given.split() if given is not None and fits else None
    if parts is None:
        return Split(_in_steps(given), given, apart=False)
    return Split(parts[0].stepwise(), parts[1], apart=True)


def _in_steps(samples: Samples | None) -> Samples | None:
    return None if samples is None else samples.stepwise()


@dataclass(frozen=True)
class Parts:
    """Samples to fit to, to search by, and to judge the result on.

    Attributes
    ----------
    given, fit, search, unseen : Samples
        All that were given to fit to and search by, and the parts.
    apart : bool
        No sample of another part judges the result; else there were too few, and all three are the same.
    """

    given: Samples
    fit: Samples
    search: Samples
    unseen: Samples
    apart: bool


def three_parts(model: ir.Model, data: Any, evaluate_on: Any = None, *, seed: int = 0) -> Parts:
    """Load samples and deal them out in three; where some are given to `evaluate_on`, these are the unseen ones."""
    given = load_samples(data, model, seed)
    if evaluate_on is None:
        parts = given.parts()
        fit, search, unseen = parts or (given, given, given)
        return Parts(given, fit.stepwise(), search, unseen, apart=parts is not None)
    unseen = load_samples(evaluate_on, model, seed)
    two = given.fit_and_search()
    fit, search = two or (given, given)
    return Parts(given, fit.stepwise(), search, unseen, apart=not _is_same(data, evaluate_on))


def basis(count: int, data: str, fitted: Sequence[str], fitted_to: str, unseen: bool | None) -> str:
    """Say on which samples was measured, and whether a pass was fitted to them.

    Parameters
    ----------
    count, data : int, str
        How many samples judged, and where they came from.
    fitted, fitted_to : sequence of str, str
        The passes that were fitted to samples, and to which.
    unseen : bool or None
        Whether they saw none of those that judged; None where nobody knows.
    """
    measured = f"{count} samples ({data})"
    if not fitted:
        return f"{measured}; no pass was fitted to samples"
    names = ", ".join(dict.fromkeys(fitted))
    if unseen is None:
        return f"{measured}; earlier fitted to samples ({fitted_to}): {names}"
    if unseen:
        return f"{measured} that no pass saw; fitted to others ({fitted_to}): {names}"
    return f"{measured}, the same that were fitted to: {names}; others judge better"


def _is_same(data: Any, other: Any) -> bool:
    data, other = as_data(data).source, as_data(other).source
    if isinstance(data, (str, Path)) and isinstance(other, (str, Path)):
        return str(data) == str(other) or (Path(data).exists() and Path(data).resolve() == Path(other).resolve())
    return data is other

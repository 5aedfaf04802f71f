"""How much the model's outputs suffer when one weight after the other is replaced by a coarser one."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import ModelError
from onnxcompress.graph import edit
from onnxcompress.progress import Progress, silent
from onnxcompress.purpose import Purpose, find_purpose
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.samples import Samples

Array = npt.NDArray[Any]

SAMPLES = 16
"""How many samples are looked at."""

PROBABLE = {"classes", "tokens", "pixels", "text"}
"""Outputs that hold scores of which one is right: compared as distributions."""


def output_losses(
    model: ir.Model,
    coarser: Mapping[str, Callable[[], Array]],
    samples: Samples,
    *,
    progress: Progress = silent,
) -> dict[str, float]:
    """Return, for each weight, how far the outputs are from what they were when it alone is replaced.

    The weights become inputs of a copy of the model, so that one session serves all of them.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    coarser : mapping
        Constant's name → what makes the one that takes its place.
    samples : Samples
        The first 16 are used.
    progress : callable

    Returns
    -------
    dict
        The mean Kullback-Leibler divergence of scores, or the relative squared error of other outputs; only of weights
        of the outer graph, and of none if the model does not run so.
    """
    copy, exact = model.clone(), {}
    edit.lift_constants(copy.graph)
    for name in coarser:
        value = copy.graph.initializers.get(name)
        if value is not None and value.const_value is not None:
            exact[name] = value.const_value.numpy()
            edit.make_input(value)
    purpose = find_purpose(model, samples)
    try:
        session = open_session(copy)
        batches = [*samples.head(SAMPLES).batches(4)]
        names = _compared(purpose, session.outputs)
        wanted = [session.run({**feeds, **exact}, names) for feeds in batches]
        found = {}
        for done, name in enumerate(exact):
            given = {**exact, name: coarser[name]().astype(exact[name].dtype)}
            runs = (session.run({**feeds, **given}, names) for feeds in batches)
            found[name] = _distance(zip(wanted, runs, strict=True), purpose)
            progress("sensitivity", done + 1, len(exact))
        return {name: loss for name, loss in found.items() if np.isfinite(loss)}
    except ModelError:
        return {}


def _compared(purpose: Purpose, outputs: Iterable[str]) -> list[str]:
    """Return the outputs that count: the main one, or all but state."""
    if purpose.outputs.get(purpose.main) in PROBABLE:
        return [purpose.main]
    return [name for name in outputs if purpose.outputs.get(name) != "state"] or list(outputs)


def _distance(pairs: Iterable[tuple[dict[str, Any], dict[str, Any]]], purpose: Purpose) -> float:
    """Return how far outputs are from what they were, on average over the batches."""
    found = []
    for wanted, got in pairs:
        for name, before in wanted.items():
            after = got[name]
            floats = isinstance(before, np.ndarray) and before.size and before.dtype.kind == "f"
            if not floats or before.shape != getattr(after, "shape", None):
                continue
            scores = purpose.outputs.get(name) in PROBABLE
            found.append(_divergence(before, after, purpose.axes.get(name, -1)) if scores else _error(before, after))
    return float(np.mean(found)) if found else np.nan


def _error(before: Array, after: Array) -> float:
    a, b = before.astype(np.float64), after.astype(np.float64)
    return float(np.square(b - a).sum() / max(np.square(a).sum(), 1e-300))


def _divergence(before: Array, after: Array, axis: int) -> float:
    """Return the mean of Σ p log(p / q)."""
    p, q = (_log_shares(each.astype(np.float64), axis) for each in (before, after))
    return float((np.exp(p) * (p - q)).sum(axis).mean())


def _log_shares(scores: Array, axis: int) -> Array:
    if scores.min() >= 0 and np.allclose(scores.sum(axis), 1, atol=1e-3):
        return np.log(np.maximum(scores, 1e-30))
    moved = scores - scores.max(axis, keepdims=True)
    return np.asarray(moved - np.log(np.exp(moved).sum(axis, keepdims=True)))

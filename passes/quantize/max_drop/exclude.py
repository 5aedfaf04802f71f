"""The last attempts: ever more of the layers that hurt most in 16 bits, then in float."""

from __future__ import annotations

import glob
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import onnx_ir as ir

from onnxcompress.contract import Pass
from onnxcompress.errors import PassError
from onnxcompress.evaluation.sensitivity import measure
from onnxcompress.graph import edit

from ..prepare.prepare import FORMS, prepared
from ..static.plan import QuantizePlan
from .attempts import Attempt, Attempts

Treatment = Callable[[Pass, list[str]], dict[str, Any]]
"""A step and terms → options that treat what these name so."""

Noise = dict[str, float]
"""Layer → the noise power at the output, of the signal's, when that layer alone is quantized."""

FINE = 8
"""Of so many layers, one more or less in float is not looked for."""


def exclude_layers(attempts: Attempts) -> None:
    """Go on from the best attempt: layers with activations of 16 bits, where the target takes them, then in float.

    Their number doubles until the loss is small enough; then the least number that will do is looked for.
    """
    best = attempts.best
    assert best is not None
    noise = _noise(attempts, best)
    if attempts.int16 is not None:
        own = {"activations": attempts.int16}
        worst_first = sorted(noise, key=lambda name: noise[name], reverse=True)
        try:
            if _least_number(
                attempts, best.step, partial(_overridden, own), "with activations of 16 bits", worst_first, len(noise)
            ):
                return
        except PassError as error:
            attempts.notes.append(f"layers with activations of 16 bits: not possible, {error}")
    work, *_ = prepared(attempts.model, attempts.context, FORMS["quantize"].at(best.plan.scheme.opset))
    order = float_first(work, best.plan, noise)
    _least_number(attempts, (attempts.best or best).step, _excluded, "in float", order, len(noise) - 1)


def _least_number(attempts: Attempts, base: Pass, treat: Treatment, what: str, order: list[str], most: int) -> bool:
    """Treat one, two, four, … layers so, `most` at last; tell whether a number of them holds."""

    def holds(count: int) -> bool:
        names = order[:count]
        label = f"{count} of {len(order)} layers {what} ({', '.join(names[:3])}{', …' if count > 3 else ''})"
        return attempts.try_with(label, base, treat(base, [glob.escape(name) for name in names]), costly=True)

    low = 0
    for high in _doubling(most):
        if holds(high):
            break
        low = high
    else:
        return False
    while high - low > max(1, high // FINE):
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return True


def _excluded(base: Pass, terms: list[str]) -> dict[str, Any]:
    """Return the options that leave layers in float, too."""
    return {"exclude": (*base.options()["exclude"], *terms)}


def _overridden(own: dict[str, Any], base: Pass, terms: list[str]) -> dict[str, Any]:
    """Return the options that give layers options of their own, too."""
    known = base.options()["overrides"]
    return {"overrides": {**known, **{term: {**known.get(term, {}), **own} for term in terms}}}


def _doubling(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    if most > 0:
        yield most


def _noise(attempts: Attempts, attempt: Attempt) -> Noise:
    parts = attempt.plan.parts()
    if not parts:
        return {}
    curves, _ = measure(attempts.judge, attempt.step, {1.0: parts}, progress=attempts.context.progress)
    ratios = {name: math.inf if point.sqnr is None else point.sqnr for name, (point, *_) in curves.items()}
    return {name: 10 ** (-ratio / 10) for name, ratio in ratios.items()}


def float_first(work: ir.Model, plan: QuantizePlan, noise: Noise) -> list[str]:
    """Order the layers so that leaving the first ones in float leaves little noise, however many they are.

    The noise is mostly that of the tensors that layers read, and such a tensor is only left as it is where the layers
    that make it are in float, too. So tensors are freed one after another, the next one being that which frees most
    noise for each further layer in float; in a chain of layers, one stretch grows.
    """
    freed = {name: power / max(len(plan.reads[name]), 1) for name, power in noise.items()}
    gains: dict[str, float] = {}
    for name, reads in plan.reads.items():
        for tensor, _ in reads:
            gains[tensor] = gains.get(tensor, 0.0) + freed[name]
    beside = _layers_beside(work, plan)
    order: dict[str, None] = {}
    while gains:
        best = max(gains, key=lambda tensor: gains[tensor] / max(len(beside[tensor] - order.keys()), 1))
        del gains[best]
        order.update(dict.fromkeys(name for name in noise if name in beside[best]))
    return list(order)


def _layers_beside(work: ir.Model, plan: QuantizePlan) -> dict[str, set[str]]:
    """Return for each tensor that layers read, which of them do, and which make it."""
    makers = {value.name: node for node in work.graph.all_nodes() for value in node.outputs}
    quantized = {activation.tensor for activation in plan.activations}
    found: dict[str, set[str]] = {}
    for name, reads in plan.reads.items():
        for tensor, _ in reads:
            found.setdefault(tensor, set()).add(name)
    for tensor, layers in found.items():
        waiting, seen = [tensor], {tensor}
        while waiting:
            node = makers.get(waiting.pop())
            if node is None:
                continue
            if edit.output_name(node) in plan.reads:
                layers.add(edit.output_name(node))
                continue
            behind = {str(value.name) for value in node.inputs if value is not None and edit.constant(value) is None}
            if len(behind) > 1:  # noise of its own comes with what an Add or Concat reads as integers
                behind -= quantized
            waiting += sorted(behind - seen)
            seen |= behind
    return found

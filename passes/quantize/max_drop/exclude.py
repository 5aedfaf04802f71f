"""The end of the ladder: ever more of the layers that hurt most in 16 bits, then in float."""

from __future__ import annotations

import dataclasses
import glob
import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from onnxcompress.errors import OptionError, PassError
from onnxcompress.evaluation.sensitivity import measure
from onnxcompress.graph import edit

from ..prepare.prepare import prepared
from ..static.plan import QuantizePlan
from ..static.scheme import WIDE
from .attempts import Ladder, Rung

if TYPE_CHECKING:
    from ..quantize import Quantize

Spared = Callable[["Quantize", list[str]], dict[str, Any]]
"""A step and terms for layers → options that spare these, too."""

Noise = dict[str, float]
"""Layer → the noise power at the output, of the signal's, when that layer alone is quantized."""

FINE = 8
"""Of so many layers, one more or less in float is not looked for."""


def spare_layers(ladder: Ladder) -> None:
    """Climb on from the best rung: layers with activations of 16 bits, where the target takes them, then in float.

    Their number doubles until the loss is small enough; then the least number that will do is looked for.
    """
    best = ladder.best
    assert best is not None
    noise = _noise(ladder, best)
    wide = _wide(best)
    if wide is not None:
        worst_first = sorted(noise, key=lambda name: noise[name], reverse=True)
        try:
            spared = partial(_widened, wide)
            if _climb(ladder, best.step, spared, "with activations of 16 bits", worst_first, len(noise)):
                return
        except PassError as error:
            ladder.notes.append(f"layers with activations of 16 bits: not possible, {error}")
    work, *_ = prepared(ladder.model, ladder.context, best.plan.scheme.opset)
    order = float_first(work, best.plan, noise)
    _climb(ladder, (ladder.best or best).step, _excluded, "in float", order, len(noise) - 1)


def _climb(ladder: Ladder, base: Quantize, spared: Spared, what: str, order: list[str], most: int) -> bool:
    """Spare one, two, four, … layers, `most` at last; tell whether a number of them holds."""

    def holds(count: int) -> bool:
        names = order[:count]
        label = f"{count} of {len(order)} layers {what} ({', '.join(names[:3])}{', …' if count > 3 else ''})"
        return ladder.climb(label, base, spared(base, [glob.escape(name) for name in names]), costly=True)

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


def _doubling(most: int) -> Iterator[int]:
    count = 1
    while count < most:
        yield count
        count *= 2
    if most > 0:
        yield most


def _excluded(base: Quantize, names: list[str]) -> dict[str, Any]:
    """Return the options that leave layers in float, too."""
    return {"exclude": (*base.exclude, *names)}


def _widened(wide: str, base: Quantize, names: list[str]) -> dict[str, Any]:
    """Return the options that give layers activations of 16 bits, too."""
    own = {name: {**base.overrides.get(name, {}), "activations": wide} for name in names}
    return {"overrides": {**base.overrides, **own}}


def _wide(best: Rung) -> str | None:
    """Return the type of 16 bits that the target takes for activations of single layers, if there is one."""
    wide = WIDE.get(best.plan.scheme.activations)
    try:
        return wide and dataclasses.replace(best.step, **_widened(wide, best.step, ["*"])).scheme().wide
    except OptionError:
        return None


def _noise(ladder: Ladder, rung: Rung) -> Noise:
    parts = rung.plan.parts()
    if not parts:
        return {}
    curves, _ = measure(ladder.judge, rung.step, {1.0: parts}, progress=ladder.context.progress)
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

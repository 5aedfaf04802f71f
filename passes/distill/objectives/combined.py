"""Several losses in one, each with a weight."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.training import Behind, Loss, Shapes

Weighted = tuple[Loss, float]


@dataclass(frozen=True)
class Combined(Loss):
    """The weighted sum of losses.

    Attributes
    ----------
    terms : tuple of (Loss, float)
        What is summed up.
    judges : tuple of (Loss, float)
        Whose scores are averaged, with these weights; those of the terms if there are none.
    """

    terms: tuple[Weighted, ...]
    judges: tuple[Weighted, ...] = field(default=())

    @property
    def _every(self) -> list[Loss]:
        return [loss for loss, _ in (*self.terms, *self.judges)]

    @property
    def reads(self) -> tuple[str, ...]:
        """All that any of them reads."""
        return tuple(dict.fromkeys(name for loss in self._every for name in loss.reads))

    @property
    def teacher(self) -> dict[str, str]:
        """All that any of them is fed with."""
        return {name: tensor for loss in self._every for name, tensor in loss.teacher.items()}

    def targets(self, shapes: Shapes) -> dict[str, npt.NDArray[Any]]:
        """Check what they are fed with."""
        return {name: array for loss in self._every for name, array in loss.targets(shapes).items()}

    def parameters(self) -> dict[str, Any]:
        """Return the weights of all of them."""
        return {name: array for loss, _ in self.terms for name, array in loss.parameters().items()}

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add all terms."""
        return _sum(behind, [(loss.add(behind, student), weight) for loss, weight in self.terms])

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the weighted mean of the scores."""
        judges = self.judges or self.terms
        total = sum(weight for _, weight in judges)
        return _sum(behind, [(loss.score(behind, student), weight / total) for loss, weight in judges])


def _sum(behind: Behind, values: list[tuple[ir.Value, float]]) -> ir.Value:
    found, *others = [value if weight == 1 else behind.scaled(value, weight, "term") for value, weight in values]
    for other in others:
        found = behind.add("Add", found, other)
    return found

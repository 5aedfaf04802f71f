"""Where the factors of equalisation go: axes of weights, biases and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit

Row = npt.NDArray[np.int64]
"""A number for each position of an axis: which factor it is multiplied by; 0 is the factor 1."""


@dataclass(frozen=True, eq=False)
class ScaledAxis:
    """An axis of a constant, or of a tensor, whose positions are multiplied by factors.

    Attributes
    ----------
    node : onnx_ir.Node
    input : int
    axis : int
        Of the constant; for a tensor, of the tensor.
    rows : (n,) int array
    """

    node: ir.Node
    input: int
    axis: int
    rows: Row


@dataclass(eq=False)
class Scalable:
    """The factors that may be chosen, and where they go.

    Attributes
    ----------
    size : int
        How many factors there are, 0 (always 1) included.
    producers, consumers : list of ScaledAxis
        Weights whose output channels are multiplied, and whose input channels are divided.
    added : list of ScaledAxis
        Biases, and other constants that are added: multiplied.
    tensors : dict of (str, int) to Row
        Channel axes of tensors that weights read or that are added up.
    clips : list of (ScaledAxis, float, float)
        Inputs of Clip, with the bounds.
    refused : dict of str to str
        Nodes whose input's channels keep their scale, and why.
    """

    size: int = 1
    producers: list[ScaledAxis] = field(default_factory=list)
    consumers: list[ScaledAxis] = field(default_factory=list)
    added: list[ScaledAxis] = field(default_factory=list)
    tensors: dict[tuple[str, int], Row] = field(default_factory=dict)
    clips: list[tuple[ScaledAxis, float, float]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def without(self, frozen: Mapping[int, str]) -> Scalable:
        """Number the factors that can be chosen, and forget the others; `frozen` says why."""
        free = _touched(self.producers, self.size) & _touched(self.consumers, self.size)
        free[0] = False
        free[[label for label in frozen if label < self.size]] = False
        number: Row = np.where(free, np.cumsum(free), 0)
        for place in self.consumers:
            first = int(place.rows[0])
            if not free[place.rows].any():
                self.refused[edit.label(place.node)] = frozen.get(first, "nothing that could be scaled makes it")
        return Scalable(
            int(free.sum()) + 1,
            [new for place in self.producers if (new := _renumbered(place, number)) is not None],
            [new for place in self.consumers if (new := _renumbered(place, number)) is not None],
            [new for place in self.added if (new := _renumbered(place, number)) is not None],
            {key: number[rows] for key, rows in self.tensors.items() if number[rows].any()},
            [(new, low, high) for s, low, high in self.clips if (new := _renumbered(s, number)) is not None],
            self.refused,
        )


def _touched(places: list[ScaledAxis], size: int) -> npt.NDArray[np.bool_]:
    table = np.zeros(size, bool)
    for place in places:
        table[place.rows] = True
    return table


def _renumbered(place: ScaledAxis, number: Row) -> ScaledAxis | None:
    rows = number[place.rows]
    return ScaledAxis(place.node, place.input, place.axis, rows) if rows.any() else None

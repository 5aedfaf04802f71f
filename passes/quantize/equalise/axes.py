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
class Slot:
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
class Tied:
    """The factors that may be chosen, and where they go.

    Attributes
    ----------
    size : int
        How many factors there are, 0 (always 1) included.
    producers, consumers : list of Slot
        Weights whose output channels are multiplied, and whose input channels are divided.
    added : list of Slot
        Biases, and other constants that are added: multiplied.
    tensors : dict of (str, int) to Row
        Channel axes of tensors that weights read or that are added up.
    clips : list of (Slot, float, float)
        Inputs of Clip, with the bounds.
    refused : dict of str to str
        Nodes whose input's channels keep their scale, and why.
    """

    size: int = 1
    producers: list[Slot] = field(default_factory=list)
    consumers: list[Slot] = field(default_factory=list)
    added: list[Slot] = field(default_factory=list)
    tensors: dict[tuple[str, int], Row] = field(default_factory=dict)
    clips: list[tuple[Slot, float, float]] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)

    def without(self, frozen: Mapping[int, str]) -> Tied:
        """Number the factors that can be chosen, and forget the others; `frozen` says why."""
        free = _touched(self.producers, self.size) & _touched(self.consumers, self.size)
        free[0] = False
        free[[label for label in frozen if label < self.size]] = False
        number: Row = np.where(free, np.cumsum(free), 0)
        for slot in self.consumers:
            first = int(slot.rows[0])
            if not free[slot.rows].any():
                self.refused[edit.label(slot.node)] = frozen.get(first, "nothing that could be scaled makes it")
        return Tied(
            int(free.sum()) + 1,
            [new for slot in self.producers if (new := _renumbered(slot, number)) is not None],
            [new for slot in self.consumers if (new := _renumbered(slot, number)) is not None],
            [new for slot in self.added if (new := _renumbered(slot, number)) is not None],
            {key: number[rows] for key, rows in self.tensors.items() if number[rows].any()},
            [(new, low, high) for s, low, high in self.clips if (new := _renumbered(s, number)) is not None],
            self.refused,
        )


def _touched(slots: list[Slot], size: int) -> npt.NDArray[np.bool_]:
    table = np.zeros(size, bool)
    for slot in slots:
        table[slot.rows] = True
    return table


def _renumbered(slot: Slot, number: Row) -> Slot | None:
    rows = number[slot.rows]
    return Slot(slot.node, slot.input, slot.axis, rows) if rows.any() else None

"""What an operator that is made of others is written with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from ..rules.step import Step
from ..rules.tape import Tensor

Results = Sequence["Tensor | None"]
"""What takes the place of each output; None for those that nothing may read."""


@dataclass(frozen=True)
class Composite:
    """How to write an operator as several that have rules.

    Attributes
    ----------
    write : callable
        Writes them; returns what takes the place of the outputs.
    refuses : callable
        Why this form of the operator cannot be written so, as the end of a sentence about the node; empty if it can.
    """

    write: Callable[[Step], Results]
    refuses: Callable[[ir.Node], str] = lambda _node: ""


def reads_more(node: ir.Node, known: int) -> bool:
    """Tell whether an output behind the first few is used."""
    return any(output.uses() or output.is_graph_output() for output in node.outputs[known:])


def given(node: ir.Node, *indices: int) -> bool:
    """Tell whether the node has one of these inputs."""
    return any(index < len(node.inputs) and node.inputs[index] is not None for index in indices)


def optional(step: Step, index: int) -> Tensor | None:
    """Return an input that may be left out."""
    return step.input(index) if step.has(index) else None


def extents(value: ir.Value | None) -> list[int | None]:
    """Return the extents of a value; [] where its rank is not known."""
    shape = () if value is None or value.shape is None else value.shape
    return [extent if isinstance(extent, int) else None for extent in shape]

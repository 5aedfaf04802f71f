"""What all losses on outputs have in common: what they read, are fed with, and the score of an output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import onnx_ir as ir

from onnxcompress.training import Behind, Loss

from .rows import TINY, Rows, make_rows, teacher_input
from .tensors import Kind, Output


@dataclass(frozen=True)
class OutputLoss(Loss):
    """A distance of an output from the teacher's.

    Attributes
    ----------
    output : Output
    kinds : frozenset of str
        Kinds of outputs that it is made for.
    others : frozenset of str
        Those that it can be asked for beside them.
    """

    output: Output
    kinds: ClassVar[frozenset[Kind]]
    others: ClassVar[frozenset[Kind]] = frozenset()

    @property
    def reads(self) -> tuple[str, ...]:
        """The student's tensor."""
        return (self.output.student.name,)

    @property
    def teacher(self) -> dict[str, str]:
        """The teacher's tensor."""
        return {teacher_input(self.output.teacher): self.output.teacher.name}

    @abstractmethod
    def compare(self, rows: Rows) -> ir.Value:
        """Add the operators that compute the mean distance."""

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators."""
        return self.compare(make_rows(behind, self.output, student[self.output.student.name]))

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add how much of the teacher's answers the student gives: see `SCORES`."""
        return SCORES[self.output.kind](make_rows(behind, self.output, student[self.output.student.name]))


def cosines(rows: Rows) -> ir.Value:
    """Return the cosine of the angle between the student's and the teacher's row, for each."""
    add = rows.behind.add
    lengths = [
        add("Sqrt", add("Add", rows.sum(rows.squares(v)), rows.number(TINY))) for v in (rows.student, rows.teacher)
    ]
    return add("Div", rows.sum(add("Mul", rows.student, rows.teacher)), add("Mul", *lengths))


def _agreement(rows: Rows) -> ir.Value:
    answers = [rows.behind.add("ArgMax", value, axis=1, keepdims=0) for value in (rows.student, rows.teacher)]
    return rows.mean(rows.behind.number(rows.behind.add("Equal", *answers)))


def _agreement_of_signs(rows: Rows) -> ir.Value:
    add, zero = rows.behind.add, rows.number(0)
    positive = [rows.behind.number(add("Greater", value, zero)) for value in (rows.student, rows.teacher)]
    return add("Sub", rows.number(1), rows.mean_of_all(add("Abs", add("Sub", *positive))))


def _mean_cosine(rows: Rows) -> ir.Value:
    return rows.mean(cosines(rows))


def _closeness(rows: Rows) -> ir.Value:
    add = rows.behind.add
    error = rows.mean_of_all(rows.squares(add("Sub", rows.student, rows.teacher)))
    size = add("Max", rows.mean_of_all(rows.squares(rows.teacher)), rows.number(TINY))
    return add("Sub", rows.number(1), add("Sqrt", add("Div", error, size)))


SCORES: dict[Kind, Callable[[Rows], ir.Value]] = {
    "classes": _agreement,
    "binary": _agreement_of_signs,
    "embedding": _mean_cosine,
    "values": _closeness,
}
"""What the student's outputs share with the teacher's: the class with the largest logit, the sign, the mean cosine, one
minus the error's share of the values (root mean squares)."""

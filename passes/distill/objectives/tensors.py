"""What a loss is told of the tensors that it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from onnxcompress.graph.output_kinds import Tensor

Kind: TypeAlias = Literal["classes", "binary", "embedding", "values", "ignore"]


@dataclass(frozen=True)
class Output:
    """An output of the student and what it should be like.

    Attributes
    ----------
    name : str
        Of the output.
    kind : {"classes", "binary", "embedding", "values"}
        Logits of one class of several, logits of yes or no for each feature, a direction, or numbers.
    student, teacher : Tensor
        Behind probabilities, the logits before them.
    why : str
        What told the kind.
    mask : str
        The input of the model that is 0 where a position is padding, or nothing.
    """

    name: str
    kind: Kind
    student: Tensor
    teacher: Tensor
    why: str
    mask: str = ""

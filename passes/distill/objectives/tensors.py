"""What a loss is told of the tensors that it compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

Kind: TypeAlias = Literal["classes", "binary", "embedding", "values", "ignore"]


@dataclass(frozen=True)
class Tensor:
    """A tensor that is compared.

    Attributes
    ----------
    name : str
    shape : tuple of int
        For the samples that were tried.
    axis : int
        That of classes or features; the others, beside the batch, are positions. One number for each sample has none.
    """

    name: str
    shape: tuple[int, ...]
    axis: int

    @property
    def features(self) -> int:
        """How many classes or features."""
        return self.shape[self.axis] if len(self.shape) > 1 else 1

    @property
    def positions(self) -> tuple[int, ...]:
        """The extents beside the batch and the features."""
        axis = self.axis % len(self.shape)
        return tuple(n for place, n in enumerate(self.shape) if place not in (0, axis))

    def __str__(self) -> str:
        """Return its name and its shape."""
        return f"'{self.name}' {['batch', *self.shape[1:]]}".replace("'batch'", "batch")


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

"""Who does work that is cut into pieces: this process, unless somebody else is named."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Workers(Protocol):
    """Whoever does the work; what comes back does not depend on who does it, or how many they are.

    Attributes
    ----------
    near : bool
        They work in this process: what they are given is not sent anywhere, and threads do as well as they.
    saturating : bool
        Some of them lose products of 8-bit integers, as `products_saturate` of this machine may not tell.
    notes : list of str
        What went otherwise than the user expects, to be shown with the result.
    """

    near: bool
    saturating: bool
    notes: list[str]

    def map(self, make: Callable[..., Callable[[T], R]], given: Sequence[Any], items: Iterable[T]) -> Iterator[R]:
        """Call ``make(*given)``, at most once in each process, and what that returns with each of the items.

        Parameters
        ----------
        make : callable
            At the top level of a module, as processes elsewhere must find it; what it returns need not be.
        given : sequence
            What is sent once: plain data, `onnx_ir.Model`, `Samples`, passes.
        items : iterable
            Plain data, one after the other; they are taken as they are needed.

        Yields
        ------
        object
            What came of each item, in their order.
        """


class Here:
    """Workers that are this process alone: one item after the other."""

    def __init__(self) -> None:
        self.near, self.saturating = True, False
        self.notes: list[str] = []

    def map(self, make: Callable[..., Callable[[T], R]], given: Sequence[Any], items: Iterable[T]) -> Iterator[R]:
        """See `Workers.map`."""
        work = make(*given)
        for item in items:
            yield work(item)

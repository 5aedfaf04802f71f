"""The labels of an attention operator's heads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .labels import Labels, Rows


@dataclass(frozen=True)
class Heads:
    """The labels of an attention operator, one row each.

    Attributes
    ----------
    groups : Rows
        Heads of keys and values.
    inside : Rows
        The queries of each.
    size, values : Rows
        What each head has of a query or key, and of a value.
    """

    groups: Rows
    inside: Rows
    size: Rows
    values: Rows

    @classmethod
    def fresh(cls, labels: Labels, heads: int, kept: int, size: int, values: int) -> Heads:
        """Return new labels for so many heads, of which `kept` have keys and values of their own."""
        return cls(*(labels.fresh(n) for n in (kept, heads // kept, size, values)))

    def queries(self) -> Rows:
        """Return the labels along an axis of heads of queries."""
        return crossed(self.groups, self.inside)

    def hidden(self, kind: str) -> Rows:
        """Return the labels along a hidden axis of "queries", "keys", "values" or the "result"."""
        heads = self.groups if kind in ("keys", "values") else self.queries()
        return crossed(heads, self.size if kind in ("queries", "keys") else self.values)


def crossed(outer: Rows, inner: Rows) -> Rows:
    """Return the labels of an axis that runs over `inner` for each of `outer`; one alone needs no label."""
    n, m = outer.shape[1], inner.shape[1]
    parts = [np.repeat(outer, m, axis=1)] if n > 1 else []
    parts += [np.tile(inner, n)] if m > 1 else []
    return np.concatenate(parts) if parts else np.zeros((1, n * m), np.int64)


def joined_one_after_another(*parts: Rows) -> Rows:
    """Return the labels of an axis that holds several, such as packed queries, keys and values."""
    deepest = max(len(part) for part in parts)
    return np.concatenate([np.pad(part, ((0, deepest - len(part)), (0, 0))) for part in parts], axis=1)

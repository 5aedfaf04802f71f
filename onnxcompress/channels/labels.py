"""Labels: a vectorised union-find in which a label can also turn out to be a product of others."""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Rows: TypeAlias = npt.NDArray[np.int64]
"""The labels of one axis, shape (k, n): column p holds the up to k labels of position p, 0 where there is none."""


class Labels:
    """Hands out labels and keeps what is known to be the same.

    `join` declares that two axes must lose the same positions. Two positions with one label each become one label;
    a position with one label against a position with several makes that label a *product* of them, everywhere.
    Every step only ever coarsens, so the result is sound whatever the order. A frozen label never goes, so it is
    dropped from products, which keeps them short however deep the graph. `addition` is added to every reason for
    freezing while it is set.
    """

    def __init__(self) -> None:
        self._parent = np.zeros(1024, np.int64)
        self._factors: dict[int, tuple[int, ...]] = {}
        self._factored = np.zeros(1024, bool)
        self._is_frozen = np.zeros(1024, bool)
        self._reasons: list[tuple[npt.NDArray[np.int64], str]] = []
        self.count = 1  # label 0 means "no label"
        self.addition = ""

    def fresh(self, size: int) -> Rows:
        """Return `size` new labels as one row."""
        start, self.count = self.count, self.count + size
        if self.count > len(self._parent):
            capacity = max(self.count, 2 * len(self._parent))
            self._factored = np.resize(self._factored, capacity)
            self._factored[start:] = False
            self._is_frozen = np.resize(self._is_frozen, capacity)
            self._is_frozen[start:] = False
            self._parent = np.resize(self._parent, capacity)
        self._parent[start : self.count] = np.arange(start, self.count)
        return np.arange(start, self.count, dtype=np.int64)[None]

    def freeze(self, rows: Rows, reason: str) -> None:
        """Forbid the removal of every label in `rows`; the first reason given is the one that is told."""
        names = np.unique(self.resolve(rows))
        names = names[names > 0]
        self._is_frozen[names] = True
        self._reasons.append((names, reason + self.addition))

    def frozen(self) -> dict[int, str]:
        """Return every frozen label with its reason."""
        reasons: dict[int, str] = {}
        for names, reason in self._reasons:
            for name in np.unique(self.resolve(names[None])).tolist():
                if name:
                    reasons.setdefault(name, reason)
        return reasons

    def resolve(self, rows: Rows) -> Rows:
        """Return `rows` in terms of the labels that represent their classes, products written out."""
        rows = self._find(rows)
        while self._factors and self._factored[rows].any():
            rows = self._find(self._expand(rows))
        return _pack(self._drop_frozen(rows)) if len(rows) > 1 else rows

    def _drop_frozen(self, rows: Rows) -> Rows:
        frozen = self._is_frozen[rows] & (rows > 0)
        if not frozen.any():
            return rows
        alone = ~((rows > 0) & ~frozen).any(0)
        return np.where(frozen & ~alone, 0, rows)

    def join(self, a: Rows, b: Rows, reason: str) -> None:
        """Let `a` and `b`, of the same length, lose the same positions; `reason` is told where that freezes."""
        while True:
            a, b = self._differences(a, b)
            if not a.size:
                return
            if len(a) == len(b) == 1 and a.all() and b.all():
                self._union(a[0], b[0])
                return
            many_a, many_b = (a > 0).sum(0), (b > 0).sum(0)
            fixed = (many_a == 0) | (many_b == 0)
            if fixed.any():
                self.freeze(a[:, fixed], reason)
                self.freeze(b[:, fixed], reason)
            self._union_same_count(a, b, (many_a == many_b) & ~fixed)
            self._union_all(a, b, (many_a != many_b) & (many_a > 1) & (many_b > 1))
            self._factor(a, b, (many_a == 1) & (many_b > 1))
            self._factor(b, a, (many_b == 1) & (many_a > 1))
            a, b = a[:, ~fixed], b[:, ~fixed]

    def _differences(self, a: Rows, b: Rows) -> tuple[Rows, Rows]:
        """Resolve both, strike out the labels they share, and keep the positions where something is left."""
        a, b = self.resolve(a), self.resolve(b)
        if len(a) == len(b) == 1:
            left = (a != b)[0]
            return a[:, left], b[:, left]
        if a.shape == b.shape and (a == b).all():
            return a[:, :0], b[:, :0]
        a, b = a.copy(), b.copy()
        for row in range(len(a)):
            for other in range(len(b)):
                same = (a[row] == b[other]) & (a[row] > 0)
                a[row, same] = 0
                b[other, same] = 0
        left = ((a > 0).any(0)) | ((b > 0).any(0))
        return _pack(a[:, left]), _pack(b[:, left])

    def _find(self, rows: Rows) -> Rows:
        root = self._parent[rows]
        above = self._parent[root]
        if (above == root).all():
            return root
        while not (above == root).all():
            root, above = above, self._parent[above]
        self._parent[rows] = root
        return root

    def _union(self, a: Rows, b: Rows) -> None:
        """Make each label of `a` one with the label beside it in `b`."""
        a, b = self._find(a), self._find(b)
        low, high = np.minimum(a, b), np.maximum(a, b)
        frozen = self._is_frozen[a] | self._is_frozen[b]
        while True:
            self._parent[high] = low
            lost = self._parent[high] != low  # another pair wrote to the same place
            if not lost.any():
                break
            one, other = self._find(low[lost]), self._find(high[lost])
            low, high = np.minimum(one, other), np.maximum(one, other)
        if frozen.any():
            self._is_frozen[self._find(a[frozen])] = True

    def _union_same_count(self, a: Rows, b: Rows, where: npt.NDArray[np.bool_]) -> None:
        for row in range(min(len(a), len(b))):
            here = where & (a[row] > 0) & (b[row] > 0)
            self._union(a[row, here], b[row, here])

    def _union_all(self, a: Rows, b: Rows, where: npt.NDArray[np.bool_]) -> None:
        """Products that do not match factor by factor: everything at such a position goes together."""
        stacked = np.concatenate([a, b])[:, where]
        for row in range(1, len(stacked)):
            here = stacked[row] > 0
            self._union(stacked[0, here], stacked[row, here])

    def _factor(self, single: Rows, product: Rows, where: npt.NDArray[np.bool_]) -> None:
        """Make each label of `single` the product of the labels beside it in `product`."""
        labels = self._find(single[0, where])
        columns = self._find(product[:, where])
        inside = (columns == labels).any(0)
        if inside.any():  # x = x·y can only hold when x and y go together
            for row in columns[:, inside]:
                self._union(labels[inside][row > 0], row[row > 0])
            return
        names, first = np.unique(labels, return_index=True)
        for name, position in zip(names.tolist(), first.tolist(), strict=True):
            factors = tuple(int(f) for f in columns[:, position] if f)
            if not self._factored[name] and not self._reaches(factors, name):
                self._factors[name] = factors
                self._factored[name] = True
                if self._is_frozen[name]:
                    self._is_frozen[list(factors)] = True

    def _reaches(self, factors: tuple[int, ...], name: int) -> bool:
        resolved = self.resolve(np.array([[f] for f in factors], np.int64))
        if not (resolved == name).any():
            return False
        for factor in resolved.ravel():
            if factor:
                self._union(np.array([factor]), np.array([name]))
        return True

    def _expand(self, rows: Rows) -> Rows:
        names = np.unique(rows[self._factored[rows]])
        width = max(len(self._factors[name]) for name in names.tolist())
        table = np.zeros((len(names), width), np.int64)
        for index, name in enumerate(names.tolist()):
            table[index, : len(self._factors[name])] = self._factors[name]
        out = []
        for row in rows:
            hit = self._factored[row]
            factors = np.zeros((width, rows.shape[1]), np.int64)
            factors[0] = row
            factors[:, hit] = table[np.searchsorted(names, row[hit])].T
            out.append(factors)
        return np.concatenate(out)


ORDERED = 4
"""Products of more factors than this lose the factors' order, which only serves to match factor with factor."""


def _pack(rows: Rows) -> Rows:
    """Move the labels of each position to the top, drop repetitions and empty rows; keep the order of factors."""
    if not rows.size:
        return rows
    if len(rows) > ORDERED:  # few columns are this deep, and comparing each row with each takes too long
        rows = -np.sort(-rows, axis=0)
        rows[1:][rows[1:] == rows[:-1]] = 0
    else:
        rows = rows.copy()
        for row in range(1, len(rows)):
            for above in range(row):
                rows[row, rows[row] == rows[above]] = 0
    order = np.argsort(rows == 0, axis=0, kind="stable")
    rows = np.take_along_axis(rows, order, 0)
    used = [row for row in range(len(rows)) if row == 0 or rows[row].any()]
    packed: Rows = rows[used]
    return packed

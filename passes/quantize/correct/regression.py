"""What a layer's weights are fitted to: second moments of most of the rows that it reads, and some that are held out.

All in single precision: means go before anything is multiplied, and what is solved is damped by a hundredth of its
diagonal, so that more digits would change nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.linalg import blas

from onnxcompress.errors import DataError
from onnxcompress.statistics.gram import BLOCK_ROWS, BLOCK_VALUES, LEAST_ROWS, Flags, Indices

Values = npt.NDArray[Any]
Single = npt.NDArray[np.float32]
Double = npt.NDArray[np.float64]
Means = tuple[Double, Double]
"""Of what is read (groups, columns), and of what is given (groups, outputs)."""

MIRRORED = 512

_QUIET = np.errstate(invalid="ignore", over="ignore")
"""What is not finite is found in the end."""


@dataclass
class Regression:
    """Rows x that a layer reads and rows y that it gives, for several groups of channels.

    The bias is what makes the fitted rows right on average, unless it is given; it is taken off both.

    Attributes
    ----------
    own : (groups, columns, columns) float32 array
        ``Σ x xᵀ / n`` over the rows that are fitted.
    cross : (groups, outputs, columns) float32 array
        ``Σ y xᵀ / n``.
    held : ((groups, rows, columns) float32 array, (groups, rows, outputs) float32 array) or None
        Rows that are held out.
    """

    own: Single
    cross: Single
    held: tuple[Single, Single] | None

    def drop_own(self) -> None:
        """Give the memory of the largest matrix back."""
        self.own = np.zeros((len(self.own), 0, 0), np.float32)

    def residual(self, weights: Values) -> Single:
        """Return what weights (groups, outputs, columns) leave of the rows held out."""
        assert self.held is not None
        x, y = self.held
        return np.asarray(y - x @ weights.astype(np.float32, copy=False).swapaxes(1, 2))

    def error(self, weights: Values) -> float:
        """Return the sum of squares of `residual`."""
        left = self.residual(weights).ravel()
        return float(left @ left)


class Collector:
    """Adds up rows as they come.

    Rows are gathered into blocks of a fixed size before they are multiplied, so that the result is the same to the
    last bit however they were handed over.

    Parameters
    ----------
    name : str
        What the tensor is called that the rows are of.
    bias : (groups, outputs) array, optional
        The bias, where it is given.
    moments : bool
        Whether more is wanted than means.
    """

    def __init__(self, name: str, bias: Double | None = None, *, moments: bool = True) -> None:
        self._name, self._bias, self._with_moments = name, bias, moments
        self._held: list[tuple[Single, Single]] = []
        self._waiting: list[tuple[Single, Single]] = []
        self._sums: list[Double] = []
        self._count = self._fitted = self._rows = 0
        self._moments: _Moments | None = None

    @_QUIET
    def add(self, x: Values, y: Values, held: Flags, judging: Indices) -> None:
        """Take rows of some samples.

        Parameters
        ----------
        x, y : (groups, samples · n, columns) and (groups, samples · n, outputs) array
        held : (samples,) bool array
            Which samples are held out.
        judging : int array
            Which of the n rows of such a sample are kept to judge by.
        """
        given = [
            part.astype(np.float32, copy=False).reshape(len(part), len(held), -1, part.shape[2]) for part in (x, y)
        ]
        sums = [_sums(part).sum(1, dtype=np.float64) for part in given]
        self._sums = [a + b for a, b in zip(self._sums, sums, strict=True)] if self._sums else sums
        self._count += x.shape[1]
        if not self._with_moments:
            return
        if held.any():
            self._held.append(_flat(part[:, held][:, :, judging] for part in given))
        if not held.all():
            x, y = _flat(part[:, ~held] if held.any() else part for part in given)
            self._waiting.append((x, y))
            self._rows += x.shape[1]
            of_one = x.shape[0] * (x.shape[2] + y.shape[2])
            self._multiply(max(LEAST_ROWS, min(BLOCK_ROWS, BLOCK_VALUES // max(of_one, 1))))

    def _multiply(self, block: int) -> None:
        """Multiply the whole blocks among the waiting rows."""
        if self._rows < block:
            return
        x, y = _joined(self._waiting)
        whole = self._rows - self._rows % block
        for start in range(0, whole, block):
            part = slice(start, start + block)
            if self._moments is None:
                given = None if self._bias is None else (np.zeros((len(x), x.shape[2])), self._bias)
                self._moments = _Moments(x[:, part], y[:, part], given)
            self._moments.add(x[:, part], y[:, part])
        self._waiting, self._rows = [(x[:, whole:], y[:, whole:])], self._rows - whole

    @_QUIET
    def means(self) -> Means:
        """Return the means of all rows.

        Raises
        ------
        DataError
            The tensor holds NaN or infinity.
        """
        x, y = (part / self._count for part in self._sums)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            raise DataError(f"tensor '{self._name}' holds NaN or infinity for some sample")
        return x, y

    @_QUIET
    def regression(self) -> Regression:
        """Return what the rows make; all of them must have been added.

        Raises
        ------
        DataError
            A value or a square of one is NaN or infinity.
        """
        self.means()
        if self._rows:
            self._multiply(self._rows)
        moments, self._moments = self._moments, None
        assert moments is not None  # the first sample is not held out
        own, cross, (x, y) = moments.result()
        del moments
        if not (np.isfinite(own).all() and np.isfinite(cross).all()):
            raise DataError(f"tensor '{self._name}' holds values whose squares are infinite in float32")
        if not self._held:
            return Regression(own, cross, None)
        rows = _joined(self._held)
        self._held.clear()
        for array, center in zip(rows, (x, y), strict=True):
            array -= center[:, None].astype(np.float32)
        return Regression(own, cross, rows)


class _Moments:
    """Second moments around the means of the first rows, which are near those of all, or around what is given."""

    def __init__(self, x: Single, y: Single, given: Means | None) -> None:
        self._given = given
        first = given or (x.mean(1, dtype=np.float64), y.mean(1, dtype=np.float64))
        self._first = [part.astype(np.float32) for part in first]
        groups, columns, outputs = len(x), x.shape[2], y.shape[2]
        self.own = np.zeros((groups, columns, columns), np.float32)
        self.cross = np.zeros((groups, outputs, columns), np.float32)
        self._sums: list[Any] = [0.0, 0.0]
        self._count = 0

    def add(self, x: Single, y: Single) -> None:
        """Add rows."""
        x, y = (part - first[:, None] for part, first in zip((x, y), self._first, strict=True))
        self._sums = [total + _sums(part).astype(np.float64) for total, part in zip(self._sums, (x, y), strict=True)]
        self._count += x.shape[1]
        self._multiply(x, y)

    def result(self) -> tuple[Single, Single, Means]:
        """Return both moments for each row, and what they are around."""
        around = self._given
        if around is None:
            x, y = (total / self._count for total in self._sums)
            center = [part[:, None].astype(np.float32) for part in (x, y)]
            self._multiply(center[0], center[1], -self._count)
            around = self._first[0] + x, self._first[1] + y
        if len(self.own) == 1:
            _mirror(self.own[0])
        self.own /= self._count
        self.cross /= self._count
        return self.own, self.cross, around

    def _multiply(self, x: Single, y: Single, factor: float = 1) -> None:
        if len(x) > 1:
            self.own += factor * (x.swapaxes(1, 2) @ x)
            self.cross += factor * (y.swapaxes(1, 2) @ x)
            return
        # BLAS adds to what is there, which takes no second matrix, and computes half of the symmetric one.
        a, b = x[0].T, y[0].T
        blas.ssyrk(factor, a, beta=1, c=self.own[0].T, lower=1, overwrite_c=1)
        blas.sgemm(factor, a, b, beta=1, c=self.cross[0].T, trans_b=1, overwrite_c=1)


def _mirror(matrix: Single) -> None:
    """Copy what stands above the diagonal to below it."""
    for start in range(0, len(matrix), MIRRORED):
        rows = slice(start, start + MIRRORED)
        block = np.triu(matrix[rows, rows])
        matrix[rows, rows] = block + np.triu(block, 1).T
        matrix[start + MIRRORED :, rows] = matrix[rows, start + MIRRORED :].T


def _sums(rows: Single) -> Single:
    """Return the sums over the last axis but one, by BLAS, which is several times as fast."""
    return np.asarray(np.ones(rows.shape[-2], np.float32) @ rows)


def _flat(parts: Iterable[Single]) -> tuple[Single, Single]:
    """Join the axis of samples and that of their rows."""
    x, y = (np.ascontiguousarray(part).reshape(len(part), -1, part.shape[-1]) for part in parts)
    return x, y


def _joined(pairs: Iterable[tuple[Single, Single]]) -> tuple[Single, Single]:
    x, y = zip(*pairs, strict=True)
    return (x[0], y[0]) if len(x) == 1 else (np.concatenate(x, 1), np.concatenate(y, 1))

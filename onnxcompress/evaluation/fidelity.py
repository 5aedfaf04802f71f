"""How near one model's output comes to another's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.session import Array
from .decisions import DECIDING, NO_CLASSES, NOTHING, decisions

AT_ONCE = 1 << 18
"""Values that are compared at once: so many stay in a processor's cache."""


@dataclass(frozen=True)
class OutputFidelity:
    """How near an output of a model comes to the original's, over all samples.

    Attributes
    ----------
    name : str
    kind : str
        What the output is; see `onnxcompress.purpose.Purpose`.
    sqnr : float or None
        Signal to noise in dB; inf for equal outputs, -inf where one is finite and the other is not.
    cosine : float or None
        Cosine similarity of each sample's values, the mean over the samples; of all values where each sample has one.
    max_abs : float or None
        The largest absolute difference.
    agreement : float or None
        The share of decisions (highest class, yes or no, or the integer itself) that are the same; None where the
        output decides nothing.
    nonfinite_a, nonfinite_b : int
        How many values are NaN or infinite in the original's, and in the other's output.

    resized : int
        In how many batches the two have different sizes, where the size depends on the data (detections, texts): what
        one of them lacks counts as zeros, and as decisions that differ.

    All but the counts are None for an output that is no tensor of numbers, or whose shape differs between the two and
    should not.
    """

    name: str
    kind: str = ""
    sqnr: float | None = None
    cosine: float | None = None
    max_abs: float | None = None
    agreement: float | None = None
    nonfinite_a: int = 0
    nonfinite_b: int = 0
    resized: int = 0


class Fidelity:
    """Adds up an `OutputFidelity` batch by batch.

    Parameters
    ----------
    name : str
    kind : str
        What the output is, if that is known.
    axis : int, optional
        That of its classes.
    resizable : bool
        The size of the output depends on the data, so that the two may differ in it.

    Attributes
    ----------
    why_none : str
        Why the result holds None somewhere, to follow the output's name in a message.
    """

    def __init__(self, name: str, *, kind: str = "", axis: int | None = None, resizable: bool = False) -> None:
        self.name = name
        self._kind, self._axis = kind, axis
        self._resizable, self._resized = resizable, 0
        self.why_none = NOTHING if kind in DECIDING else NO_CLASSES.format(kind=kind)
        self._comparable = True
        self._aa = self._bb = self._ab = self._noise = 0.0
        self._max = 0.0
        self._cosines: list[Array] = []
        self._same = self._decided = 0
        self._by_sample: list[Array] = []
        self._nonfinite = [0, 0]

    def update(self, a: Any, b: Any, count: int | None = None, mask: Array | None = None) -> None:
        """Take in one batch.

        Parameters
        ----------
        a, b : ndarray
            The original's output, and the other's.
        count : int, optional
            How many samples that is.
        mask : ndarray, optional
            Zero where a position (batch, positions) is padding, which does not count.
        """
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            self._give_up("is no tensor")
            return
        if a.shape != b.shape and not (self._resizable and a.ndim == b.ndim):
            self._give_up(f"has shape {list(b.shape)} where the original's has {list(a.shape)}")
            return
        masked = mask is not None and mask.shape == a.shape[: mask.ndim] == b.shape[: mask.ndim]
        shown = (mask != 0) if masked and mask is not None and a.ndim > 1 else None
        self._decide(a, b, shown)
        if a.dtype.kind in "OSU":
            self._give_up("is text", also_decisions=False)
            return
        if a.shape != b.shape:
            self._resized += 1
            a, b = _padded(a, b)
        if shown is not None:
            hidden = ~shown.reshape(shown.shape + (1,) * (a.ndim - shown.ndim))
            a, b = np.where(hidden, 0, a), np.where(hidden, 0, b)
        rows = len(a) if a.ndim > 1 and count in (None, len(a)) else 1
        a, b = a.reshape(rows, -1), b.reshape(rows, -1)
        step = max(AT_ONCE // max(a.shape[1], 1), 1)
        for start in range(0, rows, step):
            self._compare(a[start : start + step], b[start : start + step])

    def _compare(self, a: Array, b: Array) -> None:
        """Take in samples, one in a row."""
        sums, broken = np.zeros((4, len(a))), np.zeros(len(a), bool)
        for start in range(0, a.shape[1], AT_ONCE):
            x, y = (each[:, start : start + AT_ONCE].astype(np.float64) for each in (a, b))
            finite_x, finite_y = np.isfinite(x), np.isfinite(y)
            if not (finite_x.all() and finite_y.all()):
                self._nonfinite[0] += int((~finite_x).sum())
                self._nonfinite[1] += int((~finite_y).sum())
                both = finite_x & finite_y
                broken |= ~((x == y) | (np.isnan(x) & np.isnan(y)) | both).all(axis=1)
                x, y = np.where(both, x, 0.0), np.where(both, y, 0.0)
            noise = x - y
            sums += [np.einsum("ij,ij->i", *pair) for pair in ((x, x), (y, y), (x, y), (noise, noise))]
            self._max = max(self._max, float(np.abs(noise).max(initial=0.0)))
        if broken.any():
            self._max = self._noise = math.inf
        aa, bb, ab, nn = sums
        self._aa += float(aa.sum())
        self._bb += float(bb.sum())
        self._ab += float(ab.sum())
        self._noise += float(nn.sum())
        if a.shape[1] > 1:
            self._cosines.append(np.where(broken, 0.0, _cosines(aa, bb, ab, nn)))

    def _decide(self, a: Array, b: Array, shown: Array | None) -> None:
        if self._kind not in DECIDING:
            return
        chosen_a, chosen_b = (decisions(each, self._kind, self._axis, a) for each in (a, b))
        if chosen_a is None or chosen_b is None:
            return
        both = tuple(slice(min(sizes)) for sizes in zip(chosen_a.shape, chosen_b.shape, strict=True))
        same = np.asarray(chosen_a[both] == chosen_b[both])
        samples = len(same) if same.shape and len(chosen_a) == len(chosen_b) else 1
        decided = np.full(samples, max(chosen_a.size, chosen_b.size) / max(samples, 1))
        if shown is not None and shown.shape == same.shape:
            same, decided = same & shown, shown.reshape(samples, -1).sum(axis=1).astype(np.float64)
        kept = same.reshape(samples, -1).sum(axis=1) if samples else np.zeros(0)
        self._same += int(kept.sum())
        self._decided += round(float(decided.sum()))
        self._by_sample.append(np.stack([decided - kept, decided]))

    def _give_up(self, why: str, *, also_decisions: bool = True) -> None:
        self._comparable = False
        self.why_none = why
        if also_decisions:
            self._decided = -(1 << 62)

    def losses(self) -> Array | None:
        """Return the decisions that differ on each sample, as shares whose mean is that of all; None without any.

        Where samples decide differently often, each is shown as what it adds to a ratio of two sums (Cochran,
        "Sampling Techniques", 1977, section 6.3).
        """
        if self._decided <= 0:
            return None
        differ, decided = np.concatenate(self._by_sample, axis=1)
        if (decided == decided[0]).all():
            return np.asarray(differ / decided)
        share = differ.sum() / decided.sum()
        return np.asarray(share + (differ - share * decided) / decided.mean())

    def cosine_losses(self) -> Array | None:
        """Return how far each sample is from a cosine of 1; None where there is one number for all."""
        return 1.0 - np.concatenate(self._cosines) if self._cosines and self._comparable else None

    def result(self) -> OutputFidelity:
        """Return the fidelity over all batches so far."""
        agreement = self._same / self._decided if self._decided > 0 else None
        if not self._comparable:
            return OutputFidelity(self.name, self._kind, agreement=agreement)
        near = self._sqnr(), self._cosine(), self._max
        one, other = self._nonfinite
        return OutputFidelity(self.name, self._kind, *near, agreement, one, other, self._resized)

    def _sqnr(self) -> float:
        if self._noise == 0:
            return math.inf
        if self._aa == 0 or math.isinf(self._noise):
            return -math.inf
        return 10 * math.log10(self._aa / self._noise)

    def _cosine(self) -> float:
        if self._cosines:
            return float(np.concatenate(self._cosines).mean())
        if math.isinf(self._noise):
            return 0.0
        sums = (np.asarray([number]) for number in (self._aa, self._bb, self._ab, self._noise))
        return float(_cosines(*sums)[0])


def _cosines(aa: Array, bb: Array, ab: Array, noise: Array) -> Array:
    """Return cosines from sums of squares and products: 1 for what is equal, 0 where only one of the two is zero."""
    size = np.sqrt(aa) * np.sqrt(bb)
    found = np.clip(np.divide(ab, size, out=np.zeros_like(ab), where=size > 0), -1.0, 1.0)
    return np.where(noise == 0, 1.0, found)


def _padded(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays with zeros at the end of each axis along which one is shorter."""
    size = np.maximum(a.shape, b.shape)
    one, other = (np.pad(x, [(0, n) for n in size - x.shape]) for x in (a, b))
    return one, other

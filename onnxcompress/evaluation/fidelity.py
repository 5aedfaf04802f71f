"""How near one model's output comes to another's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..runtime.session import Array


@dataclass(frozen=True)
class OutputFidelity:
    """How near an output of a model comes to the original's, over all samples.

    Attributes
    ----------
    name : str
    sqnr : float or None
        Signal to noise in dB; inf for equal outputs, -inf where one is finite and the other is not.
    cosine : float or None
        Cosine similarity of all values together.
    max_abs : float or None
        The largest absolute difference.
    agreement : float or None
        The share of decisions (highest class, or the integer itself) that are the same; None where one value for each
        sample decides nothing.
    nonfinite_a, nonfinite_b : int
        How many values are NaN or infinite in the original's, and in the other's output.

    resized : int
        In how many batches the two have different sizes, where the size depends on the data (detections, texts): what
        one of them lacks counts as zeros, and as decisions that differ.

    All but the counts are None for an output that is no tensor of numbers, or whose shape differs between the two and
    should not.
    """

    name: str
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
    resizable : bool
        The size of the output depends on the data, so that the two may differ in it.

    Attributes
    ----------
    why_none : str
        Why the result holds None somewhere, to follow the output's name in a message.
    """

    def __init__(self, name: str, *, resizable: bool = False) -> None:
        self.name = name
        self._resizable, self._resized = resizable, 0
        self.why_none = "has one value for each sample, which decides nothing"
        self._comparable = True
        self._aa = self._bb = self._ab = self._noise = 0.0
        self._max = 0.0
        self._same = self._decided = 0
        self._by_sample: list[Array] = []
        self._nonfinite = [0, 0]

    def update(self, a: Any, b: Any) -> None:
        """Take in one batch of the original's output `a` and the other's `b`."""
        if not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray):
            self._give_up("is no tensor")
            return
        if a.shape != b.shape and not (self._resizable and a.ndim == b.ndim):
            self._give_up(f"has shape {list(b.shape)} where the original's has {list(a.shape)}")
            return
        self._decide(a, b)
        if a.dtype.kind in "OSU":
            self._give_up("is text", also_decisions=False)
            return
        if a.shape != b.shape:
            self._resized += 1
            a, b = _padded(a, b)
        x, y = a.astype(np.float64).reshape(-1), b.astype(np.float64).reshape(-1)
        finite_x, finite_y = np.isfinite(x), np.isfinite(y)
        if not (finite_x.all() and finite_y.all()):
            self._nonfinite[0] += int((~finite_x).sum())
            self._nonfinite[1] += int((~finite_y).sum())
            equal = (x == y) | (np.isnan(x) & np.isnan(y))
            if not (equal | (finite_x & finite_y)).all():
                self._max = self._noise = math.inf
            x, y = x[finite_x & finite_y], y[finite_x & finite_y]
        noise = x - y
        self._aa += float(x @ x)
        self._bb += float(y @ y)
        self._ab += float(x @ y)
        self._noise += float(noise @ noise)
        self._max = max(self._max, float(np.abs(noise).max(initial=0.0)))

    def _decide(self, a: Array, b: Array) -> None:
        chosen_a, chosen_b = decisions(a), decisions(b)
        if chosen_a is not None and chosen_b is not None:
            both = tuple(slice(min(sizes)) for sizes in zip(chosen_a.shape, chosen_b.shape, strict=True))
            same = np.asarray(chosen_a[both] == chosen_b[both])
            self._same += int(same.sum())
            decided = max(chosen_a.size, chosen_b.size)
            self._decided += decided
            samples = len(same) if same.shape and len(chosen_a) == len(chosen_b) else 1
            kept = same.reshape(samples, -1).sum(axis=1) if samples else np.zeros(1)
            self._by_sample.append(np.stack([decided / len(kept) - kept, np.full(len(kept), decided / len(kept))]))

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

    def result(self) -> OutputFidelity:
        """Return the fidelity over all batches so far."""
        agreement = self._same / self._decided if self._decided > 0 else None
        if not self._comparable:
            return OutputFidelity(self.name, agreement=agreement)
        near = self._sqnr(), self._cosine(), self._max
        one, other = self._nonfinite
        return OutputFidelity(self.name, *near, agreement, one, other, self._resized)

    def _sqnr(self) -> float:
        if self._noise == 0:
            return math.inf
        if self._aa == 0 or math.isinf(self._noise):
            return -math.inf
        return 10 * math.log10(self._aa / self._noise)

    def _cosine(self) -> float:
        if self._noise == 0:
            return 1.0
        if self._aa == 0 or self._bb == 0 or math.isinf(self._noise):
            return 0.0
        return max(-1.0, min(1.0, self._ab / math.sqrt(self._aa) / math.sqrt(self._bb)))


def _padded(a: Array, b: Array) -> tuple[Array, Array]:
    """Return two arrays with zeros at the end of each axis along which one is shorter."""
    size = np.maximum(a.shape, b.shape)
    one, other = (np.pad(x, [(0, n) for n in size - x.shape]) for x in (a, b))
    return one, other


def class_scores(output: Array) -> Array | None:
    """Return a float output with its classes on the last axis; None for one value for each sample, or no floats.

    The classes are on the last axis; on axis 1 of an image (N, C, H, W); axes of length 1 at the end do not count.
    """
    if output.dtype.kind in "OSUbiu" or output.dtype.name.startswith(("int", "uint")):
        return None
    while output.ndim > 2 and output.shape[-1] == 1:
        output = output[..., 0]
    if output.ndim == 4:
        output = np.moveaxis(output, 1, -1)
    return output if output.ndim > 1 and output.shape[-1] > 1 else None


def decisions(output: Array) -> Array | None:
    """Return what an output decides: the highest class, or its own values where they are integers, truth or text."""
    scores = class_scores(output)
    if scores is not None:
        return np.asarray(scores.argmax(axis=-1))
    return output if output.dtype.kind in "OSUbiu" else None

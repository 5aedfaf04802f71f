"""Choose the factor of each channel so that quantization adds the least noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from onnxcompress.graph import edit

from .axes import Row, Scalable

Vector = npt.NDArray[np.float64]

ALPHAS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""How much of the difficulty goes from the activations into the weights."""

FILLS = (1.0, 0.5, 0.25)
"""How far the channels that can be scaled reach, beside those that cannot."""

LIMIT = 2.0**10
"""No factor is larger, or smaller than its inverse."""

MARGIN = 1.1
"""How far the samples stay away from the bounds of a Clip."""

AVERAGED = 0.25
"""How much of the noise of activations counts: it differs from position to position, and sums over them average it out.

The noise of a weight is the same everywhere. Measured: at 1, ResNet-20 loses 1 dB by factors that should have won 2.
"""


@dataclass(frozen=True)
class Measured:
    """What the samples say of a tensor's channels: smallest and largest value, mean square, share that is not 0."""

    low: Vector
    high: Vector
    square: Vector
    share: Vector


@dataclass(frozen=True, eq=False)
class Weight:
    """A weight by output channel and input channel.

    Attributes
    ----------
    into, out : int array, shapes (outputs, inputs of each) and (outputs,)
        The factors that divide and multiply.
    peak, power : ndarray, shape (outputs, inputs of each)
        Over the kernel: the largest magnitude, and the sum of squares.
    taps : int
        Positions of the kernel.
    data : (str, int)
        The tensor that it reads, and the channel axis.
    """

    into: Row
    out: Row
    peak: Vector
    power: Vector
    taps: int
    data: tuple[str, int]


def choose(
    scalable: Scalable, measured: Mapping[tuple[str, int], Measured], *, per_channel: bool, noise_share: float
) -> Vector:
    """Return the factors, the first of them 1.

    Parameters
    ----------
    scalable : Scalable
    measured : mapping of (str, int) to Measured
        For ``scalable.tensors`` and the inputs of ``scalable.clips``.
    per_channel : bool
        Whether weights have one scale for each output channel, or one.
    noise_share : float
        Factors must bring the noise down to this share of what it was. Not looked at where weights have one scale.

    Notes
    -----
    Per channel: ``s = weight^(1 - alpha) / activation^alpha`` (arXiv:2211.10438, equation 4, as a factor of the
    weights' rows), alpha by the noise of both. Else ``s = sqrt(r2 / r1)`` (arXiv:1906.04721, equation 11), repeated.
    """
    low, high = limits(scalable, measured)
    weights = list(_weights(scalable))
    if not per_channel:
        return _classic(scalable, weights, low, high)
    result = np.ones(scalable.size)
    for part in components(scalable):
        inside = np.zeros(scalable.size, bool)
        inside[part] = True
        noise = _Noise(scalable, weights, measured, inside)
        if noise.reads:
            result[part] = noise.best(low, high, noise_share)[part]
    return result


def limits(scalable: Scalable, measured: Mapping[tuple[str, int], Measured]) -> tuple[Vector, Vector]:
    """Return the smallest and the largest value of each factor; both 1 where the samples reach a bound."""
    low, high = np.full(scalable.size, 1 / LIMIT), np.full(scalable.size, LIMIT)
    low[0] = high[0] = 1
    for place, bottom, top in scalable.clips:
        found = measured[str(place.node.inputs[0].name), place.axis]  # type: ignore[union-attr]
        for reach, bound in ((found.high, top), (-found.low, -bottom)):
            if bound in (0, np.inf):  # a bound of 0 is one at any scale
                continue
            room = bound / np.maximum(reach, 1e-30)
            np.minimum.at(high, place.rows, np.maximum(room / MARGIN, 1))
            hit = place.rows[room <= 1]
            low[hit] = high[hit] = 1
    high = np.maximum(high, low)
    return low, high


def _weights(scalable: Scalable) -> Iterator[Weight]:
    made = {place.node: place.rows for place in scalable.producers}
    for place in scalable.consumers:
        node, data = place.node, edit.required(place.node, 0)
        array = np.abs(edit.array(node.inputs[place.input]).astype(np.float64))
        array = np.moveaxis(array, place.axis, 1) if place.axis != 1 else array
        outputs, inputs = array.shape[:2]
        array = array.reshape(outputs, inputs, -1)
        groups = len(place.rows) // inputs
        into = np.repeat(place.rows.reshape(groups, inputs), outputs // groups, axis=0)
        axis = next(axis for (name, axis) in scalable.tensors if name == data.name)
        out = made.get(node, np.zeros(outputs, np.int64))
        power = np.square(array).sum(-1)
        yield Weight(into, out, array.max(-1), power, array.shape[-1], (str(data.name), axis))


def components(scalable: Scalable) -> list[npt.NDArray[np.intp]]:
    """Return the factors that meet in a tensor."""
    rows = [np.unique(r[r > 0]) for r in scalable.tensors.values()]
    pairs = [(r[:-1], r[1:]) for r in rows if len(r) > 1]
    a = np.concatenate([p[0] for p in pairs] or [np.zeros(0, np.int64)])
    b = np.concatenate([p[1] for p in pairs] or [np.zeros(0, np.int64)])
    links: Any = coo_array((np.ones(len(a)), (a, b)), (scalable.size, scalable.size))
    count, part = connected_components(links, directed=False)
    order = np.argsort(part, kind="stable")
    bounds = np.cumsum(np.bincount(part, minlength=count))[:-1]
    return [found for found in np.split(order, bounds) if found[0] != 0]


def _classic(scalable: Scalable, weights: list[Weight], low: Vector, high: Vector, sweeps: int = 20) -> Vector:
    """Make the rows of the weights before and the columns of those behind as large as each other."""
    factors = np.ones(len(low))
    first = _first_peaks(scalable)
    for _ in range(sweeps):
        rows, columns = first * factors, np.zeros(len(low))
        for weight in weights:
            scaled = weight.peak * factors[weight.out][:, None] / factors[weight.into]
            np.maximum.at(columns, weight.into, scaled)
            np.maximum.at(rows, weight.out, scaled.max(1))
        both = (rows > 0) & (columns > 0)
        step = np.sqrt(np.where(both, columns, 1) / np.where(both, rows, 1))
        factors = np.clip(factors * step, low, high)
        factors[0] = 1
    return factors


def _first_peaks(scalable: Scalable) -> Vector:
    """Return the largest magnitude of each row of the weights whose input keeps its scale."""
    peaks = np.zeros(scalable.size)
    scaled = {place.node for place in scalable.consumers}
    for place in scalable.producers:
        tensor = edit.constant(place.node.inputs[place.input])
        if place.node not in scaled and tensor is not None:
            array = np.abs(np.moveaxis(tensor.numpy().astype(np.float64), place.axis, 0))
            np.maximum.at(peaks, place.rows, array.reshape(len(array), -1).max(1))
    return peaks


class _Noise:
    """The noise that quantization adds to the outputs of the weights that read some channels, over their power."""

    def __init__(
        self,
        scalable: Scalable,
        weights: list[Weight],
        measured: Mapping[tuple[str, int], Measured],
        inside: npt.NDArray[np.bool_],
    ) -> None:
        self.tensors = [(rows, measured[key]) for key, rows in scalable.tensors.items() if inside[rows].any()]
        self.reads: list[tuple[Weight, Vector, float]] = []
        self.inside = inside
        for weight in weights:
            if inside[weight.into].any():
                square = measured[weight.data].square
                groups = len(square) // weight.into.shape[1]
                square = np.repeat(square.reshape(groups, -1), len(weight.out) // groups, axis=0)
                self.reads.append((weight, square, float((weight.power * square).sum()) or 1.0))
        self.importance = np.zeros(scalable.size)
        for weight, _, signal in self.reads:
            np.add.at(self.importance, weight.into, weight.power / signal)

    def __call__(self, factors: Vector) -> float:
        total = 0.0
        for rows, found in self.tensors:
            here = factors[rows]
            step = ((here * found.high).max() - (here * found.low).min()) / 255
            rounding = np.minimum(np.square(step) * found.share / 12 / np.square(here), found.square)
            total += AVERAGED * float((self.importance[rows] * rounding).sum())
        for weight, square, signal in self.reads:
            here = factors[weight.into]
            steps = (weight.peak / here).max(1) / 127
            spread = (np.square(here) * square).sum(1) * weight.taps
            total += float((np.square(steps) * spread).sum() / 12 / signal)
        return total

    def best(self, low: Vector, high: Vector, noise_share: float) -> Vector:
        """Return the factors with the least noise."""
        size = len(self.inside)
        best = np.ones(size)
        least = noise_share * self(best)
        reach, peak = np.zeros(size), np.zeros(size)
        kept = 0.0
        for rows, found in self.tensors:
            each = np.maximum(found.high, -found.low)
            each = each / (each.max() or 1)
            np.maximum.at(reach, rows, each)
            kept = max(kept, float(each[low[rows] == high[rows]].max(initial=0)))
        for weight, _, _ in self.reads:
            np.maximum.at(peak, weight.into, weight.peak / (weight.peak.max() or 1))
        known = self.inside & (reach > 0) & (peak > 0) & (low < high)
        if not known.any():
            return best
        for alpha in ALPHAS:
            base = np.ones(size)
            base[known] = peak[known] ** (1 - alpha) / reach[known] ** alpha
            for fill in FILLS if kept else (1.0,):
                largest = float((base * reach)[known].max())
                gain = kept * fill / largest if kept else np.exp(-np.log(base[known]).mean())
                factors = np.ones(size)
                factors[known] = np.clip(base[known] * gain, low[known], high[known])
                noise = self(factors)
                if noise < least:
                    best, least = factors, noise
        return best

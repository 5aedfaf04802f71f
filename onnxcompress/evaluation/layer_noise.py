"""How near each layer's output comes to the original's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ..runtime.session import Array
from ..statistics.taps import Tap, open_taps, split_lots, whole

LOT_BYTES = 1 << 27
"""Bytes of tensors that are fetched at once of each model."""

EQUAL = 200.0
"""What is said of outputs that are equal, in dB."""


def layer_noise(
    original: ir.Model, result: ir.Model, tensors: Mapping[str, tuple[str, str]], feeds: Sequence[dict[str, Array]]
) -> dict[str, float | None]:
    """Return the signal to noise of each layer's output, in dB.

    Each channel is compared at its best scale, since some passes (equalisation, the folding of factors) move factors
    from one layer to the next, which changes what is between and nothing else.

    Parameters
    ----------
    original, result : onnx_ir.Model
        Not changed.
    tensors : mapping
        Layer → the tensor of the original and that of the result which should be equal.
    feeds : sequence
        A few samples.

    Returns
    -------
    dict
        None where the two differ in shape, or hold what is not finite.
    """
    partner = dict(tensors.values())
    if not partner:
        return {}
    taps = [whole(name) for name in partner]
    sizes = _sizes(original, taps, feeds[0])
    sums: dict[str, _Sums] = {name: _Sums() for name in partner}
    for lot in split_lots(taps, sizes, LOT_BYTES):
        names = [tap.tensor for tap in lot]
        wanted = [*dict.fromkeys(partner[name] for name in names)]
        one, other = open_taps(original, lot)[0], open_taps(result, [whole(name) for name in wanted])[0]
        for feed in feeds:
            before, after = one.run(feed, names), other.run(feed, wanted)
            for name in names:
                sums[name].update(before[name], after[partner[name]])
    return {layer: sums[old].sqnr() for layer, (old, _) in tensors.items()}


def _sizes(model: ir.Model, taps: Sequence[Tap[str]], feed: dict[str, Array]) -> dict[str, int]:
    """Return the bytes of tensors, of one run in which only how large they are leaves onnxruntime."""
    counts = [Tap(tap.key, tap.tensor, lambda tapper, value: [tapper.add("Size", value)]) for tap in taps]
    session, fetched = open_taps(model, counts)
    found = session.run(feed)
    return {tap.tensor: 4 * int(found[fetched[tap.key][0]]) for tap in taps}


class _Sums:
    """Adds up what two tensors have in common, channel by channel."""

    def __init__(self) -> None:
        self._aa: Any = 0.0
        self._ab: Any = 0.0
        self._bb: Any = 0.0
        self._fits = True

    def update(self, a: Any, b: Any) -> None:
        if not self._fits or not isinstance(a, np.ndarray) or not isinstance(b, np.ndarray) or a.shape != b.shape:
            self._fits = False
            return
        channel = 1 if a.ndim > 3 else a.ndim - 1
        axes = tuple(axis for axis in range(a.ndim) if axis != channel)
        x, y = a.astype(np.float64), b.astype(np.float64)
        if not (np.isfinite(x).all() and np.isfinite(y).all()):
            self._fits = False
            return
        self._aa = self._aa + (x * x).sum(axes)
        self._ab = self._ab + (x * y).sum(axes)
        self._bb = self._bb + (y * y).sum(axes)

    def sqnr(self) -> float | None:
        """Return the ratio at each channel's best scale: of ``a - s b`` the least is ``aa - ab² / bb``."""
        if not self._fits or np.size(self._aa) == 0:
            return None
        aligned = np.maximum(self._ab, 0.0)
        explained = np.divide(aligned**2, self._bb, out=np.zeros_like(aligned), where=np.asarray(self._bb) > 0)
        signal, noise = float(np.sum(self._aa)), float(np.sum(np.maximum(self._aa - explained, 0.0)))
        if signal == 0:
            return EQUAL if noise == 0 and float(np.sum(self._bb)) == 0 else None
        return EQUAL if noise <= signal * 10 ** (-EQUAL / 10) else min(10 * math.log10(signal / noise), EQUAL)

"""Facts about operators that normalise over the last axis: which inputs are what."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Normalisation:
    """Which inputs a normalisation reads as what.

    Attributes
    ----------
    data : tuple of int
        What is normalised; two are added up before.
    factors, shift : int
        What is multiplied by and added afterwards, one for each channel.
    bias : int, optional
        What is added before.
    centred : bool
        The mean is taken away first.
    """

    data: tuple[int, ...] = (0,)
    factors: int = 1
    shift: int | None = None
    bias: int | None = None
    centred: bool = False


NORMALISATIONS = {
    "LayerNormalization": Normalisation(shift=2, centred=True),
    "RMSNormalization": Normalisation(),
    "SimplifiedLayerNormalization": Normalisation(),
    "com.microsoft::SimplifiedLayerNormalization": Normalisation(),
    "com.microsoft::SkipLayerNormalization": Normalisation((0, 1), factors=2, shift=3, bias=4, centred=True),
    "com.microsoft::SkipSimplifiedLayerNormalization": Normalisation((0, 1), factors=2, bias=3),
}

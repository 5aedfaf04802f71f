"""Zero the weights whose normalised magnitude is below a threshold."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass

from .masks.masks import Mask, MaskPlan, apply_masks
from .masks.weights import Floats, lowest_share, usable, with_scores, without


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagnitudePrune(Pass):
    """Zero the weights whose normalised magnitude is below a threshold.

    The classic recipe: take |W|, divide by its maximum, zero what is below the threshold; `Shrink` then removes the
    channels that are all zero. With `sparsity`, the smallest share of the normalised magnitudes goes instead.

    Parameters
    ----------
    threshold : float
        In [0, 1]: weights with ``|W| / max|W| < threshold`` become zero. Not used when `sparsity` is given.
    sparsity : float, optional
        In [0, 1): the share of weights to zero, in each tensor, or over all of them with ``normalise="model"``.
        Of equal magnitudes the first in memory goes first, so the share is exact.
    normalise : {"tensor", "channel", "model"}
        What the maximum is taken over: each weight tensor, each of its output channels, or all weights.
    scores : str
        An ``.npz`` file of arrays named after weights and of their shapes: they rank in place of |W| (their magnitudes
        count), and weights that it does not name are left alone.
    exclude : tuple of str
        Weights to leave alone, by patterns (``head*``) on their names.

    Notes
    -----
    Weights are what Conv, ConvTranspose, Gemm, MatMul, GRU, LSTM and RNN multiply by, inner graphs included; biases
    and normalisation parameters are left alone. LeCun et al., "Optimal Brain Damage" (1989) calls magnitude the
    baseline; Han et al., arXiv:1506.02626, made it the standard.
    """

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    normalise: Literal["tensor", "channel", "model"] = "tensor"
    scores: str = ""
    exclude: tuple[str, ...] = ()

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Choose what becomes zero."""
        weights, refused = usable(model)
        weights, excluded = without(self.name, self.exclude, weights)
        scores, lacking = with_scores(self.name, self.scores, weights)
        largest = max((float(np.abs(s).max()) for s in scores.values()), default=0.0)
        ranked = {str(w.value.name): w for w in weights if w.value.name in scores}
        magnitudes = {name: self._normalised(np.abs(scores[name]), w.axis, largest) for name, w in ranked.items()}
        if self.normalise == "model" and self.sparsity is not None and magnitudes:
            keeps = _split(self._keep(np.concatenate([m.ravel() for m in magnitudes.values()])), magnitudes)
        else:
            keeps = {name: self._keep(magnitude) for name, magnitude in magnitudes.items()}
        masks = {name: Mask.of(keep) for name, keep in keeps.items() if not keep.all()}
        return MaskPlan(masks=masks, refused=(*refused, *excluded, *lacking))

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)

    def _normalised(self, magnitude: Floats, axis: int, largest: float) -> Floats:
        if self.normalise == "model":
            return np.asarray(magnitude / largest) if largest else magnitude
        others = None
        if self.normalise == "channel" and axis >= 0:
            others = tuple(d for d in range(magnitude.ndim) if d != axis)
        top = magnitude.max(axis=others, keepdims=True)
        return np.asarray(magnitude / np.where(top == 0, 1, top))

    def _keep(self, magnitude: Floats) -> npt.NDArray[np.bool_]:
        if self.sparsity is None:
            return magnitude >= self.threshold
        return lowest_share(magnitude, self.sparsity)


def _split(keep: npt.NDArray[np.bool_], like: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.bool_]]:
    """Cut a mask over all weights, laid end to end, into one for each."""
    ends = np.cumsum([m.size for m in like.values()])
    parts = np.split(keep, ends[:-1])
    return {name: part.reshape(m.shape) for part, (name, m) in zip(parts, like.items(), strict=True)}

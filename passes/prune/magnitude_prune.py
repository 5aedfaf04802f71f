"""Zero the weights whose normalised magnitude is below a threshold."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Context, Refusal

from .masks.masks import Keep, MaskPlan
from .masks.weights import Floats, keep_highest, with_scores
from .policies.weight_pass import WeightPass
from .sparsity.amount import how_many, too_many
from .sparsity.threshold import ThresholdPass


@dataclasses.dataclass(frozen=True, kw_only=True)
class MagnitudePrune(WeightPass, ThresholdPass):
    """Zero the weights whose normalised magnitude is below a threshold.

    The classic recipe: take |W|, divide by its maximum, zero what is below the threshold; `Shrink` then removes the
    channels that are all zero. With `sparsity`, the smallest share of the normalised magnitudes goes instead.

    Parameters
    ----------
    threshold : float
        In [0, 1]: weights with ``|W| / max|W| < threshold`` become zero. Not used when `sparsity` is given.
    sparsity : float or int, optional
        The share of weights to zero, rounded down, in each tensor, or over all of them with ``normalise="model"``; or,
        as a whole number, how many of them. Of equal magnitudes the first in memory goes first, so it is exact.
    normalise : {"tensor", "channel", "model"}
        What the maximum is taken over: each weight tensor, each of its output channels, or all weights. Weights with
        options of their own (`overrides`) do not compete with the others of the model.
    scores : str
        An ``.npz`` file of arrays named after weights and of their shapes: they rank in place of |W| (their magnitudes
        count), and weights that it does not name are left alone.

    Notes
    -----
    Weights are what Conv, ConvTranspose, Gemm, MatMul, GRU, LSTM and RNN multiply by, and onnxruntime's Attention,
    FusedConv, FusedGemm and FusedMatMul, inner graphs included; biases and normalisation parameters are left alone.
    LeCun et al., "Optimal Brain Damage" (1989) calls magnitude the baseline; Han et al., arXiv:1506.02626, made it the
    standard.
    """

    normalise: Literal["tensor", "channel", "model"] = "tensor"
    scores: str = ""

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Choose what becomes zero."""
        chosen = self.chosen(model)
        scores, lacking = with_scores(self.name, self.scores, chosen.weights)
        largest = max((float(np.abs(s).max()) for s in scores.values()), default=0.0)
        refused = [*chosen.refused, *lacking]
        keeps: dict[str, Keep] = {}
        shared: dict[str, Floats] = {}
        for weight in chosen.weights:
            name = str(weight.value.name)
            if name not in scores:
                continue
            magnitude = self._normalised(np.abs(scores[name]), weight.axis, largest)
            step = chosen.selected.settings(weight)
            if step is self and self.normalise == "model" and self.sparsity is not None:
                shared[name] = magnitude
            elif step.sparsity is not None and (reason := too_many(step.sparsity, magnitude.size, "weights")):
                refused.append(Refusal(name, reason))
            else:
                keeps[name] = step.keep(magnitude)
        keeps |= self._keep_together(shared, refused)
        return self.masked(model, keeps, refused)

    def keep(self, magnitude: Floats) -> Keep:
        """Return which of some weights stay, by the threshold or the sparsity."""
        if self.sparsity is None:
            return magnitude >= self.threshold
        return keep_highest(magnitude, how_many(self.sparsity, magnitude.size))

    def _keep_together(self, magnitudes: dict[str, Floats], refused: list[Refusal]) -> dict[str, Keep]:
        """Let all weights of the model compete."""
        if not magnitudes:
            return {}
        flat = np.concatenate([magnitude.ravel() for magnitude in magnitudes.values()])
        if self.sparsity is not None and (reason := too_many(self.sparsity, flat.size, "weights that compete")):
            refused.append(Refusal("model", reason))
            return {}
        return _split(self.keep(flat), magnitudes)

    def _normalised(self, magnitude: Floats, axis: int, largest: float) -> Floats:
        if self.normalise == "model":
            return np.asarray(magnitude / largest) if largest else magnitude
        others = None
        if self.normalise == "channel" and axis >= 0:
            others = tuple(d for d in range(magnitude.ndim) if d != axis)
        top = magnitude.max(axis=others, keepdims=True)
        return np.asarray(magnitude / np.where(top == 0, 1, top))


def _split(keep: Keep, weights: dict[str, npt.NDArray[Any]]) -> dict[str, Keep]:
    """Cut a mask over all weights, laid end to end, into one for each."""
    ends = np.cumsum([weight.size for weight in weights.values()])
    parts = np.split(keep, ends[:-1])
    return {name: part.reshape(w.shape) for part, (name, w) in zip(parts, weights.items(), strict=True)}

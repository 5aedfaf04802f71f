"""Zero the weights whose normalised magnitude is below a threshold."""

from __future__ import annotations

import dataclasses
from collections import Counter
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Changes, Context, Pass, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.weights import Weight, find_weights

from .masks import Mask, MaskPlan, apply_masks


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

    Notes
    -----
    Weights are what Conv, ConvTranspose, Gemm, MatMul, GRU, LSTM and RNN multiply by, inner graphs included; biases
    and normalisation parameters are left alone. LeCun et al., "Optimal Brain Damage" (1989) calls magnitude the
    baseline; Han et al., arXiv:1506.02626, made it the standard.
    """

    threshold: Annotated[float, msgspec.Meta(ge=0, le=1)] = 0.5
    sparsity: Annotated[float, msgspec.Meta(ge=0, lt=1)] | None = None
    normalise: Literal["tensor", "channel", "model"] = "tensor"

    def plan(self, model: ir.Model, context: Context) -> MaskPlan:
        """Choose what becomes zero."""
        weights, refused = _usable(model)
        largest = max((float(np.abs(_array(w)).max()) for w in weights), default=0.0)
        magnitudes = {str(w.value.name): self._normalised(w, largest) for w in weights}
        if self.normalise == "model" and self.sparsity is not None and magnitudes:
            keeps = _split(self._keep(np.concatenate([m.ravel() for m in magnitudes.values()])), magnitudes)
        else:
            keeps = {name: self._keep(magnitude) for name, magnitude in magnitudes.items()}
        masks = {name: Mask.of(keep) for name, keep in keeps.items() if not keep.all()}
        return MaskPlan(masks=masks, refused=tuple(refused))

    def apply(self, model: ir.Model, plan: MaskPlan) -> Changes:
        """Zero what the plan does not keep."""
        return apply_masks(model, plan)

    def _normalised(self, weight: Weight, largest: float) -> npt.NDArray[np.floating[Any]]:
        magnitude: npt.NDArray[np.floating[Any]] = np.abs(_array(weight))
        if self.normalise == "model":
            return np.asarray(magnitude / largest) if largest else magnitude
        others = None
        if self.normalise == "channel" and weight.axis >= 0:
            others = tuple(d for d in range(magnitude.ndim) if d != weight.axis)
        top = magnitude.max(axis=others, keepdims=True)
        return np.asarray(magnitude / np.where(top == 0, 1, top))

    def _keep(self, magnitude: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.bool_]:
        if self.sparsity is None:
            return magnitude >= self.threshold
        keep = np.ones(magnitude.size, bool)
        count = int(self.sparsity * magnitude.size)
        keep[np.argsort(magnitude, axis=None, kind="stable")[:count]] = False
        return keep.reshape(magnitude.shape)


def _split(keep: npt.NDArray[np.bool_], like: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[np.bool_]]:
    """Cut a mask over all weights, laid end to end, into one for each."""
    ends = np.cumsum([m.size for m in like.values()])
    parts = np.split(keep, ends[:-1])
    return {name: part.reshape(m.shape) for part, (name, m) in zip(parts, like.items(), strict=True)}


def _array(weight: Weight) -> npt.NDArray[Any]:
    tensor = edit.constant(weight.value)
    assert tensor is not None
    array = tensor.numpy()
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float32)


def _usable(model: ir.Model) -> tuple[list[Weight], list[Refusal]]:
    """Sort out weights that hold NaN or Inf, and say what else is out of reach."""
    weights, refused = [], []
    names = Counter(value.name for value in edit.values(model.graph))
    for weight in find_weights(model.graph):
        if names[weight.value.name] > 1:
            refused.append(Refusal(str(weight.value.name), "several inner graphs have a tensor of this name"))
        elif np.isfinite(_array(weight)).all():
            weights.append(weight)
        else:
            refused.append(Refusal(str(weight.value.name), "it holds NaN or Inf"))
    for node in model.graph.all_nodes():
        stored = node.inputs[0] if edit.op_of(node) == "DequantizeLinear" else None
        if stored is not None and edit.constant(stored) is not None:
            refused.append(Refusal(str(stored.name), "it is quantized already; prune before quantizing"))
    if not weights and not refused:
        refused.append(Refusal("model", "no operator multiplies by a constant float weight"))
    return weights, refused

"""How much of a layer's output each rank keeps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Context
from onnxcompress.graph.layer import Layer

from ...quantize.weight_only.grams import layer_grams
from .write import Factors

Matrix = npt.NDArray[np.float64]

FEWEST = 1e-12
"""Axes with less of the whole are none."""


@dataclass(frozen=True)
class Spectrum:
    """The principal axes of what a layer gives, and the share of its square along each, in falling order.

    Attributes
    ----------
    layer : Layer
    axes : (outputs, n) array
    shares : (n,) array
    """

    layer: Layer
    axes: Matrix
    shares: Matrix

    @property
    def size(self) -> int:
        """How many weights it has."""
        return self.layer.outputs * self.layer.columns

    @property
    def breaks_even(self) -> int:
        """The least rank at which two factors have as many weights."""
        return -(-self.size // (self.layer.outputs + self.layer.columns))

    def rank(self, error: float, round_to: int = 1) -> int:
        """Return the least rank at which no more is lost, rounded up."""
        lost = 1 - np.cumsum(self.shares)
        needed = int(np.argmax(lost <= error + FEWEST)) + 1 if (lost <= error + FEWEST).any() else len(lost)
        return min(-(-needed // round_to) * round_to, max(len(lost), 1))

    def size_at(self, rank: int) -> int:
        """Return how many weights are left at a rank: all of them where nothing would be saved."""
        return min(rank * (self.layer.outputs + self.layer.columns), self.size)

    def factors(self, rank: int) -> Factors:
        """Return the product of a rank whose output is nearest."""
        axes = self.axes[:, :rank]
        weight = self.layer.blocks(self.layer.stored.astype(np.float64))[0]
        lost = float(max(0.0, 1 - self.shares[:rank].sum()))
        return Factors(np.asarray(axes.T @ weight, np.float32), np.asarray(axes, np.float32), lost)


def spectra(model: ir.Model, layers: list[Layer], context: Context) -> list[Spectrum]:
    """Return the spectrum of each layer: of its outputs on the samples, of its weight where there are none."""
    by_name = {str(layer.value.name): layer for layer in layers}
    found: dict[str, Spectrum] = {}
    if context.has_samples and layers:
        for name, gram in layer_grams(model, by_name, context):
            found[name] = _spectrum(by_name[name], gram.reshape(gram.shape[-2:]).astype(np.float64))
    return [found[name] if name in found else _spectrum(layer, None) for name, layer in by_name.items()]


def _spectrum(layer: Layer, gram: Matrix | None) -> Spectrum:
    weight = layer.blocks(layer.stored.astype(np.float64))[0]
    if gram is not None:
        values, vectors = np.linalg.eigh(gram)
        weight = weight @ (vectors * np.sqrt(np.maximum(values, 0)))
    tall = weight.shape[0] > weight.shape[1]
    values, axes = np.linalg.eigh(weight.T @ weight if tall else weight @ weight.T)
    values, axes = np.maximum(values[::-1], 0), axes[:, ::-1]
    total = float(values.sum()) or 1.0
    there = values > FEWEST * total
    if not there.any():
        there[:1] = True
    values, axes = values[there], axes[:, there]
    if tall:
        axes = np.linalg.qr(weight @ axes)[0]
    return Spectrum(layer, axes, values / total)

"""Quantization: `Quantize` computes on integers, `QuantizeWeights` only stores them."""

from .quantize import Quantize
from .quantize_weights import QuantizeWeights

__all__ = ["Quantize", "QuantizeWeights"]

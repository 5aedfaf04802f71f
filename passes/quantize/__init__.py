"""Quantization: `Quantize` and `QuantizeDynamic` compute on integers, `QuantizeWeights` only stores them."""

from .quantize import Quantize
from .quantize_dynamic import QuantizeDynamic
from .quantize_weights import QuantizeWeights

__all__ = ["Quantize", "QuantizeDynamic", "QuantizeWeights"]

"""`Quantize` and `QuantizeDynamic` compute on integers, `QuantizeWeights` stores them, `ConvertFloat` halves floats."""

from .convert_float import ConvertFloat
from .quantize import Quantize
from .quantize_dynamic import QuantizeDynamic
from .quantize_weights import QuantizeWeights

__all__ = ["ConvertFloat", "Quantize", "QuantizeDynamic", "QuantizeWeights"]

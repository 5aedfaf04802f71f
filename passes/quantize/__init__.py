"""`Quantize` and `QuantizeDynamic` compute on integers, `QuantizeWeights` and `QuantizeCache` store them.

`ConvertFloat` halves floats.
"""

from .convert_float import ConvertFloat
from .quantize import Quantize
from .quantize_cache import QuantizeCache
from .quantize_dynamic import QuantizeDynamic
from .quantize_weights import QuantizeWeights

__all__ = ["ConvertFloat", "Quantize", "QuantizeCache", "QuantizeDynamic", "QuantizeWeights"]

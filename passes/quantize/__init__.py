"""`Quantize` and `QuantizeDynamic` compute on integers, `QuantizeWeights` and `QuantizeCache` store them.

`ConvertFloat` halves floats, `Rotate` makes weights easier to store in few bits.
"""

from .convert_float import ConvertFloat
from .quantize import Quantize
from .quantize_cache import QuantizeCache
from .quantize_dynamic import QuantizeDynamic
from .quantize_weights import QuantizeWeights
from .rotate import Rotate

__all__ = ["ConvertFloat", "Quantize", "QuantizeCache", "QuantizeDynamic", "QuantizeWeights", "Rotate"]

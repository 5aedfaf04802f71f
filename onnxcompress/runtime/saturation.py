"""Whether integer products are exact on this machine."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnx_ir as ir

from .provider import Provider, running
from .session import open_session

_DEPTH = 64
_PROBE = """
<ir_version: 8, opset_import: ["" : 13]>
probe (uint8[1, N] a, int8[N, M] b) => (int32[1, M] y) { y = MatMulInteger(a, b) }
"""


def products_saturate() -> bool:
    """Tell whether onnxruntime loses products of uint8 and int8 where models run now; only its CPU may."""
    return running().is_cpu and cpu_loses_products()


@cache
def cpu_loses_products() -> bool:
    """Tell whether onnxruntime loses products of uint8 and int8 on this CPU.

    On x86 without VNNI it adds them in pairs, in 16 bits: more than 32767 is taken for 32767. It is asked, and not the
    name of the CPU.
    """
    a = np.full((1, _DEPTH), 255, np.uint8)
    b = np.full((_DEPTH, _DEPTH), 127, np.int8)
    session = open_session(ir.from_proto(onnx.parser.parse_model(_PROBE)), provider=Provider())
    found = session.run({"a": a, "b": b})["y"]
    return bool((found != a.astype(np.int32) @ b.astype(np.int32)).any())

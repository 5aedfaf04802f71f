"""What onnxruntime's integer kernels do on the machine that runs the tests; asked with numpy, not with the package."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
from onnx import parser

_PRODUCT = parser.parse_model(
    """<ir_version: 8, opset_import: ["" : 13]>
    g (uint8[2, 32] a, int8[32, 8] b) => (int32[2, 8] y) { y = MatMulInteger(a, b) }"""
)


def _saturates() -> bool:
    a, b = np.full((2, 32), 250, np.uint8), np.full((32, 8), -120, np.int8)
    (found,) = ort.InferenceSession(_PRODUCT.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"a": a, "b": b}
    )
    return bool((found != 32 * 250 * -120).any())


SATURATES = _saturates()
"""Whether sums of products uint8 · int8 are cut off at 16 bits, as on x86 without VNNI."""

LARGEST = 64 if SATURATES else 127
"""The largest magnitude of a weight where a pass is left to choose."""

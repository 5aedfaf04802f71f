"""MatMulInteger in the place of MatMul, and what makes integers of 8 bits of those of 4.

``W ≈ unit · m · (q − zero_point)``: one `unit` for each output, and for each block a whole number `m` so small that
``m · (q − zero_point)`` is an integer of 8 bits. A small graph over constants makes it, which onnxruntime evaluates
when it loads the model, at any level of optimisation but "off".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import PassError
from onnxcompress.graph import edit

from ..dynamic.apply import DynamicApplication
from ..shared import scales
from .fused import Shared
from .storage import StoredWeight

Array = npt.NDArray[Any]


def write_integer(value: ir.Value, stored: StoredWeight, shared: Shared, application: DynamicApplication) -> None:
    """Let products of integers take over from the MatMuls that read a matrix (K, N)."""
    unit = unit_of(stored)
    integers = _Unpacked(value, stored, shared).integers(edit.array(value), unit)
    for node, _ in list(value.uses()):
        application.product(node, integers, unit)


def unit_of(stored: StoredWeight) -> npt.NDArray[np.float32]:
    """Return the scales of outputs."""
    if stored.whole is None:
        raise PassError("the plan has a weight for MatMulInteger without its scales of outputs")
    return stored.whole.unit


class _Unpacked:
    """Adds the constants of one matrix (K, N), and the nodes that make 8 bits of them."""

    def __init__(self, value: ir.Value, stored: StoredWeight, shared: Shared) -> None:
        self._stored, self._name, self._shared = stored, str(value.name), shared
        self._inserter = edit.Inserter(edit.graph_of(value), shared.names)

    def integers(self, array: Array, unit: Array) -> ir.Value:
        """Return ``m · (q − zero_point)`` in 8 bits."""
        stored, name = self._stored, self._name
        steps = np.rint(stored.scale / unit).astype(np.int8)[:, None]
        blocks = stored.encode(array).reshape(len(steps), -1, array.shape[1])
        found = self._float(f"{name}_quantized", blocks, stored.grid.dtype)
        if stored.zero_point.any():
            alike = (stored.zero_point == stored.zero_point.flat[0]).all()
            zero = stored.zero_point.flat[:1] if alike else stored.zero_point[:, None]
            found = self._node("Sub", [found, self._float(f"{name}_zero_point", zero, stored.grid.dtype)])
        kind = "int8" if (steps < 0).any() else scales.UINT4.dtype
        found = self._node("Mul", [found, self._float(f"{name}_multiple", steps, kind)])
        found = self._node("Cast", [found], to=int(ir.DataType.INT8))
        return self._node("Reshape", [found, self._shared.constant(self._inserter, np.array(array.shape, np.int64))])

    def _float(self, name: str, array: Array, dtype: str) -> ir.Value:
        """Return floats, stored as integers: onnxruntime multiplies none of 8 bits."""
        value = self._inserter.constant(name, array.astype(dtype))
        return self._node("Cast", [value], to=int(ir.DataType.FLOAT))

    def _node(self, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        return self._inserter.node(op_type, inputs, attributes=attributes, before=self._inserter.first)

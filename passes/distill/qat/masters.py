"""Constants of integers, and the floats that are trained in their place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit
from onnxcompress.training.rules.quantize import RANGES, Spread, spread_of

Floats = npt.NDArray[np.float32]
Steps = npt.NDArray[np.int64]

DEQUANTIZE = ("DequantizeLinear", "com.microsoft::DequantizeLinear")
QUANTIZE = ("QuantizeLinear", "com.microsoft::QuantizeLinear")

SEVEN_BITS = 64
"""Weights of 8 bits reach no further from their zero point where a CPU adds pairs of products in 16 bits."""


@dataclass(frozen=True)
class Master:
    """A constant of integers ``q`` that stands for ``(q - point) · scale``.

    Attributes
    ----------
    value : onnx_ir.Value
        The constant.
    readers : tuple of onnx_ir.Node
        All that read it: DequantizeLinear, with the same scales and zero points.
    spread : Spread
        How scales and zero points broadcast.
    integers : ndarray
    scale, point : ndarray
        Not broadcast yet.
    low, high : ndarray of int64
        How far the integers may be from their zero points, by their type and by what the format that they are in leaves
        out: -128 (symmetric), all beyond 64 (CPUs that add in 16 bits).
    """

    value: ir.Value
    readers: tuple[ir.Node, ...]
    spread: Spread
    integers: npt.NDArray[Any]
    scale: Floats
    point: npt.NDArray[Any]
    low: Steps
    high: Steps

    @property
    def name(self) -> str:
        """That of the constant."""
        return str(self.value.name)

    @property
    def is_rounded(self) -> bool:
        """Tell whether training sees it rounded; of 32 bits it does not, which no operator rounds to."""
        return self.value.dtype in RANGES

    @property
    def floats(self) -> Floats:
        """What the integers stand for."""
        return (self.steps.astype(np.float32) * self.spread.array(self.scale)).astype(np.float32)

    @property
    def steps(self) -> Steps:
        """How far the integers are from their zero points."""
        return self.steps_of(self.integers)

    def steps_of(self, integers: npt.NDArray[Any]) -> Steps:
        """Return how far others in their place are."""
        return integers.astype(np.int64) - self._broadcast(self.point)

    @property
    def bounds(self) -> tuple[Steps, Steps] | None:
        """How far the integers reach where that is less than their type does."""
        low, high = RANGES.get(self.value.dtype or ir.DataType.UNDEFINED, (0, 0))
        narrow = self.is_rounded and int((self.high - self.low).max()) < high - low
        return (self.low, self.high) if narrow else None

    def rounded(self, floats: Floats, scale: Floats | None = None) -> npt.NDArray[Any]:
        """Return the integers nearest to floats; in steps of another `scale` where that was trained as well."""
        step = self.spread.array(self.scale if scale is None else scale)
        # As the operator does it, in float32; which does not hold all integers of 32 bits.
        steps = floats / step if self.is_rounded else floats.astype(np.float64) / step
        whole = np.clip(np.rint(steps), self._broadcast(self.low), self._broadcast(self.high)).astype(np.int64)
        integers: npt.NDArray[Any] = (whole + self._broadcast(self.point)).astype(self.integers.dtype)
        return np.where(floats == self.floats, self.integers, integers) if scale is None else integers

    def _broadcast(self, each: npt.NDArray[Any]) -> Steps:
        return self.spread.array(each.astype(np.float32)).astype(np.int64)


def is_quantized(model: ir.Model) -> bool:
    """Tell whether a model rounds anything to integers, or holds such."""
    return any(edit.op_of(node) in (*DEQUANTIZE, *QUANTIZE) for node in model.graph.all_nodes())


def find_masters(model: ir.Model) -> tuple[dict[str, Master], dict[str, str]]:
    """Find the constants of integers that can be trained.

    Returns
    -------
    dict of str to Master
        By name.
    dict of str to str
        The others, and why.
    """
    read = [node.inputs[0] for node in model.graph if edit.op_of(node) in DEQUANTIZE]
    found, refused = {}, {}
    for value in dict.fromkeys(value for value in read if edit.constant(value) is not None):
        assert value is not None
        master = _master(value)
        if isinstance(master, str):
            refused[str(value.name)] = master
        else:
            found[master.name] = master
    return found, refused


def _master(value: ir.Value) -> Master | str:
    """Return how integers are trained, or why they are not."""
    readers = tuple(node for node, _ in value.uses())
    other = next((node for node in readers if edit.op_of(node) not in DEQUANTIZE), None)
    if other is not None:
        return f"{edit.label(other)} reads the integers themselves"
    first = readers[0]
    arrays = [_constants(node) for node in readers]
    if arrays[0] is None:
        return f"the scale or zero point of {edit.label(first)} is no constant"
    if any(found is None or not _equal(found, arrays[0]) for found in arrays):
        return f"{edit.label(first)} and others dequantize it differently"
    scale, point = arrays[0]
    if value.dtype not in RANGES and value.dtype != ir.DataType.INT32:
        return f"it is {value.dtype}, and only integers are trained"
    if scale.dtype != np.float32:
        return f"its scales are {scale.dtype}, and only float32 is trained"
    integers = edit.array(value)
    low, high = _reach(value.dtype, integers, point)
    return Master(value, readers, spread_of(first), integers, scale, point, low, high)


def _constants(node: ir.Node) -> tuple[npt.NDArray[Any], npt.NDArray[Any]] | None:
    """Return the scales and zero points of a node."""
    scale = edit.constant(node.inputs[1])
    given = node.inputs[2] if len(node.inputs) > 2 else None
    point = edit.constant(given)
    if scale is None or (given is not None and point is None):
        return None
    known = scale.numpy()
    return known, np.zeros(known.shape, np.int8) if point is None else point.numpy()


def _equal(one: tuple[npt.NDArray[Any], ...], other: tuple[npt.NDArray[Any], ...]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _reach(dtype: ir.DataType | None, integers: npt.NDArray[Any], point: npt.NDArray[Any]) -> tuple[Steps, Steps]:
    """Return how far integers may be from their zero points."""
    if dtype not in RANGES:
        return np.array(-(2**31) + 1), np.array(2**31 - 1)
    low, high = RANGES[dtype]
    points = point.astype(np.int64)
    if (points != (low + high + 1) // 2).any():
        return low - points, high - points
    steps = integers.astype(np.int64) - (low + high + 1) // 2
    most = high - (low + high + 1) // 2
    if most == SEVEN_BITS * 2 - 1 and np.abs(steps).max(initial=0) <= SEVEN_BITS:
        return np.array(-SEVEN_BITS), np.array(SEVEN_BITS)
    return np.array(-most - int(steps.min(initial=0) < -most)), np.array(most)

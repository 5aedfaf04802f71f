"""Operators whose weights stand several to a byte: gradients flow past the weights, which stay as they are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graph.constants import find
from ...graph.nodes import int_attribute
from .step import Rule, Step, first
from .tape import Tensor


def _numbers(packed: npt.NDArray[np.uint8], bits: int) -> npt.NDArray[np.uint8]:
    """Return what stands in the bytes of the last axis, what is lowest in a byte first."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    apart: npt.NDArray[np.uint8] = (packed[..., None] >> shifts) & np.uint8(2**bits - 1)
    return apart.reshape(*packed.shape[:-1], -1)


def _rows(step: Step) -> npt.NDArray[np.float32]:
    """Return the weight of a MatMulNBits, a row for each of its outputs."""
    bits, size = step.integer("bits", 4), step.integer("block_size", 32)
    length, count = step.integer("K", 0), step.integer("N", 0)
    packed, scales, zeros = (find(value) for value in [*step.node.inputs[1:4], None, None, None][:3])
    assert packed is not None, "a node whose weight is computed is refused"
    assert scales is not None, "and so is one whose scales are"
    blocks = -(-length // size)
    integers = _numbers(packed.reshape(count, blocks, -1), bits).astype(np.float32)
    zero: npt.NDArray[np.float32] | float = float(2 ** (bits - 1))
    if zeros is not None:
        packed_zeros = zeros.dtype == np.uint8
        zeros = _numbers(zeros.reshape(count, -1), bits)[:, :blocks] if packed_zeros else zeros.reshape(count, blocks)
        zero = zeros.astype(np.float32)[..., None]
    made = (integers - zero) * scales.astype(np.float32).reshape(count, blocks, 1)
    return np.ascontiguousarray(made.reshape(count, -1)[:, :length])


def _matmul(step: Step) -> Tensor:
    return step.tape.op("MatMul", step.g, _rows(step))


def _unfit(node: ir.Node) -> str:
    if int_attribute(node, "bits", 4) not in (2, 4, 8):
        return "with so many bits"
    if len(node.inputs) > 4 and node.inputs[4] is not None:
        return "with groups in an order of their own"
    known = [value is None or find(value) is not None for value in node.inputs[1:4]]
    return "" if all(known) else "where its weight is computed"


RULES: dict[str, Rule] = {
    "com.microsoft::GatherBlockQuantized": Rule(lambda _: {}, frozenset()),
    "com.microsoft::MatMulNBits": first(_matmul, _unfit),
}

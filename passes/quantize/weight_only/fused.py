"""MatMulNBits and GatherBlockQuantized in the place of what read a weight, and what unpacks their constants.

What unpacks is a small graph over constants: onnxruntime evaluates it when it loads the model, at any level of
optimisation but "off", and hands the operator what it reads.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit

from . import packing
from .storage import StoredWeight

Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"

FORMS = {"matmulnbits": "MatMulNBits", "gatherblockquantized": "GatherBlockQuantized"}
"""Form of a weight → the operator that reads it."""

READERS = {form: f"{MICROSOFT}::{op}" for form, op in FORMS.items()} | {"matmulinteger": "MatMulInteger"}
"""The same with the domain in front, and what no operator of onnxruntime's own reads."""

FEW = 128
"""So many zero points, or scales, take less as they are than as what makes them with nodes."""

UNPACKED = 3
"""Bits that no operator reads."""


class Shared:
    """Small constants that are alike for all weights, once in each graph."""

    def __init__(self, names: edit.Names) -> None:
        self.names = names
        self._found: dict[tuple[ir.Graph, bytes, str, tuple[int, ...]], ir.Value] = {}

    def constant(self, inserter: edit.Inserter, array: Array) -> ir.Value:
        """Return an initializer of the graph that holds an array."""
        key = (inserter.graph, array.tobytes(), array.dtype.name, array.shape)
        if key not in self._found:
            self._found[key] = inserter.constant("unpacks", array)
        return self._found[key]


def write_fused(value: ir.Value, stored: StoredWeight, shared: Shared) -> None:
    """Let one operator each take over from the readers of a matrix (K, N), or of a table (rows, columns)."""
    array, of_products = edit.array(value), stored.form == "matmulnbits"
    integers, scale, zero_point = stored.encode(array), stored.scale, stored.zero_point
    if of_products:
        missing = -len(array) % stored.block_size
        filled = np.pad(integers, ((0, missing), (0, 0)), constant_values=stored.grid.middle) if missing else integers
        integers, scale, zero_point = filled.T, scale.T, zero_point.T
    writer = _Constants(value, stored, shared)
    constants = [writer.integers(integers), writer.scales(scale), *writer.zero_points(zero_point)]
    numbers = {"bits": stored.bits_read, "block_size": stored.block_size}
    products = numbers | {"K": len(array), "N": array.shape[1]} | {"accuracy_level": stored.accuracy_level}
    if not of_products:
        products |= {"K": array.shape[1], "N": len(array)}
    for node, _ in list(value.uses()):
        if of_products:
            _turn(node, FORMS["matmulnbits"], [node.inputs[0], *constants], products)
        elif edit.op_of(node) == "Gather":
            rows = numbers | {"gather_axis": 0, "quantize_axis": 1}
            _turn(node, FORMS["gatherblockquantized"], [constants[0], node.inputs[1], *constants[1:]], rows)
        else:
            cut = writer.in_blocks(constants[0], len(array))
            for product in turned_products(node):
                _turn(product, FORMS["matmulnbits"], [product.inputs[0], cut, *constants[1:]], products)


def turned_products(node: ir.Node) -> list[ir.Node]:
    """Return the MatMuls that alone read what a Transpose makes of a matrix; none if it is no such Transpose."""
    if edit.op_of(node) != "Transpose" or list(node.attributes.get_ints("perm", (1, 0))) != [1, 0]:
        return []
    uses = list(node.outputs[0].uses())
    known = not node.outputs[0].is_graph_output() and all(edit.op_of(n) == "MatMul" and i == 1 for n, i in uses)
    return [user for user, _ in uses] if known else []


class _Constants:
    """Adds the constants of one weight, a row for each output or each row of the table."""

    def __init__(self, value: ir.Value, stored: StoredWeight, shared: Shared) -> None:
        self._stored, self._name, self._dtype = stored, str(value.name), edit.array(value).dtype
        self._shared, self._inserter = shared, edit.Inserter(edit.graph_of(value), shared.names)

    def integers(self, integers: Array) -> ir.Value:
        """Return the bytes that the operator reads."""
        stored, rows = self._stored, len(integers)
        size = stored.block_size * stored.bits_read // 8
        shape = (rows, -1, size) if stored.form == "matmulnbits" else (rows, -1)
        found = np.subtract(integers, np.int16(stored.least), dtype=np.uint8, casting="unsafe")
        if stored.bits_held == UNPACKED:
            return self._unpacked(*packing.planes(np.ascontiguousarray(found)), shape)
        in_order = np.ascontiguousarray(packing.packed(found, stored.bits_read))  # the last, as it has the fewest bytes
        return self._inserter.constant(f"{self._name}_quantized", in_order.reshape(shape))

    def in_blocks(self, table: ir.Value, rows: int) -> ir.Value:
        """Return what GatherBlockQuantized reads in the shape that MatMulNBits reads."""
        size = self._stored.block_size * self._stored.bits_read // 8
        return self._node("Reshape", [table, self._small(np.array([rows, -1, size], np.int64))])

    def _unpacked(self, low: Array, high: Array, shape: tuple[int, ...]) -> ir.Value:
        """Return the bytes of 4 bits that `packing.planes` were made of."""
        low_bits = self._masked("low", low[..., None], np.array(packing.LOW_SHIFTS), packing.LOW_MASK)
        shifts = np.array(packing.HIGH_SHIFTS).reshape(2, 2)
        high_bit = self._masked("high", high[..., None, None], shifts, packing.HIGH_MASK)
        placed = self._node("BitShift", [high_bit, self._small(np.uint8(packing.HIGH_PLACE))], direction="LEFT")
        whole = self._node("BitwiseOr", [low_bits, placed])
        return self._node("Reshape", [whole, self._small(np.array(shape, np.int64))])

    def _masked(self, name: str, array: Array, shifts: Array, mask: int) -> ir.Value:
        value = self._inserter.constant(f"{self._name}_{name}", array)
        shifted = self._node("BitShift", [value, self._small(shifts.astype(np.uint8))], direction="RIGHT")
        return self._node("BitwiseAnd", [shifted, self._small(np.uint8(mask))])

    def scales(self, scale: Array) -> ir.Value:
        """Return the scales as floats."""
        step, name = self._stored.scale_step, f"{self._name}_scale"
        if not step:
            return self._inserter.constant(name, scale.astype(self._dtype))
        steps = self._inserter.constant(name, np.rint(scale / step).astype(np.int8))
        factor = self._inserter.constant(f"{name}_step", np.array(step, np.float32))
        found = self._node("Mul", [self._node("Cast", [steps], to=int(ir.DataType.FLOAT)), factor])
        if self._dtype == np.float32:
            return found
        return self._node("Cast", [found], to=int(ir.DataType.from_numpy(self._dtype)))  # its Mul has no kernel

    def zero_points(self, zero_point: Array) -> list[ir.Value]:
        """Return the zero points, packed, if the operator has to be told."""
        stored, name = self._stored, f"{self._name}_zero_point"
        if not stored.needs_zero_point:
            return []
        found = packing.packed((zero_point - stored.least).astype(np.uint8), stored.bits_read)
        if not (zero_point == zero_point.flat[0]).all() or found.size < FEW:
            return [self._inserter.constant(name, found)]
        byte = packing.packed(np.full(8, zero_point.flat[0] - stored.least, np.uint8), stored.bits_read)[:1]
        return [self._node("Expand", [self._small(byte), self._small(np.array(found.shape, np.int64))])]

    def _small(self, array: Array) -> ir.Value:
        return self._shared.constant(self._inserter, array)

    def _node(self, op_type: str, inputs: Sequence[ir.Value], **attributes: Any) -> ir.Value:
        return self._inserter.node(op_type, inputs, attributes=attributes, before=self._inserter.first)


def _turn(node: ir.Node, op_type: str, inputs: Sequence[ir.Value | None], attributes: Mapping[str, int]) -> None:
    """Make another operator of a node, whose outputs stay."""
    node.op_type, node.domain = op_type, MICROSOFT
    node.attributes.clear()
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)
    for key, number in attributes.items():
        edit.set_attribute(node, key, number)

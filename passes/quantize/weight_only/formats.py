"""The operators that read stored weights: what takes the place of a float constant in the graph."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit, opset

from ..shared import scales
from ..shared.dequantize import dequantize
from .storage import StoredWeight

Array = npt.NDArray[Any]

MICROSOFT = "com.microsoft"

SHORTEST_BLOCK = 16
"""Blocks of onnxruntime's operators are a power of two, and not shorter."""

BITS = {"int2": 2, "uint2": 2, "int3": 4, "uint3": 4, "int4": 4, "uint4": 4, "int8": 8, "uint8": 8}
"""In how many bits an integer lies in the file."""

COMPUTED = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
"""What MatMulNBits and GatherBlockQuantized compute in on a CPU."""


def reads_rows(node: ir.Node, index: int) -> bool:
    """Tell whether a node looks up rows of its input `index`."""
    return edit.op_of(node) == "Gather" and index == 0 and edit.int_attribute(node, "axis", 0) == 0


def wider(value: ir.Value, dtype: str) -> tuple[str, str]:
    """Return the type in which DequantizeLinear can read a weight, with bits enough for another one, and the reason."""
    bits, tensor = BITS[dtype], edit.constant(value)
    if bits < 8 and any(reads_rows(*use) for use in value.uses()):
        return f"{dtype[:-1]}8", (
            "stored in 8 bits: onnxruntime's Gather reads none of fewer; with format = 'matmulnbits', tables have an "
            "operator"
        )
    if bits == 2 and tensor is not None and tensor.shape.numpy()[-1] % 4:
        return f"{dtype[:-1]}4", ("stored in 4 bits: onnxruntime misreads 2 where a row does not fill whole bytes")
    return dtype, ""


def needed_opset(stored: StoredWeight) -> int:
    """Return the opset that a weight needs."""
    if stored.form != "qdq":
        return 1
    bits = BITS[stored.dtype]
    return opset.TWO_BITS if bits == 2 else opset.BLOCKS if stored.block_size or bits == 4 else opset.PER_CHANNEL


def fused_form(value: ir.Value) -> str | None:
    """Return the one operator of onnxruntime's own that can take over from all readers of a weight, if there is one."""
    tensor = edit.constant(value)
    uses = list(value.uses())
    if tensor is None or len(tensor.shape) != 2 or tensor.dtype not in COMPUTED or value.is_graph_output():
        return None
    if all(edit.op_of(node) == "MatMul" and index == 1 for node, index in uses):
        return "matmulnbits"
    whole = tensor.shape.numpy()[1] % 4 == 0  # no byte of few bits is part of two rows
    return "gatherblockquantized" if whole and all(reads_rows(node, index) for node, index in uses) else None


def stored_bytes(shape: tuple[int, ...], stored: StoredWeight, scale_bytes: int = 4) -> int:
    """Return how many bytes of the file a stored weight of some shape takes: integers, scales and zero points.

    Parameters
    ----------
    shape : tuple of int
        The weight's.
    stored : StoredWeight
    scale_bytes : int
        Of a scale: 2 where the weight is float16.
    """
    bits, count = BITS[stored.dtype], math.prod(shape)
    zeros = stored.scale.size
    if stored.block_size and stored.form != "qdq" and stored.axis is not None:
        along = shape[stored.axis]
        blocks = -(-along // stored.block_size)
        count = count // along * (blocks * stored.block_size if stored.form == "matmulnbits" else along)
        zeros = _needs_zero_point(stored) * (zeros // blocks) * -(-blocks * bits // 8) * 8 // bits
    return -(-count * bits // 8) + scale_bytes * stored.scale.size + -(-zeros * bits // 8)


def _needs_zero_point(stored: StoredWeight) -> bool:
    """Tell whether a fused operator has to be told: without it is the middle of what its bits hold."""
    return bool((stored.zero_point - scales.GRIDS[stored.dtype].low + _lift(stored) != _middle(stored)).any())


def _middle(stored: StoredWeight) -> int:
    return 1 << (BITS[stored.dtype] - 1)


def _lift(stored: StoredWeight) -> int:
    """Return what is added so that the middle of 3 bits is that of 4."""
    return _middle(stored) - (scales.GRIDS[stored.dtype].middle - scales.GRIDS[stored.dtype].low)


def write(value: ir.Value, stored: StoredWeight, names: edit.Names, version: int) -> None:
    """Let the readers of a constant read integers instead, in a model of an opset."""
    if stored.form == "qdq":
        _with_dequantize(value, stored, names, version)
    else:
        FUSED[stored.form](value, stored, names)


def _with_dequantize(value: ir.Value, stored: StoredWeight, names: edit.Names, version: int) -> None:
    writer = _Dequantizer(value, stored, edit.Inserter(edit.graph_of(value), names), version)
    for user, index in list(value.uses()):
        if reads_rows(user, index) and writer.rows_can_wait:
            writer.behind(user)
        else:
            user.replace_input_with(index, writer.whole())
    if value.is_graph_output():
        edit.replace_uses(value, writer.whole())


class _Dequantizer:
    """Adds the integers of one weight, and DequantizeLinear before or behind what reads them."""

    def __init__(self, value: ir.Value, stored: StoredWeight, inserter: edit.Inserter, version: int) -> None:
        array, name = edit.array(value), str(value.name)
        self._name, self._stored, self._inserter = name, stored, inserter
        self._dtype = ir.DataType.from_numpy(array.dtype)
        # onnxruntime's DequantizeLinear has no bfloat16, and that of older opsets no float16 either.
        self._casts = self._dtype != ir.DataType.FLOAT and (
            self._dtype != ir.DataType.FLOAT16 or version < opset.FLOAT16
        )
        shape = stored.scale.shape if stored.block_size else () if stored.axis is None else (-1,)
        scale = stored.scale if self._casts else stored.scale.astype(array.dtype)
        self._inputs = [
            inserter.constant(f"{name}_quantized", stored.encode(array).astype(stored.grid.dtype)),
            inserter.constant(f"{name}_scale", scale.reshape(shape)),
            inserter.constant(f"{name}_zero_point", stored.zero_point.astype(stored.grid.dtype).reshape(shape)),
        ]
        self._whole: ir.Value | None = None
        # Rows of integers are looked up first and converted then.
        self.rows_can_wait = BITS[stored.dtype] == 8 and (stored.axis is None or (stored.axis, array.ndim) == (1, 2))

    def whole(self) -> ir.Value:
        """Return the weight as it was, nearly."""
        if self._whole is None:
            self._whole = self._dequantized(self._inserter, self._inputs, f"{self._name}_dequantized", None)
        return self._whole

    def behind(self, gather: ir.Node) -> None:
        """Let Gather look up integers, and with blocks their scales, and convert what it found."""
        rows, indices = gather.outputs[0], edit.required(gather, 1)
        name, inserter = str(rows.name), edit.Inserter(edit.graph_of(gather), self._inserter.names)
        gather.replace_input_with(0, self._inputs[0])
        inputs = [rows, *self._inputs[1:]]
        if self._stored.block_size:
            inputs[1:] = [inserter.node("Gather", [v, indices], f"{v.name}_rows", after=gather) for v in inputs[1:]]
        last = inputs[1].producer() if self._stored.block_size else gather  # the first one added is the last by now
        result = self._dequantized(inserter, inputs, f"{name}_dequantized", last)
        spared = {rows_reader for rows_reader, _ in rows.uses() if rows_reader.op_type == "DequantizeLinear"}
        edit.replace_uses(rows, result, except_for=spared)
        rows.type = ir.TensorType(ir.DataType[self._stored.grid.dtype.upper()])  # last: an output hands its type on

    def _dequantized(
        self, inserter: edit.Inserter, inputs: list[ir.Value], name: str, after: ir.Node | None
    ) -> ir.Value:
        axis = None if self._stored.axis is None else self._stored.axis if after is None else -1
        result = dequantize(inserter, inputs, name, axis, after)
        node = edit.producer(result)
        if self._stored.block_size:
            edit.set_attribute(node, "block_size", self._stored.block_size)
        if not self._casts:
            return result
        return inserter.node("Cast", [result], f"{name}_cast", attributes={"to": int(self._dtype)}, after=node)


def _with_n_bits(value: ir.Value, stored: StoredWeight, names: edit.Names) -> None:
    """Make MatMulNBits of each MatMul: integers (N, blocks, bytes), none below 0, packed."""
    graph, array = edit.graph_of(value), edit.array(value)
    bits, name, (k, n) = BITS[stored.dtype], str(value.name), array.shape
    least, inserter = scales.GRIDS[stored.dtype].low - _lift(stored), edit.Inserter(graph, names)
    integers = (stored.encode(array) - least).astype(np.uint8)
    blocks = -(-k // stored.block_size)
    missing = blocks * stored.block_size - k
    padded = np.pad(integers, ((0, missing), (0, 0))) if missing else integers
    packed = _packed(padded, bits, axis=0).T.reshape(n, blocks, -1)  # rows are packed faster than columns
    inputs = [
        inserter.constant(f"{name}_quantized", packed),
        inserter.constant(f"{name}_scale", stored.scale.T.astype(array.dtype)),
    ]
    if _needs_zero_point(stored):
        zero_point = (stored.zero_point - least).astype(np.uint8).T
        inputs.append(inserter.constant(f"{name}_zero_point", _packed(zero_point, bits)))
    for node, _ in list(value.uses()):
        _turn(node, "MatMulNBits", [node.inputs[0], *inputs])
        for key, number in {"K": k, "N": n, "bits": bits, "block_size": stored.block_size}.items():
            edit.set_attribute(node, key, number)


def _with_rows(value: ir.Value, stored: StoredWeight, names: edit.Names) -> None:
    """Make GatherBlockQuantized of each Gather: integers (rows, bytes), none below 0, packed."""
    graph, array = edit.graph_of(value), edit.array(value)
    bits, name, inserter = BITS[stored.dtype], str(value.name), edit.Inserter(graph, names)
    least = scales.GRIDS[stored.dtype].low - _lift(stored)
    integers = inserter.constant(f"{name}_quantized", _packed((stored.encode(array) - least).astype(np.uint8), bits))
    rest = [inserter.constant(f"{name}_scale", stored.scale.astype(array.dtype))]
    if _needs_zero_point(stored):
        zero_point = _packed((stored.zero_point - least).astype(np.uint8), bits)
        rest.append(inserter.constant(f"{name}_zero_point", zero_point))
    for node, _ in list(value.uses()):
        _turn(node, "GatherBlockQuantized", [integers, node.inputs[1], *rest])
        numbers = {"bits": bits, "block_size": stored.block_size, "gather_axis": 0, "quantize_axis": 1}
        for key, number in numbers.items():
            edit.set_attribute(node, key, number)


def _turn(node: ir.Node, op_type: str, inputs: list[ir.Value | None]) -> None:
    """Make another operator of a node, whose outputs stay."""
    node.op_type, node.domain = op_type, MICROSOFT
    node.attributes.clear()
    node.resize_inputs(len(inputs))
    for index, value in enumerate(inputs):
        node.replace_input_with(index, value)


def _packed(integers: npt.NDArray[np.uint8], bits: int, axis: int = -1) -> npt.NDArray[np.uint8]:
    """Return bytes of integers that are neighbours along an axis, the first ones in the lowest bits; 0 fills up."""
    each = 8 // bits
    moved = np.moveaxis(integers, axis, 0)
    found = moved[0::each].copy()
    for place in range(1, each):
        more = moved[place::each]
        found[: len(more)] |= more << np.uint8(bits * place)
    return np.moveaxis(found, 0, axis)


FUSED: dict[str, Callable[[ir.Value, StoredWeight, edit.Names], None]] = {
    "gatherblockquantized": _with_rows,
    "matmulnbits": _with_n_bits,
}

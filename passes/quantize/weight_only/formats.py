"""The operators that read stored weights: what takes the place of a float constant in the graph."""

from __future__ import annotations

import math
from typing import Any

import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import edit, opset

from ..dynamic.apply import DynamicApplication
from ..shared.dequantize import dequantize
from . import fused
from .integer import write_integer
from .storage import StoredWeight

Array = npt.NDArray[Any]

SHORTEST_BLOCK, LONGEST_BLOCK = 16, 256
"""Blocks of onnxruntime's operators are a power of two, and not shorter."""

COMPUTED = {ir.DataType.FLOAT, ir.DataType.FLOAT16}
"""What MatMulNBits and GatherBlockQuantized compute in on a CPU."""


def is_power(block: int | None) -> bool:
    """Tell whether onnxruntime's operators read blocks of this size."""
    return block is not None and block >= SHORTEST_BLOCK and not block & (block - 1)


def reads_rows(node: ir.Node, index: int) -> bool:
    """Tell whether a node looks up rows of its input `index`."""
    return edit.op_of(node) == "Gather" and index == 0 and edit.int_attribute(node, "axis", 0) == 0


def wider(value: ir.Value, dtype: str) -> tuple[str, str]:
    """Return the type in which DequantizeLinear can read a weight, with bits enough for another one, and the reason."""
    bits, tensor = int(dtype[-1]), edit.constant(value)
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
    if stored.form == "matmulinteger":
        return opset.BLOCKS
    if stored.form != "qdq":
        return opset.BITWISE if stored.bits_held == fused.UNPACKED else 1
    bits = stored.bits_read
    return opset.TWO_BITS if bits == 2 else opset.BLOCKS if stored.block_size or bits == 4 else opset.PER_CHANNEL


def fused_form(value: ir.Value, wanted: str, block: int) -> str | None:
    """Return the form whose operator can take over from all readers of a weight, if there is one.

    What MatMulInteger cannot read, in float16 or in blocks that are not whole, MatMulNBits does, and the other bits.

    A table that products read too, transposed, is stored once: MatMulNBits reads what GatherBlockQuantized reads, in
    another shape, if its rows are cut into whole blocks.
    """
    tensor = edit.constant(value)
    uses = list(value.uses())
    if tensor is None or len(tensor.shape) != 2 or tensor.dtype not in COMPUTED or value.is_graph_output():
        return None
    if all(edit.op_of(node) == "MatMul" and index == 1 for node, index in uses):
        whole = block > 0 and tensor.shape.numpy()[0] % block == 0 and tensor.dtype == ir.DataType.FLOAT
        return "matmulinteger" if wanted == "matmulinteger" and whole else "matmulnbits"
    tables = [reads_rows(node, index) for node, index in uses]
    step = 4 if all(tables) else block or LONGEST_BLOCK  # so that no byte of few bits is part of two rows
    known = all(table or fused.turned_products(node) for table, (node, _) in zip(tables, uses, strict=True))
    return "gatherblockquantized" if any(tables) and known and tensor.shape.numpy()[1] % step == 0 else None


def stored_bytes(shape: tuple[int, ...], stored: StoredWeight, scale_bytes: int = 4) -> int:
    """Return how many bytes of the file a stored weight of some shape takes: integers, scales and zero points.

    Parameters
    ----------
    shape : tuple of int
        The weight's.
    stored : StoredWeight
    scale_bytes : int
        Of a scale that is a float: 2 where the weight is float16.
    """
    count, zeros, each = math.prod(shape), stored.scale.size, scale_bytes
    if stored.form == "matmulinteger" and stored.whole is not None:
        alike = (stored.zero_point == stored.zero_point.flat[0]).all()
        zeros = 2 * bool(stored.zero_point.any()) if alike else zeros
        steps = 1 if (stored.scale < 0).any() else 0.5
        return math.ceil(count / 2) + math.ceil(steps * stored.scale.size) + zeros // 2 + stored.whole.unit.nbytes
    if stored.form != "qdq" and stored.axis is not None:
        length = shape[stored.axis]
        blocks = -(-length // stored.block_size)
        count = count // length * (blocks * stored.block_size if stored.form == "matmulnbits" else length)
        each = 1 if stored.scale_step else scale_bytes
        in_bytes = zeros // blocks * -(-blocks * stored.bits_read // 8)  # each row begins a byte
        alike = (stored.zero_point == stored.zero_point.flat[0]).all() and in_bytes >= fused.FEW
        zeros = 0 if alike or not stored.needs_zero_point else in_bytes * 8 // stored.bits_read
    return -(-count * stored.bits_held // 8) + each * stored.scale.size + -(-zeros * stored.bits_read // 8)


class Writer:
    """Lets the readers of constants of one model read integers instead."""

    def __init__(self, model: ir.Model) -> None:
        self._version, names = model.opset_imports[""], edit.Names(model.graph)
        self._shared, self._products = fused.Shared(names), DynamicApplication(model, names)

    def write(self, value: ir.Value, stored: StoredWeight) -> None:
        """Write one constant."""
        if stored.form == "qdq":
            _with_dequantize(value, stored, self._shared.names, self._version)
        elif stored.form == "matmulinteger":
            write_integer(value, stored, self._shared, self._products)
        else:
            fused.write_fused(value, stored, self._shared)


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
        self.rows_can_wait = stored.bits_read == 8 and (stored.axis is None or (stored.axis, array.ndim) == (1, 2))

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

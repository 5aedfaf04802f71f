"""Products with, and tables of, weights in few bits: their integers are made floats, which stay as they are."""

from __future__ import annotations

from itertools import pairwise

import onnx_ir as ir

from ..rules.step import Step
from ..rules.tape import Tensor
from .composite import Composite, Results, extents, given

BYTE = 8
USUAL_BITS = 4
TABLE_AXES = 2


def _product(step: Step) -> Results:
    """MatMulNBits: (N, blocks, bytes) for each of N outputs; K of what the blocks hold are there."""
    inputs, outputs = step.integer("K", 0), step.integer("N", 0)
    weight = _floats(step, (1, 2, 3), outputs, inputs)
    made = step.tape.op("MatMul", step.x, weight.transpose(1, 0))
    return [made + step.input(5) if step.has(5) else made]


def _table(step: Step) -> Results:
    """GatherBlockQuantized: (rows, bytes)."""
    rows, width = extents(step.node.inputs[0])
    assert rows is not None and width is not None  # else it is refused
    columns = width * BYTE // step.integer("bits", USUAL_BITS)
    return [step.tape.op("Gather", _floats(step, (0, 2, 3), rows, columns), step.input(1))]


def _floats(step: Step, places: tuple[int, int, int], rows: int, columns: int) -> Tensor:
    """Return ``(integers - zero point) * scale`` as (rows, columns); `places` are the inputs that hold the three."""
    tape, bits, block = step.tape, step.integer("bits", USUAL_BITS), step.integer("block_size", 32)
    blocks = -(-columns // block)
    data, scale, point = places
    integers = _cut(_integers(step, data, rows, bits), columns)
    # One operand alone: nothing that is trained goes through a Sum, so that scales stay as they are, too.
    scales = tape.op("Sum", tape.op("Reshape", step.input(scale), tape.ints(rows, blocks, 1)))
    points: Tensor | float = float(1 << (bits - 1))
    if step.has(point):
        found = _cut(_integers(step, point, rows, bits), blocks)
        points = _spread(tape.op("Reshape", found, tape.ints(rows, blocks, 1)), rows, columns, blocks, block)
    return (integers - points) * _spread(scales, rows, columns, blocks, block)


def _integers(step: Step, index: int, rows: int, bits: int) -> Tensor:
    """Return the integers of a few bits that bytes hold, the lowest bits first, as floats: (rows, all of a row)."""
    tape = step.tape
    whole = tape.op("Cast", tape.op("Reshape", step.input(index), tape.ints(rows, -1, 1)), to=int(ir.DataType.FLOAT))
    shifted = [tape.op("Floor", whole * 2.0**-low) for low in range(0, BYTE + bits, bits)]
    parts = [here - above * float(1 << bits) for here, above in pairwise(shifted)]
    return tape.op("Reshape", tape.op("Concat", *parts, axis=-1), tape.ints(rows, -1))


def _cut(found: Tensor, columns: int) -> Tensor:
    tape = found.tape
    return tape.op("Slice", found, tape.ints(0), tape.ints(columns), tape.ints(1))


def _spread(each: Tensor, rows: int, columns: int, blocks: int, block: int) -> Tensor:
    """Return one of each block for each of its columns."""
    tape = each.tape
    wide = tape.op("Expand", each, tape.ints(rows, blocks, block))
    return _cut(tape.op("Reshape", wide, tape.ints(rows, -1)), columns)


def _unfit_product(node: ir.Node) -> str:
    return "with an order of its inputs (g_idx)" if given(node, 4) else _unfit(node, (1, 2, 3))


def _unfit_table(node: ir.Node) -> str:
    if node.attributes.get_int("gather_axis", 0) or node.attributes.get_int("quantize_axis", 1) != 1:
        return "along other axes than rows"
    known = extents(node.inputs[0])
    return (
        "of a table whose shape is not known" if len(known) != TABLE_AXES or None in known else _unfit(node, (0, 2, 3))
    )


def _unfit(node: ir.Node, places: tuple[int, int, int]) -> str:
    wanted = (ir.DataType.UINT8, ir.DataType.FLOAT, ir.DataType.UINT8)
    for index, dtype in zip(places, wanted, strict=True):
        value = node.inputs[index] if index < len(node.inputs) else None
        if value is not None and value.dtype not in (None, dtype):
            return f"with '{value.name}' of {value.dtype}"
    return ""


COMPOSITES: dict[str, Composite] = {
    "com.microsoft::GatherBlockQuantized": Composite(_table, _unfit_table),
    "com.microsoft::MatMulNBits": Composite(_product, _unfit_product),
}

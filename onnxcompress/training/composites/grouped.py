"""GroupQueryAttention as products and a Softmax, with what it reads of a cache before the keys of its own.

J. Ainslie et al., "GQA: Training Generalized Multi-Query Transformer Models", arXiv:2305.13245.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from ..rules.step import Step
from ..rules.tape import Tensor
from .attention import HIDDEN, apart, attend, repeated, scale_of, together
from .composite import Composite, Results, extents, given, reads_more

MICROSOFT = "com.microsoft"


def _length(tensor: Tensor) -> Tensor:
    return tensor.tape.op("Squeeze", tensor.tape.op("Shape", tensor, start=2, end=3))


def _count(tensor: Tensor, length: Tensor) -> Tensor:
    zero, one = (tensor.tape.of(np.array(n, np.int64)) for n in (0, 1))
    return tensor.tape.op("Range", zero, length, one)


def _operands(step: Step) -> list[Tensor]:
    """Return queries, keys and values [batch, heads, positions, size], which may come as one."""
    heads, own = step.integer("num_heads", 1), step.integer("kv_num_heads", 1)
    if step.has(1):
        parts = [step.input(index) for index in range(3)]
    else:
        size = int((step.dims(step.x) or ())[2]) // (heads + 2 * own)  # type: ignore[arg-type]
        sizes = step.tape.ints(heads * size, own * size, own * size)
        parts = step.tape.ops("Split", step.x, sizes, axis=-1, outputs=3)
    return [apart(part, count) for part, count in zip(parts, (heads, own, own), strict=True)]


def _turned(step: Step, tensor: Tensor, places: Tensor, heads: int, size: int) -> Tensor:
    """Turn pairs of numbers by their places."""
    turned = 2 * int((step.dims(step.input(7)) or ())[1])  # type: ignore[arg-type]
    own = {"rotary_embedding_dim": turned, "num_heads": heads} if turned != size else {}
    interleaved = step.integer("rotary_interleaved", 0)
    inputs = (tensor, places, step.input(7), step.input(8))
    return step.tape.op("RotaryEmbedding", *inputs, domain=MICROSOFT, interleaved=interleaved, **own)


def _grouped(step: Step) -> Results:
    tape, heads, own = step.tape, step.integer("num_heads", 1), step.integer("kv_num_heads", 1)
    query, key, value = _operands(step)
    size = _size(step.node)
    asked = _length(query)
    total = tape.op("Cast", step.input(5).reshape([-1, 1]), to=ir.DataType.INT64.value) + tape.ints(1)
    before = tape.op("Max", tape.op("Sub", total, asked), tape.ints(0))  # [batch, 1]
    places = before + _count(query, asked)
    if step.integer("do_rotary", 0):
        at = step.input(9) if step.has(9) else places
        query, key = (_turned(step, a, at, n, size) for a, n in ((query, heads), (key, own)))
    # What comes later is hidden, and what the cache holds behind its end.
    later = places.unsqueeze(2) < places.unsqueeze(1)
    if step.has(3):
        held = _count(query, _length(step.input(3)))
        behind = tape.op("Expand", tape.op("GreaterOrEqual", held, before).unsqueeze(1), _like(later, held))
        later = tape.op("Concat", behind, later, axis=2)
        key, value = (tape.op("Concat", step.input(3 + i), a, axis=2) for i, a in enumerate((key, value)))
    biases = [later.number().unsqueeze(1) * HIDDEN]
    biases += [step.input(10)] if step.has(10) else []
    group = heads // own
    wide = [repeated(a, group, heads) if group > 1 else a for a in (key, value)]
    made = attend(step, query, wide[0], wide[1], biases, scale=scale_of(step, size))
    return [together(made), *(tape.op("Identity", tensor) for tensor in (key, value))]


def _like(rows: Tensor, held: Tensor) -> Tensor:
    """Return the shape [batch, queries, keys of the cache]."""
    tape = rows.tape
    return tape.op("Concat", tape.op("Shape", rows, start=0, end=2), tape.op("Shape", held), axis=0)


def _size(node: ir.Node) -> int:
    heads, own = (node.attributes.get_int(name, 1) for name in ("num_heads", "kv_num_heads"))
    last = extents(node.inputs[0])[-1] or 0
    return last // heads if given(node, 1) else last // (heads + 2 * own)


def _unfit(node: ir.Node) -> str:
    if given(node, 11, 12, 13, 14, 15, 16) or reads_more(node, 3):
        return "with a sink, norms of its own or a cache of integers"
    if node.attributes.get_float("softcap", 0.0) or node.attributes.get_int("smooth_softmax", 0) == 1:
        return "with softcap or a smooth Softmax"
    if node.attributes.get_int("local_window_size", -1) > 0 or not node.attributes.get_int("causal", 1):
        return "with a window, or where queries see what comes later"
    if given(node, 3) and (node.inputs[3] is not None and node.inputs[3].dtype != ir.DataType.FLOAT):
        return "with a cache that is not float32"
    wanted = {0: 3, 7: 2} if node.attributes.get_int("do_rotary", 0) else {0: 3}
    shapes = {index: extents(node.inputs[index]) for index in wanted}
    if any(len(shape) != wanted[index] or shape[-1] is None for index, shape in shapes.items()):
        return "where the shape of its queries is not known"
    return ""


COMPOSITES: dict[str, Composite] = {"com.microsoft::GroupQueryAttention": Composite(_grouped, _unfit)}

"""In which tensors a masked channel is no longer zero: where something was added to all channels alike."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ..graph import edit
from .engine import Engine
from .movement import MOVES
from .rules import RULES, elementwise

NOT_ZERO_AT_ZERO = (
    *(
        "Acos",
        "Cos",
        "Cosh",
        "Equal",
        "Exp",
        "GreaterOrEqual",
        "HardSigmoid",
        "LessOrEqual",
        "Log",
        "Not",
        "Reciprocal",
    ),
    *("Sigmoid", "Softplus", "Where"),
)
"""Element-wise operators that do not map zero to zero."""

ADDING = {"Add", "Max", "Mean", "Min", "Sub", "Sum"}
KEEPING = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "Resize"}


def note_shift(engine: Engine, node: ir.Node) -> None:
    """Pass a shift on, or note a new one; operators with parameters of their own (Conv, a normalisation) end it."""
    op = edit.op_of(node)
    if RULES.get(op) is elementwise:
        out = node.outputs[0]
        rank = len(engine.shape(out))
        labelled = [axis - rank for axis, rows in enumerate(engine.axes(out)) if rows is not None]
        engine.shifted.update((out, axis) for axis in labelled if _is_shifted(engine, node, op, axis))
        if op == "Div":
            _note_divisor(engine, node.inputs[1])
    elif op in MOVES or op in KEEPING or op.startswith("Reduce"):
        labels = _shifted_labels(engine, node.inputs if op == "Concat" else node.inputs[:1])
        for out in node.outputs if labels.size else ():
            rank = len(engine.shape(out))
            for axis, rows in enumerate(engine.axes(out)):
                if rows is not None and np.isin(engine.labels.resolve(rows), labels).any():
                    engine.shifted.add((out, axis - rank))


def _note_divisor(engine: Engine, value: ir.Value | None) -> None:
    if value is not None and edit.constant(value) is None:
        for axis, rows in enumerate(engine.axes(value)):
            if rows is not None and (value, axis - len(engine.shape(value))) not in engine.shifted:
                engine.divisors.append(rows)


def _shifted_labels(engine: Engine, values: Iterable[ir.Value | None]) -> npt.NDArray[np.int64]:
    """Return the labels along the shifted axes: wherever they are moved, the shift goes too."""
    axes = [(v, axis) for v in values if v is not None for axis in engine.shifted_axes(v)]
    rows = [engine.labels.resolve(r).ravel() for v, axis in axes if (r := engine.axes(v)[axis]) is not None]
    labels = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
    return labels[labels > 0]


def _is_shifted(engine: Engine, node: ir.Node, op: str, axis: int) -> bool:
    read = [v for v in node.inputs if v is not None]
    computed = [v for v in read if edit.constant(v) is None]
    if op == "Mul":
        zeroed = any(v not in computed and len(engine.shape(v)) >= -axis and engine.shape(v)[axis] > 1 for v in read)
        return bool(computed) and not zeroed and all((v, axis) in engine.shifted for v in computed)
    if op in NOT_ZERO_AT_ZERO or any((v, axis) in engine.shifted for v in computed):
        return True
    if op == "Clip":
        low = engine.constant(node.inputs[1]) if len(node.inputs) > 1 else None
        return low is not None and bool((low > 0).all())
    return op in ADDING and any(len(engine.shape(v)) < -axis or engine.shape(v)[axis] == 1 for v in read)

"""Compute and store in float16 or bfloat16 where that is safe."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import MODEL, Change, Changes, Context, Needs, Plan, Promise, Refusal
from onnxcompress.errors import DataError, PassError
from onnxcompress.graph import edit, operators
from onnxcompress.graph.opset import CONVOLUTIONS, PER_CHANNEL
from onnxcompress.selection import OverridablePass, node_subjects

from .half.apply import LARGEST, Conversion, narrowed
from .half.roles import FLOAT, is_float, roles
from .prepare.prepare import FORMS, Prepared, prepare, prepared

FRAGILE = (
    "CumSum",
    "DequantizeLinear",
    "DynamicQuantizeLinear",
    "Exp",
    "Pow",
    "QuantizeLinear",
    "Range",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceMean",
    "ReduceProd",
    "ReduceSum",
    "ReduceSumSquare",
    "RoiAlign",
)
"""Long sums, powers and positions leave float16's range or precision first; scales of integers are small. Softmax and
LayerNormalization are not among them: kernels add up in float32 inside."""

INFINITY = 1e30
"""What is larger stands for infinity, as in an attention mask: it may be cut off."""

EMULATED = (
    "onnxruntime's CPU has few bfloat16 kernels: it is checked and measured with float32 operators that round each "
    "result to bfloat16, and its times say nothing"
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FloatPlan(Plan):
    """What becomes narrow.

    Attributes
    ----------
    dtype : str
    keep_io : bool
    opset : int
        What the model is raised to first; 0: it stays.
    nodes : tuple of str
        The nodes that compute in `dtype`, by their first output that has a name.
    """

    dtype: str = "float16"
    keep_io: bool = True
    opset: int = 0
    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ConvertFloat(OverridablePass):
    """Turn a float32 model into float16 or bfloat16: half the size, and faster where the hardware has the type.

    Each node computes in the new type if onnx's schema allows it at the model's opset and nothing below forbids it;
    each tensor is cast at most once, where it is made. What stays in float32 is named, with the reason: nodes that
    compute with shapes, that read a constant beyond the type's range (65504 in float16) or one whose every value would
    become 0, and, where there are samples, nodes that read or give a tensor beyond that range.

    Parameters
    ----------
    dtype : {"float16", "bfloat16"}
        The new type.
    keep_io : bool
        Inputs and outputs of the model stay float32, with casts behind and before them.
    keep_fragile : bool
        CumSum, DequantizeLinear, DynamicQuantizeLinear, Exp, Pow, QuantizeLinear, Range, ReduceL1, ReduceL2,
        ReduceLogSum, ReduceLogSumExp, ReduceMean, ReduceProd, ReduceSum, ReduceSumSquare and RoiAlign stay in float32:
        long sums, powers and positions leave float16's range or precision first. More operators stay with `exclude`.

    Notes
    -----
    Constants beyond 1e30 stand for infinity (attention masks) and become half of the largest number, so that a sum
    with them stays finite. Inner graphs are converted; what goes in and out of If, Loop and Scan stays float32. Local
    functions are inlined. Large weights are converted when they are read. onnxruntime's CPU computes most of
    float16 in float32 between casts, so that a model gets smaller there and not faster; see docs/quantize.md for
    bfloat16. Micikevicius et al. 2018, arXiv:1710.03740.
    """

    dtype: Literal["float16", "bfloat16"] = "float16"
    keep_io: bool = True
    keep_fragile: bool = True

    overridable = ("keep_fragile",)

    needs = Needs(welcome=True)

    @property
    def promise(self) -> Promise:
        """Inputs and outputs get another type unless they are kept."""
        return Promise(retypes=not self.keep_io)

    def plan(self, model: ir.Model, context: Context) -> FloatPlan:
        """Choose the nodes that compute in the new type."""
        work, _, form, refused = self._prepared(model, context)
        notes, unfit = _constants(work, self.dtype)
        kept = set()
        if self.dtype == "float16" and context.has_samples:
            unfit |= _measured(work, model, context, notes)
        narrow = ir.DataType[self.dtype.upper()]
        selected = self.select(model, {n: known for n, known in node_subjects(work.graph).items() if _computes(n)})
        opset, chosen, sizes = work.opset_imports.get("", 1), [], _shape_nodes(work)
        for node in selected.subjects:
            reason = selected.why_not.get(node) or selected.settings(node)._obstacle(node, unfit, opset, narrow)
            if not reason and node in sizes and any(map(is_float, node.outputs)):
                reason = "it computes with shapes"
            if reason:
                kept.add(edit.output_name(node))
                refused.append(Refusal(edit.label(node), f"{reason}; it stays in float32"))
            else:
                chosen.append(edit.output_name(node))
        refused += selected.idle
        nodes = tuple(key for key in dict.fromkeys(chosen) if key not in kept)
        if nodes and self.dtype == "bfloat16":
            notes.append(EMULATED)
        if not nodes:
            refused.append(Refusal("model", f"no node could compute in {self.dtype}"))
        return FloatPlan(
            dtype=self.dtype,
            keep_io=self.keep_io,
            opset=form.opset,
            nodes=nodes,
            notes=tuple(notes),
            refused=tuple(refused),
        )

    def _prepared(self, model: ir.Model, context: Context) -> Prepared:
        """Prepare a copy; where bfloat16 needs a new opset for convolutions and cannot have it, without."""
        form = FORMS["convert-float"].at(PER_CHANNEL if self.dtype == "bfloat16" else 0)
        inside = (node for function in model.functions.values() for node in function.all_nodes())
        convolves = any(edit.op_of(node) in operators.CONVOLUTIONS for node in (*model.graph.all_nodes(), *inside))
        if self.dtype != "bfloat16" or not convolves:
            return prepared(model, context, form)
        try:
            return prepared(model, context, form.at(CONVOLUTIONS))
        except PassError as error:
            found = prepared(model, context, form)
            return found._replace(refused=[Refusal(MODEL, f"{error}; convolutions stay in float32"), *found.refused])

    def apply(self, model: ir.Model, plan: FloatPlan) -> Changes:
        """Convert the nodes of the plan and their constants, and cast where types meet."""
        if not plan.nodes:
            return Changes(refused=plan.refused, notes=plan.notes)
        done = prepare(model, FORMS["convert-float"].at(plan.opset))
        conversion = Conversion(model, ir.DataType[plan.dtype.upper()], set(plan.nodes), keep_io=plan.keep_io)
        labels, casts, weights = conversion.run()
        done += [Change(label, f"computes in {plan.dtype}") for label in labels]
        done.append(Change("model", f"{weights} constants as {plan.dtype}, {casts} casts added"))
        return Changes(tuple(done), plan.refused, plan.notes)

    def _obstacle(self, node: ir.Node, unfit: dict[ir.Value, str], opset: int, narrow: ir.DataType) -> str:
        op = edit.op_of(node)
        if any(map(_is_collection, (*node.inputs, *node.outputs))) or op in COLLECTIONS:
            return "what is in a sequence or an optional is not converted"
        if edit.inner_graphs(node):
            return "what goes in and out of inner graphs is not converted"
        if op in FRAGILE and self.keep_fragile:
            return f"{op} leaves the range or the precision of {self.dtype} first (keep_fragile)"
        found = roles(node, opset, narrow)
        if found is None:
            return "onnx has no schema of it"
        floats = any(map(is_float, node.outputs))
        if not (found.outputs if floats else found.inputs):
            return f"the operator takes no {self.dtype} in opset {opset}"
        for value in (*node.inputs, *node.outputs):
            if value is not None and value in unfit:
                return unfit[value]
        return ""


COLLECTIONS = {
    "ConcatFromSequence",
    "Optional",
    "OptionalGetElement",
    "SequenceAt",
    "SequenceConstruct",
    "SequenceErase",
    "SequenceInsert",
    "SequenceMap",
    "SplitToSequence",
}
"""Operators that put tensors into something that has one type, or take them out."""


def _computes(node: ir.Node) -> bool:
    """Tell whether a node has to do with floats."""
    return any(map(is_float, (*node.inputs, *node.outputs))) and edit.op_of(node) != "Constant"


def _is_collection(value: ir.Value | None) -> bool:
    return value is not None and isinstance(value.type, (ir.SequenceType, ir.OptionalType))


def _floats(model: ir.Model) -> Iterator[tuple[ir.Value, npt.NDArray[Any]]]:
    """Yield the float32 constants that are read, one array at a time."""
    for value in edit.values(model.graph):
        tensor = edit.constant(value)
        if tensor is not None and tensor.dtype == FLOAT and value.uses():
            yield value, tensor.numpy()


def _constants(model: ir.Model, dtype: str) -> tuple[list[str], dict[ir.Value, str]]:
    """Return notes about constants that change, and those that cannot be converted, with the reason."""
    notes, unfit = [], {}
    largest = LARGEST[dtype]
    for value, array in _floats(model):
        if not array.size:
            continue
        magnitude = np.abs(array)
        beyond = np.isfinite(array) & (magnitude > largest)
        lost = (array != 0) & (narrowed(array, dtype) == 0)
        count = int(beyond.sum())
        if count and (magnitude[beyond] < INFINITY).any():
            most = float(magnitude[beyond & (magnitude < INFINITY)].max())
            unfit[value] = f"its constant '{value.name}' reaches {most:.3g}, and {dtype} ends at {largest:.5g}"
        elif lost.any() and not (array[~lost] != 0).any():
            least = float(magnitude[lost].max())
            unfit[value] = f"its constant '{value.name}' of {least:.3g} would become 0 in {dtype}"
        elif count:
            notes.append(f"'{value.name}': {count} of {array.size} values stand for infinity and were cut off")
        if lost.any() and value not in unfit:
            notes.append(f"'{value.name}': {int(lost.sum())} of {array.size} values are so small that they are 0")
    return notes, unfit


def _measured(work: ir.Model, model: ir.Model, context: Context, notes: list[str]) -> dict[ir.Value, str]:
    """Return the tensors that leave float16's range over the samples."""
    known = {v.name for v in (*model.graph.inputs, *(o for node in model.graph for o in node.outputs)) if v.name}
    outer = (*work.graph.inputs, *(o for node in work.graph for o in node.outputs if edit.constant(o) is None))
    values = {str(v.name): v for v in outer if is_float(v) and v.name in known}
    try:
        ranges = context.ranges(sorted(values))
    except DataError as error:
        notes.append(f"ranges over the samples could not be measured: {error}")
        return {}
    limit = LARGEST["float16"]
    found = {}
    for name, value in values.items():
        low, high = float(ranges[name].low), float(ranges[name].high)
        if high > limit or -INFINITY < low < -limit:
            found[value] = f"tensor '{name}' spans {low:.3g} to {high:.3g} over the samples"
    return found


def _shape_nodes(model: ir.Model) -> set[ir.Node]:
    """Return the nodes that compute from shapes alone: rounding 2049 to 2048 there breaks a model."""
    found: set[ir.Node] = set()
    for node in model.graph.all_nodes():
        given = [v for v in node.inputs if v is not None and edit.constant(v) is None]
        if node.op_type in ("Shape", "Size") or (given and all(v.producer() in found for v in given)):
            found.add(node)
    return found

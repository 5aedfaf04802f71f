"""Fold multiplications and additions of constants into the weights beside them."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection

import numpy as np
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Plan, Promise, Refusal
from onnxcompress.graph import edit
from onnxcompress.graph.layer import Array, Layer
from onnxcompress.graph.windows import differs_at_borders
from onnxcompress.selection import Selected, SelectivePass, node_subjects

from .folding.never_larger import LARGER, never_larger

AFFINE = ("Add", "Div", "Mul", "Sub")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffinePlan(Plan):
    """Names of the outputs of the nodes to fold, in the order in which they are."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldAffine(SelectivePass):
    """Fold Mul, Div, Add and Sub with a constant into the Conv, Gemm or MatMul before or behind them.

    The constant is one number, or one for each channel. Behind: ``(W x + b) · f + c = (W f) x + (b f + c)``. Before:
    ``W (x · f + c) + b = (W f) x + (b + Σ W c)``, the addition only where no padding is read. Two multiplications by
    single numbers become one. Exports of PaddlePaddle, and of hard-swish written out, are full of them.
    """

    promise = Promise(tolerance=1e-4)

    def plan(self, model: ir.Model, context: Context) -> AffinePlan:
        """Fold on a copy, until nothing more can be, and note what was."""
        refused: list[Refusal] = []

        def fold(copy: ir.Model, left: Collection[str]) -> dict[str, list[ir.Value]]:
            folding = _Folding(edit.Inserter(copy.graph), self.select(model, node_subjects(copy.graph)))
            made = dict[str, list[ir.Value]]()
            while True:
                nodes = {edit.output_name(node): node for node in copy.graph}
                new = {name: folding.made for name, node in nodes.items() if name not in left and folding.fold(node)}
                made |= new
                if not new:
                    refused[:] = folding.refused()
                    return made

        names, left = never_larger(model, fold)
        return AffinePlan(nodes=names, refused=(*refused, *(Refusal(label, LARGER) for label in left.values())))

    def apply(self, model: ir.Model, plan: AffinePlan) -> Changes:
        """Fold the nodes of the plan."""
        nodes = {edit.output_name(node): node for node in model.graph}
        folding = _Folding(edit.Inserter(model.graph))
        done = [Change(edit.label(nodes[n]), "folded") for n in plan.nodes if n in nodes and folding.fold(nodes[n])]
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done), plan.refused)


class _Folding:
    """Folds nodes of one graph into their neighbours, as far as all that would change is selected.

    A fold changes the node that goes and the layers that take it over: it is left undone where one of them is excluded,
    or none is included.
    """

    def __init__(self, insert: edit.Inserter, selected: Selected[ir.Node, FoldAffine] | None = None) -> None:
        self._insert, self._selected = insert, selected
        self._why_not: dict[ir.Node, str] = {}
        self._touched: set[ir.Node] = set()
        self.made: list[ir.Value] = []
        """The biases that layers got in the last fold."""

    def refused(self) -> tuple[Refusal, ...]:
        """Say which nodes could be folded and are not selected, and what was named in vain."""
        left = [Refusal(edit.label(node), reason) for node, reason in self._why_not.items() if node.graph is not None]
        return (*left, *(self._selected.idle_but(self._touched) if self._selected is not None else ()))

    def fold(self, node: ir.Node) -> bool:
        """Fold one node if it can be; it goes."""
        op, operand = edit.op_of(node), _operand(node)
        self.made = []
        if op not in AFFINE or operand is None:
            return False
        data, constant = operand
        return self._fold_behind(node, data, constant) or self._fold_before(node, data, constant)

    def _may_change(self, node: ir.Node, *others: ir.Node) -> bool:
        if self._selected is None:
            return True
        self._touched.update((node, *others))
        reason = self._selected.why_not_together((node, *others))
        self._why_not |= {node: reason} if reason else {}
        return not reason

    def _fold_behind(self, node: ir.Node, data: ir.Value, constant: Array) -> bool:
        """Fold into the operator whose output the node reads."""
        layer = Layer.of(data.producer())
        if layer is None or len(data.uses()) > 1 or data.is_graph_output() or layer.why_not():
            return False
        scaling, rank = node.op_type in ("Mul", "Div"), _rank(data)
        each = _along(constant, rank, layer.channel_axis(rank), layer.outputs)
        if each is None or not (scaling or layer.takes_bias):
            return False
        weight = layer.scaled_outputs(each) if scaling else None
        bias = layer.bias * each if scaling else layer.bias + each
        if not layer.can_store(weight, bias) or not self._may_change(node, layer.node):
            return False
        self._store(layer, weight, bias)
        edit.replace_uses(node.outputs[0], data)
        self._insert.graph.remove(node, safe=True)
        return True

    def _fold_before(self, node: ir.Node, data: ir.Value, constant: Array) -> bool:
        """Fold into all the operators that read the node's output."""
        uses = list(node.outputs[0].uses())
        scaling = node.op_type in ("Mul", "Div")
        if not uses or node.outputs[0].is_graph_output():
            return False
        if scaling and constant.size == 1 and all(edit.op_of(n) in ("Mul", "Div") for n, _ in uses):
            return self._merge(node, data, constant)
        if not all(index == 0 and reader.graph is self._insert.graph for reader, index in uses):
            return False
        found = [_absorbed(reader, _rank(data), constant, scaling=scaling) for reader, _ in uses]
        if any(part is None for part in found) or not self._may_change(node, *(reader for reader, _ in uses)):
            return False
        for layer, weight, bias in filter(None, found):
            self._store(layer, weight, bias)
            layer.node.replace_input_with(0, data)
        self._insert.graph.remove(node, safe=True)
        return True

    def _store(self, layer: Layer, weight: Array | None, bias: Array) -> None:
        layer.store(self._insert, weight, bias)
        self.made += [layer.bias_value] if layer.bias_value is not None else []

    def _merge(self, node: ir.Node, data: ir.Value, constant: Array) -> bool:
        """Multiply a number into the numbers that multiply next."""
        uses = list(node.outputs[0].uses())
        readers = [(n, _operand(n)) for n, _ in uses]
        if any(operand is None or operand[1].size > 1 for _, operand in readers):
            return False
        if not self._may_change(node, *(reader for reader, _ in readers)):
            return False
        dtype = edit.tensor(next(v for v in node.inputs if v is not data)).dtype
        for (reader, operand), (_, index) in zip(readers, uses, strict=True):
            product = (constant if operand is None else operand[1] * constant).ravel()[0]
            product = 1 / product if reader.op_type == "Div" else product
            reader.replace_input_with(index, data)
            name = f"{edit.output_name(reader)}_factor"
            reader.replace_input_with(1 - index, self._insert.constant(name, product.astype(dtype.numpy())))
        self._insert.graph.remove(node, safe=True)
        return True


def _operand(node: ir.Node) -> tuple[ir.Value, Array] | None:
    """Return what a node reads and its constant (with Div, its inverse; with Sub, its negative)."""
    if len(node.inputs) != 2:
        return None
    first, second = node.inputs
    if edit.constant(second) is None and node.op_type in ("Add", "Mul"):
        first, second = second, first
    tensor = edit.constant(second)
    if first is None or tensor is None or edit.constant(first) is not None or not tensor.dtype.is_floating_point():
        return None
    if first.shape is None or len(tensor.shape) > len(first.shape) or tensor.size > 1 << 16:
        return None
    array = tensor.numpy().astype(np.float64)
    if node.op_type == "Div":
        with np.errstate(divide="ignore"):
            array = 1 / array
    array = -array if node.op_type == "Sub" else array
    return (first, array) if np.isfinite(array).all() and array.any() else None


def _along(array: Array, rank: int, axis: int, size: int) -> Array | None:
    """Return a constant as one value for each channel, if that is what it broadcasts to."""
    shape = (1,) * (rank - array.ndim) + array.shape
    if array.size == 1 or (shape[axis] == size and array.size == size):
        return np.broadcast_to(array.ravel(), (size,))
    return None


def _absorbed(node: ir.Node, rank: int, constant: Array, *, scaling: bool) -> tuple[Layer, Array | None, Array] | None:
    """Return the weight and the bias of a layer that multiplies, or adds, a constant to its input by itself."""
    layer = Layer.of(node)
    if layer is None or layer.why_not() or layer.transposes_input:
        return None
    if not scaling and (not layer.takes_bias or differs_at_borders(node)):
        return None
    each = _along(constant, rank, layer.channel_axis(rank), layer.inputs)
    if each is None:
        return None
    products = layer.scaled_inputs(each)
    sums = layer.blocks(products).sum(2).ravel() if not scaling else 0.0
    weight, bias = (products, layer.bias) if scaling else (None, layer.bias + sums)
    return (layer, weight, bias) if layer.can_store(weight, bias) else None


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)

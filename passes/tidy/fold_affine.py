"""Fold multiplications and additions of constants into the weights beside them."""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.contract import Change, Changes, Context, Pass, Plan
from onnxcompress.graph import edit

Array = npt.NDArray[np.float64]

WEIGHTED = ("Conv", "Gemm", "MatMul")
AFFINE = ("Add", "Div", "Mul", "Sub")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AffinePlan(Plan):
    """Names of the outputs of the nodes to fold, in the order in which they are."""

    nodes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class FoldAffine(Pass):
    """Fold Mul, Div, Add and Sub with a constant into the Conv, Gemm or MatMul before or behind them.

    The constant is one number, or one for each channel. Behind: ``(W x + b) · f + c = (W f) x + (b f + c)``. Before:
    ``W (x · f + c) + b = (W f) x + (b + Σ W c)``, the addition only where no padding is read. Two multiplications by
    single numbers become one. Exports of PaddlePaddle, and of hard-swish written out, are full of them.
    """

    tolerance = 1e-4

    def plan(self, model: ir.Model, context: Context) -> AffinePlan:
        """Fold on a copy, until nothing more can be, and note what was."""
        copy = model.clone()
        insert, found = edit.Inserter(copy.graph), list[str]()
        while True:
            new = [name for node in list(copy.graph) for name in [edit.output_name(node)] if _fold(insert, node)]
            found += new
            if not new:
                return AffinePlan(nodes=tuple(found))

    def apply(self, model: ir.Model, plan: AffinePlan) -> Changes:
        """Fold the nodes of the plan."""
        nodes = {edit.output_name(node): node for node in model.graph}
        insert = edit.Inserter(model.graph)
        done = [Change(edit.label(nodes[n]), "folded") for n in plan.nodes if n in nodes and _fold(insert, nodes[n])]
        if done:
            edit.remove_dead(model)
        return Changes(tuple(done))


def _fold(insert: edit.Inserter, node: ir.Node) -> bool:
    """Fold one node into its neighbours if it can be; it goes."""
    op, operand = edit.op_of(node), _operand(node)
    if op not in AFFINE or operand is None:
        return False
    data, constant = operand
    return _fold_behind(insert, node, data, constant) or _fold_before(insert, node, data, constant)


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
    if second is not None and second.is_graph_input():
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


def _fold_behind(insert: edit.Inserter, node: ir.Node, data: ir.Value, constant: Array) -> bool:
    """Fold into the operator whose output the node reads."""
    before = data.producer()
    if before is None or not _is_weighted(before) or len(data.uses()) > 1 or data.is_graph_output():
        return False
    weight, bias = _weight(before), _bias(before)
    axis = _output_axis(before)
    each = _along(constant, _rank(data), 1 if before.op_type == "Conv" else _rank(data) - 1, weight.shape[axis])
    if each is None or bias is None:
        return False
    scaling = node.op_type in ("Mul", "Div")
    if before.op_type == "MatMul" and not scaling:
        return False
    if scaling:
        weight, bias = weight * _shaped(each, weight.ndim, axis), bias * each
    _store(insert, before, weight if scaling else None, bias if scaling else bias + each)
    edit.replace_uses(node.outputs[0], data)
    insert.graph.remove(node, safe=True)
    return True


def _fold_before(insert: edit.Inserter, node: ir.Node, data: ir.Value, constant: Array) -> bool:
    """Fold into all the operators that read the node's output."""
    uses = list(node.outputs[0].uses())
    scaling = node.op_type in ("Mul", "Div")
    if not uses or node.outputs[0].is_graph_output():
        return False
    if scaling and constant.size == 1 and all(edit.op_of(n) in ("Mul", "Div") for n, _ in uses):
        return _merge(insert, node, data, constant)
    if not all(i == 0 and _is_weighted(n) and (scaling or _reads_no_padding(n)) for n, i in uses):
        return False
    found = [_scaled_inputs(n, _rank(data), constant) for n, _ in uses]
    if any(products is None or _bias(n) is None for products, (n, _) in zip(found, uses, strict=True)):
        return False
    for products, (reader, _) in zip(found, uses, strict=True):
        assert products is not None
        axis = _output_axis(reader)
        bias = _bias(reader)
        assert bias is not None
        sums = np.moveaxis(products, axis, 0).reshape(products.shape[axis], -1).sum(1)
        _store(insert, reader, products if scaling else None, bias if scaling else bias + sums)
        reader.replace_input_with(0, data)
    insert.graph.remove(node, safe=True)
    return True


def _merge(insert: edit.Inserter, node: ir.Node, data: ir.Value, constant: Array) -> bool:
    """Multiply a number into the numbers that multiply next."""
    uses = list(node.outputs[0].uses())
    readers = [(n, _operand(n)) for n, _ in uses]
    if any(operand is None or operand[1].size > 1 for _, operand in readers):
        return False
    dtype = data.dtype
    assert dtype is not None
    for (reader, operand), (_, index) in zip(readers, uses, strict=True):
        assert operand is not None
        product = operand[1] * constant.ravel()[0]
        product = 1 / product if reader.op_type == "Div" else product
        reader.replace_input_with(index, data)
        name = f"{edit.output_name(reader)}_factor"
        reader.replace_input_with(1 - index, insert.constant(name, product.astype(dtype.numpy())))
    insert.graph.remove(node, safe=True)
    return True


def _is_weighted(node: ir.Node) -> bool:
    """Tell whether an operator has a weight of its own that can be scaled."""
    if edit.op_of(node) not in WEIGHTED or len(node.inputs) < 2:
        return False
    value = node.inputs[1]
    tensor = edit.constant(value)
    if value is None or tensor is None or not tensor.dtype.is_floating_point() or value.is_graph_input():
        return False
    if len(value.uses()) > 1 or value.is_graph_output() or edit.int_attribute(node, "transA", 0):
        return False
    return node.op_type != "MatMul" or len(tensor.shape) == 2


def _weight(node: ir.Node) -> Array:
    tensor = edit.constant(node.inputs[1])
    assert tensor is not None
    return tensor.numpy().astype(np.float64)


def _bias(node: ir.Node) -> Array | None:
    """Return the bias, zeros without one, None where it is not one constant for each channel."""
    size = _weight(node).shape[_output_axis(node)]
    if len(node.inputs) < 3 or node.inputs[2] is None:
        return np.zeros(size)
    tensor = edit.constant(node.inputs[2])
    if tensor is None or tensor.size not in (1, size) or tensor.shape.numpy()[-1:] not in ((), (1,), (size,)):
        return None
    array = tensor.numpy().astype(np.float64).ravel() * node.attributes.get_float("beta", 1.0)
    return np.broadcast_to(array, (size,))


def _store(insert: edit.Inserter, node: ir.Node, weight: Array | None, bias: Array) -> None:
    value = node.inputs[1]
    assert value is not None
    tensor = edit.constant(value)
    assert tensor is not None
    dtype, name = tensor.dtype.numpy(), edit.output_name(node)
    if weight is not None:
        node.replace_input_with(1, insert.constant(f"{name}_weight", weight.astype(dtype)))
    if node.op_type == "MatMul" or (not bias.any() and (len(node.inputs) < 3 or node.inputs[2] is None)):
        return
    if len(node.inputs) < 3:
        node.resize_inputs(3)
    node.attributes.pop("beta", None)
    node.replace_input_with(2, insert.constant(f"{name}_bias", bias.astype(dtype)))


def _scaled_inputs(node: ir.Node, rank: int, constant: Array) -> Array | None:
    """Return the weight times a constant for each of its input channels."""
    weight = _weight(node)
    if node.op_type == "Conv":
        groups = edit.int_attribute(node, "group", 1)
        each = _along(constant, rank, 1, weight.shape[1] * groups)
        if each is None:
            return None
        blocks = weight.reshape(groups, -1, *weight.shape[1:])
        factors = each.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
        return (blocks * factors).reshape(weight.shape)
    axis = 1 - _output_axis(node)
    each = _along(constant, rank, rank - 1, weight.shape[axis])
    return None if each is None else weight * _shaped(each, weight.ndim, axis)


def _reads_no_padding(node: ir.Node) -> bool:
    if node.op_type != "Conv":
        return node.op_type == "Gemm"
    auto = node.attributes["auto_pad"].as_string() if "auto_pad" in node.attributes else "NOTSET"
    return auto in ("NOTSET", "VALID") and not any(edit.ints_attribute(node, "pads") or ())


def _output_axis(node: ir.Node) -> int:
    if node.op_type == "Conv":
        return 0
    return 0 if edit.int_attribute(node, "transB", 0) else 1


def _shaped(each: Array, rank: int, axis: int) -> Array:
    return each.reshape([-1 if a == axis else 1 for a in range(rank)])


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)

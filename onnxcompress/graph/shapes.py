"""Shapes: inferred where the file says nothing, and made concrete for the group engine and the cost count."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnx.reference
import onnx_ir as ir
from onnx_ir import serde

from . import edit
from .inference import Skeleton, Types, dims_of, shape_of, static, type_of
from .sizes import BROADCASTING, LENGTHS, READS, Sizes, find_sizes

SMALL = 4096
"""Elements up to which an intermediate constant is worth evaluating; shapes, pads and indices are far below."""

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE}


def infer(model: ir.Model) -> None:
    """Fill in types and shapes where the model says nothing; what the file says is kept."""
    for graph, known in list(Skeleton(model, annotated=True).infer()):
        for value in _own_values(graph):
            kind = known.get(value.name or "")
            if kind is None or value.is_graph_input():
                continue
            if value.type is None:
                value.type = type_of(kind)
            if value.shape is None:
                value.shape = shape_of(kind)
            elif any(_unknown(dim) for dim in value.shape):
                _complete(value, shape_of(kind))


def _complete(value: ir.Value, other: ir.Shape | None) -> None:
    if value.shape is not None and other is not None and len(value.shape) == len(other):
        dims = zip(value.shape, other, strict=True)
        value.shape = ir.Shape([b if _unknown(a) else a for a, b in dims])


def forget(model: ir.Model) -> None:
    """Drop every inferred intermediate shape, so that `infer` computes it anew after an edit."""
    for graph in model.graphs():
        for value in _own_values(graph):
            if value.producer() is not None and not value.is_graph_output() and value.const_value is None:
                value.shape = None


def _unknown(dim: int | ir.SymbolicDim) -> bool:
    return not isinstance(dim, int) and dim.value is None


def _own_values(graph: ir.Graph) -> list[ir.Value]:
    return [*graph.inputs, *graph.initializers.values(), *(out for node in graph for out in node.outputs)]


@dataclass
class Concrete:
    """What is known when every input has a concrete size.

    Attributes
    ----------
    shapes : dict
        Value → shape as integers; values of unknown shape are absent. Of inner graphs, what ONNX's inference finds.
    values : dict
        Main-graph value → array, for small constants and what is computed from them and from shapes.
    moving : set
        The values in `values` that were computed from a tensor's shape: they follow when shapes change.
    fits : bool
        No operator was seen whose operands do not fit together at these sizes.
    depends_on_data : bool
        Some extents are not known before the model runs; a number was made up for them, another for larger inputs.
    """

    shapes: dict[ir.Value, tuple[int, ...]] = field(default_factory=dict)
    values: dict[ir.Value, npt.NDArray[Any]] = field(default_factory=dict)
    moving: set[ir.Value] = field(default_factory=set)
    fits: bool = True
    depends_on_data: bool = False


def concrete(model: ir.Model, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Concrete:
    """Compute shapes and small constants of the main graph for concrete input sizes.

    Parameters
    ----------
    model : onnx_ir.Model
        Not changed.
    sizes : mapping, optional
        Input name → shape. Without it, what the weights ask for, else 1 for a batch, for the rest the first of
        `sizes.IMAGES` or `sizes.LENGTHS` at which all fits together.
    """
    return _Probe(model).fitting(sizes)[1]


def fitting_inputs(model: ir.Model) -> dict[str, tuple[int, ...]]:
    """Return shapes of the inputs at which the model's operators fit together, as far as inference can tell."""
    return _Probe(model).fitting()[0].shapes()


def sized_by_data(model: ir.Model, sizes: Mapping[str, tuple[int, ...]]) -> set[str]:
    """Return the outputs whose size does not follow from the sizes of the inputs: detections, texts."""
    probe = _Probe(model)
    one = other = probe.fitting(sizes)[1]
    if one.depends_on_data:
        one, other = (probe.run({**sizes}, found) for found in LENGTHS[:2])
    found = ((value, one.shapes.get(value), other.shapes.get(value)) for value in model.graph.outputs)
    return {str(value.name) for value, shape, larger in found if shape is None or shape != larger}


def concrete_twice(model: ir.Model) -> tuple[Concrete, Concrete]:
    """Compute what `concrete` does, and the same for larger inputs: what stays as it is does not depend on them."""
    probe = _Probe(model)
    sizes, one = probe.fitting()
    if not (has_free_inputs(model) or one.depends_on_data):
        return one, one
    other = one
    for larger in sizes.larger():
        other = probe.run(larger.shapes(), larger.length)
        if other.fits or not one.fits:
            break
    return one, other


class _Probe:
    """A model made ready for shapes to be computed, for one size of its inputs after the other."""

    def __init__(self, model: ir.Model) -> None:
        self._model, self._skeleton = model, Skeleton(model, annotated=False)
        self._constants = Concrete()
        for value in model.graph.initializers.values():
            tensor = value.const_value
            if tensor is not None:
                shape = self._constants.shapes[value] = tuple(tensor.shape.numpy())
                given = value.is_graph_input()  # whoever runs the model may give another
                if prod(shape) <= SMALL and tensor.dtype != ir.DataType.STRING and not given:
                    self._constants.values[value] = tensor.numpy()

    def fitting(self, given: Mapping[str, tuple[int, ...]] | None = None) -> tuple[Sizes, Concrete]:
        """Compute all for the first sizes that fit together; for the very first where none do."""
        first = find_sizes(self._model.graph, self._skeleton)
        result = self.run(first.shapes(given))
        for sizes in first.others() if not (result.fits or given) else ():
            if (other := self.run(sizes.shapes())).fits:
                return sizes, other
        return first, result

    def run(self, sizes: Mapping[str, tuple[int, ...]], found: int = LENGTHS[0]) -> Concrete:
        """Compute all for inputs of these shapes; where extents depend on the data, so many elements are found."""
        (_, known), *inner = self._skeleton.infer(sizes)
        result = Concrete(dict(self._constants.shapes), dict(self._constants.values))
        for value in self._model.graph.inputs:
            if value.name is not None and value.name in sizes:
                result.shapes[value] = sizes[value.name]
        extents = _Extents(found, _by_name(self._model.graph, result))
        opset = self._model.opset_imports.get("", 1)
        for node in self._model.graph:
            _visit(node, result, known, opset, extents)
            result.fits = result.fits and _fits(node, result)
        for graph, types in inner:
            known_inside = ((value, static(types.get(value.name or ""))) for value in _own_values(graph))
            result.shapes.update((value, shape) for value, shape in known_inside if shape is not None)
        return result


def _fits(node: ir.Node, result: Concrete) -> bool:
    """Tell whether operands fit together: where all are known and the output is not, they do not."""
    op, shapes = edit.op_of(node), result.shapes
    windowed = op in READS or op.endswith("Pool")
    if any(min(shapes.get(value, ()), default=1) < (1 if windowed else 0) for value in node.outputs):
        return False  # less was there than one window covers
    asked = op == "Reshape" and len(node.inputs) > 1 and node.inputs[1] in result.values
    if not asked and op not in BROADCASTING and op not in READS and op != "Concat":
        return True
    return node.outputs[0] in shapes or any(v is not None and v not in shapes for v in node.inputs)


def has_free_inputs(model: ir.Model) -> bool:
    """Tell whether some input has an extent that the model does not fix."""
    shaped = [v.shape for v in model.graph.inputs if v.const_value is None and v.shape is not None]
    return any(not isinstance(dim, int) or dim <= 0 for shape in shaped for dim in shape)


def _visit(node: ir.Node, result: Concrete, known: Types, opset: int, extents: _Extents) -> None:
    """Evaluate a node whose inputs are all known and small, or take over its inferred shapes."""
    outputs = _evaluate(node, result, opset)
    if outputs is not None:
        asks_shape = edit.op_of(node) in ("Shape", "Size") and node.inputs[0] not in result.values
        moving = asks_shape or any(v in result.moving for v in node.inputs)
        for value, array in zip(node.outputs, outputs, strict=False):
            result.values[value], result.shapes[value] = array, array.shape
            if moving:
                result.moving.add(value)
        return
    shapes = {v: static(known.get(v.name or "")) for v in node.outputs if v.name}
    if None in shapes.values():
        shapes |= _infer_node(node, result, known)
    if edit.op_of(node) in UNCHANGED and node.inputs[0] is not None:
        shapes[node.outputs[0]] = result.shapes.get(node.inputs[0])
    if None in shapes.values() and edit.op_of(node) in DATA_DEPENDENT:
        shapes |= _made_up(node, known, extents)
        result.depends_on_data = True
    result.shapes.update((value, shape) for value, shape in shapes.items() if shape is not None)


UNCHANGED = {"GroupNormalization", "MeanVarianceNormalization"}
"""Operators that keep their input's shape, and that onnx has no inference for."""

DATA_DEPENDENT = {"Compress", "If", "Loop", "NonMaxSuppression", "NonZero", "Range", "Scan", "TopK", "Unique"}
"""Operators that may find any number of elements."""


@dataclass(frozen=True)
class _Extents:
    """What extents are taken for that no inference finds: `named` ones for those of the inputs, others for `found`."""

    found: int
    named: Mapping[str, int]

    def of(self, dim: int | str | None) -> int:
        return dim if isinstance(dim, int) else self.named.get(dim or "", self.found)


def _by_name(graph: ir.Graph, result: Concrete) -> dict[str, int]:
    """Return the sizes of the inputs' extents that have names."""
    pairs = [(dim, n) for v in graph.inputs for dim, n in zip(v.shape or (), result.shapes.get(v, ()), strict=False)]
    return {dim.value: n for dim, n in pairs if not isinstance(dim, int) and dim.value is not None}


def _made_up(node: ir.Node, known: Types, extents: _Extents) -> dict[ir.Value, tuple[int, ...] | None]:
    """Take extents that depend on the data for a number: what holds for two of them holds for all.

    Where inference finds not even a rank, the model's own word for it is taken.
    """
    made: dict[ir.Value, tuple[int, ...] | None] = {}
    for value in node.outputs:
        dims = dims_of(known.get(value.name or ""))
        if dims is None and value.shape is not None:
            dims = tuple(dim if isinstance(dim, int) else dim.value for dim in value.shape)
        made[value] = None if dims is None else tuple(map(extents.of, dims))
    return made


def _evaluate(node: ir.Node, result: Concrete, opset: int) -> list[npt.NDArray[Any]] | None:
    op = edit.op_of(node)
    if op == "Constant":
        tensor = edit.constant(node.outputs[0])
        if tensor is None or tensor.size > SMALL or tensor.dtype == ir.DataType.STRING:
            return None
        return [tensor.numpy()]
    if op in ("Shape", "Size"):
        shape = None if node.inputs[0] is None else result.shapes.get(node.inputs[0])
        if shape is None:
            return None
        if op == "Size":
            return [np.asarray(np.prod(shape, dtype=np.int64))]
        end = node.attributes["end"].as_int() if "end" in node.attributes else len(shape)
        return [np.asarray(shape[edit.int_attribute(node, "start", 0) : end], np.int64)]
    if "::" in op or not node.inputs or any(v is not None and v not in result.values for v in node.inputs):
        return None
    if op.startswith("Random") or edit.inner_graphs(node):
        return None
    if op in ("ConstantOfShape", "Expand", "Tile", "Range", "Pad") and _large_output(node, result):
        return None
    return run_node(node, [None if v is None else result.values[v] for v in node.inputs], opset)


def _large_output(node: ir.Node, result: Concrete) -> bool:
    """Operators whose output may be far larger than their inputs: look at the request before obeying it."""
    numbers = [result.values[v] for v in node.inputs if v is not None]
    wanted = [
        float(np.prod(np.abs(n.astype(np.float64)) + 1)) for n in numbers if n.dtype.kind in "iuf" and n.size < 64
    ]
    return max(wanted, default=0.0) * 4 > SMALL * 256


def run_node(node: ir.Node, inputs: list[npt.NDArray[Any] | None], opset: int) -> list[npt.NDArray[Any]] | None:
    """Run one node on arrays with onnx's reference implementation; None where that cannot.

    An input may have any dtype that the operator's numpy implementation takes, also one the graph does not have.
    """
    proto = serde.serialize_node(node)
    feeds = {f"input_{place}": array for place, array in enumerate(inputs) if array is not None}
    proto.input[:] = ["" if array is None else f"input_{place}" for place, array in enumerate(inputs)]
    graph_inputs = [onnx.ValueInfoProto(name=name) for name in feeds]
    graph_outputs = [onnx.ValueInfoProto(name=name) for name in proto.output if name]
    graph = onnx.helper.make_graph([proto], "one", graph_inputs, graph_outputs)
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    try:
        with np.errstate(all="ignore"):
            outputs = onnx.reference.ReferenceEvaluator(model).run(None, feeds)
    except Exception:  # noqa: BLE001 - the reference raises anything; the value then stays unknown, as documented
        return None
    return [np.asarray(o) for o in outputs] if all(isinstance(o, (np.ndarray, np.generic)) for o in outputs) else None


def _infer_node(node: ir.Node, result: Concrete, known: Types) -> dict[ir.Value, tuple[int, ...] | None]:
    """Infer one node with the values that onnx's own data propagation did not carry."""
    domain = "" if node.domain == "ai.onnx" else node.domain
    if not onnx.defs.has(node.op_type, domain) or edit.inner_graphs(node):
        return {}
    version = (node.graph.opset_imports if node.graph is not None else {}).get(domain, 1)
    types: dict[str, onnx.TypeProto] = {}
    data: dict[str, onnx.TensorProto] = {}
    for value in node.inputs:
        if value is None or value.name is None:
            continue
        dtype = known[value.name].tensor_type.elem_type if value.name in known else int(value.dtype or 0)
        if not domain and value not in result.shapes:
            return {}
        shape = result.shapes.get(value)
        types[value.name] = onnx.helper.make_tensor_type_proto(dtype or onnx.TensorProto.FLOAT, shape)
        if value in result.values:
            data[value.name] = onnx.numpy_helper.from_array(result.values[value], value.name)
    try:
        schema = onnx.defs.get_schema(node.op_type, version, domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            serde.serialize_node(node),
            types,
            data,
            opset_imports=[onnx.helper.make_opsetid(domain, version)],
        )
    except (
        onnx.defs.SchemaError,
        onnx.shape_inference.InferenceError,
        onnx.checker.ValidationError,
        ValueError,
        RuntimeError,
    ):
        return {}
    known.update(found)
    return {value: static(found.get(value.name or "")) for value in node.outputs}

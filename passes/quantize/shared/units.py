"""What can be computed on integers: one unit is a node with what onnxruntime fuses into its kernel.

The tables say what onnxruntime (1.20 to 1.32, CPU) has integer kernels for; `placement` chooses among the units.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.graph import constants, edit, operators
from onnxcompress.graph.layer import Layer

from . import scales

Kind = Literal["compute", "values", "move"]

LARGEST = 2.0**62
"""Of a weight or bias: the scale of a bias, the product of the weight's and the input's, must not overflow."""

COMPUTE = frozenset(operators.on_integers("layer"))
"""Worth quantizing for their own sake."""

OPEN = frozenset(op for op in COMPUTE if operators.facts(op).family == "product")
"""Their integer kernels can give float as well, so that what follows stays float (and GELU stays one kernel) unless it
is another of them."""

ON_VALUES = frozenset(operators.on_integers("values"))

OFTEN_FLOAT = frozenset(operators.on_integers("at a cost"))
"""More of them, which compute on integers only where every operator shall, and where the target has a kernel.

onnxruntime has one for Softmax and Where."""

MOVES = frozenset(operators.on_integers("unchanged"))
"""They take values over from input 0 as they are: integers of the same scale pass through unchanged."""


def _lacking(op: str) -> str:
    """Say that onnxruntime does not compute an operator with weights on integers."""
    static = "static " if operators.facts(op).dynamic else ""
    return f"onnxruntime has no {static}integer {op}; quantize-weights makes its file smaller"


UNSUPPORTED = {
    "BatchNormalization": "it could not be folded, and onnxruntime has no integer BatchNormalization",
    "Einsum": "onnxruntime has no integer Einsum",
    **{op: _lacking(op) for op in (*operators.PRODUCTS, *operators.RECURRENT) if op not in COMPUTE},
}


@dataclass(eq=False)
class Unit:
    """A node that can compute on integers.

    Attributes
    ----------
    node : onnx_ir.Node
    kind : {"compute", "values", "move"}
    data : tuple of int
        Inputs that hold activations.
    operands : tuple of int
        Inputs that hold constants and are quantized like activations.
    outputs : list of onnx_ir.Value
        What leaves the unit, after what was fused into it.
    bias_node : onnx_ir.Node, optional
        An Add of a constant for each channel. It becomes the bias of a Conv; behind a MatMul it stays, with integers.
    bounds : (float, float), optional
        Of the Relu or Clip behind the node: the output's grid must not reach beyond them.
    gain : float
        A last multiplication by a positive constant, which only changes the output's scale.
    """

    node: ir.Node
    kind: Kind
    data: tuple[int, ...]
    operands: tuple[int, ...] = ()
    outputs: list[ir.Value] = field(default_factory=list)
    bias_node: ir.Node | None = None
    bounds: tuple[float, float] | None = None
    gain: float = 1.0

    @property
    def inputs(self) -> list[ir.Value]:
        """The values that hold activations."""
        return [value for index in self.data if (value := self.node.inputs[index]) is not None]

    @property
    def fused(self) -> set[ir.Node]:
        """The nodes behind `node` that became part of the unit."""
        found: set[ir.Node] = set()
        last = self.outputs[0].producer()
        while last is not None and last is not self.node:
            found.add(last)
            last = next(
                n
                for value in last.inputs
                if value is not None and (n := value.producer()) is not None and not constants.is_constant(value)
            )
        return found


def find_unit(node: ir.Node, apart: Collection[str] = ()) -> Unit | str | None:
    """Return a node's unit, the reason why a node worth quantizing has none, or None for all others.

    `apart` are operators that compute on integers by themselves: those of `OFTEN_FLOAT` have units too, and a
    multiplication or the bias behind a MatMul is not fused into what is before it.
    """
    op = edit.op_of(node)
    if op in UNSUPPORTED:
        return UNSUPPORTED[op]
    if op in COMPUTE:
        reason = _wrong_type(node) or OBSTACLES[op](node)
        return reason or _compute_unit(node, apart)
    if op in ON_VALUES or (op in OFTEN_FLOAT and op in apart):
        wanted = operators.facts(op).data
        return _values_unit(node, tuple(range(len(node.inputs))) if wanted is None else wanted, apart)
    if op in MOVES and _is_float(node.inputs[0]) and not constants.is_constant(node.inputs[0]) and _passes_on(node):
        outputs = [v for v in node.outputs if v.uses() or v.is_graph_output()]
        return Unit(node, "move", (0,), outputs=outputs) if len(outputs) == _named_outputs(node) else None
    return None


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _wrong_type(node: ir.Node) -> str:
    for value in (*node.inputs[:1], *node.outputs[:1]):
        if value is None or value.dtype is None:
            return "the type of its input is not known"
        if value.dtype != ir.DataType.FLOAT:
            return f"it computes in {value.dtype.name.lower()}; onnxruntime's integer kernels go with float32"
    return ""


def _weight_obstacle(value: ir.Value | None) -> str:
    array = constants.find(value)
    if array is None:
        return "its weight is not a constant"
    if array.dtype != np.float32 or not array.size:
        return f"its weight is {array.dtype} of shape {array.shape}"
    if not np.isfinite(array).all():
        return "its weight holds NaN or Inf"
    largest = float(np.abs(array).max())
    fits = largest == 0 or 127 * scales.SMALLEST <= largest <= LARGEST
    return "" if fits else f"its weight, of at most {largest:.3g}, has no scale in float32"


def _bias_obstacle(layer: Layer) -> str:
    if layer.bias_value is None:
        return ""
    bias = constants.find(layer.bias_value)
    if bias is None:
        return "its bias is not a constant"
    if not np.isfinite(bias).all():
        return "its bias holds NaN or Inf"
    if np.abs(bias).max(initial=0) > LARGEST:
        return f"its bias, of up to {np.abs(bias).max():.3g}, has no scale in float32"
    each = layer.known_bias() is not None
    return "" if each else f"its bias of shape {bias.shape} is not one value for each output channel"


def _biased_obstacle(node: ir.Node) -> str:
    layer = layer_of(node)
    if constants.is_constant(layer.data):
        return "its input is a constant"
    return _weight_obstacle(layer.value) or _bias_obstacle(layer)


def _matmul_obstacle(node: ir.Node) -> str:
    fixed = [constants.is_constant(value) for value in node.inputs]
    if all(fixed):
        return "both inputs are constants"
    return "".join(_weight_obstacle(value) for value, known in zip(node.inputs, fixed, strict=True) if known)


OBSTACLES: dict[str, Callable[[ir.Node], str]] = {
    op: _biased_obstacle if op in operators.BIASED else _matmul_obstacle for op in COMPUTE
}


def _compute_unit(node: ir.Node, apart: Collection[str]) -> Unit:
    data: tuple[int, ...] = (0,)
    operands: tuple[int, ...] = ()
    if node.op_type == "MatMul":
        data = tuple(i for i, v in enumerate(node.inputs) if not constants.is_constant(v))
        operands = (0,) if 0 not in data else ()
    unit = Unit(node, "compute", data, operands, [node.outputs[0]])
    if node.op_type == "Conv" or (node.op_type == "MatMul" and data == (0,) and _bias_is_fused(node, apart)):
        _fuse_bias(unit)
    return _fuse(unit, apart)


def _values_unit(node: ir.Node, wanted: tuple[int, ...], apart: Collection[str]) -> Unit | None:
    present = [i for i in wanted if i < len(node.inputs) and node.inputs[i] is not None]
    fixed = tuple(i for i in present if constants.is_constant(node.inputs[i]))
    if len(fixed) == len(present) or not all(_is_float(v) for v in (*(node.inputs[i] for i in present), *node.outputs)):
        return None
    if any(_weight_obstacle(node.inputs[i]) for i in fixed) or "dilations" in node.attributes:
        return None
    data = tuple(i for i in present if i not in fixed)
    return _fuse(Unit(node, "values", data, fixed, [node.outputs[0]]), apart)


def _passes_on(node: ir.Node) -> bool:
    """Tell whether onnxruntime runs a data-movement node on integers as it does on floats."""
    if node.op_type == "MaxPool":
        return len(node.outputs) < 2 or not node.outputs[1].uses()
    if node.op_type == "Resize":
        # The integer kernel of linear interpolation cuts fractions off, which shifts the mean.
        mode = node.attributes["mode"].as_string() if "mode" in node.attributes else "nearest"
        where = node.attributes.get("coordinate_transformation_mode")
        return mode == "nearest" and (where is None or where.as_string() != "tf_crop_and_resize")
    return True


def _named_outputs(node: ir.Node) -> int:
    return 1 if node.op_type == "MaxPool" else len(node.outputs)


def _only_reader(value: ir.Value) -> ir.Node | None:
    uses = list(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node


def _fuse_bias(unit: Unit) -> None:
    """Take an Add of one constant for each channel into the Conv or MatMul before it.

    onnxruntime makes a Gemm of a MatMul and an Add wherever it knows the shapes; with a float bias that is a float
    Gemm, with an integer one it is QGemm.
    """
    reader = _only_reader(unit.outputs[0])
    if reader is None or edit.op_of(reader) != "Add" or not _is_float(reader.outputs[0]):
        return
    other = reader.inputs[1] if reader.inputs[0] is unit.outputs[0] else reader.inputs[0]
    layer, array = layer_of(unit.node), constants.find(other)
    weight = layer.shape
    if array is None or array.ndim > len(weight):
        return
    if not (np.abs(array) <= LARGEST).all():
        return
    shape = (1,) * (len(weight) - array.ndim) + array.shape
    if not layer.takes_bias:
        flat = array.ndim <= max(_rank(unit.outputs[0]), 1) and array.shape[-1:] == (array.size,)
        matches = not layer.is_stack and flat and array.size == layer.outputs
    else:
        matches = array.size == 1 or shape == (1, layer.outputs, *[1] * (len(weight) - 2))
    if matches:
        unit.bias_node, unit.outputs = reader, [reader.outputs[0]]


def _bias_is_fused(node: ir.Node, apart: Collection[str]) -> bool:
    """Tell whether an Add behind a MatMul becomes its bias; only where onnxruntime makes a Gemm is that one kernel."""
    shape = node.inputs[0].shape if node.inputs[0] is not None else None
    return "Add" not in apart or (shape is not None and (len(shape) == 2 or shape.is_static()))


def _fuse(unit: Unit, apart: Collection[str]) -> Unit:
    """Take a Relu or Clip behind the unit into it, then a multiplication by a positive constant."""
    reader = _only_reader(unit.outputs[0])
    bounds = None if reader is None else _bounds(reader)
    if reader is not None and bounds is not None and bounds[0] <= 0 <= bounds[1] and bounds[0] < bounds[1]:
        unit.outputs, unit.bounds = [reader.outputs[0]], bounds
        reader = _only_reader(unit.outputs[0])
    gain = None if reader is None or reader.op_type in apart else _gain(reader, unit.outputs[0])
    if reader is not None and gain is not None:
        unit.outputs, unit.gain = [reader.outputs[0]], gain
    return unit


def _bounds(node: ir.Node) -> tuple[float, float] | None:
    """Return what a Relu or Clip lets through, if that is constant."""
    op = edit.op_of(node)
    if op == "Relu":
        return 0.0, math.inf
    if op != "Clip":
        return None
    limits = []
    for index, default in ((1, -math.inf), (2, math.inf)):
        value = node.inputs[index] if index < len(node.inputs) else None
        array = constants.find(value)
        if value is not None and array is None:
            return None
        limits.append(default if array is None or not array.size else float(array.ravel()[0]))
    return limits[0], limits[1]


def _gain(node: ir.Node, value: ir.Value) -> float | None:
    """Return the positive number that a node multiplies `value` by, if that is all it does."""
    op = edit.op_of(node)
    if op not in ("Div", "Mul") or (op == "Div" and node.inputs[0] is not value):
        return None
    array = constants.find(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    # A constant of higher rank would add axes to the result.
    if array is None or array.size != 1 or (array.ndim > 0 and array.ndim > _rank(value)):
        return None
    number = float(array.ravel()[0])
    factor = 1 / number if op == "Div" and number else number
    return factor if 2.0**-30 < factor < 2.0**30 else None


def _rank(value: ir.Value) -> int:
    return 0 if value.shape is None else len(value.shape)


def layer_of(node: ir.Node) -> Layer:
    """Return a Conv, Gemm or MatMul with its weight and bias, through what moves them."""
    return Layer(node, read=constants.find)


def bias_of(layer: Layer, bias_node: ir.Node | None) -> npt.NDArray[np.float64] | None:
    """Return the bias of a layer with the Add behind it, one value for each output channel; None without."""
    if bias_node is not None:
        return layer.bias + layer.added_behind(bias_node)
    return None if layer.bias_value is None else layer.bias


def channel_axis(layer: Layer) -> int | None:
    """Return the axis of the weight that makes output channels; None where a kernel takes only one scale."""
    return None if layer.is_stack else layer.axes.output

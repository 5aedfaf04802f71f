"""What each output of a model is, and which tensor of the teacher it is compared with."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Collection, Mapping
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from onnxcompress.errors import OptionError, TrainingError, did_you_mean
from onnxcompress.graph import edit, operators
from onnxcompress.graph.functions import flatten
from onnxcompress.samples.samples import Batch
from onnxcompress.training import computes

from .objectives.tensors import Kind, Output, Tensor

FLOATS = {ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.DOUBLE, ir.DataType.BFLOAT16}

MOVES = operators.KEEP_ELEMENTS | {"DequantizeLinear", "Dropout", "Flatten", "QuantizeLinear"}
AFFINE = frozenset({"Add", "Div", "Mul", "Sub"})
"""With a constant they scale and shift; what an output is does not change with that."""

PROBABILITIES: dict[str, Kind] = {"Softmax": "classes", "LogSoftmax": "classes", "Sigmoid": "binary"}
"""What makes probabilities; the tensor before it is compared."""

NAMES: tuple[tuple[str, Kind], ...] = (
    ("hidden_state|embed|pooler|pooled|feature|vector|latent", "embedding"),
    ("present|past_key|cache|state|(^|[._/])(hn|cn|mems?)([._/]|$)", "ignore"),
    ("box|loc|landmark|anchor|coord|offset|delta|regress|reg_", "values"),
    ("logit|prob|class|cls|softmax", "classes"),
)
"""Patterns in the names of outputs; the first holds."""

_NORMS = {op: operators.facts(op).channels == -1 for op in operators.NORMALISATIONS}
NORMS = {"SimplifiedLayerNormalization", "SkipLayerNormalization", *(op for op, last in _NORMS.items() if last)}
"""Those over the last axis."""

IMAGES = {*operators.CONVOLUTIONS, "AveragePool", "MaxPool", *(op for op, last in _NORMS.items() if not last)}
"""What makes images and signals, with channels on axis 1."""
ACTIVATIONS = frozenset({"Clip", "Elu", "Gelu", "HardSwish", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Tanh"})
POOLS = {"AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceMax", "ReduceMean"}
VECTORS = NORMS | POOLS | {"Add", "Div", "Gelu", "LpNormalization", "Relu", "Tanh"}
"""What the last operator of an embedding is: a norm, pooling, an activation, the sum behind a residual block."""

MASK = re.compile(r"(attention|input|padding|pad)_?mask|^mask$", re.IGNORECASE)


def find_outputs(
    student: ir.Model,
    teacher: ir.Model,
    batch: Batch,
    chosen: Mapping[str, tuple[Kind, ...]],
    labels: npt.NDArray[Any] | None = None,
) -> tuple[list[Output], dict[str, str]]:
    """Find what each output of the student is.

    Parameters
    ----------
    student, teacher : onnx_ir.Model
        With the same inputs.
    batch : Batch
        Some samples, for their shapes.
    chosen : dict of str to tuple
        Name or pattern of an output → what it may be, the usual first; the last that matches holds.
    labels : numpy.ndarray, optional
        Those of all samples.

    Returns
    -------
    list of Output
    dict of str to str
        Outputs that are not compared → why.

    Raises
    ------
    OptionError
        A pattern matches no output.
    TrainingError
        An output has no counterpart in the teacher, or one of another shape.
    """
    mine, its = (Probe(model, batch) for model in (student, teacher))
    _check_patterns(chosen, list(mine.outputs))
    found: list[Output] = []
    ignored: dict[str, str] = {}
    taken: set[str] = set()
    for name, value in mine.outputs.items():
        kind, why = _kind(mine, value, labels)
        allowed = next((kinds for term, kinds in reversed([*chosen.items()]) if fnmatch.fnmatchcase(name, term)), ())
        if allowed and kind not in allowed:
            kind, why = allowed[0], "as chosen"
        tensor = None if kind == "ignore" else mine.tensor(value, kind)
        if tensor is None:
            ignored[name] = why if kind == "ignore" else "its first dimension is not the batch"
            continue
        partner = _partner(tensor, name, kind, its, taken)
        taken.add(partner[0])
        found.append(Output(name, kind, tensor, partner[1], why, mine.mask(tensor)))
    return found, ignored


class Probe:
    """A model whose outputs are looked at, and the shapes that its tensors have for some samples."""

    def __init__(self, model: ir.Model, batch: Batch, inner: Collection[str] = (), called: str = "model") -> None:
        self.model, self.called = model.clone(), called
        flatten(self.model)
        self.feeds, self.count = batch.feeds, batch.count
        self._known = {str(output.name): output for node in self.model.graph for output in node.outputs}
        for name in inner:
            if name not in self._known:
                hint = did_you_mean(name, list(self._known))
                raise OptionError(f"distill: features: '{name}' is no tensor that the {called} computes{hint}")
        self.outputs = {str(value.name): value for value in self.model.graph.outputs}
        before = [value for output in self.outputs.values() for value in (output, _logits(output))]
        asked = {str(v.name) for value in before for v in _backward(value) if v.producer() is not None}
        asked |= set(inner)
        self.shapes = {name: array.shape for name, array in computes(model, sorted(asked))(batch.feeds).items()}

    def tensor(self, value: ir.Value, kind: Kind) -> Tensor | None:
        """Return the tensor that tells what an output is, whose first dimension is the batch; None where none is."""
        node = _maker(value)
        start = _logits(value) if node is not None and PROBABILITIES.get(node.op_type) == kind else value
        for each in _backward(start):
            shape = self.shapes.get(str(each.name), ())
            if shape and shape[0] == self.count and prod(shape) > 0:
                return Tensor(str(each.name), shape, _axis(node, kind, shape, self.model))
        return None

    def inner(self, name: str) -> Tensor:
        """Return an inner tensor that is compared."""
        value, shape = self._known[name], self.shapes[name]
        if value.dtype not in (None, *FLOATS) or len(shape) < 2 or shape[0] != self.count:
            raise TrainingError(
                f"features: '{name}' of the {self.called} is {value.dtype} {list(shape)} for {self.count} samples; "
                "what is compared holds numbers [batch, ...]"
            )
        return Tensor(name, shape, _axis(_unactivated(value), "embedding", shape, self.model))

    def mask(self, tensor: Tensor) -> str:
        """Return the input that says which positions of a tensor are padding, or nothing."""
        for value in self.model.graph.inputs:
            name = str(value.name)
            if MASK.search(name) and self.feeds[name].shape[1:] == tensor.positions and tensor.positions:
                return name
        return ""


def _backward(value: ir.Value | None) -> list[ir.Value]:
    """Return a tensor and those before it, as far as elements are only moved."""
    found = []
    while value is not None:
        found.append(value)
        node = value.producer()
        value = node.inputs[0] if node is not None and node.op_type in MOVES else None
    return found


def _maker(value: ir.Value) -> ir.Node | None:
    """Return the node that computes an output's elements, before they were moved."""
    return _backward(value)[-1].producer()


def _logits(value: ir.Value) -> ir.Value | None:
    """Return what the Softmax or Sigmoid reads that makes an output."""
    node = _maker(value)
    return node.inputs[0] if node is not None and node.op_type in PROBABILITIES else None


def _axis(node: ir.Node | None, kind: Kind, shape: tuple[int, ...], model: ir.Model) -> int:
    """Return the axis of classes or features."""
    if node is not None and kind == "classes" and node.op_type in PROBABILITIES:
        old = model.opset_imports.get("", 13) < 13
        axis = edit.int_attribute(node, "axis", 1 if old else -1) % len(shape)
        # An old Softmax is one over all axes from this on; the classes are on that which has any.
        return next((a for a in range(axis, len(shape)) if shape[a] > 1), axis) if old else axis
    if node is not None and (node.op_type in NORMS or node.op_type in IMAGES):
        return 1 if node.op_type in IMAGES else len(shape) - 1
    return 1 if len(shape) > 3 else len(shape) - 1


def _kind(probe: Probe, value: ir.Value, labels: npt.NDArray[Any] | None) -> tuple[Kind, str]:
    """Return what an output is, and what tells so. An embedding is no vector of logits: when in doubt, it is one."""
    name = str(value.name)
    if value.dtype not in FLOATS:
        return "ignore", "it holds no numbers with fractions"
    hint = next(((kind, found[0]) for text, kind in NAMES if (found := re.search(text, name, re.IGNORECASE))), None)
    node = _maker(value)
    if node is not None and node.op_type in PROBABILITIES and (hint is None or hint[0] == "classes"):
        return PROBABILITIES[node.op_type], f"a {node.op_type} makes it"
    tensor = probe.tensor(value, "values")
    if hint is not None:
        single = hint[0] == "classes" and tensor is not None and tensor.features == 1
        return "binary" if single else hint[0], f"'{hint[1]}' in its name"
    shape = () if tensor is None else tensor.shape
    if labels is not None and len(shape) > 1 and fits(labels, tensor):
        return "classes", "the labels fit it"
    return _kind_by_structure(value, shape)


def _kind_by_structure(value: ir.Value, shape: tuple[int, ...]) -> tuple[Kind, str]:
    last = _scaled(value)
    op = "" if last is None else last.op_type
    makes = f"{'an' if op[:1] in 'AEIOU' else 'a'} {op} makes it" if op else "nothing tells what it is"
    if len(shape) < 2 or shape[-1] == 1 or prod(shape[1:]) == 1:
        return "values", "one number for each position" if len(shape) > 1 else "one number for each sample"
    image = op in operators.CONVOLUTIONS and len(shape) > 2 and prod(shape[2:]) > 1
    if op in operators.PRODUCTS and not image:
        return "classes", makes
    if op in VECTORS and (len(shape) < 4 or op != "Tanh"):
        return "embedding", makes
    if image or len(shape) > 3 or op == "Concat":
        return "values", makes
    return "embedding", makes


def _unactivated(value: ir.Value) -> ir.Node | None:
    """Return the node that makes a tensor, before its activation."""
    node = value.producer()
    while node is not None and node.op_type in ACTIVATIONS and node.inputs[0] is not None:
        node = node.inputs[0].producer()
    return node


def _scaled(value: ir.Value) -> ir.Node | None:
    """Return the node that makes an output, before it was moved, scaled and shifted."""
    node = _maker(value)
    while node is not None and node.op_type in AFFINE:
        open_ = [v for v in node.inputs if v is not None and edit.constant(v) is None]
        if len(open_) != 1:
            return node
        node = _maker(open_[0])
    return node


def fits(labels: npt.NDArray[Any], tensor: Tensor | None) -> bool:
    """Tell whether labels can be classes of a tensor: one for each position, none too large."""
    if tensor is None or not np.issubdtype(labels.dtype, np.integer) or not labels.size:
        return False
    positions = tuple(n for n in tensor.positions if n > 1)
    wanted = tuple(n for n in labels.shape[1:] if n > 1)
    return positions == wanted and labels.max() < tensor.features and tensor.features > 1


def _partner(tensor: Tensor, name: str, kind: Kind, teacher: Probe, taken: set[str]) -> tuple[str, Tensor]:
    """Return the teacher's output of the same name, or the only one of the same shape."""
    tensors = {other: teacher.tensor(value, kind) for other, value in teacher.outputs.items()}
    free = {other: found for other, found in tensors.items() if found is not None and other not in taken}
    alike = {other: found for other, found in free.items() if _alike(found, tensor)}
    if name in alike:
        return name, alike[name]
    if name not in tensors and len(alike) == 1:
        return next(iter(alike.items()))
    there = ", ".join(map(str, free.values())) or "none"
    what = f"output '{name}' is compared by {tensor}" if tensor.name != name else f"output {tensor}"
    raise TrainingError(
        f"{what}, and the teacher has no such tensor (there: {there}); give a teacher with the same outputs, "
        f"or leave it out with outputs.{name}=ignore (features may differ in width)"
    )


def _alike(one: Tensor, other: Tensor) -> bool:
    return one.features == other.features and prod(one.positions) == prod(other.positions)


def _check_patterns(chosen: Collection[str], names: list[str]) -> None:
    for term in chosen:
        if not fnmatch.filter(names, term):
            hint = did_you_mean(term, names) or f"; there are {', '.join(names)}"
            raise OptionError(f"distill: outputs: '{term}' matches no output of the model{hint}")

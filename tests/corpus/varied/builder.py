"""What a random graph is built with: names, scopes, constants, and operators whose form depends on the opset."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import ml_dtypes
import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Dim = int | str
"""A size that is the same for every feed, or the name of one that is not."""

FLOATS = {"float16": TensorProto.FLOAT16, "float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}
FLOATS["bfloat16"] = TensorProto.BFLOAT16
NAMES = {
    "plain": "{}{}",
    "torch": "/model/layers.{1}/{0}/{0}_output_0",
    "unicode": "{}·größe→{}",
    "spaces": "{} no {} (out)",
}


def numpy_type(dtype: str) -> np.dtype[Any]:
    return np.dtype(ml_dtypes.bfloat16 if dtype == "bfloat16" else dtype)


@dataclass(frozen=True)
class Tensor:
    """A tensor of the graph: ``image`` (N,C,H,W), ``tokens`` (N,T,F) or ``matrix`` (N,F)."""

    name: str
    kind: str
    dims: tuple[Dim, ...]

    def like(self, name: str) -> Tensor:
        return Tensor(name, self.kind, self.dims)

    @property
    def width(self) -> int:
        """The size of the axis that carries channels or features; it is always known."""
        return int(self.dims[1] if self.kind == "image" else self.dims[-1])

    def known(self, *axes: int) -> bool:
        return all(isinstance(self.dims[axis], int) for axis in axes)


@dataclass(frozen=True)
class Input:
    """A graph input and what may be fed to it: normal floats, or integers below `below`."""

    name: str
    dtype: str
    dims: tuple[Dim, ...]
    below: int = 0


@dataclass
class Whole:
    """What all scopes of one model share."""

    random: np.random.Generator
    opset: int
    dtype: str
    naming: str = "plain"
    node_names: str = "unique"
    old: bool = False
    """Whether every initializer is an input as well, as it had to be before the fourth version of the format."""
    plain: float = 0.6
    """The share of constants that are simply initializers."""
    inputs: list[Input] = field(default_factory=list)
    initializers: list[onnx.TensorProto] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    weights: dict[tuple[int, ...], list[str]] = field(default_factory=dict)
    functions: list[onnx.FunctionProto] = field(default_factory=list)
    declared: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    outputs: list[onnx.ValueInfoProto] = field(default_factory=list)
    loose: list[Tensor] = field(default_factory=list)
    ops: set[str] = field(default_factory=set)
    count: int = 0
    depth: int = 0


class Builder:
    """One scope: the graph itself, an inner graph (reads what is around it), or a function (reads nothing)."""

    def __init__(self, whole: Whole, place: str = "graph", opset: int | None = None) -> None:
        self.whole, self.place = whole, place
        self.opset = whole.opset if opset is None else opset
        self.dtype = whole.dtype
        self.nodes: list[onnx.NodeProto] = []
        self.local: list[onnx.TensorProto] = []

    @property
    def random(self) -> np.random.Generator:
        return self.whole.random

    def chance(self, share: float) -> bool:
        return bool(self.random.random() < share)

    def choose(self, *options: Any) -> Any:
        return options[int(self.random.integers(len(options)))]

    def some(self, low: int, high: int) -> int:
        return int(self.random.integers(low, high))

    def divisor(self, number: int) -> int:
        return int(self.choose(*(d for d in range(1, number + 1) if number % d == 0)))

    def has(self, op: str) -> bool:
        """Whether this opset has the operator."""
        try:
            return not onnx.defs.get_schema(op, self.opset, "").deprecated
        except onnx.defs.SchemaError:
            return False

    def axis(self, axis: int, rank: int) -> int:
        """Write an axis from the front or, where the opset allows it, from the back."""
        return axis - rank if self.opset >= 11 and self.chance(0.4) else axis

    def fresh(self, hint: str) -> str:
        self.whole.count += 1
        return NAMES[self.whole.naming].format(hint, self.whole.count)

    def node(self, op: str, inputs: list[str], count: int = 1, domain: str = "", **attributes: Any) -> list[str]:
        outputs = [self.fresh("t") for _ in range(count)]
        unnamed = {"empty": 1.0, "some": 0.5}.get(self.whole.node_names, 0.0)
        name = "" if self.chance(unnamed) else self.fresh(op)
        self.whole.ops.add(op)
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs

    def op(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.node(op, list(inputs), **attributes)[0]

    def inner(self) -> Builder:
        """Return a scope inside this one, for a branch or a loop's body."""
        scope = Builder(self.whole, "function" if self.place == "function" else "inner", self.opset)
        scope.dtype = self.dtype
        return scope

    def graph(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> Any:
        return helper.make_graph(self.nodes, name, inputs, outputs, self.local)

    def stored(self, array: np.ndarray, hint: str = "w") -> str:
        """Write an array as an initializer, of this scope or of the graph; in a function as a Constant."""
        if self.place == "function":
            return self.op("Constant", value=numpy_helper.from_array(array, ""))
        name = self.fresh(hint)
        proto = numpy_helper.from_array(array, name)
        if self.place == "inner" and not self.whole.old and self.chance(0.5):
            self.local.append(proto)
        else:
            self.whole.initializers.append(proto)
            self.whole.arrays[name] = array
        return name

    def const(self, array: Any) -> str:
        """Write a constant in one of the ways in which exporters write them."""
        array = np.asarray(array)
        if self.chance(self.whole.plain):
            return self.stored(array)
        way = self.choose("constant", "identity", "identities", "initializer")
        if way == "constant" and (self.opset >= 9 or array.dtype.kind == "f"):  # before, it held floats alone
            return self.op("Constant", value=numpy_helper.from_array(array, ""))
        name = self.stored(array)
        for _ in range({"identity": 1, "identities": 2}.get(way, 0)):
            name = self.op("Identity", name)
        return name

    def ints(self, *values: int, narrow: bool = False) -> str:
        """Write a list of integers; `narrow`: the operator takes int32 as well."""
        return self.const(np.array(values, np.int32 if narrow and self.chance(0.3) else np.int64))

    def scalar(self, value: float) -> str:
        return self.const(np.array(value).astype(numpy_type(self.dtype)))

    # --- operators that changed their form -------------------------------------------------------------------------

    def reduce(self, op: str, x: str, axes: list[int], *, keepdims: int = 1) -> str:
        if self.opset >= (13 if op == "ReduceSum" else 18):
            return self.op(op, x, self.ints(*axes), keepdims=keepdims)
        return self.op(op, x, axes=axes, keepdims=keepdims)

    def squeeze(self, x: str, axes: list[int], op: str = "Squeeze") -> str:
        if self.opset >= 13:
            return self.op(op, x, self.ints(*axes))
        return self.op(op, x, axes=axes)

    def unsqueeze(self, x: str, axes: list[int]) -> str:
        return self.squeeze(x, axes, "Unsqueeze")

    def split(self, x: str, sizes: list[int], axis: int) -> list[str]:
        equal = len(set(sizes)) == 1 and self.chance(0.5)
        attributes: dict[str, Any] = {"axis": axis}
        if equal:
            attributes |= {"num_outputs": len(sizes)} if self.opset >= 18 else {}
            return self.node("Split", [x], len(sizes), **attributes)
        if self.opset < 13:
            return self.node("Split", [x], len(sizes), split=sizes, **attributes)
        return self.node("Split", [x, self.ints(*sizes)], len(sizes), **attributes)

    def slice(self, x: str, axis: int, start: int, end: int, step: int = 1) -> str:
        if self.opset < 10:
            return self.op("Slice", x, starts=[start], ends=[end], axes=[axis])
        kind = np.int32 if self.chance(0.4) else np.int64
        limit = np.iinfo(kind)
        parts = [np.clip([v], limit.min, limit.max).astype(kind) for v in (start, end, axis, step)]
        return self.op("Slice", x, *(self.const(part) for part in (parts if step != 1 else parts[:3])))

    def pad(self, x: str, pads: list[int], value: float = 0.0, mode: str = "constant") -> str:
        if self.opset < 11:
            return self.op("Pad", x, pads=pads, value=value, mode=mode)
        inputs = [x, self.ints(*pads)] + ([self.scalar(value)] if value else [])
        return self.op("Pad", *inputs, mode=mode)

    def clip(self, x: str, low: float | None, high: float | None) -> str:
        if self.opset < 11:
            bounds = {k: v for k, v in (("min", low), ("max", high)) if v is not None}
            return self.op("Clip", x, **bounds)
        inputs = [x, "" if low is None else self.scalar(low), "" if high is None else self.scalar(high)]
        return self.op("Clip", *(inputs[:2] if high is None else inputs))

    def dropout(self, x: str) -> str:
        if self.opset >= 12:
            return self.op("Dropout", x, *([self.const(np.array(0.3, np.float32))] if self.chance(0.5) else []))
        return self.op("Dropout", x, ratio=0.3)

    def info(self, name: str, dims: tuple[Dim | None, ...] | None, dtype: str | None = None) -> onnx.ValueInfoProto:
        kinds = FLOATS | {"int64": TensorProto.INT64, "int32": TensorProto.INT32, "bool": TensorProto.BOOL}
        return helper.make_tensor_value_info(name, kinds[dtype or self.dtype], dims)

    def take(self, dtype: str, dims: tuple[Dim, ...], below: int = 0, declared: tuple[Any, ...] | None = None) -> str:
        """Add an input of the model."""
        name = self.fresh("in")
        self.whole.inputs.append(Input(name, dtype, dims, below))
        self.whole.declared[name] = dims if declared is None else declared
        return name

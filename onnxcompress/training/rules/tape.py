"""What rules write gradients with: tensors that are added, multiplied and reduced as in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import onnx_ir as ir

from ...graph import edit

Dim: TypeAlias = int | str | None
"""An extent: known, known by name, or not known."""

Operand: TypeAlias = "Tensor | ir.Value | float | npt.NDArray[Any]"

MICROSOFT = "com.microsoft"
"""The domain of operators that every onnxruntime has beside ONNX's own."""

REDUCES_BY_INPUT = 18
"""From this opset on all reductions take their axes as an input; ReduceSum has since 13."""


PREFIX = "onnxcompress."
"""What all names of added constants and values start with."""


class Tape:
    """Adds operators to a graph.

    Parameters
    ----------
    graph : onnx_ir.Graph
        Changed in place.
    opset : int
        Of ONNX's own operators in it.
    kernels : frozenset of str
        Operators of ``com.microsoft`` that the engine has beside those of every onnxruntime.

    Attributes
    ----------
    before : onnx_ir.Node or None
        Where they are added: before a node, or at the end.
    """

    def __init__(self, graph: ir.Graph, opset: int, kernels: frozenset[str] = frozenset()) -> None:
        self.graph, self.opset, self.kernels = graph, opset, kernels
        self.before: ir.Node | None = None
        self._insert = edit.Inserter(graph)
        self._constants: dict[tuple[str, tuple[int, ...], bytes], ir.Value] = {}

    def of(self, operand: Operand) -> Tensor:
        """Return a tensor for a value, a number or an array; a number becomes float32."""
        if isinstance(operand, Tensor):
            return operand
        if isinstance(operand, ir.Value):
            return Tensor(self, operand)
        array = np.float32(operand) if isinstance(operand, (int, float)) else operand
        return Tensor(self, self._constant(np.asarray(array)))

    def ints(self, *numbers: int) -> Tensor:
        """Return a vector of int64."""
        return self.of(np.array(numbers, np.int64))

    def op(self, op_type: str, *inputs: Operand | None, domain: str = "", **attributes: Any) -> Tensor:
        """Add an operator and return its output."""
        return self.ops(op_type, *inputs, domain=domain, **attributes)[0]

    def ops(
        self, op_type: str, *inputs: Operand | None, domain: str = "", outputs: int = 1, **attributes: Any
    ) -> list[Tensor]:
        """Add an operator and return its outputs."""
        values = [None if operand is None else self.of(operand).value for operand in inputs]
        made = ir.node(op_type, values, attributes, domain=domain, num_outputs=outputs)
        for number, output in enumerate(made.outputs):
            output.name = self._insert.names.value(f"{PREFIX}gradient/{len(self.graph)}/{op_type}/{number}")
        made.name = self._insert.names.node(f"{PREFIX}gradient/{len(self.graph)}/{op_type}")
        if domain:
            self.graph.opset_imports.setdefault(domain, 1)
        if self.before is None:
            self.graph.append(made)
        else:
            self.graph.insert_before(self.before, made)
        return [Tensor(self, output) for output in made.outputs]

    def _constant(self, array: npt.NDArray[Any]) -> ir.Value:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"{PREFIX}constant/{len(self._constants)}"
            self._constants[key] = self._insert.constant(name, array)
        return self._constants[key]


class Tensor:
    """A value of a graph, with arithmetic that adds operators to it.

    Attributes
    ----------
    tape : Tape
    value : onnx_ir.Value
    """

    __slots__ = ("tape", "value")

    def __init__(self, tape: Tape, value: ir.Value) -> None:
        self.tape, self.value = tape, value

    def __add__(self, other: Operand) -> Tensor:
        return self.tape.op("Add", self, other)

    def __radd__(self, other: Operand) -> Tensor:
        return self.tape.op("Add", other, self)

    def __sub__(self, other: Operand) -> Tensor:
        return self.tape.op("Sub", self, other)

    def __rsub__(self, other: Operand) -> Tensor:
        return self.tape.op("Sub", other, self)

    def __mul__(self, other: Operand) -> Tensor:
        return self.tape.op("Mul", self, other)

    def __rmul__(self, other: Operand) -> Tensor:
        return self.tape.op("Mul", other, self)

    def __truediv__(self, other: Operand) -> Tensor:
        return self.tape.op("Div", self, other)

    def __rtruediv__(self, other: Operand) -> Tensor:
        return self.tape.op("Div", other, self)

    def __neg__(self) -> Tensor:
        return self.tape.op("Neg", self)

    def __gt__(self, other: Operand) -> Tensor:
        return self.tape.op("Greater", self, other)

    def __ge__(self, other: Operand) -> Tensor:
        return self.tape.op("GreaterOrEqual", self, other)

    def __lt__(self, other: Operand) -> Tensor:
        return self.tape.op("Less", self, other)

    def __le__(self, other: Operand) -> Tensor:
        return self.tape.op("LessOrEqual", self, other)

    def equals(self, other: Operand) -> Tensor:
        """Compare element by element."""
        return self.tape.op("Equal", self, other)

    def number(self) -> Tensor:
        """Return 1 where it is true and 0 where not, as float32."""
        return self.tape.op("Cast", self, to=int(ir.DataType.FLOAT))

    def only(self, condition: Tensor) -> Tensor:
        """Keep it where a condition holds, 0 elsewhere: a product, for Where takes onnxruntime six times as long."""
        return self * condition.number()

    def sum(self, axes: Sequence[int] | Tensor | None = None, *, keepdims: bool = True) -> Tensor:
        """Sum over axes, over all of them without."""
        return self.reduce("ReduceSum", axes, keepdims=keepdims)

    def mean(self, axes: Sequence[int] | None = None, *, keepdims: bool = True) -> Tensor:
        """Average over axes, over all of them without."""
        return self.reduce("ReduceMean", axes, keepdims=keepdims)

    def reduce(self, op_type: str, axes: Sequence[int] | Tensor | None, *, keepdims: bool = True) -> Tensor:
        """Reduce over axes as the graph's opset wants it written."""
        if axes is None:
            return self.tape.op(op_type, self, keepdims=int(keepdims))
        if op_type == "ReduceSum" or self.tape.opset >= REDUCES_BY_INPUT:
            given = axes if isinstance(axes, Tensor) else self.tape.ints(*axes)
            return self.tape.op(op_type, self, given, keepdims=int(keepdims), noop_with_empty_axes=1)
        return self.tape.op(op_type, self, axes=list(axes), keepdims=int(keepdims))  # type: ignore[arg-type]

    def reshape(self, shape: Sequence[int] | Tensor, *, allowzero: bool = False) -> Tensor:
        """Give it another shape; 0 takes over an extent unless `allowzero`."""
        target = shape if isinstance(shape, Tensor) else self.tape.ints(*shape)
        return self.tape.op("Reshape", self, target, allowzero=int(allowzero))

    def reshape_like(self, other: Operand) -> Tensor:
        """Give it the shape of another."""
        return self.reshape(self.tape.of(other).shape(), allowzero=True)

    def shape(self) -> Tensor:
        """Return its extents as a vector."""
        return self.tape.op("Shape", self)

    def transpose(self, *order: int) -> Tensor:
        """Put axes in another order."""
        return self.tape.op("Transpose", self, perm=list(order))

    def unsqueeze(self, *axes: int) -> Tensor:
        """Add axes of one."""
        return self.tape.op("Unsqueeze", self, self.tape.ints(*axes))

    def squeeze(self, *axes: int) -> Tensor:
        """Take axes of one away."""
        return self.tape.op("Squeeze", self, self.tape.ints(*axes))

    def expand_like(self, other: Operand) -> Tensor:
        """Broadcast to the shape of another."""
        return self.tape.op("Expand", self, self.tape.of(other).shape())


def product(a: Tensor, b: Tensor, *, transpose_a: bool = False, transpose_b: bool = False) -> Tensor:
    """Multiply two stacks of matrices, the last two axes of either exchanged or not."""
    return a.tape.op("FusedMatMul", a, b, domain=MICROSOFT, transA=int(transpose_a), transB=int(transpose_b))

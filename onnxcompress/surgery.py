"""Edit a model with onnx-graphsurgeon, and refuse what it would lose."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import onnx
import onnx_ir as ir

from .contract import Change, Changes, Context, Pass, Plan
from .errors import ModelError, PassError
from .graph import edit, shapes
from .graph.checker import check_model

if TYPE_CHECKING:
    import onnx_graphsurgeon as gs

READABLE = {
    ir.DataType.BFLOAT16,
    ir.DataType.BOOL,
    ir.DataType.COMPLEX64,
    ir.DataType.COMPLEX128,
    ir.DataType.DOUBLE,
    ir.DataType.FLOAT,
    ir.DataType.FLOAT16,
    ir.DataType.INT8,
    ir.DataType.INT16,
    ir.DataType.INT32,
    ir.DataType.INT64,
    ir.DataType.STRING,
    ir.DataType.UINT8,
    ir.DataType.UINT16,
    ir.DataType.UINT32,
    ir.DataType.UINT64,
}
"""Tensor types that onnx-graphsurgeon reads and writes back as they are; 4-bit and 8-bit floats are not among them."""


@contextmanager
def surgeon(model: ir.Model) -> Iterator[gs.Graph]:
    """Edit `model` as a ``gs.Graph``; what the block leaves becomes the model's content.

    Parameters
    ----------
    model : onnx_ir.Model
        Changed in place when the block ends without an error; metadata of the model itself is kept.

    Yields
    ------
    onnx_graphsurgeon.Graph

    Raises
    ------
    ModelError
        The model holds something that onnx-graphsurgeon would lose, or the edited graph is not valid ONNX.

    Examples
    --------
    >>> with surgeon(model) as graph:            # doctest: +SKIP
    ...     graph.nodes[-1].op = "Softmax"
    """
    import onnx_graphsurgeon as gs

    refuse_losses(model)
    graph = gs.import_onnx(ir.to_proto(model))
    yield graph
    proto = gs.export_onnx(graph.cleanup().toposort())
    proto.ir_version = max(model.ir_version or 0, 4)
    try:
        check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ModelError(f"the edited graph is not valid ONNX: {' '.join(str(error).split())[:300]}") from None
    edited = ir.from_proto(proto)
    model.graph, model.ir_version = edited.graph, edited.ir_version
    model.functions.clear()
    model.functions.update(edited.functions)
    shapes.infer(model)


def refuse_losses(model: ir.Model) -> None:
    """Raise `ModelError` naming the first tensor or node that onnx-graphsurgeon would lose or change."""
    for value in edit.values(model.graph):
        tensor = edit.constant(value)
        dtype = tensor.dtype if tensor is not None else value.dtype
        if dtype is not None and dtype not in READABLE:
            raise ModelError(f"tensor '{value.name}': onnx-graphsurgeon cannot keep its type {dtype}")
        if value.metadata_props:
            raise ModelError(f"tensor '{value.name}': onnx-graphsurgeon would drop its metadata")
    for node in model.graph.all_nodes():
        if node.metadata_props:
            raise ModelError(f"node {edit.label(node)}: onnx-graphsurgeon would drop its metadata")


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurgeonStep(Pass):
    """A step of a recipe that calls a user's function from ``gs.Graph`` to ``gs.Graph``.

    Parameters
    ----------
    function : str
        ``file.py:function`` or ``module:function``. It may change the graph it gets, and returns a graph.
    """

    function: str

    def plan(self, model: ir.Model, context: Context) -> Plan:
        """Nothing to decide: the function does."""
        return Plan()

    def apply(self, model: ir.Model, plan: Plan) -> Changes:
        """Call the function."""
        import onnx_graphsurgeon as gs

        from .runtime.user_code import describe, load_function

        function = load_function(self.function, "surgeon")
        with surgeon(model) as graph:
            try:
                result = function(graph)
            except Exception as error:  # noqa: BLE001 - it is the user's code, which may raise anything
                raise PassError(f"surgeon {self.function}: {describe(error)}") from None
            if not isinstance(result, gs.Graph):
                raise PassError(
                    f"surgeon {self.function}: expected it to return a gs.Graph, got {type(result).__name__}"
                )
            graph.__dict__.update(result.__dict__)
        return Changes((Change("model", f"edited by {self.function}"),))

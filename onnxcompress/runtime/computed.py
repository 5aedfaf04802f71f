"""What ONNX Runtime computes of single nodes whose inputs are known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnx_ir as ir
from onnx_ir import serde

from ..errors import ModelError
from .provider import on_cpu
from .session import Array, open_session


def compute_node(node: ir.Node, inputs: Sequence[ir.TensorProtocol | None], model: ir.Model) -> list[Array] | None:
    """Run one node in ONNX Runtime, as written, and return its outputs.

    onnx's reference implementation is no substitute: it disagrees in many corners (Softmax before opset 13, Resize,
    …), and what ONNX Runtime computes is what the model computes.

    Parameters
    ----------
    node : onnx_ir.Node
        Without inner graphs.
    inputs : list of tensor or None
        One for each of its inputs.
    model : onnx_ir.Model
        Which the node is from: it says the opsets.

    Returns
    -------
    list of ndarray, or None
        None where ONNX Runtime cannot, or an output is no tensor.
    """
    proto = serde.serialize_node(node)
    proto.input[:] = ["" if tensor is None else f"input_{place}" for place, tensor in enumerate(inputs)]
    outputs = [name for name in proto.output if name]
    given = [(f"input_{place}", tensor) for place, tensor in enumerate(inputs) if tensor is not None]
    graph = onnx.GraphProto(name="one", node=[proto])
    graph.input.extend(onnx.helper.make_tensor_value_info(n, t.dtype, list(t.shape.numpy())) for n, t in given)
    graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
    imports = [onnx.OperatorSetIdProto(domain=d, version=v) for d, v in model.opset_imports.items()]
    proto_model = onnx.ModelProto(ir_version=model.ir_version, opset_import=imports, graph=graph)
    try:
        session = open_session(ir.from_proto(proto_model), optimize="none", threads=1, provider=on_cpu())
        found = session.run({name: tensor.numpy() for name, tensor in given})
    except ModelError:
        return None
    arrays = [found[name] for name in outputs]
    return arrays if all(isinstance(array, np.ndarray) for array in arrays) else None

"""Models from text: the graph is what a reader sees, the weights are drawn from a seed."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

HEADER = '<ir_version: 9, opset_import: ["" : {opset}, "local" : 1]>\n'


def model(text: str, weights: dict[str, tuple[int, ...] | np.ndarray], *, opset: int = 18, seed: int = 0) -> ir.Model:
    """Parse ``name (inputs) => (outputs) {nodes}`` and add an initializer for each weight (a shape or an array)."""
    proto = onnx.parser.parse_model(HEADER.format(opset=opset) + text)
    random = np.random.default_rng(seed)
    for name, weight in weights.items():
        array = weight if isinstance(weight, np.ndarray) else drawn(random, name, weight)
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def drawn(random: np.random.Generator, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Draw a weight; names that end in ``var`` are positive."""
    array = random.standard_normal(shape) / np.sqrt(max(np.prod(shape[1:]), 1))
    return (np.abs(array) + 0.5 if name.endswith("var") else array).astype(np.float32)

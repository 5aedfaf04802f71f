"""Count what a model's operators become in ONNX Runtime: integer kernels, float kernels, conversions between.

python benchmarks/quantize/kernels.py MODEL.onnx ...
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import onnx
import onnxruntime as ort

INTEGER = {"QGemm", "ConvInteger", "QAttention", "QMoE", "QEmbedLayerNormalization", "MatMulNBits"}
INTEGER_STARTS = ("QLinear", "MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
HEAVY = {"QLinearConv", "QGemm", "QLinearMatMul", "ConvInteger", "QAttention"}
HEAVY_STARTS = ("MatMulInteger", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")
FLOAT = {"Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul", "ConvTranspose", "Attention"}
CONVERSIONS = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}


@dataclass(frozen=True)
class Kernels:
    """Nodes of the optimised graph.

    Attributes
    ----------
    integer : int
        Integer kernels of any operator, and `integer_heavy` of those that multiply matrices or convolve.
    float_heavy : int
        Convolutions and matrix products left in float.
    conversions : int
        QuantizeLinear and DequantizeLinear that no kernel took in.
    operators : dict of str to int
        Every operator.
    """

    integer: int
    integer_heavy: int
    float_heavy: int
    conversions: int
    operators: dict[str, int]


def count_kernels(path: str | Path) -> Kernels:
    """Let ONNX Runtime optimise a model, and count."""
    with tempfile.TemporaryDirectory() as temporary:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.optimized_model_filepath = str(Path(temporary, "optimised.onnx"))
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        operators = Counter(_operators(onnx.load(options.optimized_model_filepath, load_external_data=False).graph))

    def total(names: set[str], starts: tuple[str, ...] = ()) -> int:
        return sum(n for op, n in operators.items() if op in names or (starts and op.startswith(starts)))

    return Kernels(
        total(INTEGER, INTEGER_STARTS), total(HEAVY, HEAVY_STARTS), total(FLOAT), total(CONVERSIONS), dict(operators)
    )


def _operators(graph: onnx.GraphProto) -> Iterator[str]:
    for node in graph.node:
        yield node.op_type
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                yield from _operators(inner)


def main() -> int:
    for path in sys.argv[1:]:
        k = count_kernels(path)
        print(
            f"{path}: {k.integer} integer kernels ({k.integer_heavy} heavy), {k.float_heavy} heavy left in float, "
            f"{k.conversions} conversions"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())

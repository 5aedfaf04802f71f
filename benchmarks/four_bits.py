"""CPU time and memory of 4-bit weights beside onnxruntime's own quantizer, each in a process of its own; print ratios.

    python benchmarks/four_bits.py [--layers 19]

Matrices of 4096 x 4096 in blocks of 32, rounded to nearest; 19 of them are 1.27 GB. Ours is timed with scales by the
largest weight, as onnxruntime's are, and with those of the least squared error.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

from onnxcompress.contract import Context
from onnxcompress.passes import QuantizeWeights

SIZE, BLOCK = 4096, 32


def build(layers: int) -> onnx.ModelProto:
    """Build a chain of matrix products."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal((SIZE, SIZE), np.float32), f"w{n}") for n in range(layers)
    ]
    nodes = [helper.make_node("MatMul", [f"x{n}", f"w{n}"], [f"x{n + 1}"], name=f"n{n}") for n in range(layers)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", SIZE]) for name in ("x0", f"x{layers}")]
    graph = helper.make_graph(nodes, "chain", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def ours(proto: onnx.ModelProto, calibration: str) -> None:
    """Plan and apply our pass."""
    model = ir.from_proto(proto)
    step = QuantizeWeights(dtype="uint4", block_size=BLOCK, format="matmulnbits", calibration=calibration)  # type: ignore[arg-type]
    step.apply(model, step.plan(model, Context(model)))


def onnxruntimes(proto: onnx.ModelProto) -> None:
    """Run onnxruntime's quantizer of the same kind."""
    config = DefaultWeightOnlyQuantConfig(block_size=BLOCK, is_symmetric=False)
    MatMulNBitsQuantizer(proto, algo_config=config).process()


SUBJECTS: dict[str, Callable[[onnx.ModelProto], None]] = {
    "onnxruntime": onnxruntimes,
    "ours, minmax": lambda proto: ours(proto, "minmax"),
    "ours, mse": lambda proto: ours(proto, "mse"),
}


def run(subject: str, layers: int) -> dict[str, float]:
    """Run one of them; CPU seconds and the peak beside the model."""
    proto = build(layers)
    before = resource.getrusage(resource.RUSAGE_SELF)
    SUBJECTS[subject](proto)
    after = resource.getrusage(resource.RUSAGE_SELF)
    seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"seconds": seconds, "peak": after.ru_maxrss * 1024}


def main() -> int:
    """Print one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=19)
    parser.add_argument("--one", help="run one of them once and print JSON")
    options = parser.parse_args()
    if options.one:
        print(json.dumps(run(options.one, options.layers)))
        return 0
    first: dict[str, float] = {}
    for subject in SUBJECTS:
        command = [sys.executable, __file__, "--one", subject, "--layers", str(options.layers)]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        found = json.loads(done.stdout.splitlines()[-1])
        first = first or found
        ratio = found["seconds"] / first["seconds"]
        print(f"{subject:12s} {found['seconds']:6.2f} s CPU {ratio:6.2f} {found['peak'] / 1e9:6.2f} GB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

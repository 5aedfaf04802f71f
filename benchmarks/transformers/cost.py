"""What 4-bit weights cost as a person types the command: CPU seconds and peak memory, beside ONNX Runtime's quantizer.

    python benchmarks/transformers/cost.py [MODEL.onnx] [--repeat 3]

Each command runs in a process of its own, reads the model from its file and writes another; ours verifies and times the
result, too. Without a model it is the 1.27 GB of `stack.py`. Commands take turns, and medians are printed: seconds of
CPU and their ratio to ONNX Runtime's, the peak in GB and its ratio to the model's bytes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
ONNXRUNTIME = """
import sys, onnx
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer
config = DefaultWeightOnlyQuantConfig(block_size=32, is_symmetric=False)
quantizer = MatMulNBitsQuantizer(onnx.load(sys.argv[1]), algo_config=config)
quantizer.process()
quantizer.model.save_model_to_file(sys.argv[2], True)
"""
APPLY = ["-m", "onnxcompress", "apply", "{model}", "-o", "{output}"]
RTN = "quantize-weights dtype=uint4 block_size=32"
COMMANDS = {
    "onnxruntime, rtn": ["-c", ONNXRUNTIME, "{model}", "{output}"],
    "ours, minmax": [*APPLY, "-p", f"{RTN} calibration=minmax"],
    "ours, mse": [*APPLY, "-p", RTN],
    "ours, gptq": [*APPLY, "--data", "random", "-p", f"{RTN} rounding=gptq"],
}


class Cost(NamedTuple):
    """What one command took."""

    seconds: float
    peak: int


def run(words: list[str], model: Path) -> Cost:
    """Run one command in a process of its own."""
    with tempfile.TemporaryDirectory(dir=model.parent) as folder:
        output = str(Path(folder) / "small.onnx")
        command = [word.replace("{model}", str(model)).replace("{output}", output) for word in words]
        process = subprocess.Popen([sys.executable, *command], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        assert process.stderr is not None
        said = process.stderr.read().decode()
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            sys.exit(f"{' '.join(command[:3])}: {said[-500:]}")
    return Cost(used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def report(model: Path, commands: dict[str, list[str]], repeat: int) -> None:
    """Run all in turns and print a line for each."""
    size = model.stat().st_size + sum(file.stat().st_size for file in model.parent.glob(f"{model.name}*data"))
    found: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(repeat):
        for name, words in commands.items():
            found[name].append(run(words, model))
    first = statistics.median(cost.seconds for cost in next(iter(found.values())))
    print(f"{'':18s} {'s CPU':>7s} {'ratio':>6s} {'GB':>6s} {'model':>6s}")
    for name, costs in found.items():
        seconds, peak = (statistics.median(values) for values in zip(*costs, strict=True))
        print(f"{name:18s} {seconds:7.1f} {seconds / first:6.2f} {peak / 1e9:6.2f} {peak / size:6.2f}")


def main() -> None:
    """Make the model if none is given, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?", type=Path)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=list(COMMANDS), choices=COMMANDS)
    given = parser.parse_args()
    commands = {name: COMMANDS[name] for name in given.only}
    if given.model is not None:
        report(given.model, commands, given.repeat)
        return
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "stack.onnx"
        subprocess.run([sys.executable, str(HERE / "stack.py"), str(model)], check=True)
        report(model, commands, given.repeat)


if __name__ == "__main__":
    main()

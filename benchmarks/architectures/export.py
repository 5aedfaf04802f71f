"""Export architectures with both PyTorch exporters; run this in the environment of requirements.txt.

    python export.py OUT [--set quick|timm|torchvision|transformers|other|all] [--exporter dynamo|script] [NAME ...]

Writes OUT/NAME.dynamo.onnx and OUT/NAME.script.onnx, skips those that are there, and lists what could not be
exported in OUT/failures.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import sys
import time
import traceback
import warnings
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from networks import Builder, allow_missing_torchvision_operators, networks, seeded
from torch.onnx import symbolic_helper, symbolic_opset11

EXPORTERS = ("script", "dynamo")
OPSET_OF_SCRIPT = 17
OPSETS = {"volo_d1_224": 18}
"""Networks with an operator that ONNX has only from a later opset on."""


def add_missing_operators() -> None:
    """Tell the exporter by tracing what it does not know: RMSNorm, Col2Im, the sizes behind a Pad."""

    def rms_norm(graph: Any, x: Any, shape: Any, weight: Any, epsilon: Any) -> Any:
        def number(value: float) -> Any:
            return graph.op("Constant", value_t=torch.tensor(value))

        axes = list(range(-len(symbolic_helper._get_tensor_sizes(weight)), 0))
        mean = graph.op("ReduceMean", graph.op("Pow", x, number(2.0)), axes_i=axes)
        given = symbolic_helper._maybe_get_const(epsilon, "f")
        root = graph.op("Sqrt", graph.op("Add", mean, number(given if isinstance(given, float) else 1e-6)))
        return graph.op("Mul", graph.op("Div", x, root), weight)

    def pad(graph: Any, x: Any, amounts: Any, mode: Any, value: Any) -> Any:
        given, rank = symbolic_helper._maybe_get_const(amounts, "is"), symbolic_helper._get_tensor_rank(x)
        if symbolic_helper._parse_arg(mode, "s") != "constant" or not isinstance(given, list) or rank is None:
            return symbolic_opset11.pad(graph, x, amounts, mode, value)
        unpadded = [0] * (rank - len(given) // 2)  # torch counts the axes from the last
        pads = torch.tensor([*unpadded, *given[::2][::-1], *unpadded, *given[1::2][::-1]])
        number = symbolic_helper._maybe_get_const(value, "f")
        filling = torch.tensor(number if isinstance(number, float) else 0.0)
        return graph.op("Pad", x, graph.op("Constant", value_t=pads), graph.op("Constant", value_t=filling))

    def col2im(graph: Any, x: Any, size: Any, kernel: Any, dilation: Any, padding: Any, stride: Any) -> Any:
        def numbers(value: Any) -> list[int]:
            return list(symbolic_helper._get_const(value, "is", "size"))

        if symbolic_helper._is_packed_list(size):
            zero = graph.op("Constant", value_t=torch.tensor([0]))
            parts = [graph.op("Unsqueeze", part, zero) for part in symbolic_helper._unpack_list(size)]
            size = graph.op("Concat", *parts, axis_i=0)
        kernel = graph.op("Constant", value_t=torch.tensor(numbers(kernel)))
        pads = 2 * numbers(padding)
        return graph.op(
            "Col2Im", x, size, kernel, dilations_i=numbers(dilation), pads_i=pads, strides_i=numbers(stride)
        )

    torch.onnx.register_custom_op_symbolic("aten::col2im", col2im, OPSETS["volo_d1_224"])
    torch.onnx.register_custom_op_symbolic("aten::rms_norm", rms_norm, OPSET_OF_SCRIPT)
    torch.onnx.register_custom_op_symbolic("aten::pad", pad, OPSET_OF_SCRIPT)


def export(builder: Builder, exporter: str, target: Path) -> None:
    """Build one network and export it; a file appears only when it is whole."""
    torch.set_num_threads(1)
    module, inputs = seeded(builder)
    temporary = target.with_suffix(".tmp")
    opset = OPSETS.get(target.name.split(".")[0], OPSET_OF_SCRIPT)
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            program = torch.onnx.export(module, inputs, dynamo=True, verbose=False)
            program.save(str(temporary), external_data=False)
        else:
            torch.onnx.export(module, inputs, str(temporary), dynamo=False, opset_version=opset)
    temporary.rename(target)


def attempt(builder: Builder, exporter: str, target: Path) -> None:
    """Run in a process of its own: say on failure what went wrong, in a file beside the target."""
    log = target.with_suffix(".log")
    with log.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
        try:
            export(builder, exporter, target)
        except BaseException:  # noqa: BLE001 - an exporter raises anything, and the table goes on
            traceback.print_exc(file=stream)
            stream.flush()
            os._exit(1)
    log.unlink()
    os._exit(0)


def last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()] if log.exists() else []
    said = [line for line in lines if "Error" in line or "error" in line] or [line for line in lines if line]
    return said[-1][:300] if said else "no message"


def main() -> int:
    """Export what is asked for, one after another, each in a process forked from this one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument(
        "--set", dest="which", default="all", choices=("quick", "timm", "torchvision", "transformers", "other", "all")
    )
    parser.add_argument("--exporter", choices=EXPORTERS)
    parser.add_argument("--timeout", type=float, default=180, help="seconds for one export")
    options = parser.parse_intermixed_args()
    options.out.mkdir(parents=True, exist_ok=True)
    allow_missing_torchvision_operators()
    add_missing_operators()
    fork = multiprocessing.get_context("fork")
    failures: dict[str, str] = {}
    chosen = {n: b for n, b in networks(options.which).items() if not options.names or n in options.names}
    for name, builder in chosen.items():
        for exporter in (options.exporter,) if options.exporter else EXPORTERS:
            target = options.out / f"{name}.{exporter}.onnx"
            if target.exists():
                continue
            start = time.perf_counter()
            process = fork.Process(target=attempt, args=(builder, exporter, target))
            process.start()
            process.join(options.timeout)
            if process.is_alive():
                process.kill()
                process.join()
                failures[target.stem] = f"not done after {options.timeout:.0f} s"
            elif process.exitcode != 0:
                failures[target.stem] = last_line(target.with_suffix(".log"))
            said = failures.get(target.stem, "exported")
            print(f"{target.stem:45s} {time.perf_counter() - start:6.1f} s  {said}", flush=True)
    merge(options.out / "failures.json", failures, options.out)
    return 0


def merge(path: Path, failures: dict[str, str], out: Path) -> None:
    """Add to the list of failures, less those that have been exported since."""
    known = json.loads(path.read_text()) if path.exists() else {}
    left = {k: v for k, v in {**known, **failures}.items() if not (out / f"{k}.onnx").exists()}
    path.write_text(json.dumps(left, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    sys.exit(main())

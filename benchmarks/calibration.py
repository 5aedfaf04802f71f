"""Cost of calibration over plain inference of the same samples; print one line for each model.

    python benchmarks/calibration.py [MODEL ...] [--kit ../shared/kit] [--samples 64] [--rounds 5]

A MODEL is one of the kit's names, or ``resnet50``: that structure with random weights, as it comes with onnx, on random
images. By default all are taken, with
BatchNormalization folded. Tensors are those that `Quantize` takes scales of. Calibration is all that
`Context.ranges` does, sessions and the search for ranges included; plain inference opens one session and runs the same
samples one by one. Both take turns, and ratios are medians over the rounds. Memory is the peak of a process of its own
above that of plain inference in another one, for the samples and for four times as many.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from loading import load_kit

from onnxcompress import apply
from onnxcompress.contract import Context
from onnxcompress.graph import edit
from onnxcompress.passes import FoldBatchNorm, FoldConstants, Quantize
from onnxcompress.runtime.session import open_session
from onnxcompress.samples.inputs import find_layout, model_inputs, random_feeds
from onnxcompress.samples.samples import Samples, load_samples
from onnxcompress.statistics.calibration import METHODS

ROOT = Path(__file__).resolve().parents[1]
RESNET = "resnet50"
LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / "light_resnet50.onnx"
MODELS = (
    RESNET,
    "resnet20_cifar10",
    "resnet56_cifar10",
    "mobilenet_v1_025_imagenet",
    "vit_cifar10",
    "minilm_l6_v2",
    "ppocr_cls",
    "ppocr_rec",
)
PLAIN = "plain"


def resnet50() -> ir.Model:
    """Load the structure; what fills its weights becomes random arrays, positive where they are vectors."""
    proto = onnx.load(LIGHT)
    random = np.random.default_rng(0)
    shapes = {t.name: onnx.numpy_helper.to_array(t) for t in proto.graph.initializer}
    for node in [node for node in proto.graph.node if node.op_type == "ConstantOfShape"]:
        shape = tuple(shapes[node.input[0]].tolist())
        array = random.standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(max(np.prod(shape[1:]), 1)))
        array = np.abs(array) + np.float32(0.5) if len(shape) == 1 else array
        proto.graph.initializer.append(onnx.numpy_helper.from_array(array, node.output[0]))
        proto.graph.node.remove(node)
    return ir.from_proto(proto)


def prepare(name: str, kit: Path, count: int) -> tuple[ir.Model, Samples]:
    """Load a model and `count` samples, the kit's over and over if there are fewer."""
    if name == RESNET:
        model = resnet50()
        layout = find_layout(model_inputs(model))
        few: list[dict[str, Any]] = [random_feeds(layout, 1, seed) for seed in range(8)]
    else:
        model = ir.load(kit / "models" / f"{name}.onnx")
        few = load_kit(kit).feeds(name, "calib")[: min(count, 64)]

    def pieces() -> Iterator[dict[str, Any]]:
        for index in range(count):
            yield few[index % len(few)]

    model, _ = apply(model, [FoldConstants(), FoldBatchNorm()])
    return model, load_samples(pieces, model)


def tensors_of(model: ir.Model, samples: Samples) -> list[str]:
    """Return the tensors that `Quantize` takes scales of; it may see others in a copy that it prepares."""
    plan = Quantize().plan(model, Context(model, samples=samples.head(1)))
    known = {value.name for value in edit.values(model.graph)}
    return [found.tensor for found in plan.activations if found.tensor in known]


def run(model: ir.Model, samples: Samples, tensors: list[str], what: str) -> float:
    """Run once, plainly or with a method, and return seconds."""
    start = time.perf_counter()
    if what == PLAIN:
        session = open_session(model)
        for feeds in samples.batches(1):
            session.run(feeds)
    else:
        Context(model, samples=samples).ranges(tensors, what)  # type: ignore[arg-type]
    return time.perf_counter() - start


def peak(name: str, kit: Path, count: int, what: str) -> float:
    """Return the peak of a process that runs once, in MB."""
    command = [sys.executable, __file__, name, "--kit", str(kit), "--samples", str(count), "--one", what]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def times(name: str, kit: Path, count: int, rounds: int) -> str:
    """Return the ratios of all methods as text."""
    model, samples = prepare(name, kit, count)
    tensors = tensors_of(model, samples)
    kinds = (PLAIN, *METHODS)
    found = [{what: run(model, samples, tensors, what) for what in kinds} for _ in range(rounds)]
    ratios = [statistics.median(one[what] / one[PLAIN] for one in found) for what in METHODS]
    return f"{len(tensors):7d} " + " ".join(f"{ratio:14.2f}" for ratio in ratios)


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=MODELS, metavar="MODEL")
    parser.add_argument("--kit", type=Path, default=ROOT.parent / "shared" / "kit")
    parser.add_argument("--samples", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", choices=(PLAIN, *METHODS), help="run once and print the peak of this process in MB")
    options = parser.parse_args()
    if options.one:
        model, samples = prepare(options.models[0], options.kit, options.samples)
        run(model, samples, tensors_of(model, samples), options.one)
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6)
        return 0
    print(
        f"{'model':26s}tensors " + " ".join(f"{method:>14s}" for method in METHODS) + "   extra MB (min-max, entropy)"
    )
    for name in options.models:
        line = times(name, options.kit, options.samples, options.rounds)
        extra = []
        for count in (options.samples, 4 * options.samples):
            plain = peak(name, options.kit, count, PLAIN)
            extra += [f"{peak(name, options.kit, count, what) - plain:6.0f}" for what in ("minmax", "entropy")]
        print(f"{name:26s}{line}   {' '.join(extra)}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

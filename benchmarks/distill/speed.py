"""Steps per second and peak memory of both engines and of PyTorch, on the same student, loss, batch and threads.

    python benchmarks/distill/speed.py KIT_FOLDER [--torch PYTHON] [--threads 1 2] [--json FILE] [MODEL ...]

PYTHON is the interpreter of the environment of ``benchmarks/architectures`` with ``onnx2torch`` added; without it only
the two engines are compared. All of them take turns, so that whatever else the machine does strikes all alike; ratios
are medians over the turns.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
from onnx_ir.passes import common

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
from loading import load_kit  # noqa: E402

from onnxcompress import apply  # noqa: E402
from onnxcompress.graph import edit  # noqa: E402
from onnxcompress.graph.opset import convert_opset  # noqa: E402
from onnxcompress.passes import FoldConstants  # noqa: E402
from onnxcompress.training import LOGITS, Behind, Loss, trainable_weights  # noqa: E402
from onnxcompress.training.engines import ENGINES, Engine  # noqa: E402
from onnxcompress.training.job import initial_weights  # noqa: E402
from onnxcompress.training.objective import build_objective, find_tensor  # noqa: E402
from onnxcompress.training.process import WORKER, find_uv  # noqa: E402

BATCHES = {
    "resnet20_cifar10": 32,
    "mobilenet_v1_025_imagenet": 32,
    "vit_cifar10": 32,
    "ppocr_cls": 32,
    "minilm_l6_v2": 8,
}
WORDS = 32
"""In a sentence."""
TURNS, SECONDS = 5, 2.0
"""Of each, after a first one that does not count."""
TEMPERATURE = 4.0


class SoftTargets(Loss):
    """KL with the teacher's answers, as ``peers/torch_steps.py`` has it."""

    reads = (LOGITS,)
    teacher: ClassVar[dict[str, str]] = {"teacher": LOGITS}

    def add(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Add the operators."""
        add = behind.add
        logits = (student[LOGITS], behind.fed("teacher", ir.DataType.FLOAT, student[LOGITS].shape))
        mine, others = (behind.scaled(value, 1 / TEMPERATURE, "softer") for value in logits)
        surprise = add("Sub", add("LogSoftmax", others, axis=-1), add("LogSoftmax", mine, axis=-1))
        axis = behind.constant("last", np.array([-1]))
        rows = add("ReduceSum", add("Mul", add("Softmax", others, axis=-1), surprise), axis, keepdims=0)
        return behind.scaled(add("ReduceMean", rows, keepdims=0), TEMPERATURE**2, "temperature")

    def score(self, behind: Behind, student: Mapping[str, ir.Value]) -> ir.Value:
        """Nothing is judged here."""
        return behind.constant("score", np.array(0, np.float32))


def prepare(kit: ModuleType, folder: Path, name: str) -> tuple[ir.Model, dict[str, np.ndarray]]:
    """Return a student that ends with its logits, all weights initializers, and a batch that it is fed with."""
    model = ir.load(folder / "models" / f"{name}.onnx")
    batch = BATCHES[name]
    if name == "minilm_l6_v2":
        feeds = {"input_ids": np.random.default_rng(0).integers(1000, 20000, (batch, WORDS))}
        _freeze(model, {"attention_mask": np.ones((batch, WORDS), np.int64)})
    else:
        samples = kit.feeds(name, "calib")[:batch]
        feeds = {key: np.concatenate([sample[key] for sample in samples]) for key in samples[0]}
    for value in model.graph.inputs:
        value.shape = ir.Shape(feeds[str(value.name)].shape)
    convert_opset(model, 17, "both read opset 17")
    common.LiftConstantsToInitializersPass(size_limit=0)(model)
    edit.set_outputs(model.graph, [find_tensor(model, LOGITS)])
    common.RemoveUnusedNodesPass()(model)
    model, _ = apply(model, [FoldConstants()])
    return model, feeds


def _freeze(model: ir.Model, values: dict[str, np.ndarray]) -> None:
    for value in list(model.graph.inputs):
        if value.name in values:
            model.graph.inputs.remove(value)
            value.const_value = ir.tensor(values[value.name], name=value.name)
            model.graph.register_initializer(value)


def write_job(folder: Path, model: ir.Model, feeds: dict[str, np.ndarray], engine: Engine, threads: int) -> None:
    """Write what ``steps.py`` reads."""
    folder.mkdir()
    loss = SoftTargets()
    stopped = trainable_weights(model, feeds, engine=engine).stopped
    objective = build_objective(model, loss, samples=feeds, engine=engine, frozen=tuple(stopped))
    initial = initial_weights(model, objective)
    flat = np.concatenate([initial[name].ravel() for name in objective.weights])
    states = {f"running_{i}": initial[name] for i, name in enumerate(objective.states)}
    np.savez(folder / "start.npz", flat=flat, **states)
    np.savez(folder / "feeds.npz", **feeds, teacher=answers(model, feeds))
    (folder / "objective.onnx").write_bytes(objective.proto.SerializeToString())
    job: dict[str, Any] = {"weights": objective.weights, "states": objective.states, "threads": threads}
    job["shapes"] = [initial[name].shape for name in objective.weights]
    job["settings"] = {"optimizer": "adamw", "weight_decay": 0.01}
    (folder / "job.json").write_text(json.dumps(job))


def answers(model: ir.Model, feeds: dict[str, np.ndarray]) -> np.ndarray:
    """Return the answers of a teacher: those of the student, a little off."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    exact = session.run(None, feeds)[0]
    noise = np.random.default_rng(0).standard_normal(exact.shape).astype(np.float32)
    return exact + 0.3 * exact.std() * noise


class Racer:
    """A process that takes steps when it is told to."""

    def __init__(self, command: list[str]) -> None:
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.turns: list[dict[str, Any]] = []

    def take_turn(self, seconds: float) -> None:
        """Let it take steps for some seconds."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{seconds}\n")
        self._process.stdin.flush()
        self.turns.append(json.loads(self._process.stdout.readline()))

    def end(self) -> None:
        """Close its input, behind which it ends."""
        self._process.communicate()

    def medians(self) -> list[float]:
        """Return the median seconds of a step in each turn but the first."""
        return [statistics.median(turn["seconds"]) for turn in self.turns[1:]]


def race(kit: ModuleType, folder: Path, name: str, threads: int, torch: str) -> dict[str, Any]:
    """Let all of them take turns with one model."""
    model, feeds = prepare(kit, folder, name)
    with tempfile.TemporaryDirectory() as temporary, ExitStack() as stack:
        root = Path(temporary)
        commands = {}
        for key, engine in ENGINES.items():
            write_job(root / key, model, feeds, engine, threads)
            python = [sys.executable] if key == "onnxruntime" else [find_uv(), "run", "--no-project"]
            python += [] if key == "onnxruntime" else ["--with-requirements", str(WORKER), "python"]
            commands[key] = [*python, str(HERE / "steps.py"), str(WORKER.parent), str(root / key)]
        if torch:
            ir.save(model, root / "student.onnx")
            peer = HERE.parent / "peers" / "torch_steps.py"
            given = root / "onnxruntime" / "feeds.npz"
            commands["torch"] = [torch, str(peer), str(root / "student.onnx"), str(given), str(threads)]
        racers = {key: Racer(command) for key, command in commands.items()}
        for racer in racers.values():
            stack.callback(racer.end)
        for turn in range(TURNS + 1):
            for racer in racers.values():
                racer.take_turn(SECONDS if turn else 0.0)
    row: dict[str, Any] = {"model": name, "batch": BATCHES[name], "threads": threads}
    for key, racer in racers.items():
        row[f"{key} steps/s"] = 1 / statistics.median(racer.medians())
        row[f"{key} MB"] = racer.turns[-1]["megabytes"]
        row[f"{key} loss"] = racer.turns[0]["loss"]
    for one, other in (*(((e, "torch") for e in ENGINES) if torch else ()), ("onnxruntime", "onnxruntime-training")):
        pairs = zip(racers[one].medians(), racers[other].medians(), strict=True)
        row[f"{one} / {other}"] = statistics.median(theirs / ours for ours, theirs in pairs)
    return row


def main() -> None:
    """Print a line for each model and number of threads."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("kit", type=Path)
    parser.add_argument("models", nargs="*", default=list(BATCHES))
    parser.add_argument("--torch", default="")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args()
    kit, rows = load_kit(given.kit), []
    for name in given.models:
        for threads in given.threads:
            row = race(kit, given.kit, name, threads, given.torch)
            rows.append(row)
            figures = (f"{key} {value:.3g}" for key, value in row.items() if isinstance(value, float))
            print(f"{name}, batch {row['batch']}, {threads} threads: {', '.join(figures)}", flush=True)
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()

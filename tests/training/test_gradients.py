"""The gradients that training steps along, against differences of the model itself in plain ONNX Runtime."""

from __future__ import annotations

import dataclasses
import re
import subprocess
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.trainable import log_softmax
from training.gradient_cases import ONLY_NEW, REFUSED, RIGHT, WINDOWS, constants, lines

from onnxcompress.errors import TrainingError
from onnxcompress.training import process
from onnxcompress.training.composites import COMPOSITES
from onnxcompress.training.engines import ENGINES
from onnxcompress.training.loop import engine
from onnxcompress.training.loss import LABELS, CrossEntropy
from onnxcompress.training.objective import Objective, build_objective
from onnxcompress.training.rules import RULES, quantize

TEXT = """<ir_version: 9, opset_import: ["" : {opset}, "com.microsoft" : 1]>
g ({dtype}{shape} image) => ({dtype}[N,?] logits) {{
 x = Add(image, w)
 size = Abs(x)
 p = Add(size, half)
 {body}
 rows = Flatten(y)
 logits = MatMul(rows, head)
}}"""
ROUNDED = ("GroupNormalization", "Shrink")
"""Operators whose double kernel computes in float."""
BATCH, CLASSES = 3, 5
# Far enough from each other, and from zero, that a small step passes no kink.
IMAGE = (np.random.default_rng(0).permutation(432).reshape(BATCH, 4, 6, 6) / 216 - 0.999).astype(np.float32)
TARGET = np.arange(BATCH)
TRAINED = (
    "c = ReduceMean<axes = [0, 2, 3]>(x); d = Sub(x, c); e = Mul(d, d); v = ReduceMean<axes = [0, 2, 3]>(e);"
    " f = Add(v, half); g = Sqrt(f); n = Div(d, g); k = Reshape(s4, column); l = Reshape(h4, column);"
    " m = Mul(n, k); y = Add(m, l)"
)


@dataclasses.dataclass(frozen=True)
class Case:
    """A body to differentiate, on an input of a shape; `reference` computes the same where it trains otherwise."""

    line: str
    shape: str = "[N,4,6,6]"
    reference: str = ""

    def __str__(self) -> str:
        return f"{self.shape} {self.line}"

    def model(self, dtype: str = "float", *, reference: bool = True) -> onnx.ModelProto:
        line = self.reference if reference and self.reference else self.line
        opset, _, body = line.rpartition(": ") if line[0].isdigit() else ("17", "", line)
        text = TEXT.format(opset=opset, dtype=dtype, shape=self.shape, body=body.replace("; ", "\n "))
        model = onnx.parser.parse_model(text)
        nodes = model.graph.node
        if not any("p" in node.input for node in nodes):
            del nodes[1:3]
        read = {name for node in nodes for name in node.input}
        known = constants() | {"column": np.array([1, 4, 1, 1])}
        for name in sorted(read & known.keys()):
            array = known[name]
            array = array.astype(np.float64) if dtype == "double" and array.dtype == np.float32 else array
            model.graph.initializer.append(onnx.numpy_helper.from_array(array, name))
        return model

    def head(self) -> np.ndarray:
        model = self.model()
        model.graph.node.pop()
        model.graph.output[0].name = "rows"
        rows = session(model).run(None, {"image": IMAGE})[0]
        head = np.random.default_rng(9).uniform(-4, 4, (rows.shape[1], CLASSES))
        return (head / np.sqrt(np.square(rows).sum(1).mean())).astype(np.float32)


def session(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


CASES = {
    str(case): case
    for case in (
        *(Case(line) for line in RIGHT),
        *(Case(line, shape) for line in lines(WINDOWS) for shape in ("[N,4,?,?]", "[3,4,6,6]")),
        Case("y = BatchNormalization<epsilon = 0.5, momentum = 0.7>(x, s4, h4, mean, var)", reference=TRAINED),
    )
}


def opset_of(case: Case) -> int:
    return int(case.line.partition(": ")[0]) if case.line[0].isdigit() else 17


BOTH = {
    name: case
    for name, case in CASES.items()
    if opset_of(case) <= (ENGINES["onnxruntime-training"].newest_opset or 99) and not any(op in name for op in ONLY_NEW)
}
"""Cases that onnxruntime-training knows the operators of."""


def written(case: Case, name: str) -> tuple[Objective, dict[str, np.ndarray]]:
    """Return the objective of a case for an engine, and what it is fed with."""
    model = case.model(reference=False)
    model.graph.initializer.append(onnx.numpy_helper.from_array(case.head(), "head"))
    objective = build_objective(
        ir.from_proto(model),
        CrossEntropy(TARGET),
        evaluate=not case.reference,
        samples={"image": IMAGE},
        engine=ENGINES[name],
    )
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    return objective, {"image": IMAGE, LABELS: TARGET} | {
        key: values[key] for key in (*objective.states, *objective.weights)
    }


def gradients_of(objective: Objective, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    names = [engine.LOSS, *(f"{name}_grad" for name in objective.weights)]
    return dict(zip((engine.LOSS, *objective.weights), session(objective.proto).run(names, feeds), strict=True))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Differentiate all cases in one training interpreter: a folder for each."""
    root = tmp_path_factory.mktemp("gradients")
    for number, case in enumerate(BOTH.values()):
        folder = root / str(number)
        folder.mkdir()
        objective, feeds = written(case, "onnxruntime-training")
        (folder / "objective.onnx").write_bytes(objective.proto.SerializeToString())
        np.savez(folder / "feeds.npz", **{f"weight:{k}" if k in objective.weights else k: v for k, v in feeds.items()})
    script = Path(__file__).with_name("run_gradients.py")
    command = [process.find_uv(), "run", "--no-project", "--script", str(script), engine.__file__, str(root)]
    subprocess.run(command, check=True, capture_output=True)
    return root


def loss_in(case: Case, weights: dict[str, np.ndarray], dtype: str):
    """Return the cross-entropy as a function of the weights, whose arrays may be changed in place between calls."""
    if dtype == "double" and any(op in case.line for op in ROUNDED):
        raise ValueError("computed in single precision")
    model = case.model(dtype)
    kind = np.dtype(np.float64 if dtype == "double" else np.float32)
    for tensor in list(model.graph.initializer):
        if tensor.name in weights:
            model.graph.initializer.remove(tensor)
    element = onnx.helper.np_dtype_to_tensor_dtype(kind)
    for name, array in weights.items():
        array = weights[name] = array.astype(kind)
        model.graph.input.append(onnx.helper.make_tensor_value_info(name, element, array.shape))
    run = session(model).run
    image = IMAGE.astype(kind)
    return lambda: -log_softmax(run(None, {"image": image, **weights})[0].astype(np.float64))[TARGET, TARGET].mean()


@pytest.mark.parametrize("name", CASES)
def test_gradient_is_that_of_the_model(name: str) -> None:
    case = CASES[name]
    objective, feeds = written(case, "onnxruntime")
    gradients = gradients_of(objective, feeds)
    weights = {key: feeds[key].copy() for key in objective.weights}
    step, tolerance = 1e-5, 1e-3
    try:
        loss = loss_in(case, weights, "double")
        loss()
    except Exception:  # noqa: BLE001 - ONNX Runtime has no double kernel of it, and says so in many ways
        step, tolerance = 1e-3, 3e-2
        loss = loss_in(case, weights, "float")
    assert float(gradients[engine.LOSS]) == pytest.approx(loss(), rel=1e-4)
    for weight, array in weights.items():
        assert gradients[weight].shape == array.shape
        picked = np.random.default_rng(1).permutation(array.size)[:16]
        flat = array.reshape(-1)
        assert np.shares_memory(flat, array)
        differences = np.zeros(len(picked))
        for number, index in enumerate(picked):
            kept = flat[index]
            for sign in (1, -1):
                flat[index] = kept + sign * step
                differences[number] += sign * loss() / (2 * step)
            flat[index] = kept
        scale = max(np.abs(differences).max(), tolerance)
        np.testing.assert_allclose(gradients[weight].reshape(-1)[picked] / scale, differences / scale, atol=tolerance)


@pytest.mark.parametrize("name", BOTH)
def test_both_engines_agree(name: str, trained: Path) -> None:
    folder = trained / str(list(BOTH).index(name))
    assert not (folder / "error.txt").exists(), (folder / "error.txt").read_text()
    objective, feeds = written(BOTH[name], "onnxruntime")
    with np.load(folder / "gradients.npz") as file:
        for key, expected in gradients_of(objective, feeds).items():
            np.testing.assert_allclose(file[key], expected, rtol=1e-3, atol=1e-4 * max(np.abs(expected).max(), 1e-3))


def test_each_rule_has_a_case() -> None:
    tested = {op for case in CASES.values() for op in operators_of(case.model(reference=False))}
    assert sorted({*RULES, *COMPOSITES} - {*quantize.RULES} - tested) == []  # those are tested in a file of their own


def test_the_docs_list_what_has_a_gradient() -> None:
    page = (Path(__file__).parents[2] / "docs" / "distill.md").read_text(encoding="utf-8")
    section = page.split("## Which operators have a gradient")[1].split("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ")]
    listed = [op for row in rows for op in re.findall(r"`([\w.:]+)`", row)]
    assert sorted(listed) == sorted({*RULES, *COMPOSITES})


def operators_of(model: onnx.ModelProto) -> set[str]:
    return {f"{node.domain}::{node.op_type}".removeprefix("::") for node in model.graph.node}


@pytest.mark.parametrize("line", REFUSED)
def test_a_form_without_a_right_gradient_is_named(line: str) -> None:
    model = Case(line).model()
    model.graph.initializer.append(onnx.numpy_helper.from_array(Case(line).head(), "head"))
    node = next(node for node in model.graph.node if "x" in node.input and node.op_type not in ("Add", "Abs"))
    node.name = "the_node"
    expected = rf"'\w+' cannot be trained: node 'the_node' \({node.op_type}\) has {REFUSED[line]}"
    with pytest.raises(TrainingError, match=expected):
        build_objective(ir.from_proto(model), CrossEntropy(TARGET), samples={"image": IMAGE})

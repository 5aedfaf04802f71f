"""Training runs for real, in the interpreter that uv makes."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from corpus.trainable import MLP, cnn, log_softmax, make, mlp, samples, weights_of

from onnxcompress.demo.data import load_split
from onnxcompress.errors import DataError, TrainingError
from onnxcompress.passes.distill.objectives.combined import Combined
from onnxcompress.passes.distill.objectives.kl import KullbackLeibler
from onnxcompress.passes.distill.objectives.tensors import Output, Tensor
from onnxcompress.training import CrossEntropy, Settings, process, train, trainable_weights
from onnxcompress.training.engines import ENGINES
from onnxcompress.training.loop.data import Bucket, batches
from onnxcompress.training.loop.schedule import rate_factor
from onnxcompress.training.loop.state import CHECKPOINT
from onnxcompress.training.loss import LABELS
from onnxcompress.training.objective import build_objective


def forward(w: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    return np.maximum(x @ w["w1"] + w["b1"], 0) @ w["w2"]


TEACHER = "onnxcompress.teacher/logits"


def soft_targets(labels: np.ndarray, temperature: float = 4.0, hard: float = 0.5) -> Combined:
    logits = Tensor("logits", (50, 4), 1)
    kl = KullbackLeibler(Output("logits", "classes", logits, logits, ""), temperature)
    return Combined(((kl, 1 - hard), (CrossEntropy(labels), hard)))


def expected_loss(z: np.ndarray, labels: np.ndarray, teacher: np.ndarray, t: float, hard: float) -> float:
    cross_entropy = -log_softmax(z)[np.arange(len(z)), labels].mean()
    log_p, log_q = log_softmax(teacher / t), log_softmax(z / t)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(1).mean()
    return float((1 - hard) * t**2 * divergence + hard * cross_entropy)


@pytest.mark.parametrize(("t", "hard"), [(1.0, 0.5), (4.0, 0.0), (4.0, 0.3), (2.0, 1.0)])
def test_loss_is_what_hinton_wrote(t: float, hard: float) -> None:
    model = mlp()
    inputs, labels, teacher = samples()
    objective = build_objective(model, soft_targets(labels, t, hard), engine=ENGINES["onnxruntime"])
    session = onnxruntime.InferenceSession(objective.proto.SerializeToString(), providers=["CPUExecutionProvider"])
    feeds = {**inputs, **weights_of(model), LABELS: labels, TEACHER: teacher}
    loss = session.run(None, {i.name: feeds[i.name] for i in session.get_inputs()})[0]
    assert loss == pytest.approx(expected_loss(forward(weights_of(model), inputs["x"]), labels, teacher, t, hard), 1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_first_steps_are_those_of_the_textbook(optimizer: str) -> None:
    """Two steps on the whole set, with gradients by finite differences of the numpy loss in float64."""
    model, (inputs, labels, teacher) = mlp(), samples()
    settings = Settings(
        epochs=2, batch_size=50, optimizer=optimizer, learning_rate=0.01, schedule="constant", weight_decay=0.1
    )
    trained = train(model, inputs, soft_targets(labels), teacher={TEACHER: teacher}, settings=settings)

    w = {name: array.astype(np.float64) for name, array in weights_of(model).items()}
    moments = {name: (np.zeros_like(a), np.zeros_like(a)) for name, a in w.items()}

    def loss() -> float:
        return expected_loss(forward(w, inputs["x"]), labels, teacher, 4.0, 0.5)

    for step in (1, 2):
        assert trained.losses[step - 1] == pytest.approx(loss(), rel=1e-4)
        gradients = {}
        for name, array in w.items():
            gradients[name] = np.zeros_like(array)
            for index in np.ndindex(*array.shape):
                kept, ends = array[index], []
                for shift in (1e-5, -1e-5):
                    array[index] = kept + shift
                    ends.append(loss())
                array[index] = kept
                gradients[name][index] = (ends[0] - ends[1]) / 2e-5
        for name, array in w.items():
            decay, (m, v), g = 0.1 * (array.ndim > 1), moments[name], gradients[name]
            if optimizer == "sgd":
                m[...] = 0.9 * m + g + decay * array
                array -= 0.01 * m
            else:
                m[...] = 0.9 * m + 0.1 * g
                v[...] = 0.999 * v + 0.001 * g**2
                array *= 1 - 0.01 * decay
                array -= 0.01 * (m / (1 - 0.9**step)) / (np.sqrt(v / (1 - 0.999**step)) + 1e-8)
    for name, array in w.items():
        np.testing.assert_allclose(trained.weights[name], array, rtol=1e-3, atol=1e-4)


def test_batch_norm_follows_the_batch() -> None:
    images, labels = load_split("train")
    images, labels = images[:64], labels[:64]
    settings = Settings(epochs=1, batch_size=64)
    trained = train(cnn(), {"image": images}, CrossEntropy(labels), settings=settings)
    convolution = cnn()
    convolution.graph.outputs[:] = [next(n.outputs[0] for n in convolution.graph if n.op_type == "Conv")]
    convolution.graph.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    session = onnxruntime.InferenceSession(
        ir.to_proto(convolution).SerializeToString(), providers=["CPUExecutionProvider"]
    )
    batch = session.run(None, {"image": images})[0]
    np.testing.assert_allclose(trained.weights["mean"], 0.1 * batch.mean((0, 2, 3)), rtol=1e-4, atol=1e-6)
    variance = batch.var((0, 2, 3), dtype=np.float64)
    np.testing.assert_allclose(trained.weights["var"], 0.9 + 0.1 * variance, rtol=2e-4)


def test_learns_digits_and_resumes_to_the_same_weights(tmp_path) -> None:
    images, labels = load_split("train")
    settings = Settings(epochs=6, learning_rate=5e-3)
    feeds = {"image": images}
    whole = train(cnn(), feeds, CrossEntropy(labels), settings=settings)

    steps = 6 * 38

    def interrupt(_what: str, done: int, total: int) -> None:
        if total == steps and done == 2 * 38:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(cnn(), feeds, CrossEntropy(labels), settings=settings, checkpoint=tmp_path, progress=interrupt)
    with np.load(tmp_path / CHECKPOINT) as arrays:
        assert {"flat", "first", "second", "running_0", "running_1", "header"} <= set(arrays)
    seen: list[int] = []
    resumed = train(
        cnn(),
        feeds,
        CrossEntropy(labels),
        settings=settings,
        checkpoint=tmp_path,
        progress=lambda _what, done, total: seen.append(done) if total == steps else None,
    )
    assert min(seen) >= 2 * 38
    assert resumed.losses == whole.losses
    for name, array in whole.weights.items():
        np.testing.assert_array_equal(resumed.weights[name], array)

    student = ir.to_proto(cnn())
    for tensor in student.graph.initializer:
        tensor.CopyFrom(onnx.numpy_helper.from_array(whole.weights[tensor.name], tensor.name))
    session = onnxruntime.InferenceSession(student.SerializeToString(), providers=["CPUExecutionProvider"])
    test_images, test_labels = load_split("test")
    assert (session.run(None, {"image": test_images})[0].argmax(1) == test_labels).mean() > 0.9

    with pytest.raises(TrainingError, match="belongs to another training \\(settings differ"):
        train(cnn(), feeds, CrossEntropy(labels), settings=Settings(epochs=7), checkpoint=tmp_path)


def test_a_killed_worker_leaves_its_checkpoint(tmp_path, monkeypatch) -> None:
    processes: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def started(*args, **options):
        processes.append(real(*args, **options))
        return processes[-1]

    monkeypatch.setattr(process.subprocess, "Popen", started)

    def kill(_what: str, done: int, total: int) -> None:
        if total == 5000 and done >= 10:
            os.killpg(processes[0].pid, signal.SIGKILL)

    inputs, labels, teacher = samples()
    settings = Settings(epochs=5000, batch_size=50)
    with pytest.raises(TrainingError, match=r"ended with code -9.*checkpoint of epoch \d+ is in .*go on"):
        train(
            mlp(),
            inputs,
            soft_targets(labels),
            teacher={TEACHER: teacher},
            settings=settings,
            checkpoint=tmp_path,
            progress=kill,
        )
    assert (tmp_path / CHECKPOINT).exists()
    assert (tmp_path / "worker.log").exists()


def group_lives(group: int) -> bool:
    """Whether a process of the group is left that is no zombie (a container's init may never collect those)."""
    states = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group:
            states.append(fields[0])
    return any(state != "Z" for state in states)


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_interrupt_leaves_no_process(monkeypatch) -> None:
    started: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen
    monkeypatch.setattr(
        process.subprocess, "Popen", lambda *args, **options: started.append(real(*args, **options)) or started[-1]
    )

    def interrupt(_what: str, _done: int, total: int) -> None:
        if total > 1:
            raise KeyboardInterrupt

    inputs, labels, _ = samples()
    with pytest.raises(KeyboardInterrupt):
        train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=5000), progress=interrupt)
    assert started[0].poll() is not None
    deadline = time.monotonic() + 5
    while group_lives(started[0].pid) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not group_lives(started[0].pid)


def test_a_loss_that_explodes_is_said_so(tmp_path) -> None:
    inputs, labels, _ = samples()
    settings = Settings(epochs=50, optimizer="sgd", learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"the loss is .* try a lower learning rate"):
        train(mlp(), inputs, CrossEntropy(labels), settings=settings, checkpoint=tmp_path)
    assert "FloatingPointError" in (tmp_path / process.LOG).read_text()


def test_without_uv_the_other_engine_trains_and_it_is_said(monkeypatch) -> None:
    inputs, labels, _ = samples()
    first = train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=3))
    monkeypatch.setitem(__import__("sys").modules, "uv", None)
    monkeypatch.setattr(process.shutil, "which", lambda _name: None)
    second = train(mlp(), inputs, CrossEntropy(labels), settings=Settings(epochs=3))
    assert first.notes == () and 'pip install "onnxcompress[train]"' in second.notes[0]
    assert (first.settings.engine, second.settings.engine) == ("onnxruntime-training", "onnxruntime")
    for name, array in first.weights.items():
        np.testing.assert_allclose(second.weights[name], array, rtol=1e-4, atol=1e-6)
    settings = Settings(engine="onnxruntime-training")
    with pytest.raises(TrainingError, match=r'pip install "onnxcompress\[train\]"; engine=onnxruntime trains without'):
        train(mlp(), inputs, CrossEntropy(labels), settings=settings)


def test_a_node_without_gradient_is_named() -> None:
    model = mlp(MLP.replace("r = Relu(h)", "[act] r = Mod<fmod = 1>(h, h)"))
    inputs, labels, _ = samples()
    with pytest.raises(TrainingError, match=r"'w1' cannot be trained: node 'act' \(Mod\) has no gradient"):
        train(model, inputs, CrossEntropy(labels), settings=Settings())
    found = trainable_weights(model)
    assert found.free == ("w2",)
    assert set(found.stopped) == {"w1", "b1"}


def test_a_node_before_all_weights_stops_nothing() -> None:
    """x - Mod - Gemm: nothing before the first weight needs a gradient."""
    text = MLP.replace("h = Gemm(x, w1, b1)", "[pre] s = Mod<fmod = 1>(x, x)\n h = Gemm(s, w1, b1)")
    assert trainable_weights(mlp(text)).free == ("w1", "b1", "w2")


def test_nothing_to_train_is_an_error() -> None:
    model = mlp(MLP.replace("logits = MatMul(r, w2)", "s = MatMul(r, w2)\n [last] logits = Mod<fmod = 1>(s, s)"))
    inputs, labels, _ = samples()
    with pytest.raises(TrainingError, match=r"nothing in this model can be trained.*node 'last' \(Mod\)"):
        train(model, inputs, CrossEntropy(labels), settings=Settings(), frozen=("w1", "b1", "w2"))


def test_weights_in_constant_nodes_are_trained() -> None:
    text = MLP.replace(
        "h = Gemm(x, w1, b1)", "w1 = Constant<value = float[6,2] {1,2,3,4,5,6,7,8,9,10,11,12}>()\n h = MatMul(x, w1)"
    )
    w2 = np.ones((2, 4), np.float32)
    found = trainable_weights(make(text, w2=w2))
    assert set(found.free) == {"w1", "w2"}
    assert found.stopped == {}


def test_weights_are_found_behind_what_moves_them() -> None:
    """A token that is put in front, and positions up to a length; zeros that widen a tensor are none."""
    text = """<ir_version: 9, opset_import: ["" : 17]>
    g (float[N,3,2] x) => (float[N,2] logits) {
     batch = Shape<start = 0, end = 1>(x)
     extents = Concat<axis = 0>(batch, one_two)
     front = Expand(token, extents)
     rows = Concat<axis = 1>(front, x)
     near = Slice(positions, zero, four, one)
     placed = Add(rows, near)
     blanks = Expand(blank, extents)
     wide = Concat<axis = 1>(placed, blanks)
     sums = ReduceSum<keepdims = 0>(wide, one)
     logits = MatMul(sums, w)
    }"""
    arrays = {
        "token": np.ones((1, 1, 2)),
        "blank": np.zeros((1, 1, 2)),
        "positions": np.ones((1, 9, 2)),
        "w": np.ones((2, 2)),
    }
    arrays = {name: array.astype(np.float32) for name, array in arrays.items()}
    integers = {"one_two": [1, 2], "zero": [0], "one": [1], "four": [4]}
    arrays |= {name: np.array(value) for name, value in integers.items()}
    proto = onnx.parser.parse_model(text)
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(array, name) for name, array in arrays.items())
    assert set(trainable_weights(ir.from_proto(proto)).free) == {"token", "positions", "w"}


def test_weights_inside_an_if_are_said_to_be_not_trained() -> None:
    text = MLP.replace(
        "r = Relu(h)",
        "[choice] r = If (flag) <then_branch = t () => (float[batch,2] a) { [in] a = Mul(h, s) },"
        " else_branch = e () => (float[batch,2] b) { b = Relu(h) }>",
    )
    model = make(text, **weights_of(mlp()), flag=np.array(True), s=np.ones(2, np.float32))
    stopped = trainable_weights(model).stopped
    assert set(stopped) == {"w1", "b1", "s"}
    for reason in stopped.values():
        assert "is inside an If, a Loop or a Scan, which is not trained: export the model without" in reason


def test_fixed_batch_and_reshape_train_on_any_batch() -> None:
    text = MLP.replace("float[batch,6]", "float[1,6]").replace("float[batch,4]", "float[1,4]")
    text = text.replace("r = Relu(h)", "q = Relu(h)\n r = Reshape(q, shape)")
    model = make(text, **weights_of(mlp()), shape=np.array([1, 8]))
    inputs, labels, _ = samples()
    settings = Settings(epochs=3, batch_size=16)
    fixed = train(model, inputs, CrossEntropy(labels), settings=settings)
    free = train(mlp(), inputs, CrossEntropy(labels), settings=settings)
    assert fixed.losses == pytest.approx(free.losses, rel=1e-5)
    assert free.losses[-1] < free.losses[0]


@pytest.mark.parametrize("opset", [9, 13, 20, 22])
def test_other_opsets_train_alike(opset: int) -> None:
    """Training reads opset 14 to 21; others are converted in the copy that is trained."""
    images, labels = load_split("train")
    settings = Settings(epochs=1)
    losses = []
    for version in (17, opset):
        model = ir.from_proto(ir.to_proto(cnn()))
        model.graph.opset_imports[""] = version
        losses.append(train(model, {"image": images[:64]}, CrossEntropy(labels[:64]), settings=settings).losses)
        assert model.graph.opset_imports[""] == version
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_data_that_does_not_fit() -> None:
    inputs, labels, teacher = samples()
    with pytest.raises(DataError, match="49 rows for 50 samples"):
        train(mlp(), inputs, soft_targets(labels[:-1]), teacher={TEACHER: teacher}, settings=Settings())
    with pytest.raises(DataError, match="the model has 4 classes"):
        train(mlp(), inputs, soft_targets(labels + 1), teacher={TEACHER: teacher}, settings=Settings())
    with pytest.raises(DataError, match="input 'x' is missing"):
        train(mlp(), {}, soft_targets(labels), teacher={TEACHER: teacher}, settings=Settings())


def test_batches_cover_an_epoch_and_differ_by_one() -> None:
    bucket = Bucket({}, np.arange(65), np.arange(0))
    parts = [part for _, part in batches([bucket], 22, seed=0, epoch=1)]
    assert sorted(len(part) for part in parts) == [21, 22, 22]
    assert sorted(np.concatenate(parts)) == list(range(65))
    again = [part for _, part in batches([bucket], 22, seed=0, epoch=2)]
    assert not np.array_equal(parts[0], again[0])


@pytest.mark.parametrize(
    ("schedule", "factors"), [("constant", [1, 1, 1]), ("linear", [1, 0.5, 0.25]), ("cosine", [1, 0.5, 0.146447])]
)
def test_schedules(schedule: str, factors: list[float]) -> None:
    assert [rate_factor(schedule, t) for t in (0, 0.5, 0.75)] == pytest.approx(factors, rel=1e-4)

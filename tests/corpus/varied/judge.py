"""Judges what passes made of a model with onnx and ONNX Runtime alone."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest import mock

import numpy as np
import onnx
import onnxruntime as ort
from onnx import TensorProto

from onnxcompress import OnnxCompressError, apply, pipeline
from onnxcompress.contract import Pass
from onnxcompress.errors import VerifyError
from onnxcompress.evaluation import slowness

from .chains import QUANTIZERS
from .graph import Varied
from .noise import noisy

ORDER = ("equal", "sane", "refused", "rolled back", "wrong", "internal error", "unstable", "onnxruntime")
TOLERANCE = {"float16": 3e-2, "float32": 5e-4, "float64": 5e-4}
ROUNDED = 0.15
"""Where the model rounds to integers itself, a last bit may move a value by a step."""
LOWEST, MARGIN = 12.0, 12.0
"""Decibels that eight bits keep at least, or what noise as large as theirs keeps of the same network, less a margin."""
RANDOM_OPS = {"RandomNormalLike", "RandomUniformLike", "Dropout"}
ROUNDING_OPS = {"QuantizeLinear", "DynamicQuantizeLinear", "Hardmax", "TopK", "Greater", "Less", "NonMaxSuppression"}
Feed = dict[str, Any]
Outputs = dict[str, Any]


@dataclass(frozen=True)
class Verdict:
    """What came of one chain on one model: a word of `ORDER`, and in one line why."""

    kind: str
    why: str = ""


class Wrong(Exception):  # noqa: N818 - a finding, not an error
    """What a user must not be given."""


class Runner:
    """A model in ONNX Runtime, as it is written or optimised."""

    def __init__(self, model: onnx.ModelProto, *, optimised: bool = True) -> None:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if optimised else level.ORT_DISABLE_ALL
        self._session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        self.inputs = {port.name: (port.type, port.shape) for port in self._session.get_inputs()}
        free = self._session.get_overridable_initializers()
        self.free = {port.name: (port.type, port.shape) for port in free}
        self.outputs = {port.name: (port.type, port.shape) for port in self._session.get_outputs()}

    def run(self, feed: Feed) -> Outputs:
        return dict(zip(self.outputs, self._session.run(None, self._fitting(feed)), strict=True))

    def _fitting(self, feed: Feed) -> Feed:
        """Cast floats where the model's inputs were given another type."""
        kinds = {"tensor(float16)": np.float16, "tensor(float)": np.float32}
        ports = (*self._session.get_inputs(), *self._session.get_overridable_initializers())
        wanted = {port.name: kinds.get(port.type) for port in ports}
        return {name: a.astype(wanted.get(name) or a.dtype) if a.dtype.kind == "f" else a for name, a in feed.items()}


@contextmanager
def untimed(*, explained: bool = False) -> Iterator[None]:
    """Make runs short: nobody reads how long such small models take, nor (unless `explained`) why."""
    slow = slowness.is_slow if explained else lambda timing, quantized: False
    with mock.patch.object(pipeline, "TIMED_SECONDS", 0.0), mock.patch.object(slowness, "is_slow", slow):
        yield


def judge(varied: Varied, chain: Sequence[Pass], *, seed: int = 0) -> Verdict:
    """Run the chain on the model and judge what came of it."""
    feeds = [varied.feeds(n, batch=1 + n % 3) for n in range(4)]
    if varied.defaults:
        feeds.append(varied.feeds(4, override=True))
    try:
        subject = Subject(varied.model, feeds)
    except Exception as error:  # noqa: BLE001 - counted, with its reason
        return Verdict("unstable", f"onnxruntime does not run the original: {_line(error)}")
    if not subject.stable and not subject.random:
        return Verdict("unstable", "optimised and not, the original differs from itself")
    data = [varied.feeds(100 + n, batch=4) for n in range(4)]
    try:
        return _judge(subject, chain, data, seed)
    except Wrong as finding:
        return Verdict("wrong", str(finding))
    except VerifyError as error:
        return Verdict("rolled back", f"{type(error).__name__}: {_line(error)}")
    except OnnxCompressError as error:
        if not str(error):
            return Verdict("internal error", f"{type(error).__name__} without a message")
        return Verdict("refused", f"{type(error).__name__}: {_line(error)}")
    except Exception as error:  # noqa: BLE001 - counted, with its reason
        return Verdict("internal error", f"{type(error).__name__} at {_place(error)}: {_line(error)}")


def _judge(subject: Subject, chain: Sequence[Pass], data: list[Feed], seed: int) -> Verdict:
    def made(steps: Sequence[Pass]) -> onnx.ModelProto:
        return apply(subject.model, steps, data=data, seed=seed)[0] if steps else subject.model

    result = made(chain)
    retyped = any(step.promise.retypes for step in chain)
    check_ports(subject, result, retyped=retyped)
    if subject.random:
        check_sane(subject, result)
        return Verdict("sane", "it draws random numbers")
    lossy = [i for i, step in enumerate(chain) if step.promise.tolerance is None]
    if not lossy:
        return check_equal(subject, result)
    check_sane(subject, result)
    verdict = Verdict("sane")
    if lossy[-1] + 1 < len(chain):  # what follows the last lossy pass keeps its outputs
        masked = Subject(made(chain[: lossy[-1] + 1]), subject.feeds)
        verdict = check_equal(masked, result)
    quantizers = [i for i in lossy if type(chain[i]).__name__ in QUANTIZERS]
    if quantizers and quantizers == [i for i in lossy if i >= quantizers[0]]:
        before = Subject(made(chain[: quantizers[0]]), data) if quantizers[0] else Subject(subject.model, data)
        check_noise(before, result, [chain[i] for i in quantizers])
    return verdict


class Subject:
    """A model that is known to be right, with what it answers to some feeds and how exactly."""

    def __init__(self, model: onnx.ModelProto, feeds: list[Feed]) -> None:
        self.model, self.feeds = model, feeds
        plain, optimised = Runner(model, optimised=False), Runner(model)
        self.inputs, self.outputs, self.free = optimised.inputs, optimised.outputs, optimised.free
        self.expected = [plain.run(feed) for feed in feeds]
        others = [optimised.run(feed) for feed in feeds]
        moved = [plain.run({k: _nudged(v, n) for k, v in feed.items()}) for n, feed in enumerate(feeds)]
        ops = {node.op_type for node in _nodes(model)}
        self.random = any(
            node.op_type in RANDOM_OPS for node in _nodes(model) if len(node.input) != 1 or "Like" in node.op_type
        )
        kinds = {tensor.data_type for tensor in _tensors(model)} | {TensorProto.FLOAT16} & _casts(model)
        narrow = kinds & {TensorProto.FLOAT16, TensorProto.BFLOAT16}
        self.tolerance = ROUNDED if ops & ROUNDING_OPS else TOLERANCE["float16" if narrow else "float32"]
        self.stable = all(self._close(a, b, 1.0) for a, b in zip(self.expected, others, strict=True))
        self._own = dict.fromkeys(self.outputs, 0.0)
        for name in self.outputs:
            for a, b in zip(self.expected * 2, others + moved, strict=True):
                self._own[name] = max(self._own[name], difference(a[name], b[name]))

    def allowed(self, name: str) -> float:
        return max(self.tolerance, 20 * self._own[name])

    def _close(self, a: Outputs, b: Outputs, factor: float) -> bool:
        return all(difference(a[name], b[name]) <= factor * self.tolerance for name in a)


def check_ports(subject: Subject, result: onnx.ModelProto, *, retyped: bool) -> None:
    """Check that the result is a valid model that takes and gives what the original does."""
    try:
        onnx.checker.check_model(result, full_check=True)
        runner = Runner(result)
    except Exception as error:  # noqa: BLE001 - counted, with its reason
        raise Wrong(f"the result cannot be loaded: {_line(error)}") from None
    lost = [name for name in subject.free if name not in runner.free]
    if lost:
        raise Wrong(f"the inputs {lost}, which have defaults, are gone or lost them")
    free = {name: runner.free[name] for name in subject.free}
    pairs = (
        ("input", subject.inputs, runner.inputs),
        ("output", subject.outputs, runner.outputs),
        ("default", subject.free, free),
    )
    for what, before, after in pairs:
        if list(before) != list(after):
            raise Wrong(f"{what}s {list(before)} became {list(after)}")
        for name, (kind, shape) in before.items():
            other, dims = after[name]
            if kind != other and not (retyped and "float" in kind and "float" in other):
                raise Wrong(f"{what} {name} was {kind} and is {other}")
            known = [
                (a, b)
                for a, b in zip(shape or (), dims or (), strict=False)
                if isinstance(a, int) and isinstance(b, int)
            ]
            if (shape and dims and len(shape) != len(dims)) or any(a != b for a, b in known):
                raise Wrong(f"{what} {name} had shape {shape} and has {dims}")


def check_equal(subject: Subject, result: onnx.ModelProto) -> Verdict:
    """Check the outputs of a lossless pass, value by value."""
    late = ""
    for optimised in (False, True):
        runner = Runner(result, optimised=optimised)
        for number, (feed, expected) in enumerate(zip(subject.feeds, subject.expected, strict=True)):
            try:
                found = runner.run(feed)
            except Exception as error:  # noqa: BLE001 - counted, with its reason
                raise Wrong(f"feed {number}: the result does not run: {_line(error)}") from None
            for name, before in expected.items():
                off = difference(before, found[name])
                if off > subject.allowed(name):
                    why = f"feed {number}: {name} is off by {off:.1e}, allowed {subject.allowed(name):.1e}"
                    if not optimised:
                        raise Wrong(why)
                    late = late or why
    return Verdict("onnxruntime", f"only when onnxruntime optimises the result, {late}") if late else Verdict("equal")


def check_sane(subject: Subject, result: onnx.ModelProto) -> None:
    """Check that a lossy result runs, keeps shapes unless they depend on the data, and stays finite."""
    runner = Runner(result)
    free = {node.op_type for node in _nodes(subject.model)} & {"Compress", "NonZero", "NonMaxSuppression"}
    for number, (feed, expected) in enumerate(zip(subject.feeds, subject.expected, strict=True)):
        try:
            found = runner.run(feed)
        except Exception as error:  # noqa: BLE001 - counted, with its reason
            raise Wrong(f"feed {number}: the result does not run: {_line(error)}") from None
        for name, before in expected.items():
            for a, b in zip(_listed(before), _listed(found[name]), strict=True):
                if a.shape != b.shape and not free:
                    raise Wrong(f"feed {number}: {name} has shape {b.shape}, had {a.shape}")
                if _float(a) and np.isfinite(a.astype(float)).all() and not np.isfinite(b.astype(float)).all():
                    raise Wrong(f"feed {number}: {name} is no longer finite")


def check_noise(subject: Subject, result: onnx.ModelProto, steps: list[Pass]) -> None:
    """Check that a quantized result is no further off than noise of its steps' size makes the network."""
    if any(_is_coarse(step.options()) for step in steps):
        return
    runner = Runner(result)
    found = [runner.run(feed) for feed in subject.feeds]
    kept = {name: decibels(subject.expected, found, name) for name in subject.outputs}
    if all(value >= LOWEST for value in kept.values()):
        return
    fair = noisy(subject.model)
    draws = []
    for model in fair:
        try:
            noise = Runner(model, optimised=False)
            draws.append([noise.run(feed) for feed in subject.feeds])
        except Exception:  # noqa: BLE001 - what has no rows has no largest value
            return
    for name, value in kept.items():
        bound = min((decibels(subject.expected, other, name) for other in draws), default=LOWEST)
        if value < min(LOWEST, bound - MARGIN):
            raise Wrong(f"{name} keeps {value:.1f} dB, where noise of eight bits everywhere keeps {bound:.1f}")


def _is_coarse(options: dict[str, Any]) -> bool:
    """Whether the options ask for less than eight bits, or let ranges cut values off."""
    clips = options.get("ranges", "minmax") != "minmax"
    return clips or options.get("dtype") in ("int4", "uint4") or options.get("target") is not None


def difference(a: Any, b: Any) -> float:
    """Return how far apart two outputs are, relative to the largest value; infinite where their form differs."""
    if isinstance(a, list) or isinstance(b, list):
        if not (isinstance(a, list) and isinstance(b, list) and len(a) == len(b)):
            return np.inf
        return max((difference(x, y) for x, y in zip(a, b, strict=True)), default=0.0)
    if a is None or b is None:
        return 0.0 if a is b else np.inf
    if a.shape != b.shape or a.dtype != b.dtype:
        return np.inf
    if not _float(a):
        return float(not np.array_equal(a, b))
    one, two = a.astype(np.float64), b.astype(np.float64)
    fine = np.isfinite(one)
    if not np.array_equal(fine, np.isfinite(two)) or not np.array_equal(one[~fine], two[~fine], equal_nan=True):
        return np.inf
    return float(np.abs(one - two)[fine].max(initial=0) / max(np.abs(one[fine]).max(initial=0), 1e-6))


def decibels(expected: list[Outputs], found: list[Outputs], name: str) -> float:
    """Return the signal-to-noise ratio of one output over all feeds; infinite where it says nothing."""
    signal = noise = 0.0
    for before, after in zip(expected, found, strict=True):
        for a, b in zip(_listed(before[name]), _listed(after[name]), strict=True):
            if not _float(a) or a.shape != b.shape or not np.isfinite(a.astype(float)).all():
                continue
            signal += float((a.astype(np.float64) ** 2).sum())
            noise += float(((a.astype(np.float64) - b.astype(np.float64)) ** 2).sum())
    return float(10 * np.log10(signal / noise)) if noise > 0 and signal > 0 else np.inf


def _listed(value: Any) -> list[np.ndarray]:
    return value if isinstance(value, list) else [] if value is None else [value]


def _float(a: np.ndarray) -> bool:
    return "float" in a.dtype.name


def _nudged(value: Any, seed: int) -> Any:
    """Move floats by what rounding may be."""
    if value.dtype.kind != "f":
        return value
    step = {2: 5e-4, 4: 1e-6, 8: 1e-9}[value.dtype.itemsize]
    return (value * (1 + step * np.random.default_rng(seed).standard_normal(value.shape))).astype(value.dtype)


def _nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    found, queue = [], [*model.graph.node, *(n for f in model.functions for n in f.node)]
    while queue:
        node = queue.pop()
        found.append(node)
        queue += [inner for a in node.attribute if a.HasField("g") for inner in a.g.node]
    return found


def _tensors(model: onnx.ModelProto) -> list[TensorProto]:
    inner = [a.t for node in _nodes(model) for a in node.attribute if a.HasField("t")]
    return [*model.graph.initializer, *inner]


def _casts(model: onnx.ModelProto) -> set[int]:
    return {a.i for node in _nodes(model) if node.op_type == "Cast" for a in node.attribute if a.name == "to"}


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _place(error: BaseException) -> str:
    """Return the innermost place of the package that raised."""
    frames = [
        f for f in traceback.extract_tb(error.__traceback__) if re.search(r"(onnxcompress|passes)/[^/]", f.filename)
    ]
    frames = [f for f in frames if "corpus" not in f.filename] or traceback.extract_tb(error.__traceback__)[-1:]
    last = frames[-1]
    return f"{'/'.join(last.filename.split('/')[-2:])}:{last.lineno} {last.name}"


__all__ = ["ORDER", "Runner", "Verdict", "judge", "untimed"]

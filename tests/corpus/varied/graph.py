"""Grows a random graph from a seed, block by block, and knows what may be fed to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from .anything import ANYTHING
from .builder import FLOATS, Builder, Dim, Input, Tensor, Whole, numpy_type
from .constants import weight
from .control import CONTROL
from .data import DATA
from .features import MATRICES, TOKENS
from .images import IMAGES, Block

NEWEST = 27
OPSETS = (*range(7, NEWEST + 1), 13, 13, 17, 17, 17, 18, 18, 20, 21, 21)
WIDEST, DEEPEST_PICK = 40, 6
COMMON = ANYTHING | CONTROL | DATA
KINDS: dict[str, dict[str, tuple[Block, int]]] = {
    "image": IMAGES | COMMON, "tokens": TOKENS | COMMON, "matrix": MATRICES | COMMON
}  # fmt: skip


@dataclass(frozen=True)
class Varied:
    """A model, what may be fed to it, and which steps it was grown by."""

    seed: int
    model: onnx.ModelProto
    inputs: tuple[Input, ...]
    defaults: dict[str, np.ndarray]
    """Initializers that are inputs as well, and that a feed may override."""
    steps: tuple[str, ...]

    def feeds(self, number: int, batch: int = 2, *, override: bool = False) -> dict[str, Any]:
        """Draw one feed; sizes that are free are drawn as well, flags and counts follow the number."""
        random = np.random.default_rng([self.seed, number])
        sizes: dict[Dim, int] = {}
        feeds: dict[str, Any] = {}
        for place, item in enumerate(self.inputs):
            for dim in item.dims:
                if isinstance(dim, str):
                    sizes.setdefault(dim, batch if dim.startswith("N") else int(random.integers(5, 9)))
            shape = [sizes.get(dim, dim) for dim in item.dims]
            if item.dtype == "bool":
                feeds[item.name] = np.array(bool((number >> min(place, 1)) & 1))
            elif item.below:
                drawn = random.integers(0, item.below, shape) if shape else np.array(number % item.below)
                feeds[item.name] = drawn.astype(item.dtype)
            else:
                feeds[item.name] = random.standard_normal(shape).astype(numpy_type(item.dtype))
        if override:
            for name, array in self.defaults.items():
                noise = 1 + 0.5 * random.random(array.shape)
                feeds[name] = (array.astype(np.float64) * noise).astype(array.dtype)
        return feeds


def varied_graph(seed: int, skip: frozenset[int] = frozenset(), length: int | None = None) -> Varied:
    """Grow a model; `skip` leaves steps out, so that a failure can be reduced.

    Raises
    ------
    onnx.checker.ValidationError, onnx.shape_inference.InferenceError
        The graph is not valid: a defect of the generator.
    """
    whole = _whole(np.random.default_rng([seed, 0]))
    b = Builder(whole)
    count = int(whole.random.integers(2, 9)) if length is None else length
    steps = []
    start = _inputs(b)
    whole.loose += start
    for number in range(count):
        whole.random = np.random.default_rng([seed, number + 1])
        taken = "" if number in skip else _step(b)
        steps.append(taken)
    whole.random = np.random.default_rng([seed, 10_000])
    outputs = _outputs(b, start)
    model, defaults = _model(b, outputs)
    onnx.checker.check_model(model, full_check=True)
    return Varied(seed, model, tuple(whole.inputs), defaults, tuple(steps))


def _whole(random: np.random.Generator) -> Whole:
    opset = int(random.choice(OPSETS))
    dtype = str(random.choice(["float32"] * 8 + ["float16", "float64"]))
    whole = Whole(random, opset, dtype)
    whole.naming = str(random.choice(["plain", "plain", "torch", "unicode", "spaces"]))
    whole.node_names = str(random.choice(["unique", "unique", "unique", "empty", "some"]))
    whole.old = opset < 9 and bool(random.random() < 0.4)
    whole.plain = float(random.choice([1.0, 0.8, 0.5]))
    return whole


def _inputs(b: Builder) -> list[Tensor]:
    kinds = ["tokens", "matrix", "ids"] if b.dtype == "float64" else ["image", "image", "tokens", "ids", "matrix"]
    kind, batch = b.choose(*kinds), b.choose("N", "N", "N", 1, 2, 3)
    hidden = b.chance(0.15)
    if kind == "ids":
        tokens: Dim = b.choose("T", 4, 6)
        name = b.take(b.choose("int64", "int32"), (batch, tokens), below=10)
        width = b.choose(4, 6, 8, 12)
        return [Tensor(b.op("Gather", weight(b, 10, width), name), "tokens", (batch, tokens, width))]
    free = b.chance(0.2)
    dims: tuple[Dim, ...] = {
        "image": (batch, b.choose(1, 3, 4), *(("H", "W") if free else b.choose((6, 6), (8, 8), (5, 7)))),
        "tokens": (batch, "T" if free else b.choose(4, 5, 6), b.choose(4, 6, 8)),
        "matrix": (batch, b.choose(4, 6, 8, 10)),
    }[kind]
    symbols = {"image": "NCHW", "tokens": "NTF", "matrix": "NF"}[kind]
    declared = tuple(b.choose(d, s, None) for d, s in zip(dims, symbols, strict=True)) if hidden else dims
    declared = (dims[0], *(d if isinstance(d, str) else n for d, n in zip(dims[1:], declared[1:], strict=True)))
    return [Tensor(b.take(b.dtype, dims, declared=declared), kind, dims)]


def _step(b: Builder) -> str:
    loose = b.whole.loose
    x = loose[-1 - min(int(b.random.geometric(0.7)) - 1, DEEPEST_PICK, len(loose) - 1)]
    table = KINDS[x.kind]
    weights = np.array([share for _, share in table.values()], float)
    for name in b.random.choice(list(table), 4, p=weights / weights.sum()):
        if b.dtype == "float64" and str(name) in NOT_DOUBLE:
            continue
        y = table[str(name)][0](b, x)
        if y is not None:
            if y.width <= WIDEST:
                loose.append(y)
            return str(name)
    return ""


NOT_DOUBLE = frozenset({"tokens to image", "to image", "mixer", "recurrent", "rounded", "integer layer", "slope"})
"""Blocks whose operators ONNX Runtime does not compute in double precision."""


def _outputs(b: Builder, start: list[Tensor]) -> list[onnx.ValueInfoProto]:
    """Read the last few tensors by outputs; leave what is not read dead, now and then on purpose."""
    loose = [t for t in b.whole.loose if t not in start] or [start[0].like(b.op("Relu", start[0].name))]
    chosen = loose[-int(b.choose(1, 1, 2, 3)) :]
    if b.chance(0.2):
        b.op("Mul", chosen[-1].name, b.scalar(3.0))
    if b.chance(0.1):
        weight(b, 3, 3)
    made = {name for node in b.nodes for name in node.output}
    infos = []
    for x in dict.fromkeys(chosen):
        name = x.name if x.name in made and b.chance(0.7) else b.op("Identity", x.name)
        infos.append(b.info(name, _declared(b, x)))
    taken = {info.name for info in infos}
    infos += [info for info in b.whole.outputs if info.name not in taken]
    readable = [t for t in b.whole.initializers if t.data_type != FLOATS["bfloat16"]]
    if b.chance(0.06) and readable:
        stored = b.choose(*readable)
        infos.append(helper.make_tensor_value_info(stored.name, stored.data_type, list(stored.dims)))
    return infos


def _declared(b: Builder, x: Tensor) -> tuple[Any, ...]:
    hide = b.chance(0.2)
    return tuple(b.fresh("d") if (isinstance(d, str) and d not in "NTHW") or hide else d for d in x.dims)


def _model(b: Builder, outputs: list[onnx.ValueInfoProto]) -> tuple[onnx.ModelProto, dict[str, np.ndarray]]:
    whole = b.whole
    inputs = [b.info(item.name, whole.declared[item.name], item.dtype) for item in whole.inputs]
    old = whole.old
    shared = [t for t in whole.initializers if old or (t.data_type in FLOATS.values() and t.dims and b.chance(0.5))]
    defaults = {}
    if old or b.chance(0.08):
        for tensor in shared:
            inputs.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            if not old and tensor.data_type != FLOATS["bfloat16"]:
                defaults[tensor.name] = whole.arrays[tensor.name]
    graph = helper.make_graph(b.nodes, "varied", inputs, outputs, whole.initializers)
    imports = [helper.make_opsetid("", whole.opset)]
    if whole.functions:
        imports.append(helper.make_opsetid("local", 1))
    model = helper.make_model(graph, opset_imports=imports, functions=whole.functions)
    model.ir_version = 3 if old else max(helper.find_min_ir_version_for(imports[:1]), b.choose(8, 9, 10))
    if b.chance(0.3):
        model = onnx.shape_inference.infer_shapes(model)
    return model, defaults

"""Every way in which a constant may reach the operator that computes with it, and every operator that does."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir

Stored = tuple[str, dict[str, np.ndarray]]
Way = Callable[[str, np.ndarray], Stored | None]
"""Name and value of a constant → the nodes that make it, and what is stored; None where it cannot be."""

TYPES = {np.dtype(np.float32): 1, np.dtype(np.float16): 10, np.dtype(np.float64): 11}


def _cast(kind: type, scale: float = 1) -> Way:
    def way(name: str, array: np.ndarray) -> Stored:
        return f"{name} = Cast<to = {TYPES[array.dtype]}>({name}_0)", {f"{name}_0": (array * scale).astype(kind)}

    return way


def _through_whole_numbers(name: str, array: np.ndarray) -> Stored:
    nodes = f"{name}_1 = Cast<to = 6>({name}_0) {name} = Cast<to = {TYPES[array.dtype]}>({name}_1)"
    return nodes, {f"{name}_0": array * 5}


def _transposed(name: str, array: np.ndarray, source: str = "") -> Stored | None:
    perm = list(range(array.ndim))[::-1]
    nodes = f"{name} = Transpose<perm = {perm}>({source or name + '_0'})"
    return (nodes, {f"{name}_0": np.ascontiguousarray(array.T)}) if array.ndim > 1 else None


def _cast_and_transposed(name: str, array: np.ndarray) -> Stored | None:
    found = _transposed(name, array, f"{name}_1")
    if found is None:
        return None
    return f"{name}_1 = Cast<to = {TYPES[array.dtype]}>({name}_0) {found[0]}", {
        k: v.astype(np.float64) for k, v in found[1].items()
    }


def _transposed_and_cast(name: str, array: np.ndarray) -> Stored | None:
    found = _transposed(f"{name}_1", array)
    if found is None:
        return None
    return f"{found[0]} {name} = Cast<to = {TYPES[array.dtype]}>({name}_1)", {
        k: v.astype(np.float64) for k, v in found[1].items()
    }


def _reshaped(name: str, array: np.ndarray) -> Stored:
    return f"{name} = Reshape({name}_0, {name}_s)", {
        f"{name}_0": array.reshape(-1),
        f"{name}_s": np.array(array.shape, np.int64),
    }


def _dequantized(name: str, array: np.ndarray) -> Stored | None:
    stored = {f"{name}_0": np.round(array * 40).astype(np.int8), f"{name}_s": np.array(0.025, np.float32)}
    return (f"{name} = DequantizeLinear({name}_0, {name}_s)", stored) if array.dtype == np.float32 else None


def _dequantized_off_zero(name: str, array: np.ndarray) -> Stored | None:
    found = _dequantized(name, array)
    if found is None:
        return None
    stored = found[1] | {
        f"{name}_0": (found[1][f"{name}_0"].astype(np.int16) + 128).clip(0, 255).astype(np.uint8),
        f"{name}_z": np.array(128, np.uint8),
    }
    return f"{name} = DequantizeLinear({name}_0, {name}_s, {name}_z)", stored


def _dequantized_by_channel(name: str, array: np.ndarray) -> Stored | None:
    found = _dequantized(name, array)
    if found is None:
        return None
    scales = np.linspace(0.01, 0.04, len(array)).astype(np.float32)
    return f"{name} = DequantizeLinear<axis = 0>({name}_0, {name}_s)", found[1] | {f"{name}_s": scales}


def _joined(name: str, array: np.ndarray) -> Stored:
    half = len(array) // 2
    return f"{name} = Concat<axis = 0>({name}_0, {name}_1)", {f"{name}_0": array[:half], f"{name}_1": array[half:]}


def _looked_up(name: str, array: np.ndarray) -> Stored:
    order = np.arange(len(array))[::-1].astype(np.int32)
    return f"{name} = Gather<axis = 0>({name}_0, {name}_i)", {
        f"{name}_0": np.ascontiguousarray(array[::-1]),
        f"{name}_i": order,
    }


def _sliced(name: str, array: np.ndarray) -> Stored:
    stored = {f"{name}_0": np.concatenate([array, array[:1]])}
    for key, number in (("a", 0), ("b", len(array)), ("c", 0)):
        stored[f"{name}_{key}"] = np.array([number], np.int32)
    return f"{name} = Slice({name}_0, {name}_a, {name}_b, {name}_c)", stored


def _scaled(name: str, array: np.ndarray) -> Stored:
    return f"{name} = Mul({name}_0, {name}_s)", {f"{name}_0": array / 2, f"{name}_s": np.array(2, array.dtype)}


WAYS: dict[str, Way] = {
    "as it is": lambda name, array: ("", {name: array}),
    "Identity": lambda name, array: (f"{name} = Identity({name}_0)", {f"{name}_0": array}),
    "two Identities": lambda name, array: (
        f"{name}_1 = Identity({name}_0) {name} = Identity({name}_1)",
        {f"{name}_0": array},
    ),
    "Cast from double": _cast(np.float64),
    "Cast from int32": _cast(np.int32, 5),
    "Cast to int32 and back": _through_whole_numbers,
    "Transpose": _transposed,
    "Cast and Transpose": _cast_and_transposed,
    "Transpose and Cast": _transposed_and_cast,
    "Reshape": _reshaped,
    "DequantizeLinear": _dequantized,
    "DequantizeLinear with a zero point": _dequantized_off_zero,
    "DequantizeLinear by channel": _dequantized_by_channel,
    "Concat": _joined,
    "Gather": _looked_up,
    "Slice": _sliced,
    "Mul": _scaled,
}

FIRST_OPSET = {"DequantizeLinear by channel": 13}
"""Where the operators or attributes of a way are newer than any of a consumer's."""

FLAT = "{t}[N,6] x) => ({t}[N,4] y) {{ a = MatMul(x, w1) c = Add(a, b1) r = Relu(c) {body} }}"
IMAGE = "{t}[N,3,6,6] x) => ({t}[N,4,p,q] y) {{ a = Conv(x, w1, b1) r = Relu(a) {body} }}"
TOKENS = "{t}[N,5,6] x) => ({t}[N,5,4] y) {{ a = MatMul(x, w1) c = Add(a, b1) r = Relu(c) {body} }}"
STEPS = "{t}[5,N,6] x) => ({t}[5,1,N,4] y) {{ a = MatMul(x, w1) c = Add(a, b1) r = Relu(c) {body} }}"
Shapes = dict[str, tuple[int, ...]]
_VECTORS: Shapes = {"w1": (6, 8), "b1": (8,)}
_IMAGES: Shapes = {"w1": (8, 3, 1, 1), "b1": (8,)}
_NORMED = "n = {norm}(r, s, b) y = Conv(n, w3)"

CONSUMERS: dict[str, tuple[str, str, Shapes, Shapes, int]] = {
    "MatMul": (FLAT, "y = MatMul(r, w2)", _VECTORS, {"w2": (8, 4)}, 7),
    "MatMul on tokens": (TOKENS, "m = MatMul(r, w2) y = Add(m, b2)", _VECTORS, {"w2": (8, 4), "b2": (4,)}, 7),
    "Gemm": (FLAT, "y = Gemm<alpha = 0.5, beta = 2.0>(r, w2, b2)", _VECTORS, {"w2": (8, 4), "b2": (4,)}, 11),
    "Gemm transposed": (FLAT, "y = Gemm<transB = 1>(r, w2, b2)", _VECTORS, {"w2": (4, 8), "b2": (1, 4)}, 11),
    "Conv": (IMAGE, "y = Conv(r, w2, b2)", _IMAGES, {"w2": (4, 8, 3, 3), "b2": (4,)}, 7),
    "Conv in groups": (IMAGE, "y = Conv<group = 2>(r, w2)", _IMAGES, {"w2": (4, 4, 1, 1)}, 7),
    "Conv of its own channel": (
        IMAGE,
        "d = Conv<group = 8>(r, w2, b2) y = Conv(d, w3)",
        _IMAGES | {"w3": (4, 8, 1, 1)},
        {"w2": (8, 1, 3, 3), "b2": (8,)},
        7,
    ),
    "ConvTranspose": (IMAGE, "y = ConvTranspose(r, w2, b2)", _IMAGES, {"w2": (8, 4, 2, 2), "b2": (4,)}, 7),
    "GRU": (
        STEPS,
        "y = GRU<hidden_size = 4>(r, w2, v, b2)",
        _VECTORS | {"v": (1, 12, 4)},
        {"w2": (1, 12, 8), "b2": (1, 24)},
        7,
    ),
    "LSTM": (
        STEPS,
        "y = LSTM<hidden_size = 4>(r, w2, v, b2)",
        _VECTORS | {"v": (1, 16, 4)},
        {"w2": (1, 16, 8), "b2": (1, 32)},
        7,
    ),
    "LayerNormalization": (
        TOKENS,
        "n = LayerNormalization(r, s, b) y = MatMul(n, w3)",
        _VECTORS | {"w3": (8, 4)},
        {"s": (8,), "b": (8,)},
        17,
    ),
    "two LayerNormalizations": (
        TOKENS,
        "n = LayerNormalization(c, s, b) m = MatMul(n, w2) d = Add(c, m) o = LayerNormalization(d, s, b) "
        "y = MatMul(o, w3)",
        _VECTORS | {"w2": (8, 8), "w3": (8, 4)},
        {"s": (8,), "b": (8,)},
        17,
    ),
    "RMSNormalization": (
        TOKENS,
        "n = RMSNormalization(r, s) y = MatMul(n, w3)",
        _VECTORS | {"w3": (8, 4)},
        {"s": (8,)},
        23,
    ),
    "BatchNormalization": (
        IMAGE,
        "n = BatchNormalization(r, s, b, m, var) y = Conv(n, w3)",
        _IMAGES | {"w3": (4, 8, 1, 1)},
        {"s": (8,), "b": (8,), "m": (8,), "var": (8,)},
        9,
    ),
    "InstanceNormalization": (
        IMAGE,
        "n = InstanceNormalization(r, s, b) y = Conv(n, w3)",
        _IMAGES | {"w3": (4, 8, 1, 1)},
        {"s": (8,), "b": (8,)},
        7,
    ),
    "GroupNormalization": (
        IMAGE,
        "n = GroupNormalization<num_groups = 4>(r, s, b) y = Conv(n, w3)",
        _IMAGES | {"w3": (4, 8, 1, 1)},
        {"s": (8,), "b": (8,)},
        21,
    ),
    "PRelu": (IMAGE, "n = PRelu(a, s) y = Conv(n, w3)", _IMAGES | {"w3": (4, 8, 1, 1)}, {"s": (8, 1, 1)}, 9),
    "Mul and Add": (
        IMAGE,
        "n = Mul(r, s) o = Add(n, b) y = Conv(o, w3)",
        _IMAGES | {"w3": (4, 8, 1, 1)},
        {"s": (1, 8, 1, 1), "b": (8, 1, 1)},
        7,
    ),
    "a shared weight": (
        FLAT,
        "d = MatMul(r, w2) e = Relu(d) f = MatMul(e, w2) y = MatMul(f, w3)",
        _VECTORS | {"w3": (8, 4)},
        {"w2": (8, 8)},
        7,
    ),
}
"""Name → frame, body, what is stored as it is, what is moved, and the first opset that has the operators."""

FORMS = ("initializers", "Constant nodes", "Identity")
"""How everything that is stored is stored."""


def moved(
    consumer: str,
    way: str,
    *,
    opset: int = 18,
    dtype: type = np.float32,
    form: str = "initializers",
    dead: tuple[int, ...] = (),
    seed: int = 0,
) -> ir.Model | None:
    """Make a model; channels in `dead` are constants that are not zero. None where there is no such model."""
    frame, body, plain, changed, first = CONSUMERS[consumer]
    if opset < max(first, FIRST_OPSET.get(way, 0)):
        return None
    random = np.random.default_rng(seed)
    arrays = {name: _drawn(random, name, shape, dtype) for name, shape in (plain | changed).items()}
    axis = 0 if arrays["w1"].ndim == 4 else 1
    for channel in dead:
        arrays["w1"][(slice(None),) * axis + (channel,)] = 0
        arrays["b1"][channel] = abs(arrays["b1"][channel]) + dtype(0.5)
    nodes, stored = [], {name: arrays[name] for name in plain}
    for name in changed:
        found = WAYS[way](name, arrays[name])
        if found is None:
            return None
        nodes.append(found[0])
        stored |= found[1]
    kind = {np.float32: "float", np.float16: "float16"}[dtype]
    text = "g (" + frame.format(t=kind, body=" ".join([*nodes, body]))
    ir_version = 11 if opset >= 23 else 10 if opset >= 21 else 8
    header = f'<ir_version: {ir_version}, opset_import: ["" : {opset}]>\n'
    proto = onnx.parser.parse_model(header + text)
    _store(proto.graph, stored, form)
    onnx.checker.check_model(proto, full_check=True)
    return ir.from_proto(proto)


def _drawn(random: np.random.Generator, name: str, shape: tuple[int, ...], dtype: type) -> np.ndarray:
    array = random.standard_normal(shape)
    return (np.abs(array) + 0.5 if name == "var" else array).astype(dtype)


def _store(graph: onnx.GraphProto, stored: dict[str, np.ndarray], form: str) -> None:
    first = []
    for name, array in stored.items():
        tensor = onnx.numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        if form == "Constant nodes":
            first.append(onnx.helper.make_node("Constant", [], [name], value=tensor))
            continue
        if form == "Identity":
            tensor.name = f"{name}_behind"
            first.append(onnx.helper.make_node("Identity", [tensor.name], [name]))
        graph.initializer.append(tensor)
    nodes = [*first, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)

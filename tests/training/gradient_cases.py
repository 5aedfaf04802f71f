"""Forms of operators whose gradients are compared with differences, and forms that are refused.

A line is the body of a graph that makes `y` of `x`, ``float[N,4,6,6]``, and of `p`, which is positive; all that has no
producer is in `constants`. A number in front is the opset, 17 otherwise.
"""

from __future__ import annotations

import numpy as np

WINDOWS = """
y = Conv(x, k3, b5)
y = Conv<auto_pad = "SAME_UPPER">(x, k3, b5)
y = Conv<auto_pad = "SAME_LOWER">(x, k2, b5)
y = Conv<auto_pad = "SAME_UPPER", strides = [2, 2]>(x, k3, b5)
y = Conv<auto_pad = "SAME_LOWER", strides = [2, 3]>(x, k23, b5)
y = Conv<auto_pad = "SAME_UPPER", group = 4, strides = [2, 2]>(x, kd)
y = Conv<auto_pad = "VALID", strides = [2, 1]>(x, k3, b5)
y = Conv<auto_pad = "NOTSET", pads = [1, 0, 2, 1]>(x, k3, b5)
y = Conv<dilations = [2, 1], pads = [2, 1, 2, 1]>(x, k3, b5)
y = Conv<group = 2, strides = [2, 3]>(x, kg, b6)
q = Reshape(x, line); y = Conv<auto_pad = "SAME_LOWER", strides = [2]>(q, k1d, b5)
q = Reshape(x, solid); y = Conv<auto_pad = "SAME_UPPER", strides = [1, 2, 1]>(q, k3d, b5)
t = Transpose<perm = [1, 0, 2, 3]>(kt); y = Conv<auto_pad = "SAME_UPPER">(x, t)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], pads = [1, 1, 1, 1]>(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
y = MaxPool<kernel_shape = [2, 2], auto_pad = "SAME_LOWER">(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "VALID">(x)
y = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)
y = MaxPool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
y = MaxPool<kernel_shape = [2, 2], storage_order = 1>(x)
y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1]>(x)
y = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)
y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x)
y = AveragePool<kernel_shape = [2, 2], auto_pad = "SAME_LOWER", count_include_pad = 1>(x)
y = AveragePool<kernel_shape = [3, 3], auto_pad = "VALID">(x)
y = AveragePool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x)
19: y = AveragePool<kernel_shape = [2, 2], dilations = [2, 2]>(x)
y = GlobalAveragePool(x)
"""

PRODUCTS = """
f = Flatten(x); y = Gemm<alpha = 0.5, beta = 2.0>(f, dense, c5)
f = Flatten(x); y = Gemm<beta = 0.0>(f, dense, c5)
f = Flatten(x); y = Gemm<transB = 1, alpha = 0.5>(f, dense_t, c15)
f = Flatten(x); y = Gemm(f, dense)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, c31)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, half)
f = Flatten(x); y = Gemm<beta = 0.5>(f, dense, c35)
f = Flatten(x); t = Transpose(f); y = Gemm<transA = 1, transB = 1, alpha = 0.5>(t, dense_t, c5)
y = MatMul(x, m67)
y = MatMul(x, v6)
y = MatMul(v6, x)
y = MatMul(x, m467)
y = MatMul(x, m3467)
y = MatMul(m456, x)
y = MatMul(x, p)
a = ReduceMean<axes = [1], keepdims = 0>(p); b = ReduceMean<axes = [0], keepdims = 0>(a); y = MatMul(b, x)
a = ReduceMean<axes = [0, 1, 2], keepdims = 0>(x); y = MatMul(p, a)
"""

NORMS = """
11: y = Softmax(x)
11: y = Softmax<axis = 2>(x)
9: y = LogSoftmax<axis = 3>(x)
y = Softmax<axis = -2>(x)
y = LogSoftmax<axis = 2>(x)
y = LayerNormalization<epsilon = 0.1>(x, s6, h6)
y = LayerNormalization(x, s6)
y = LayerNormalization<axis = -2>(x, s66, h66)
y = LayerNormalization<axis = 1>(x, s466, h466)
y = BatchNormalization<epsilon = 0.1>(x, s4, h4, mean, var)
9: y = BatchNormalization<epsilon = 0.1>(x, s4, h4, mean, var)
"""

ELEMENTS = """
y = Div(x, p)
a = ReduceMean<axes = [1, 3]>(p); y = Div(x, a)
a = ReduceMean<axes = [1, 3]>(x); y = Div(a, p)
a = ReduceMean<axes = [1, 3]>(p); y = Sub(a, x)
a = Add(x, s411); y = Mul(a, s6)
a = Add(s61, x); y = Mul(s3466, a)
y = Mul(x, x)
y = Add(p, p)
y = Pow(x, three)
y = Pow(x, two_i)
y = Pow(p, s6)
y = Pow(half, x)
y = Min(x, s61)
y = Max(x, p, s6)
y = Where(condition, x, p)
y = Where(condition_6, x, half)
a = ReduceMean<axes = [2]>(x); y = Where(condition, a, p)
a = ReduceMean<axes = [0, 2]>(x); b = ReduceMean<axes = [1, 3]>(p); y = Where(condition, a, b)
y = Clip(x, low)
y = Clip(x, , high)
y = Clip(x)
9: y = Clip<min = -0.3, max = 0.3>(x)
y = LeakyRelu<alpha = 0.2>(x)
20: y = Gelu<approximate = "tanh">(x)
r = Relu(x); s = Mul(r, r); y = Sqrt(s)
a = Greater(x, half); y = Where(a, x, p)
a = ArgMax<axis = 1>(x); g = Cast<to = 1>(a); y = Mul(g, x)
"""

REDUCTIONS = """
y = {}<axes = [2, 3]>(x)
a = {}<axes = [-1, 1], keepdims = 0>(x); y = Mul(a, a)
a = {}<keepdims = 0>(x); y = Mul(x, a)
a = {}(x); y = Mul(x, a)
18: y = {}<keepdims = 0>(x, axes_23)
18: a = {}<keepdims = 0>(x, minus_2); y = Mul(a, a)
18: a = {}<keepdims = 0>(x); y = Mul(x, a)
18: y = {}<noop_with_empty_axes = 1>(x)
18: y = {}<noop_with_empty_axes = 1>(x, empty)
18: a = {}(x, empty); y = Mul(x, a)
11: y = {}<axes = [1], keepdims = 0>(x)
"""

SUMS = """
y = ReduceSum<keepdims = 0>(x, axes_23)
y = ReduceSum<noop_with_empty_axes = 1>(x)
a = ReduceSum(x, empty); y = Mul(x, a)
11: y = ReduceSum<axes = [1], keepdims = 0>(x)
"""

MOVES = """
y = Gather<axis = -1>(x, picked)
y = Gather<axis = 2>(x, picked_2d)
y = Gather<axis = 2>(x, minus_2_scalar)
g = Gather<axis = 0>(s66, picked); q = ReduceMean<axes = [0]>(g); y = Mul(x, q)
y = GatherElements<axis = 1>(x, elements)
y = GatherND<batch_dims = 1>(x, positions_1)
y = ScatterElements<axis = 1>(x, permuted, p)
y = ScatterND(x, positions, updates)
y = Slice(x, minus_2, many, three_i)
y = Slice(x, zero_one, many_three)
y = Slice(x, one, many, minus_1, two_i)
9: y = Slice<starts = [1], ends = [3], axes = [2]>(x)
a, b = Split<axis = 1>(x, one_three); q = Gather<axis = 1>(b, two_i); y = Mul(a, q)
a, b = Split<axis = -1>(x); y = Mul(a, b)
18: a, b, c = Split<axis = -1, num_outputs = 3>(x); q = Mul(a, b); y = Mul(c, q)
y = Pad(x, pads, half)
y = Pad(x, negative_pads)
9: y = Pad<pads = [0, 0, 1, 2, 0, 0, 1, 0], value = 0.5>(x)
u = Unsqueeze(x, one); y = Expand(u, expanded)
a = ReduceMean<axes = [1, 3]>(x); y = Expand(a, one)
a = Expand(s6, whole); y = Mul(x, a)
y = Tile(x, repeats)
y = Concat<axis = -1>(x, p, x)
y = Reshape(x, joined)
f = Flatten<axis = 2>(x); y = Reshape(f, three_rows)
t = Transpose(x); y = Transpose(t)
t = Transpose<perm = [1, 2, 3, 0]>(x); u = Mul(t, t); y = Transpose<perm = [3, 0, 1, 2]>(u)
u = GlobalAveragePool(x); y = Squeeze(u)
11: u = Unsqueeze<axes = [1, 2]>(x); y = Squeeze<axes = [1]>(u)
y = Trilu<upper = 0>(x, minus_1_scalar)
y = Dropout(x)
y = Slice(x, minus_1, few, three_i, minus_1)
a, b = Split<axis = 1>(x); y = Mul(a, a)
18: y = Pad(x, four_pads, half, axes_23)
"""

REFUSED = {
    "y = ConvTranspose(x, transposed)": "no gradient",
    'y = ConvTranspose<auto_pad = "SAME_UPPER">(x, transposed)': "no gradient",
    '16: y = ScatterElements<axis = 1, reduction = "add">(x, permuted, p)': "no gradient with a reduction",
    '16: y = ScatterND<reduction = "mul">(x, positions, updates)': "no gradient with a reduction",
    'y = Pad<mode = "reflect">(x, pads)': "no gradient in reflect mode",
    '9: y = Pad<mode = "edge", pads = [0, 0, 1, 2, 0, 0, 1, 0]>(x)': "no gradient in edge mode",
    "y = Dropout(x, half, true)": "no gradient in training mode",
    'y = Resize<mode = "linear">(x, , scales)': "no gradient",
    'y = Einsum<equation = "bchw,wv->bchv">(x, m67)': "no gradient",
    "y = PRelu(x, half)": "no gradient",
    "y = Elu(x)": "no gradient",
}
"""Line to what the reason says, behind the node's name."""


def lines(text: str) -> list[str]:
    return [line for line in text.splitlines() if line]


RIGHT = [
    *lines(WINDOWS + PRODUCTS + NORMS + ELEMENTS + SUMS + MOVES),
    *(line.format(op) for op in ("ReduceL2", "ReduceLogSumExp", "ReduceMean") for line in lines(REDUCTIONS)),
]


def constants() -> dict[str, np.ndarray]:
    random = np.random.default_rng(5)

    def real(*shape: int) -> np.ndarray:
        return random.uniform(-1, 1, shape).astype(np.float32)

    kernels = {"k2": (5, 4, 2, 2), "k3": (5, 4, 3, 3), "k23": (5, 4, 2, 3), "kg": (6, 2, 3, 3), "kd": (8, 1, 3, 3)}
    kernels |= {"k1d": (5, 4, 3), "k3d": (5, 4, 2, 3, 3), "kt": (4, 5, 3, 3), "transposed": (4, 5, 3, 3)}
    factors = {"dense": (144, 5), "dense_t": (5, 144), "m67": (6, 7), "m467": (4, 6, 7), "m3467": (3, 4, 6, 7)}
    addends = {"b5": (5,), "b6": (6,), "c5": (5,), "c15": (1, 5), "c31": (3, 1), "c35": (3, 5), "updates": (2, 6, 6)}
    addends |= {"h4": (4,), "h6": (6,), "h66": (6, 6), "h466": (4, 6, 6), "mean": (4,), "v6": (6,), "m456": (4, 5, 6)}
    scales = {"s4": (4,), "s6": (6,), "s66": (6, 6), "s466": (4, 6, 6), "s411": (4, 1, 1), "s61": (6, 1), "var": (4,)}
    scales["s3466"] = (3, 4, 6, 6)
    integers = {"one": [1], "two_i": [2], "three_i": [3], "minus_1": [-1], "minus_2": [-2], "many": [99], "few": [-99]}
    integers |= {"minus_1_scalar": -1, "minus_2_scalar": -2, "axes_23": [2, 3], "empty": [], "picked": [0, 2, -1]}
    integers |= {"picked_2d": [[0, -1], [2, 2]], "positions": [[0, -1], [1, 2]], "positions_1": [[[1]], [[-1]], [[0]]]}
    integers |= {"zero_one": [0, 1], "many_three": [99, 3], "one_three": [1, 3], "pads": [0, 0, 1, 2, 0, 0, 1, 0]}
    integers |= {"negative_pads": [0, 0, -1, 0, 0, 0, 1, -1], "four_pads": [1, 0, 2, 1], "expanded": [3, 2, 4, 6, 6]}
    integers |= {"whole": [3, 4, 6, 6], "repeats": [1, 2, 1, 3], "joined": [0, 2, -1], "three_rows": [3, -1]}
    integers |= {"line": [0, 4, 36], "solid": [0, 4, 3, 3, 4]}
    elements = random.integers(-4, 4, (3, 4, 6, 6))
    permuted = random.permuted(np.tile(np.arange(4)[None, :, None, None], (3, 1, 6, 6)), axis=1)
    numbers = {"half": 0.5, "three": 3, "low": -0.3, "high": 0.3}
    return {
        "w": np.zeros((4, 6, 6), np.float32),
        **{name: real(*shape) for name, shape in (kernels | factors | addends).items()},
        **{name: real(*shape) + 2 for name, shape in scales.items()},
        **{name: np.array(value, np.int64) for name, value in integers.items()},
        **{name: np.array(value, np.float32) for name, value in numbers.items()},
        "condition": random.random((3, 4, 6, 6)) > 0.5,
        "condition_6": random.random(6) > 0.5,
        "elements": elements,
        "permuted": permuted,
        "scales": np.array([1, 1, 2, 2], np.float32),
        "true": np.array(True),
    }

"""Types and shapes of what onnxruntime's own operators give."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import onnx
from onnx import shape_inference

from ..dims import Dim, Dims, broadcast, scaled
from ..layer import product_of
from . import attention
from .attention import Shapes
from .call import Call, last
from .schemas import Signature

Rule: TypeAlias = Callable[[Call], Shapes]
"""Raises `LookupError` or `ValueError` where shapes that it needs are not known or do not fit."""


def _like(*indices: int) -> Rule:
    return lambda call: [call.shape(index) for index in indices]


def _broadcast(*indices: int) -> Rule:
    return lambda call: [broadcast(*(call.shape(index) for index in indices))]


def _product(a: int = 0, b: int = 1) -> Rule:
    def rule(call: Call) -> Shapes:
        if call.number("transBatchA") or call.number("transBatchB"):
            raise LookupError("stacks that are transposed")
        return [product_of(call.node, call.shape(a), call.shape(b))[0]]

    return rule


def _onnx(op: str, *ports: int, turned: tuple[int, ...] = ()) -> Rule:
    return lambda call: call.as_onnx(op, *ports, turned=turned)


def _channels_last(op: str, *ports: int) -> Rule:
    """Return the rule of an operator whose data has its channels last where an attribute says so."""
    return lambda call: call.as_onnx(op, *ports, turned=(0,) if call.number("channels_last") else ())


def _columns(*names: str, same: int = 0) -> Rule:
    """Return the rule of products with packed weights, as many as `names`, which may give the `same` input as well."""
    return lambda call: [*(last(call.shape(0), call.number(name)) for name in names), call.shape(same)]


def _normalised(before: int) -> Rule:
    """Return the rule of a normalisation of rows; output `before` is what is normalised."""

    def rule(call: Call) -> Shapes:
        shape, axis = call.shape(0), call.number("axis", -1)
        axis = axis % len(shape)
        statistic: Dims = (*shape[:axis], *(1 for _ in shape[axis:]))
        return [shape, *(statistic for _ in range(before - 1)), shape]

    return rule


def _embedded(call: Call) -> Shapes:
    shape = (*call.shape(0), call.shape(2)[1])
    kind = call.number("mask_index_type")
    return [shape, (scaled(shape[0], 3 if kind == 2 else 1),) if kind < 2 else None, shape]


def _looked_up(call: Call) -> Shapes:
    data, axis = call.shape(0), call.number("gather_axis")
    times = 8 // call.number("bits", 4) if call.dtype(0) == onnx.TensorProto.UINT8 else 1
    whole = last(data, scaled(data[-1], times))
    axis = axis % len(data)
    return [(*whole[:axis], *call.shape(1), *whole[axis + 1 :])]


def _concatenated(call: Call) -> Shapes:
    parts = [call.shape(index) for index in range(2, len(call.node.inputs), 3)]
    axis = call.number("axis") % len(parts[0])
    sizes = [part[axis] for part in parts]
    total: Dim = sum(n for n in sizes if isinstance(n, int)) if all(isinstance(n, int) for n in sizes) else None
    return [tuple(total if i == axis else dim for i, dim in enumerate(parts[0]))]


def _halved(call: Call) -> Shapes:
    return [last(call.shape(0), scaled(call.shape(0)[-1], 1, 2))]


def _gated(call: Call) -> Shapes:
    return [call.shape(0)] if call.has(1) else _halved(call)


def _convolved_with_state(call: Call) -> Shapes:
    shape, kernel = call.shape(0), call.shape(1)[-1]
    if call.number("input_channels"):
        return []
    if call.has(3):
        return [shape, call.shape(3)]
    if call.number("state_window") or call.number("channels_last") or not isinstance(kernel, int):
        return [shape]
    return [shape, (*shape[:-1], (kernel - 1) * call.number("dilation", 1))]


def _recurrent(call: Call) -> Shapes:
    steps, batch, _ = call.shape(0)
    directions, hidden = call.shape(1)[0], call.number("hidden_size")
    return [(steps, directions, batch, hidden), *[(directions, batch, hidden)] * 2]


def _spectrum(call: Call) -> Shapes:
    shape = call.shape(0)
    bins: Dim = shape[-1] // 2 + 1 if isinstance(shape[-1], int) else None
    return [(*shape[:-1], bins if call.number("onesided", 1) else shape[-1], 2)]


def _signal(call: Call) -> Shapes:
    shape = call.shape(0)
    bins = shape[-2]
    points: Dim = 2 * (bins - 1) if isinstance(bins, int) else None
    return [(*shape[:-2], points if call.number("onesided", 1) else bins)]


def _positions(call: Call) -> Shapes:
    lengths = (int(call.values(index).item()) for index in (1, 2))
    return [(1, call.shape(0)[1], *lengths)]


ELEMENTWISE = [
    "BiasAdd",
    "BiasGelu",
    "BiasSoftmax",
    "BranchwiseRMSNorm",
    "DequantizeLinear",
    "FastGelu",
    "GatedAdd",
    "GatedRMSNorm",
    "Gelu",
    "GroupNorm",
    "Inverse",
    "LongformerAttention",
    "MoE",
    "MRotaryEmbedding",
    "NGramRepeatBlock",
    "QLinearLeakyRelu",
    "QLinearSigmoid",
    "QLinearSoftmax",
    "QMoE",
    "QOrderedGelu",
    "QOrderedLayerNormalization",
    "QuantizeLinear",
    "QuantizeWithOrder",
    "DequantizeWithOrder",
    "QuickGelu",
    "RotaryEmbedding",
    "ScaledSiLU",
    "Trilu",
]
"""What they give first has the shape of what they read first."""

MICROSOFT: dict[str, Rule] = {
    **dict.fromkeys(ELEMENTWISE, _like(0)),
    "Attention": attention.joint(4),
    "BiasDropout": _like(0, 0),
    "BiasSplitGelu": _halved,
    "BitmaskDropout": _like(0),
    "CDist": lambda call: [(call.shape(0)[0], call.shape(1)[0])],
    "CausalConvWithState": _convolved_with_state,
    "ComplexMul": _broadcast(0, 1),
    "ComplexMulConj": _broadcast(0, 1),
    "DecoderMaskedMultiHeadAttention": attention.multi_head(5, shared=True),
    "DecoderMaskedSelfAttention": attention.joint(4),
    "DynamicQuantizeLSTM": _recurrent,
    "DynamicQuantizeMatMul": _product(),
    "EmbedLayerNormalization": _embedded,
    "FusedConv": _onnx("Conv", 0, 1),
    "FusedGemm": _product(),
    "FusedMatMul": _product(),
    "FusedMatMulActivation": _product(),
    "GatherBlockQuantized": _looked_up,
    "GemmFastGelu": _product(),
    "GemmaRotaryEmbedding": _like(1, 3),
    "GridSample": lambda call: [(*call.shape(0)[:2], *call.shape(1)[1:3])],
    "GroupQueryAttention": attention.grouped,
    "Irfft": _signal,
    "IsAllFinite": lambda call: [()],
    "LinearAttention": attention.linear,
    "LinearAttentionGate": _like(0, 0),
    "MatMulBnb4": _columns("N"),
    "MatMulInteger16": _product(),
    "MatMulIntegerToFloat": _product(),
    "MatMulNBits": _columns("N"),
    "MatMulNBitsMlp": _columns("N"),
    "MatMulNBitsQkv": _columns("Nq", "Nkv", "Nkv"),
    "MulInteger": _broadcast(0, 2),
    "MultiHeadAttention": attention.multi_head(6),
    "NhwcConv": _onnx("Conv", 0, 1, turned=(0,)),
    "NhwcFusedConv": _onnx("Conv", 0, 1, turned=(0,)),
    "NhwcMaxPool": _onnx("MaxPool", 0, turned=(0,)),
    "PackedAttention": attention.packed_joint,
    "PackedMultiHeadAttention": attention.packed,
    "QAttention": attention.joint(8),
    "QEmbedLayerNormalization": _embedded,
    "QGemm": _product(0, 3),
    "QLinearAdd": _broadcast(0, 3),
    "QLinearAveragePool": _channels_last("AveragePool", 0),
    "QLinearConcat": _concatenated,
    "QLinearConv": _channels_last("Conv", 0, 3),
    "QLinearGlobalAveragePool": _channels_last("GlobalAveragePool", 0),
    "QLinearMul": _broadcast(0, 3),
    "QLinearReduceMean": _onnx("ReduceMean", 0),
    "QLinearWhere": _broadcast(0, 1, 4),
    "RelativePositionBias": _positions,
    "Rfft": _spectrum,
    "SkipGroupNorm": _like(0, 0),
    "SkipLayerNormalization": _normalised(3),
    "SkipSimplifiedLayerNormalization": _normalised(3),
    "SparseAttention": attention.sparse,
    "SwiGLU": _gated,
    "TorchEmbedding": lambda call: [(*call.shape(1), *call.shape(0)[1:])],
    "TransposeMatMul": _product(),
}

RULES: dict[str, Rule] = {
    "SimplifiedLayerNormalization": _normalised(1),
    **{f"com.microsoft::{name}": rule for name, rule in MICROSOFT.items()},
}
"""Operator → shapes of what it gives."""

TYPED_LIKE = {
    ("com.microsoft::GroupQueryAttention", "T_CACHE"): 0,
    ("com.microsoft::GridSample", "T2"): 0,
    ("com.microsoft::LinearAttention", "S"): 0,
    ("com.microsoft::MultiHeadAttention", "QK"): 0,
    ("com.microsoft::DecoderMaskedMultiHeadAttention", "QK"): 0,
}
"""The input that says a type where none of those that must have it is given."""

TYPED = {
    ("com.microsoft::QGemm", "TY"): onnx.TensorProto.FLOAT,
    ("com.microsoft::QuantizeLinear", "T2"): onnx.TensorProto.UINT8,
}
"""The type itself, likewise."""


def infer(signature: Signature, context: shape_inference.InferenceContext) -> None:
    """Tell onnx the types and shapes of what a node gives, as far as they are known."""
    call = Call(signature, context)
    try:
        shapes = RULES[signature.op](call) if signature.op in RULES else []
    except (LookupError, ValueError, TypeError, onnx.shape_inference.InferenceError):
        shapes = []
    for index, port in enumerate(signature.outputs[: context.get_num_outputs()]):
        kind = _element_type(call, port.type)
        if not kind or port.kind == "*":
            continue
        shape = shapes[index] if index < len(shapes) else None
        context.set_output_type(index, onnx.helper.make_tensor_type_proto(kind, shape))


def _element_type(call: Call, kind: str) -> int:
    """Return the number of an output's type; 0 where it is not known."""
    if kind not in call.signature.types:
        return int(getattr(onnx.TensorProto, kind.upper(), 0))
    same = [index for index, port in enumerate(call.signature.inputs) if port.type == kind]
    if (call.signature.op, kind) in TYPED_LIKE:
        same.append(TYPED_LIKE[call.signature.op, kind])
    found = next((dtype for index in same if (dtype := call.dtype(index))), 0)
    return found or TYPED.get((call.signature.op, kind), 0)

"""Facts about operators, one row for each: which inputs are weights, what only moves data, what computes on integers.

What the facts mean for one node, with its `transB`, its groups and its padding, is in `layer` and `windows`. A key is
the operator's name, with its domain in front (``com.microsoft::FusedConv``) where it is not ONNX's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Family = Literal["", "convolution", "product", "recurrent", "lookup", "attention", "normalisation"]

Integers = Literal["", "layer", "values", "at a cost", "unchanged"]


@dataclass(frozen=True)
class Operator:
    """What is known of an operator.

    Attributes
    ----------
    family : str
        How its weight acts; empty where it has none.
    weights : tuple of int
        The inputs that may be weights, the usual one first.
    bias : int, optional
        The input with one number for each output channel.
    more : tuple of int
        Further inputs with parameters.
    axes : (int, int)
        The weight's axis that makes output channels, and the one that is summed over. Of a product they are counted
        from the end, for the second operand as it is without `transB`.
    channels : int
        The axis of data and output that counts the channels.
    gates : int
        Of a recurrent operator: what a hidden unit has rows of weights for.
    keeps_elements : bool
        It gives each element of its first input once, in another form.
    moves_elements : bool
        It gives elements of its first input as they are: all, some, or several times.
    integers : str
        How onnxruntime (1.20 to 1.32, CPU) computes it on integers with scales known beforehand: as a "layer", on
        "values" one by one, "at a cost" in accuracy (the input is often a sum with a mask of -1e4 or less, which
        leaves a single step for all else), or with integers that pass "unchanged"; empty where it does not.
    data : tuple of int, optional
        Its inputs that are such values; None: all.
    dynamic : str
        The operator that onnxruntime has for it with a scale of the input that each run chooses.
    carried : bool
        onnxruntime moves QuantizeLinear and DequantizeLinear from one side of it to the other.
    """

    family: Family = ""
    weights: tuple[int, ...] = ()
    bias: int | None = None
    more: tuple[int, ...] = ()
    axes: tuple[int, int] = (0, 0)
    channels: int = 1
    gates: int = 0
    keeps_elements: bool = False
    moves_elements: bool = False
    integers: Integers = ""
    data: tuple[int, ...] | None = (0,)
    dynamic: str = ""
    carried: bool = False

    @property
    def parameters(self) -> tuple[int, ...]:
        """The inputs that are weights, biases or the like, in their order."""
        return tuple(sorted((*self.weights, *(() if self.bias is None else (self.bias,)), *self.more)))


_CONV = Operator("convolution", weights=(1,), bias=2, axes=(0, 1))
_PRODUCT = Operator("product", weights=(1, 0), axes=(-1, -2), channels=-1)
_BIASED_PRODUCT = Operator("product", weights=(1, 0), bias=2, axes=(-1, -2), channels=-1)
_NORM = Operator("normalisation", weights=(1,), bias=2)
_MOVED = Operator(moves_elements=True, integers="unchanged")
_RESHAPED = Operator(keeps_elements=True, moves_elements=True, integers="unchanged", carried=True)
_VALUES = Operator(integers="values")
_COSTLY = Operator(integers="at a cost")


def _recurrent(gates: int, more: tuple[int, ...] = (), dynamic: str = "") -> Operator:
    return Operator("recurrent", (1, 2), 3, more, (1, 2), 2, gates, dynamic=dynamic)


def _layer(family: Family, weights: tuple[int, ...], bias: int | None, dynamic: str) -> Operator:
    axes, channels = ((0, 1), 1) if family == "convolution" else ((-1, -2), -1)
    return Operator(family, weights, bias, axes=axes, channels=channels, integers="layer", dynamic=dynamic)


OPERATORS: dict[str, Operator] = {
    "Conv": _layer("convolution", (1,), 2, "ConvInteger"),
    "ConvTranspose": Operator("convolution", weights=(1,), bias=2, axes=(1, 0)),
    "Gemm": _layer("product", (1, 0), 2, "MatMulInteger"),
    "MatMul": _layer("product", (1, 0), None, "MatMulInteger"),
    "GRU": _recurrent(3),
    "LSTM": _recurrent(4, (7,), "DynamicQuantizeLSTM"),
    "RNN": _recurrent(1),
    "com.microsoft::Attention": Operator(
        "attention", weights=(1,), bias=2, axes=(1, 0), channels=-1, dynamic="QAttention"
    ),
    "com.microsoft::FusedConv": _CONV,
    "com.microsoft::FusedGemm": _BIASED_PRODUCT,
    "com.microsoft::FusedMatMul": _PRODUCT,
    "com.microsoft::NhwcConv": Operator("convolution", weights=(1,), bias=2, axes=(0, 1), channels=-1),
    "Gather": Operator("lookup", weights=(0,), axes=(1, 1), channels=-1, moves_elements=True, integers="unchanged"),
    "BatchNormalization": _NORM,
    "GroupNormalization": _NORM,
    "InstanceNormalization": _NORM,
    "LayerNormalization": Operator("normalisation", weights=(1,), bias=2, channels=-1),
    "RMSNormalization": Operator("normalisation", weights=(1,), channels=-1),
    "Cast": Operator(keeps_elements=True),
    "Compress": Operator(moves_elements=True),
    "Expand": _MOVED,
    "Flatten": _MOVED,
    "GatherElements": _MOVED,
    "GatherND": Operator(moves_elements=True),
    "Identity": Operator(keeps_elements=True, moves_elements=True, integers="unchanged"),
    "MaxPool": Operator(integers="unchanged", carried=True),
    "ReduceMax": Operator(integers="unchanged"),
    "ReduceMin": Operator(integers="unchanged"),
    "Resize": Operator(integers="unchanged"),
    "Slice": Operator(moves_elements=True, integers="unchanged", carried=True),
    "Split": _MOVED,
    "Tile": _MOVED,
    **dict.fromkeys(("Reshape", "Squeeze", "Transpose", "Unsqueeze"), _RESHAPED),
    "Add": Operator(integers="values", data=(0, 1)),
    "Mul": Operator(integers="values", data=(0, 1)),
    "Concat": Operator(integers="values", data=None),
    **dict.fromkeys(("AveragePool", "GlobalAveragePool", "LeakyRelu", "Sigmoid"), _VALUES),
    **dict.fromkeys(("Clip", "Elu", "Exp", "Gelu", "HardSigmoid", "HardSwish", "ReduceMean", "ReduceSum"), _COSTLY),
    **dict.fromkeys(("Relu", "Selu", "Softmax", "Softplus", "Sqrt", "Tanh"), _COSTLY),
    **dict.fromkeys(("Div", "Sub"), Operator(integers="at a cost", data=(0, 1))),
    "Where": Operator(integers="at a cost", data=(1, 2)),
}


def facts(op: str) -> Operator:
    """Return what is known of an operator; of others that nothing is."""
    return OPERATORS.get(op, UNKNOWN)


UNKNOWN = Operator()


def _of(families: Iterable[Family], *, own: bool = True) -> tuple[str, ...]:
    """Return the operators of some families; `own` leaves out those of other domains than ONNX's own."""
    chosen = set(families)
    return tuple(op for op, known in OPERATORS.items() if known.family in chosen and not (own and "::" in op))


CONVOLUTIONS = _of(["convolution"])
PRODUCTS = _of(["convolution", "product"])
"""``y = W x + b`` with one weight, and one value of b for each output channel."""

BIASED = tuple(op for op in PRODUCTS if OPERATORS[op].bias is not None)
"""Those that take a bias themselves."""

RECURRENT = _of(["recurrent"])
STATES = (5, 6)
"""The inputs of recurrent operators that hold initial states."""

NORMALISATIONS = _of(["normalisation"])
LAYERS = _of(["convolution", "product", "recurrent", "attention"], own=False)
"""Operators that multiply by weights."""

DYNAMIC = tuple(op for op, known in OPERATORS.items() if known.dynamic)
"""Those that onnxruntime computes on integers with scales that each run chooses."""

KEEP_ELEMENTS = frozenset(op for op, known in OPERATORS.items() if known.keeps_elements)
MOVE_ELEMENTS = frozenset(op for op, known in OPERATORS.items() if known.moves_elements)
CARRIED = frozenset(op for op, known in OPERATORS.items() if known.carried)


def on_integers(how: Integers) -> tuple[str, ...]:
    """Return the operators that onnxruntime computes on integers so."""
    return tuple(op for op, known in OPERATORS.items() if known.integers == how)


Role = Literal["activation", "weight", "bias"]

Operands = tuple[tuple[Role, int | None, int | None, int | None], ...]
"""Of an integer operator, each tensor: its role and the inputs that hold its data, scale and zero point."""

_BINARY: Operands = (("activation", 0, 1, 2), ("activation", 3, 4, 5), ("activation", None, 6, 7))
_UNARY: Operands = (("activation", 0, 1, 2), ("activation", None, 3, 4))
_WEIGHTED: Operands = (("activation", 0, 1, 2), ("weight", 3, 4, 5), ("activation", None, 6, 7))
_INTEGER: Operands = (("activation", 0, None, 2), ("weight", 1, None, 3))

OPERANDS: dict[str, Operands] = {
    "ConvInteger": _INTEGER,
    "MatMulInteger": _INTEGER,
    "QLinearConv": _WEIGHTED,
    "QLinearMatMul": _WEIGHTED,
    "com.microsoft::MatMulIntegerToFloat": (("activation", 0, 2, 4), ("weight", 1, 3, 5)),
    "com.microsoft::QGemm": (("activation", 0, 1, 2), ("weight", 3, 4, 5), ("activation", None, 7, 8)),
    "com.microsoft::QLinearAdd": _BINARY,
    "com.microsoft::QLinearAveragePool": _UNARY,
    "com.microsoft::QLinearGlobalAveragePool": _UNARY,
    "com.microsoft::QLinearLeakyRelu": _UNARY,
    "com.microsoft::QLinearMul": _BINARY,
    "com.microsoft::QLinearReduceMean": _UNARY,
    "com.microsoft::QLinearSigmoid": _UNARY,
    "com.microsoft::QLinearSoftmax": _UNARY,
}
PACKED: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "com.microsoft::GatherBlockQuantized": ((0,), (2, 3)),
    "com.microsoft::MatMulBnb4": ((1,), (2,)),
    "com.microsoft::MatMulNBits": ((1,), (2, 3)),
    "com.microsoft::QMoE": ((2, 5, 8), (3, 6, 9, 11, 12, 13)),
}
"""Operators whose weights stand several to a byte: the inputs with those, and with their scales and zero points."""

OTHERS = {
    "DynamicQuantizeLinear",
    "com.microsoft::DynamicQuantizeLSTM",
    "com.microsoft::DynamicQuantizeMatMul",
    "com.microsoft::MatMulBnb4",
    "com.microsoft::MatMulNBits",
    "com.microsoft::QAttention",
    "com.microsoft::QEmbedLayerNormalization",
    "com.microsoft::QLinearConcat",
    "com.microsoft::QLinearWhere",
    "com.microsoft::QMoE",
}
INTEGER_OPERATORS = {*OPERANDS, *OTHERS}
"""Operators that work on integers by their own definition."""
